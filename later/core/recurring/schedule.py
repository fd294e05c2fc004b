"""A recurring job as the core knows it, and the text as which storages keep it."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeVar

from later.core.envelope import read_retry, seal, unseal, write_retry
from later.core.errors import Corrupt, InvalidSchedule, SchemaMismatch, UnknownZone
from later.core.names import check_name
from later.core.records import MOST_CRASHES, Micros, ScheduleRecord
from later.core.retry import Retry
from later.core.timetables import LATEST, Timetable

VERSION: Final = 1
"""Of the stored form. Whatever an older version of `later` would misunderstand raises it."""

RUNS: Final = 10
"""How many of its last runs a schedule remembers."""

MOST_MISSED: Final = 1000
MOST_DELAYS: Final = 100
"""Of a retry policy: it travels with every job."""

LONGEST_JITTER: Final = timedelta(days=1)

_MICROSECOND: Final = timedelta(microseconds=1)
_ZERO: Final = timedelta(0)


class Misfire(StrEnum):
    """What to do about times that passed while no server looked."""

    ONCE = "once"
    """One job, for the latest of them."""
    SKIP = "skip"
    """No job, unless the latest is no more than a minute ago."""
    ALL = "all"
    """A job for each, oldest first, up to a limit; beyond it the oldest get none."""


class Overlap(StrEnum):
    """What to do when it fires and the job of the last time has not ended."""

    ALLOW = "allow"
    """Another job, beside it."""
    SKIP = "skip"
    """No job."""
    QUEUE_ONE = "queue_one"
    """A job that waits until the other has ended, unless one waits already."""
    CANCEL_PREVIOUS = "cancel_previous"
    """A job, and those of the last ten runs that have not ended are deleted or, when they run, asked to stop."""


class Origin(StrEnum):
    """Who said that there is this recurring job."""

    CALL = "call"
    """A call of `enqueue_recurring`."""
    CODE = "code"
    """`JobsBuilder.with_recurring`: a server that starts with other code may remove it."""


@dataclass(frozen=True, slots=True)
class Definition:
    """What a user wants. Raises InvalidSchedule."""

    type: str
    payload: bytes
    queue: str
    priority: int
    max_crashes: int
    timetable: Timetable
    misfire: Misfire = Misfire.ONCE
    misfire_limit: int = 100
    """Of `Misfire.ALL`."""
    overlap: Overlap = Overlap.ALLOW
    jitter: timedelta = _ZERO
    """The longest that a job runs after its time."""
    retry: Retry | None = None
    """Attempts and delays instead of those of the job type."""
    origin: Origin = Origin.CALL

    def __post_init__(self) -> None:
        for name, kind in (("misfire", Misfire), ("overlap", Overlap), ("origin", Origin)):
            object.__setattr__(self, name, choice(name, kind, getattr(self, name)))
        limit = self.misfire_limit
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_MISSED:
            raise InvalidSchedule(f"misfire_limit {limit!r} is not a whole number from 1 to {MOST_MISSED}")
        if not isinstance(self.jitter, timedelta) or not _ZERO <= self.jitter <= LONGEST_JITTER:
            raise InvalidSchedule(f"jitter {self.jitter!r} is not a timedelta of zero to one day")
        if self.retry is not None:
            _check_retry(self.retry)
            object.__setattr__(self, "retry", Retry(self.retry.attempts, tuple(self.retry.delays)))


def _check_retry(retry: object) -> None:
    if not isinstance(retry, Retry):
        raise InvalidSchedule(f"retry {retry!r} is not a policy: give Retry(attempts=...) or Retry.none()")
    if len(retry.delays) > MOST_DELAYS:
        raise InvalidSchedule(
            f"retry has {len(retry.delays)} delays; the most are {MOST_DELAYS}, and the last one repeats"
        )
    if retry.never_on or retry.only_on or retry.per:
        raise InvalidSchedule(
            "retry of a recurring job has never_on, only_on or per: it is stored, and names of exceptions are never "
            "looked up from what is stored. Give these to job_type(retry=...), and attempts and delays here"
        )


class Run(NamedTuple):
    """One time that a job was made."""

    due: Micros
    job: str
    manual: bool = False
    """Somebody asked for it; `due` is when."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A definition, and how far it has got."""

    definition: Definition
    since: Micros
    """All times up to and including this one are dealt with."""
    paused: bool = False
    runs: tuple[Run, ...] = ()
    """The last ones, oldest first."""
    note: str = ""
    """The last thing out of the ordinary: times left out, and why."""
    note_at: Micros | None = None

    def to_body(self) -> bytes:
        wanted = self.definition
        return seal(
            wanted.payload,
            {
                "version": VERSION,
                "type": wanted.type,
                "queue": wanted.queue,
                "priority": wanted.priority,
                "max_crashes": wanted.max_crashes,
                "timetable": wanted.timetable.to_json(),
                "misfire": wanted.misfire,
                "misfire_limit": wanted.misfire_limit,
                "overlap": wanted.overlap,
                "jitter": wanted.jitter // _MICROSECOND,
                "retry": None if wanted.retry is None else write_retry(wanted.retry),
                "origin": wanted.origin,
                "since": self.since,
                "paused": self.paused,
                "runs": self.runs,
                "note": self.note,
                "note_at": self.note_at,
            },
        )

    def next_after(self, now: Micros) -> Micros | None:
        """When it fires next; None while it is paused, and after its end."""
        return None if self.paused else self.definition.timetable.next_after(max(now, self.since))


