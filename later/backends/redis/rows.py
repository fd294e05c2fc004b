"""Jobs, changes and history as the scripts take and give them (see lua/lib/job.lua)."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from later.backends.redis.tables import FIELDS, LETTERS
from later.core.errors import Corrupt
from later.core.lifecycle import Change
from later.core.names import check_name
from later.core.records import (
    HISTORY_LIMIT,
    Claim,
    ErrorInfo,
    HistoryEntry,
    JobDetails,
    JobRecord,
    Micros,
    NewJob,
    On,
    Ref,
    ScheduleRecord,
    State,
)

STATES: Final = {letter: state for state, letter in LETTERS.items()}
_SPACES: Final = len(FIELDS) - 1
_BAND: Final = 2**50


def write_new(job: NewJob) -> tuple[str, bytes, str, str]:
    run_at = "" if job.run_at is None else job.run_at
    head = f"{job.priority} {job.max_crashes} {job.delay} {run_at} {job.type} {job.queue} {job.on}"
    if head.count(" ") != 6 or not job.type or not job.queue:
        check_name("job type", job.type)
        check_name("queue", job.queue)
    return job.id, job.payload, job.parent or "", head


def write_change(change: Change) -> tuple[str | bytes, ...]:
    epoch = "-" if change.epoch is None else change.epoch
    keep = "" if change.keep is None else change.keep
    return (
        change.id,
        change.server or "",
        f"{change.cause} {epoch} {change.delay} {keep}",
        change.reason,
        b"" if change.result is None else b"+" + change.result,
        b"" if change.error is None else _write_error(change.error),
    )


def read_refs(values: Sequence[bytes]) -> tuple[Ref, ...]:
    return tuple(
        Ref(job_id.decode(), int(epoch), queue.decode(), int(priority))
        for job_id, epoch, queue, priority in _groups(values, 4)
    )


def read_numbered_refs(values: Sequence[Any]) -> dict[int, tuple[Ref, ...]]:
    """The refs of each change that has any, by the change's number."""
    by_number: dict[int, list[bytes]] = {}
    for number, *ref in _groups(values, 5):
        by_number.setdefault(number, []).extend(ref)
    return {number: read_refs(refs) for number, refs in by_number.items()}


def read_claim(values: Sequence[Any], now: Micros) -> Claim:
    job_id, record, payload, parent_state, parent_result = values
    (
        _, epoch, attempt, crashes, _, priority, _, _, _, _, _, deferred_at,
        kind, queue, parent, _, _, _, _, server, _, _,
    ) = record.decode().split(" ", _SPACES)  # fmt: skip
    return Claim(
        id=job_id.decode(),
        epoch=int(epoch),
        type=kind,
        queue=queue,
        priority=int(priority),
        payload=payload,
        attempt=int(attempt),
        crashes=int(crashes),
        server=server,
        deferred_for=now - int(deferred_at) if deferred_at else None,
        parent=parent or None,
        parent_state=STATES[parent_state.decode()] if parent_state else None,
        parent_result=None if parent_result is None else parent_result[1:],
    )


def read_job(
    job_id: str, record: bytes, publish_by: bytes, payload: bytes = b"", result: bytes | None = None
) -> JobRecord:
    """Raises Corrupt."""
    try:
        (
            letter, epoch, attempt, crashes, max_crashes, priority, _, cancel, created_at, state_at, until, deferred_at,
            kind, queue, parent, on, _, _, _, server, worker, reason,
        ) = record.decode().split(" ", _SPACES)  # fmt: skip
        state = STATES[letter]
        return JobRecord(
            id=job_id,
            type=kind,
            queue=queue,
            priority=int(priority),
            payload=payload,
            state=state,
            epoch=int(epoch),
            attempt=int(attempt),
            crashes=int(crashes),
            max_crashes=int(max_crashes),
            created_at=int(created_at),
            state_at=int(state_at),
            run_at=int(until) if state is State.SCHEDULED else None,
            server=server or None,
            worker=worker or None,
            parent=parent or None,
            on=On(on),
            reason=reason,
            result=None if result is None else result[1:],
            cancel_requested=bool(cancel),
            deferred_at=int(deferred_at) if deferred_at else None,
            publish_by=read_score(publish_by) if publish_by and state is State.ENQUEUED else None,
            expires_at=int(until) if state.ended else None,
        )
    except (ValueError, KeyError):
        raise _corrupt(job_id) from None


def read_details(job_id: str, values: Sequence[Any]) -> JobDetails:
    """Raises Corrupt."""
    flat, children, publish_by = values
    fields: dict[bytes, bytes] = dict(_groups(flat, 2))
    if b"m" not in fields or b"p" not in fields:
        raise _corrupt(job_id)
    job = read_job(job_id, fields[b"m"], publish_by, fields[b"p"], fields.get(b"r"))
    entries = int(fields[b"m"].split(b" ", 7)[6])
    try:
        history = tuple(
            _read_entry(fields.get(b"%d" % number), job)
            for number in range(max(1, entries - HISTORY_LIMIT + 1), entries + 1)
        )
    except (ValueError, KeyError):
        raise _corrupt(job_id) from None
    in_order = sorted((read_score(score) % _BAND, child) for child, score in _groups(children, 2))
    return JobDetails(job, history, tuple(child.decode() for _, child in in_order))


def read_schedule(schedule_id: bytes, value: bytes) -> ScheduleRecord:
    """Raises Corrupt."""
    try:
        version, next_at, body = value.split(b" ", 2)
        return ScheduleRecord(schedule_id.decode(), int(version), int(next_at) if next_at else None, body)
    except ValueError:
        raise Corrupt(
            f"what Redis holds as schedule {schedule_id!r} is not what later wrote: look at the hash of schedules"
        ) from None


def read_score(score: bytes) -> int:
    """Servers may answer 1.7e+15. Exact below 2**53."""
    return int(float(score))


def _read_entry(entry: bytes | None, job: JobRecord) -> HistoryEntry:
    if entry is None:
        return HistoryEntry(State.ENQUEUED, job.created_at, "", 0)
    state, at, attempt, server, worker, length, rest = entry.split(b" ", 6)
    reason, error = rest[: int(length)], rest[int(length) :]
    return HistoryEntry(
        state=STATES[state.decode()],
        at=int(at),
        reason=reason.decode(),
        attempt=int(attempt),
        server=server.decode() or None,
        worker=worker.decode() or None,
        error=_read_error(error) if error else None,
    )


def _write_error(error: ErrorInfo) -> bytes:
    kind, message, traceback = (part.encode() for part in (error.type, error.message, error.traceback))
    return b"%d %d " % (len(kind), len(message)) + kind + message + traceback


def _read_error(data: bytes) -> ErrorInfo:
    first, second, rest = data.split(b" ", 2)
    kind, message = int(first), int(first) + int(second)
    return ErrorInfo(rest[:kind].decode(), rest[kind:message].decode(), rest[message:].decode())


def _groups(values: Sequence[Any], size: int) -> Iterator[Any]:
    return zip(*[iter(values)] * size, strict=True)


def _corrupt(job_id: str) -> Corrupt:
    return Corrupt(
        f"what Redis holds as job {job_id} is not what later wrote: look at its hash, and delete it or restore a backup"
    )
