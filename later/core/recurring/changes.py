"""What people do to a schedule: put, pause, resume, trigger. Each is a change of the version that they have seen."""

from dataclasses import replace

from later.core.errors import InvalidSchedule
from later.core.lifecycle import Reschedule
from later.core.records import Micros, NewJob, ScheduleRecord
from later.core.recurring.planning import added, sealed
from later.core.recurring.schedule import Definition, Run, Schedule, remains_of
from later.core.timetables import Timetable


def put(
    schedule_id: str, record: ScheduleRecord | None, known: Schedule | None, wanted: Definition, now: Micros
) -> Reschedule | None:
    """Make `wanted` the definition; None when it is already.

    `record` and `known`: what is stored, both None for nothing, `known` alone for something unreadable. Whatever
    changes the times makes them start anew from `now`, so that no time before counts as missed. A pause stays, and the
    runs do, of something unreadable as far as they can be told.

    Raises InvalidSchedule for new times of which none is left.
    """
    version = 0 if record is None else record.version
    if known is not None and known.definition == wanted:
        return None
    if (known is None or known.definition.timetable != wanted.timetable) and wanted.timetable.next_after(now) is None:
        raise InvalidSchedule(f"recurring job {schedule_id} never fires: {_why_never(wanted.timetable)}")
    if known is None:
        paused, runs = (False, ()) if record is None else remains_of(record)
        return _changed(schedule_id, version, Schedule(wanted, since=now, paused=paused, runs=runs), now)
    if known.definition.timetable == wanted.timetable:
        assert record is not None
        return Reschedule(schedule_id, version, record.next_at, replace(known, definition=wanted).to_body())
    return _changed(schedule_id, version, replace(known, definition=wanted, since=now), now)


def pause(record: ScheduleRecord, known: Schedule) -> Reschedule | None:
    """None when it is paused already."""
    if known.paused:
        return None
    return Reschedule(record.id, record.version, None, replace(known, paused=True).to_body())


def resume(record: ScheduleRecord, known: Schedule, now: Micros) -> Reschedule | None:
    """None when it is not paused. What passed during the pause does not count as missed."""
    if not known.paused:
        return None
    return _changed(record.id, record.version, replace(known, paused=False, since=now), now)


def trigger(record: ScheduleRecord, known: Schedule, job_id: str, now: Micros) -> Reschedule | None:
    """A job now, whatever else; the schedule only remembers it. None when it remembers a job of this id."""
    if any(run.job == job_id for run in known.runs):
        return None
    wanted = known.definition
    job = NewJob(
        id=job_id,
        type=wanted.type,
        queue=wanted.queue,
        payload=sealed(record.id, wanted, now),
        priority=wanted.priority,
        max_crashes=wanted.max_crashes,
    )
    body = replace(known, runs=added(known.runs, Run(now, job_id, manual=True))).to_body()
    return Reschedule(record.id, record.version, record.next_at, body, (job,))


def _why_never(timetable: Timetable) -> str:
    if timetable.end is None:
        return "it has no time before the year 2255"
    return f"no time is left before its end, {timetable.end.isoformat()}"


def _changed(schedule_id: str, version: int, schedule: Schedule, now: Micros) -> Reschedule:
    return Reschedule(schedule_id, version, schedule.next_after(now), schedule.to_body())
