"""What people do to a schedule: put, pause, resume, trigger. Each is a change of the version that they have seen."""

from dataclasses import replace

from later.core.lifecycle import Reschedule
from later.core.records import Micros, NewJob, ScheduleRecord
from later.core.recurring.planning import added, sealed
from later.core.recurring.schedule import Definition, Run, Schedule


def put(
    schedule_id: str, record: ScheduleRecord | None, known: Schedule | None, wanted: Definition, now: Micros
) -> Reschedule | None:
    """Make `wanted` the definition; None when it is already.

    `record` and `known`: what is stored, both None for nothing, `known` alone for something unreadable. Whatever
    changes the times makes them start anew from `now`, so that no time before counts as missed. A pause stays.
    """
    version = 0 if record is None else record.version
    if known is None:
        return _changed(schedule_id, version, Schedule(wanted, since=now), now)
    if known.definition == wanted:
        return None
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


def trigger(record: ScheduleRecord, known: Schedule, job_id: str, now: Micros) -> Reschedule:
    """A job now, whatever else; the schedule only remembers it."""
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


def _changed(schedule_id: str, version: int, schedule: Schedule, now: Micros) -> Reschedule:
    return Reschedule(schedule_id, version, schedule.next_after(now), schedule.to_body())
