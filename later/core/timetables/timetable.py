"""When a schedule fires.

A cron expression names wall times. They are mapped to instants segment by segment of the zone (see `zones`), since
within a segment the clock is never set. Between two of them, `Gap` decides where it was set forward and `Overlap` where
it was set back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeVar, cast

from later.core.errors import Corrupt, InvalidSchedule, SchemaMismatch, UnknownZone
from later.core.records import FURTHEST, SECOND, Micros
from later.core.timetables import cron as wall_times
from later.core.timetables.cron import EPOCH, Ahead, Cron, shown
from later.core.timetables.zones import DAY, Segment, Zone

LATEST: Final[Micros] = 2**53
"""No time lies further from the epoch, before or after (1684 and 2255): up to here every backend is exact."""

SHORTEST: Final = timedelta(seconds=1)
"""Of intervals; cron expressions have whole seconds too."""

VERSION: Final = 1
"""Of the stored form. Whatever changes the meaning of a stored timetable raises it."""

_UTC_ZONE = Zone("UTC")
_UTC_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FAR = 2 * DAY
"""Seconds after which no offset of any zone is felt."""


class Gap(StrEnum):
    """What to do with wall times that a day lacks, because the clock was set forward."""

    SHIFT = "shift"
    """Fire at the first instant after the gap, once for all of them."""
    SKIP = "skip"


class Overlap(StrEnum):
    """What to do with wall times that a day has twice, because the clock was set back."""

    AUTO = "auto"
    """`twice` for what repeats (`Cron.repeats`), `once` for the rest."""
    ONCE = "once"
    """Fire at the first of the two."""
    TWICE = "twice"


@dataclass(frozen=True, slots=True)
class Every:
    """A fixed interval, a second to a hundred years, that does not drift: it fires at `anchor` plus any multiple.

    Without an anchor that is the start of the timetable, or 1970-01-01 00:00 UTC. No zone and no change of a clock
    matters to it.

    Raises InvalidSchedule.
    """

    interval: timedelta
    anchor: datetime | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.interval, timedelta) or not SHORTEST <= self.interval <= FURTHEST:
            raise InvalidSchedule(f"interval {shown(self.interval)} is not a timedelta of 1 s to {FURTHEST.days} days")
        if self.anchor is not None:
            object.__setattr__(self, "anchor", _utc("anchor", self.anchor))


class Fire(NamedTuple):
    """One time at which a timetable fires."""

    at: Micros
    wall: datetime
    """By the wall clock of the zone; without tzinfo."""
    note: str
    """What a change of the clock has done to it; empty on all other days."""


class Due(NamedTuple):
    times: tuple[Micros, ...]
    """Oldest first."""
    more: bool
    """The limit was reached, and later ones are left."""


@dataclass(frozen=True, slots=True)
class Timetable:
    """A rule, the zone whose wall clock it goes by, and the time in which it holds: from `start` on, before `end`.

    `start` and `end` carry a time zone. All methods take and return microseconds since the epoch. Finding a time costs
    some tens of microseconds, and a few milliseconds for the rarest rules, however far it is; the first time in each
    zone and year costs a millisecond more.

    Raises InvalidSchedule.
    """

    rule: Cron | Every
    zone: Zone = _UTC_ZONE
    gap: Gap = Gap.SHIFT
    overlap: Overlap = Overlap.AUTO
    start: datetime | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rule, Cron | Every):
            raise InvalidSchedule(f"rule {shown(self.rule)} is neither a Cron nor an Every")
        if not isinstance(self.zone, Zone):
            raise InvalidSchedule(f"zone {shown(self.zone)} is not a Zone")
        object.__setattr__(self, "gap", _choice("gap", Gap, self.gap))
        object.__setattr__(self, "overlap", _choice("overlap", Overlap, self.overlap))
        for name in ("start", "end"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _utc(name, value))
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise InvalidSchedule(f"end {self.end.isoformat()} is not after start {self.start.isoformat()}")

    def next_after(self, instant: Micros) -> Micros | None:
        """The first time after `instant`; None when there is no more before `end` or the year 2255."""
        return next((at for at, _ in self._fires(instant)), None)

    def last_until(self, instant: Micros) -> Micros | None:
        """The latest time up to and including `instant`; None when there was none since `start`. As cheap as
        `next_after`, however many times lie behind."""
        low, high = self._bounds()
        instant = min(instant, high)
        if instant < low:
            return None
        if isinstance(self.rule, Every):
            anchor, step = self._steps(self.rule)
            at: Micros | None = instant - (instant - anchor) % step
        else:
            at = self._back(self.rule, instant)
        return None if at is None or at < low else at

    def iterate(self, after: Micros) -> Iterator[Fire]:
        """Every time after `after`, with what there is to say about it."""
        for at, missing in self._fires(after):
            wall = _datetime(at).astimezone(self.zone.info)
            yield Fire(at, wall.replace(tzinfo=None, fold=0), self._note(wall, missing))

    def between(self, after: Micros, until: Micros, limit: int) -> Due:
        """The times after `after`, up to and including `until`; the oldest `limit` of them."""
        times: list[Micros] = []
        for at, _ in self._fires(after):
            if at > until:
                break
            if len(times) >= limit:
                return Due(tuple(times), more=True)
            times.append(at)
        return Due(tuple(times), more=False)

    def to_json(self) -> dict[str, object]:
        """As plain JSON values, which `from_json` turns into an equal timetable."""
        rule: dict[str, object] = (
            {"cron": self.rule.text}
            if isinstance(self.rule, Cron)
            else {"every": self.rule.interval // _MICROSECOND, "anchor": _optional_micros(self.rule.anchor)}
        )
        return {
            "version": VERSION,
            **rule,
            "zone": self.zone.name,
            "gap": str(self.gap),
            "overlap": str(self.overlap),
            "start": _optional_micros(self.start),
            "end": _optional_micros(self.end),
        }

    @classmethod
    def from_json(cls, stored: object) -> "Timetable":
        """The timetable that `to_json` made `stored` of.

        Raises SchemaMismatch when a newer version of `later` has stored it, UnknownZone when this machine lacks the
        zone, and Corrupt for whatever else `to_json` does not make.
        """
        if not isinstance(stored, dict):
            raise Corrupt(f"stored timetable {shown(stored)} is not an object")
        stored = cast("dict[str, Any]", stored)
        version = stored.get("version")
        if type(version) is not int:
            raise Corrupt(f"stored timetable has the version {shown(version)}, which is not a number")
        if version > VERSION:
            raise SchemaMismatch(
                f"stored timetable has version {version}; this version of later knows {VERSION}. Upgrade it"
            )
        every = "every" in stored
        wanted = {"version", "zone", "gap", "overlap", "start", "end", *(("every", "anchor") if every else ("cron",))}
        if version != VERSION or set(stored) != wanted:
            raise Corrupt(f"stored timetable has the version {version} and the keys {shown(sorted(map(str, stored)))}")
        try:
            return cls(
                Every(_micros(stored["every"]) * _MICROSECOND, _optional_datetime(stored["anchor"]))
                if every
                else Cron(stored["cron"]),
                Zone(stored["zone"]),
                stored["gap"],
                stored["overlap"],
                _optional_datetime(stored["start"]),
                _optional_datetime(stored["end"]),
            )
        except UnknownZone:
            raise
        except InvalidSchedule as error:
            raise Corrupt(f"stored timetable is not valid: {error}") from error

    def _bounds(self) -> tuple[Micros, Micros]:
        """The first and the last instant at which it may fire."""
        low = -LATEST if self.start is None else micros(self.start)
        high = LATEST if self.end is None else micros(self.end) - 1
        return low, high

    def _fires(self, after: Micros) -> Iterator[tuple[Micros, int | None]]:
        """The times after `after`, each with the missing wall time for which it stands in."""
        low, high = self._bounds()
        first = max(after + 1, low)
        if first > high:
            return
        if isinstance(self.rule, Every):
            anchor, step = self._steps(self.rule)
            for at in range(first + (anchor - first) % step, high + 1, step):
                yield at, None
            return
        for second, missing in self._ahead(self.rule, -(-first // SECOND)):
            if second * SECOND > high:
                return
            yield second * SECOND, missing

    def _steps(self, rule: Every) -> tuple[Micros, Micros]:
        anchor = rule.anchor or self.start or _UTC_EPOCH
        return micros(anchor), rule.interval // _MICROSECOND

    def _seen(self, segment: Segment, cron: Cron) -> tuple[tuple[int, int], ...]:
        """The wall times of `segment` that do not count, since they have fired before."""
        twice = self.overlap is Overlap.TWICE or (self.overlap is Overlap.AUTO and cron.repeats)
        return () if twice else segment.seen

    def _ahead(self, cron: Cron, instant: int) -> Iterator[tuple[int, int | None]]:
        """Fire times in seconds, from `instant` on."""
        ahead = Ahead(cron)
        while True:
            segment = self.zone.segment(instant)
            offset = segment.offset
            if self.gap is Gap.SHIFT and instant == segment.start and segment.before < offset:
                missing = ahead.first(instant + segment.before)
                if missing is not None and missing < instant + offset:
                    itself = ahead.first(instant + offset) == instant + offset
                    yield instant, None if itself else missing
                    instant += 1
            while True:
                wall = ahead.first(instant + offset)
                for low, high in self._seen(segment, cron):
                    if wall is not None and low <= wall < high:
                        wall = ahead.first(high)
                if wall is None:
                    return
                if wall >= segment.end + offset:
                    break
                yield wall - offset, None
                instant = wall - offset + 1
                if instant == segment.end:
                    break
            # Nothing before `wall`: go near it at once, unless the clock is set back so soon that it may repeat times
            # which the search has passed already.
            far = instant + _FAR <= segment.end
            instant = max(segment.end, wall - _FAR) if far else segment.end

    def _back(self, cron: Cron, instant: Micros) -> Micros | None:
        """The last fire time up to `instant`. The mirror image of `_ahead`."""
        second = instant // SECOND
        while True:
            segment = self.zone.segment(second)
            offset = segment.offset
            wall = wall_times.last(cron, second + offset)
            for low, high in self._seen(segment, cron):
                if wall is not None and low <= wall < high:
                    wall = wall_times.last(cron, low - 1)
            if wall is None:
                return None
            if wall >= segment.start + offset:
                return (wall - offset) * SECOND
            if self.gap is Gap.SHIFT and wall >= segment.start + segment.before and segment.before < offset:
                return segment.start * SECOND
            far = second - _FAR >= segment.start
            second = min(segment.start - 1, wall + _FAR) if far else segment.start - 1

    def _note(self, wall: datetime, missing: int | None) -> str:
        if isinstance(self.rule, Every):
            return ""
        if missing is not None:
            lost = EPOCH + timedelta(seconds=missing)
            day = "" if lost.date() == wall.date() else f"{lost.date()} "
            return f"shifted from {day}{_clock(lost)}, which does not exist that day"
        first, second = wall.replace(fold=0).utcoffset(), wall.replace(fold=1).utcoffset()
        assert first is not None
        assert second is not None
        # A wall time in a gap has two offsets too, but no instant has such a wall time.
        if first == second:
            return ""
        return f"second {_clock(wall)} of this day" if wall.fold else f"first of two {_clock(wall)} of this day"


def jitter(schedule: str, due: Micros, span: timedelta) -> timedelta:
    """How much later than `due` the schedule of this id is to run: 0 to `span`, the same on every server, and spread
    evenly over schedules and times."""
    from hashlib import blake2b

    digest = blake2b(f"{schedule} {due}".encode(), digest_size=16).digest()
    return int.from_bytes(digest) % (span // _MICROSECOND + 1) * _MICROSECOND


def micros(moment: datetime) -> Micros:
    """An aware datetime as microseconds since the epoch."""
    return (moment - _UTC_EPOCH) // _MICROSECOND


def _datetime(at: Micros) -> datetime:
    return _UTC_EPOCH + at * _MICROSECOND


def _optional_micros(moment: datetime | None) -> Micros | None:
    return None if moment is None else micros(moment)


def _optional_datetime(stored: object) -> datetime | None:
    return None if stored is None else _datetime(_micros(stored))


def _micros(stored: object) -> Micros:
    if type(stored) is not int or abs(stored) > LATEST:
        raise InvalidSchedule(f"{shown(stored)} is not a number of microseconds of at most 2^53")
    return stored


def _utc(name: str, moment: object) -> datetime:
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise InvalidSchedule(f"{name} {shown(moment)} is not a datetime with a time zone: add tzinfo")
    # Without converting first, which overflows near the years 1 and 9999.
    if abs(moment - _UTC_EPOCH) > LATEST * _MICROSECOND:
        raise InvalidSchedule(f"{name} {moment.isoformat()} is not between the years 1684 and 2255")
    return moment.astimezone(UTC)


_Choice = TypeVar("_Choice", Gap, Overlap)


def _choice(name: str, kind: type[_Choice], value: str) -> _Choice:
    try:
        return kind(value)
    except ValueError:
        raise InvalidSchedule(f"{name} {shown(value)} is not known: use {' or '.join(kind)}") from None


def _clock(wall: datetime) -> str:
    return f"{wall:%H:%M:%S}" if wall.second else f"{wall:%H:%M}"