def schedule_of(record: ScheduleRecord) -> Schedule:
    """What is stored.

    Raises SchemaMismatch when a newer version of `later` has stored it, UnknownZone when this machine lacks its time
    zone, and Corrupt for whatever else `to_body` does not make.
    """
    stored, payload = unseal(record.body)
    version = stored.get("version")
    if type(version) is int and version > VERSION:
        raise SchemaMismatch(
            f"recurring job {record.id} is stored in version {version}; this version of later knows {VERSION}. "
            "Upgrade it"
        )
    try:
        if version != VERSION:
            raise ValueError
        return Schedule(
            Definition(
                type=check_name("job type", stored["type"]),
                payload=payload,
                queue=check_name("queue", stored["queue"]),
                priority=_within(0, 9, stored["priority"]),
                max_crashes=_within(0, MOST_CRASHES, stored["max_crashes"]),
                timetable=Timetable.from_json(stored["timetable"]),
                misfire=stored["misfire"],
                misfire_limit=stored["misfire_limit"],
                overlap=stored["overlap"],
                jitter=_as(int, stored["jitter"]) * _MICROSECOND,
                retry=None if stored["retry"] is None else read_retry(stored["retry"]),
                origin=stored["origin"],
            ),
            since=_moment(stored["since"]),
            paused=_as(bool, stored["paused"]),
            runs=tuple(_run(*run) for run in stored["runs"]),
            note=_as(str, stored["note"]),
            note_at=None if stored["note_at"] is None else _moment(stored["note_at"]),
        )
    except (SchemaMismatch, UnknownZone):
        raise
    except (Corrupt, InvalidSchedule, LookupError, TypeError, ValueError, OverflowError):
        raise Corrupt(
            f"recurring job {record.id} is not stored as `later` stores one: put it anew, or remove it"
        ) from None


def remains_of(record: ScheduleRecord) -> tuple[bool, tuple[Run, ...]]:
    """Whether one that cannot be read is paused, and its runs, as far as these can be told."""
    try:
        stored, _ = unseal(record.body)
    except Corrupt:
        return False, ()
    try:
        runs = tuple(_run(*run) for run in stored["runs"])[-RUNS:]
    except (LookupError, TypeError, ValueError):
        runs = ()
    return stored.get("paused") is True, runs


def _run(due: object, job: object, manual: object) -> Run:
    return Run(_moment(due), _as(str, job), _as(bool, manual))


def _moment(stored: object) -> Micros:
    return _within(-LATEST, LATEST, stored)


def _within(least: int, most: int, stored: object) -> int:
    number = _as(int, stored)
    if not least <= number <= most:
        raise ValueError
    return number


_Plain = TypeVar("_Plain", str, int, bool)


def _as(kind: type[_Plain], value: Any) -> _Plain:
    if type(value) is not kind:
        raise TypeError
    return value


_Choice = TypeVar("_Choice", bound=StrEnum)


def choice(name: str, kind: type[_Choice], value: str) -> _Choice:
    """The value as one of the enumeration. Raises InvalidSchedule."""
    try:
        return kind(value)
    except ValueError:
        raise InvalidSchedule(f"{name} {value!r} is not known: use {', '.join(map(repr, map(str, kind)))}") from None
