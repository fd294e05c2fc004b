"""`jobs.recurring`: the recurring jobs of an app, what the code declares of them, and what people do to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import islice
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypedDict

from later.core.codec import decode_json
from later.core.errors import (
    BadPayload,
    Corrupt,
    DuplicateJob,
    InvalidOption,
    InvalidSchedule,
    LaterError,
    Unavailable,
    UnknownSchedule,
    UnknownZone,
)
from later.core.lifecycle import Reschedule
from later.core.names import check_name
from later.core.ports import Storage
from later.core.records import Micros, Ref, RescheduleVerdict, ScheduleRecord, State
from later.core.recurring import Definition, Misfire, Origin, Overlap, Run, Schedule, choice, schedule_of
from later.core.recurring import changes as wishes
from later.core.registry import Registry
from later.core.retry import Retry
from later.core.steps import readable, refs_of
from later.core.timetables import Cron, Every, Gap, Timetable, Zone
from later.core.timetables import Overlap as ClockOverlap
from later.runtime.enqueue import Intake
from later.runtime.ids import new_id
from later.runtime.log import log
from later.runtime.threads import in_thread
from later.runtime.ticks import to_datetime

MisfireOption: TypeAlias = Misfire | Literal["once", "skip", "all"]
OverlapOption: TypeAlias = Overlap | Literal["allow", "skip", "queue_one", "cancel_previous"]

TRIES: Final = 10
"""How often a change is tried anew that was overtaken by another one."""

CHUNK: Final = 500
"""Jobs per call when many are looked at, and the most times that are foretold."""

_NOTHING: Final = timedelta(0)


class RecurringOptions(TypedDict, total=False):
    """What a recurring job may be given besides its payload and its cron expression."""

    every: timedelta
    """An interval instead of a cron expression, a second at least."""
    zone: str
    """The time zone by whose wall clock a cron expression goes, such as `"Europe/Berlin"`; UTC when left out."""
    queue: str | None
    """Instead of that of the job type."""
    priority: int | None
    """Instead of that of the job type."""
    misfire: MisfireOption
    """What to do about times that passed while no server ran: `"once"` (the default), `"skip"` or `"all"`."""
    misfire_limit: int
    """How many missed times `misfire="all"` makes up for, 1 to 1000; 100 when left out."""
    overlap: OverlapOption
    """What to do while the job of the last time has not ended: `"allow"` (the default), `"skip"`, `"queue_one"` or
    `"cancel_previous"`."""
    jitter: timedelta
    """Each job runs up to so much later, evenly spread; a day at most."""
    retry: Retry | None
    """Attempts and delays, 100 at most, instead of those of the job type; its `never_on`, `only_on` and `per` hold all
    the same."""
    start: datetime | None
    """No time before this one."""
    end: datetime | None
    """No time from this one on."""
    dst_gap: Literal["shift", "skip"]
    """What to do with wall times that a day lacks, because the clock was set forward; `"shift"` when left out."""
    dst_overlap: Literal["auto", "once", "twice"]
    """What to do with wall times that a day has twice, because the clock was set back; `"auto"` when left out."""


class RecurringRun(NamedTuple):
    """One time that a recurring job made a job."""

    due: datetime
    """In the zone of the recurring job."""
    job: str
    manual: bool
    """Somebody triggered it."""
    state: State | None
    """Of the job now. None: it has been removed, or cannot be read; or it is not the last run, in a listing."""


class NextFire(NamedTuple):
    at: datetime
    """In the zone of the recurring job."""
    note: str
    """What a change of the clock does to it; empty on all other days."""


@dataclass(frozen=True, slots=True, repr=False)
class Recurring:
    """A recurring job as it was when it was asked for. Its times are in its zone."""

    id: str
    problem: str | None
    """Why it does not work here: it cannot be read, its type is not declared, or its payload does not validate. One
    that cannot be read has nothing else to show."""
    drift: str
    """How it differs from what this program declares (`JobsBuilder.with_recurring`); empty when it does not."""
    next_at: datetime | None = None
    """None: it is paused, or comes to no more times."""
    paused: bool = False
    type: str = ""
    queue: str = ""
    priority: int = 0
    cron: str | None = None
    every: timedelta | None = None
    zone: str = "UTC"
    start: datetime | None = None
    end: datetime | None = None
    misfire: Misfire = Misfire.ONCE
    misfire_limit: int = 100
    overlap: Overlap = Overlap.ALLOW
    jitter: timedelta = _NOTHING
    retry: Retry | None = None
    """None: that of the job type."""
    dst_gap: str = "shift"
    dst_overlap: str = "auto"
    origin: Origin = Origin.CALL
    runs: tuple[RecurringRun, ...] = ()
    """The last ten, newest first."""
    note: str = ""
    """The last time that something out of the ordinary happened: what, ..."""
    note_at: datetime | None = None
    """... and when."""
    stored_payload: bytes = b""

    @property
    def payload(self) -> Any:
        """The payload of its jobs as plain data. Raises Corrupt."""
        return decode_json(self.stored_payload or None)

    def __repr__(self) -> str:
        rule = self.cron if self.every is None else f"every {self.every}"
        return f"<Recurring {self.id}: {self.type}, {rule} {self.zone}>"


class RecurringJobs:
    """What there is to see of recurring jobs, and to do with them. Made by `BackgroundJobs.recurring`.

    Each call asks the storage one to three times and raises `Unavailable` when it gives no answer. The methods that
    begin with `a` are the same for `async` code.
    """

    def __init__(
        self,
        storage: Callable[[], Storage],
        publish: Callable[[Sequence[Ref]], None],
        registry: Registry,
        declared: Mapping[str, Definition],
    ) -> None:
        self._storage = storage
        self._publish = publish
        self._registry = registry
        self._declared = dict(declared)

    @property
    def declared(self) -> tuple[str, ...]:
        """The ids that this program declares. They are stored when a server of it starts."""
        return tuple(self._declared)

    def all(self) -> list[Recurring]:
        """All of them, by id, each with the state of its last run alone."""
        records = [record for record in self._storage().schedules() if record is not None]
        schedules = {record.id: _read(record) for record in records}
        last = [each.runs[-1].job for each in schedules.values() if isinstance(each, Schedule) and each.runs]
        states = self._states(last)
        return [self._view(record, schedules[record.id], states) for record in records]

    def get(self, id: str) -> Recurring:
        """One of them, with the states of its last runs. Raises UnknownSchedule."""
        record = self._find(id)
        schedule = _read(record)
        runs = schedule.runs if isinstance(schedule, Schedule) else ()
        return self._view(record, schedule, self._states([run.job for run in runs]))

    def pause(self, id: str) -> None:
        """Let it fire no more until it is resumed; nothing when it is paused. Raises UnknownSchedule."""
        self._change(id, lambda record, known, _: wishes.pause(record, known))

    def resume(self, id: str) -> None:
        """Let it fire again, from now on: what passed meanwhile does not count as missed. Raises UnknownSchedule."""
        self._change(id, wishes.resume)

    def trigger(self, id: str, *, job: str | None = None) -> str:
        """Enqueue its job now, paused or not, whatever else runs; returns the job's id. The times of the schedule stay
        as they are. After `Unavailable` it may have been done, and another call would make another job, unless both
        give the same `job`, an id of your own: it is made once. Raises UnknownSchedule, and DuplicateJob for the id of
        a job that is none of its last ten runs."""
        made = new_id() if job is None else check_name("id of a job", job)

        def wish(record: ScheduleRecord, known: Schedule, now: Micros) -> Reschedule | None:
            change = wishes.trigger(record, known, made, now)
            if change is not None and job is not None and readable(self._storage(), [job]) != [None]:
                raise DuplicateJob(
                    f"the id {job} is taken by a job that is none of the last runs of {id}: use another id"
                )
            return change

        self._change(id, wish)
        return made

    def remove(self, id: str) -> None:
        """Remove it; jobs that it has made stay. One that the code declares comes back when a server starts.

        Raises UnknownSchedule; also when it is called again after `Unavailable`, and the first call has removed it.
        """
        wished = False

        def change() -> Reschedule | None:
            nonlocal wished
            [record] = self._storage().schedules([check_name("id of a recurring job", id)])
            if record is None and not wished:
                raise self._unknown(id)
            wished = True
            return None if record is None else _removal(record)

        self._insist(id, change)

    def next_fires(self, id: str, n: int = 5) -> list[NextFire]:
        """Its next `n` times, 500 at most, as if it were not paused. Raises UnknownSchedule, and Corrupt,
        SchemaMismatch or UnknownZone when it cannot be read here."""
        if not 1 <= n <= CHUNK:
            raise InvalidOption(f"n {n!r} is outside 1 to {CHUNK}")
        schedule = schedule_of(self._find(id))
        timetable, now = schedule.definition.timetable, self._now()
        return foretell(timetable, max(now, schedule.since), n)

    async def aall(self) -> list[Recurring]:
        return await in_thread(self.all)

    async def aget(self, id: str) -> Recurring:
        return await in_thread(self.get, id)

    async def apause(self, id: str) -> None:
        await in_thread(self.pause, id)

    async def aresume(self, id: str) -> None:
        await in_thread(self.resume, id)

    async def atrigger(self, id: str, *, job: str | None = None) -> str:
        return await in_thread(self.trigger, id, job=job)

    async def aremove(self, id: str) -> None:
        await in_thread(self.remove, id)

    async def anext_fires(self, id: str, n: int = 5) -> list[NextFire]:
        return await in_thread(self.next_fires, id, n)

    def put(self, id: str, wanted: Definition) -> bool:
        """Store a definition, or change it; whether that was anything new. The work of `enqueue_recurring`.

        Raises SchemaMismatch when a newer version of `later` has stored this one.
        """

        def change() -> Reschedule | None:
            [record] = self._storage().schedules([id])
            known = None if record is None else _replaceable(record)
            if known is not None and known.definition == wanted:
                return None
            return wishes.put(id, record, known, wanted, self._now())

        return self._insist(id, change)

    def declare(self) -> None:
        """Make the stored ones what the code declares: those that it declares are put, and those that code has
        declared before and this code does not are removed. Those that calls have put stay. Done when a server starts.
        """
        records = [record for record in self._storage().schedules() if record is not None]
        for id, wanted in self._declared.items():
            try:
                if self.put(id, wanted):
                    log.info("recurring job %s is as the code declares it", id)
            except LaterError as error:
                if isinstance(error, Unavailable):
                    raise
                log.error("recurring job %s stays as it is: %s", id, error)
        for record in records:
            schedule = _read(record)
            if isinstance(schedule, Schedule) and schedule.definition.origin is Origin.CODE:
                if record.id in self._declared:
                    continue
                [done] = self._storage().reschedule([_removal(record)])
                if done.verdict is RescheduleVerdict.APPLIED:
                    log.info("recurring job %s is removed: the code declares it no more", record.id)

    # --- how

    def _now(self) -> Micros:
        return self._storage().due(0).now

    def _find(self, id: str) -> ScheduleRecord:
        [record] = self._storage().schedules([check_name("id of a recurring job", id)])
        if record is None:
            raise self._unknown(id)
        return record

    def _unknown(self, id: str) -> UnknownSchedule:
        declared = " yet: it is declared, and stored when a server starts" if id in self._declared else ""
        return UnknownSchedule(f"there is no recurring job {id}{declared}")

    def _change(self, id: str, wish: Callable[[ScheduleRecord, Schedule, Micros], Reschedule | None]) -> None:
        def change() -> Reschedule | None:
            record = self._find(id)
            return wish(record, schedule_of(record), self._now())

        self._insist(id, change)

    def _insist(self, id: str, change: Callable[[], Reschedule | None]) -> bool:
        """Make the change, anew as often as somebody else was quicker; whether there was any to make."""
        for _ in range(TRIES):
            wish = change()
            if wish is None:
                return False
            [done] = self._storage().reschedule([wish])
            if done.verdict is RescheduleVerdict.APPLIED:
                self._publish(refs_of(done))
                return True
        raise Unavailable(f"recurring job {id} was changed by others {TRIES} times in a row: try again")

    def _states(self, jobs: Sequence[str]) -> dict[str, State]:
        found: dict[str, State] = {}
        for start in range(0, len(jobs), CHUNK):
            for details in readable(self._storage(), jobs[start : start + CHUNK]):
                if details is not None:
                    found[details.job.id] = details.job.state
        return found

    def _view(self, record: ScheduleRecord, schedule: Schedule | str, states: Mapping[str, State]) -> Recurring:
        declared = self._declared.get(record.id)
        if isinstance(schedule, str):
            return Recurring(record.id, schedule, "")
        wanted = schedule.definition
        timetable = wanted.timetable
        rule, zone = timetable.rule, timetable.zone.info

        def local(at: Micros | None) -> datetime | None:
            return None if at is None else to_datetime(at).astimezone(zone)

        return Recurring(
            id=record.id,
            problem=self._problem(wanted),
            drift=_drift(wanted, declared),
            next_at=local(record.next_at),
            paused=schedule.paused,
            type=wanted.type,
            queue=wanted.queue,
            priority=wanted.priority,
            cron=rule.text if isinstance(rule, Cron) else None,
            every=rule.interval if isinstance(rule, Every) else None,
            zone=timetable.zone.name,
            start=None if timetable.start is None else timetable.start.astimezone(zone),
            end=None if timetable.end is None else timetable.end.astimezone(zone),
            misfire=wanted.misfire,
            misfire_limit=wanted.misfire_limit,
            overlap=wanted.overlap,
            jitter=wanted.jitter,
            retry=wanted.retry,
            dst_gap=str(timetable.gap),
            dst_overlap=str(timetable.overlap),
            origin=wanted.origin,
            runs=tuple(_run_view(run, zone, states) for run in reversed(schedule.runs)),
            note=schedule.note,
            note_at=local(schedule.note_at),
            stored_payload=wanted.payload,
        )

    def _problem(self, wanted: Definition) -> str | None:
        job_type = self._registry.by_name(wanted.type)
        if job_type is None:
            return f"job type {wanted.type} is not declared in this program"
        try:
            job_type.decode(wanted.payload)
        except BadPayload as error:
            return str(error)
        return None


def define(
    intake: Intake, id: str, payload: object, cron: str | None, options: RecurringOptions, origin: Origin
) -> Definition:
    """Check and encode what is asked for. Raises the errors of `enqueue`, and InvalidSchedule, UnknownZone."""
    unknown = options.keys() - RecurringOptions.__annotations__.keys()
    if "connection" in unknown:
        raise InvalidOption(
            f"recurring job {id} was given a connection: it cannot be stored in a transaction of yours. Leave it out, "
            "and put the recurring job after the commit; the same call again changes nothing"
        )
    if unknown:
        raise TypeError(f"recurring job {id} was given the unknown option {min(unknown)}")
    job = intake.new(
        payload,
        id=check_name("id of a recurring job", id),
        queue=options.get("queue"),
        priority=options.get("priority"),
    )
    return Definition(
        type=job.type,
        payload=job.payload,
        queue=job.queue,
        priority=job.priority,
        max_crashes=job.max_crashes,
        timetable=timetable_of(cron, options),
        misfire=choice("misfire", Misfire, options.get("misfire", Misfire.ONCE)),
        misfire_limit=options.get("misfire_limit", 100),
        overlap=choice("overlap", Overlap, options.get("overlap", Overlap.ALLOW)),
        jitter=options.get("jitter", _NOTHING),
        retry=options.get("retry"),
        origin=origin,
    )


def timetable_of(cron: str | None, options: RecurringOptions) -> Timetable:
    """When it fires. Raises InvalidSchedule, UnknownZone."""
    every = options.get("every")
    if (cron is None) == (every is None):
        raise InvalidSchedule('give either a cron expression, such as "0 3 * * *", or every=timedelta(...)')
    if cron is None:
        assert every is not None
        rule: Cron | Every = Every(every)
    else:
        rule = Cron(cron)
    return Timetable(
        rule,
        Zone(options.get("zone", "UTC")),
        choice("dst_gap", Gap, options.get("dst_gap", Gap.SHIFT)),
        choice("dst_overlap", ClockOverlap, options.get("dst_overlap", ClockOverlap.AUTO)),
        options.get("start"),
        options.get("end"),
    )


def foretell(timetable: Timetable, after: Micros, n: int) -> list[NextFire]:
    """The next `n` times after `after`."""
    zone = timetable.zone.info
    return [NextFire(to_datetime(fire.at).astimezone(zone), fire.note) for fire in islice(timetable.iterate(after), n)]


def _read(record: ScheduleRecord) -> Schedule | str:
    """What is stored, or why it cannot be read."""
    try:
        return schedule_of(record)
    except LaterError as error:
        return str(error)


def _replaceable(record: ScheduleRecord) -> Schedule | None:
    """What is stored; None for what nobody could read. Raises SchemaMismatch: that is not ours to replace."""
    try:
        return schedule_of(record)
    except (Corrupt, UnknownZone):
        return None


def _removal(record: ScheduleRecord) -> Reschedule:
    return Reschedule(record.id, record.version, None, None)


def _run_view(run: Run, zone: tzinfo, states: Mapping[str, State]) -> RecurringRun:
    return RecurringRun(to_datetime(run.due).astimezone(zone), run.job, run.manual, states.get(run.job))


def _drift(stored: Definition, declared: Definition | None) -> str:
    if declared is None:
        return "not declared in this program" if stored.origin is Origin.CODE else ""
    return "" if stored == declared else "not as this program declares it"
