"""Jobs, changes and history as the scripts take and give them (see lua/lib/job.lua)."""

import re
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
_SCHEDULE: Final = re.compile(rb"(\d{1,15}) (-?\d{1,16}|) (.*)", re.DOTALL)


def write_new(job: NewJob) -> tuple[str, bytes, str]:
    run_at = "" if job.run_at is None else job.run_at
    head = f"{job.priority} {job.max_crashes} {job.delay} {run_at} {job.type} {job.queue} {job.on}"
    if head.count(" ") != 6 or not job.type or not job.queue:
        check_name("job type", job.type)
        check_name("queue", job.queue)
    return job.id, job.payload, head if job.parent is None else f"{head}\n{job.parent}"


def write_change(change: Change) -> tuple[str, str, bytes]:
    epoch = "-" if change.epoch is None else change.epoch
    keep = "" if change.keep is None else change.keep
    more = b"" if change.result is None else b"+" + change.result
    if change.reason or change.error is not None:
        reason = change.reason.encode()
        error = b"" if change.error is None else _write_error(change.error)
        more = b"%d %d " % (len(reason), len(error)) + reason + error + more
    return change.id, f"{epoch} {change.delay} {keep} {change.cause}\n{change.server or ''}", more


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


def read_claims(values: Sequence[Any], now: Micros) -> list[Claim | None]:
    claims: list[Claim | None] = []
    for job_id, record, payload, told in _groups(values, 4):
        if job_id is None:
            claims.append(None)
            continue
        (
            _, epoch, server, _, _, _, _, attempt, crashes, _, _, deferred_at,
            _, _, parent, _, queue, priority, _, _, kind, _, _,
        ) = record.decode().split(" ", _SPACES)  # fmt: skip
        claims.append(
            Claim(
                job_id.decode(),
                int(epoch),
                kind,
                queue,
                int(priority),
                payload,
                int(attempt),
                int(crashes),
                server,
                now - int(deferred_at) if deferred_at else None,
                parent or None,
                STATES[told[:1].decode()] if told else None,
                told[2:] if len(told) > 1 else None,
            )
        )
    return claims


def read_job(
    job_id: str, record: bytes, publish_by: bytes, payload: bytes = b"", result: bytes | None = None
) -> JobRecord:
    """Raises Corrupt."""
    try:
        (
            letter, epoch, server, worker, state_at, _, until, attempt, crashes, _, cancel, deferred_at,
            _, _, parent, _, queue, priority, max_crashes, created_at, kind, on, reason,
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
    record, payload, result, entries, children, publish_by = values
    if payload is None:
        raise _corrupt(job_id)
    job = read_job(job_id, record, publish_by, payload, result)
    try:
        history = _read_history(job, record, dict(_groups(entries, 2)))
    except (ValueError, KeyError):
        raise _corrupt(job_id) from None
    in_order = sorted((read_score(score) % _BAND, child) for child, score in _groups(children, 2))
    return JobDetails(job, history, tuple(child.decode() for _, child in in_order))


def read_schedule(schedule_id: bytes, value: bytes) -> ScheduleRecord:
    """What is not as later wrote it is a body that nobody can read, of the version that the scripts see: it can be
    replaced and removed."""
    name = schedule_id.decode(errors="backslashreplace")
    written = _SCHEDULE.fullmatch(value)
    if written is not None:
        version, next_at, body = written.groups()
        return ScheduleRecord(name, int(version), int(next_at) if next_at else None, body)
    version = value[: len(value) - len(value.lstrip(b"0123456789"))]
    return ScheduleRecord(name, int(version or 0), None, b"")


def read_score(score: bytes) -> int:
    """Servers may answer 1.7e+15. Exact below 2**53."""
    return int(float(score))


def _read_history(job: JobRecord, record: bytes, stored: dict[bytes, bytes]) -> tuple[HistoryEntry, ...]:
    """What is not stored is told by the record (see lua/lib/job.lua)."""
    claimed_at, _, _, _, entries = record.split(b" ", 10)[5:10]
    beginning = HistoryEntry(State.ENQUEUED, job.created_at, "", 0)
    if entries:
        last = int(entries)
        numbers = range(max(1, last - HISTORY_LIMIT + 1), last + 1)
        found = ((number, stored.get(b"%d" % number)) for number in numbers)
        return tuple(beginning if number == 1 and entry is None else _read_entry(entry) for number, entry in found)
    now = HistoryEntry(job.state, job.state_at, job.reason, job.attempt, job.server, job.worker)
    if job.state is State.SUCCEEDED:
        return beginning, now._replace(state=State.PROCESSING, at=int(claimed_at)), now
    return (beginning, now) if job.state is State.PROCESSING else (now,)


def _read_entry(entry: bytes | None) -> HistoryEntry:
    if entry is None:
        raise ValueError("missing")
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
        f"what Redis holds as job {job_id} is not what later wrote: look at its keys, delete them or restore a backup"
    )
