"""What becomes of a schedule that is due: which jobs it makes, which it cancels, and when it is looked at next."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID, uuid5

from later.core.envelope import seal, write_retry
from later.core.errors import LaterError
from later.core.lifecycle import Cause, Change, Reschedule
from later.core.records import SECOND, JobRecord, Micros, NewJob, On, ScheduleRecord, State
from later.core.recurring.schedule import RUNS, Definition, Misfire, Overlap, Run, Schedule, schedule_of
from later.core.timetables import jitter

TOLERANCE: Final = 60 * SECOND
"""`Misfire.SKIP` leaves out what is later than this."""

BATCH: Final = 100
"""Jobs that one step of one schedule makes; `Misfire.ALL` goes on with the next step."""

POSTPONED: Final = 60 * SECOND
"""When to try again what the storage has refused."""

COUNTED: Final = 100
"""How far the times without a job are counted, for the note about them."""

LONGEST_NOTE: Final = 1000
"""Characters."""

_NAMESPACE: Final = UUID("0d9b1d1e-7d0c-5f5b-9a57-5f4c2a1f7a10")
_MICROSECOND: Final = timedelta(microseconds=1)


class Plans(NamedTuple):
    changes: tuple[Reschedule, ...]
    unreadable: dict[str, str]
    """Schedules that this version, or this machine, cannot read, and why: left as they are, for who can."""
    more: bool
    """The limit was reached, and some are due still."""


def awaited(records: Iterable[ScheduleRecord]) -> list[str]:
    """The jobs whose state the plans for these schedules depend on."""
    jobs: list[str] = []
    for record in records:
        try:
            schedule = schedule_of(record)
        except LaterError:
            continue  # `plan_all` tells
        jobs += (run.job for run in _watched(schedule))
    return jobs


def plan_all(
    app: str, records: Iterable[ScheduleRecord], now: Micros, jobs: Mapping[str, JobRecord], limit: int
) -> Plans:
    """Plans for schedules that are due, in their order, until `limit` jobs are made."""
    changes: list[Reschedule] = []
    unreadable: dict[str, str] = {}
    made = 0
    for record in records:
        if made >= limit:
            return Plans(tuple(changes), unreadable, more=True)
        try:
            schedule = schedule_of(record)
        except LaterError as error:
            unreadable[record.id] = str(error)
            continue
        previous = [jobs[run.job] for run in _watched(schedule) if run.job in jobs]
        change = plan(app, record, schedule, now, previous)
        made += len(change.jobs)
        changes.append(change)
    return Plans(tuple(changes), unreadable, more=False)


def plan(
    app: str, record: ScheduleRecord, schedule: Schedule, now: Micros, previous: Sequence[JobRecord]
) -> Reschedule:
    """What to do at the storage's time `now`. `previous`: the jobs of the runs that count, oldest first.

    Makes at most `BATCH` jobs; the change is due at once then, as long as times are left.
    """
    if schedule.paused:
        return Reschedule(record.id, record.version, None, record.body)
    wanted = schedule.definition
    missed = _missed(wanted, schedule.since, now)
    unended = [job for job in previous if not job.state.ended]
    busy = unended[-1] if unended else None
    times = _fired(wanted.overlap, missed, busy)
    since = times[-1] if wanted.overlap is Overlap.ALLOW and len(times) < len(missed) else max(now, schedule.since)

    jobs = [_tick_job(app, record.id, wanted, due) for due in times]
    if wanted.overlap is Overlap.QUEUE_ONE and jobs and (busy is not None or len(jobs) > 1):
        jobs[-1] = jobs[-1]._replace(parent=jobs[0].id if busy is None else busy.id, on=On.FINISHED)
    cancelled = unended if wanted.overlap is Overlap.CANCEL_PREVIOUS and jobs else []
    moves = tuple(Change(job.id, Cause.DELETE, f"recurring job {record.id} fired again") for job in cancelled)

    made = tuple(Run(due, job.id) for due, job in zip(times, jobs, strict=True))
    after = replace(schedule, since=since, runs=added(schedule.runs, *made))
    note = _without_job(wanted, schedule.since, since, len(times), busy)
    if note:
        after = replace(after, note=note, note_at=now)
    next_at = wanted.timetable.next_after(since)
    return Reschedule(record.id, record.version, next_at, after.to_body(), tuple(jobs), moves)


def postponed(record: ScheduleRecord, now: Micros, why: str) -> Reschedule:
    """Instead of a change that the storage refuses while it takes others: none of its times is dealt with."""
    after = replace(schedule_of(record), note=f"its job could not be stored: {why}"[:LONGEST_NOTE], note_at=now)
    return Reschedule(record.id, record.version, now + POSTPONED, after.to_body())


def sealed(schedule_id: str, wanted: Definition, due: Micros) -> bytes:
    """The payload, with which time of which schedule it is for, and the policy of the schedule."""
    headers: dict[str, object] = {"recurring": [schedule_id, due]}
    if wanted.retry is not None:
        headers["retry"] = write_retry(wanted.retry)
    return seal(wanted.payload, headers)


def added(runs: tuple[Run, ...], *new: Run) -> tuple[Run, ...]:
    return (*runs, *new)[-RUNS:]


def _watched(schedule: Schedule) -> tuple[Run, ...]:
    """The runs whose jobs decide what becomes of the next time. To cancel, all that are remembered. Else the run of the
    last time and those that were asked for since: one of these that has ended does not tell that the job of the time
    has."""
    match schedule.definition.overlap:
        case Overlap.ALLOW:
            return ()
        case Overlap.CANCEL_PREVIOUS:
            return schedule.runs
        case Overlap.SKIP | Overlap.QUEUE_ONE:
            pass
    times = [number for number, run in enumerate(schedule.runs) if not run.manual]
    return schedule.runs[times[-1] if times else 0 :]


def _tick_job(app: str, schedule_id: str, wanted: Definition, due: Micros) -> NewJob:
    """The job of one time. Its id is made of the time, so that one time never makes two."""
    return NewJob(
        id=str(uuid5(_NAMESPACE, f"{app} {schedule_id} {due}")),
        type=wanted.type,
        queue=wanted.queue,
        payload=sealed(schedule_id, wanted, due),
        priority=wanted.priority,
        max_crashes=wanted.max_crashes,
        run_at=due + jitter(schedule_id, due, wanted.jitter) // _MICROSECOND,
    )


def _missed(wanted: Definition, since: Micros, now: Micros) -> tuple[Micros, ...]:
    """The times after `since` that are to have a job, as far as others do not stand in the way; oldest first.

    The last two at most where jobs may not overlap: `_fired` uses no more."""
    timetable = wanted.timetable
    latest = timetable.last_until(now)
    if latest is None or latest <= since or (wanted.misfire is Misfire.SKIP and now - latest > TOLERANCE):
        return ()
    if wanted.misfire is not Misfire.ALL:
        return (latest,)
    # Looking at each of many times, only to drop them, would keep the heartbeat waiting.
    limit = wanted.misfire_limit if wanted.overlap is Overlap.ALLOW else min(wanted.misfire_limit, 2)
    times: list[Micros] = []
    at: Micros | None = latest
    while at is not None and at > since and len(times) < limit:
        times.append(at)
        at = timetable.last_until(at - 1)
    return tuple(reversed(times))


def _fired(overlap: Overlap, missed: tuple[Micros, ...], busy: JobRecord | None) -> tuple[Micros, ...]:
    """Those of them that get a job in this step. `busy`: the job of the last run, when it has not ended."""
    match overlap:
        case Overlap.ALLOW:
            return missed[:BATCH]
        case Overlap.SKIP:
            return () if busy else missed[-1:]
        case Overlap.QUEUE_ONE:
            if busy is None:
                return missed[-2:]  # one that runs, and one that waits for it
            return missed[-1:] if _has_started(busy) else ()
        case Overlap.CANCEL_PREVIOUS:
            return missed[-1:]


def _has_started(job: JobRecord) -> bool:
    return job.state is State.PROCESSING or job.attempt > 0


def _without_job(wanted: Definition, since: Micros, until: Micros, made: int, busy: JobRecord | None) -> str:
    """What to say about the times that passed without a job; empty when there are none."""
    passed = wanted.timetable.between(since, until, COUNTED + made)
    left = len(passed.times) - made
    if left <= 0:
        return ""
    why = f"they were missed, and misfire is {wanted.misfire}"
    if not made and busy is not None:
        why = f"overlap is {wanted.overlap}, and job {busy.id} was {busy.state}"
    elif made and wanted.misfire is Misfire.ALL and wanted.overlap is not Overlap.ALLOW:
        why = f"they were missed, and overlap is {wanted.overlap}"
    several = f"{left}{' or more' if passed.more else ''} times" if left > 1 else "one time"
    return f"{several} made no job: {why}"
