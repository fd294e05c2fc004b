"""Rows of the tables as records, and back. `sql/jobs.sql` names the columns in this order."""

import json
from dataclasses import dataclass, field
from typing import Any, Final

from later.backends.postgres.arrays import storable
from later.core.records import ErrorInfo, HistoryEntry, JobRecord, On, State

STATES: Final = {state.value: state for state in State}
_ONS: Final = {on.value: on for on in On}

JOB_COLUMNS: Final = 24
"""So many columns the fragment `job` has."""


@dataclass(slots=True)
class Row:
    """A job and what only this storage knows of it."""

    num: int
    entries: int
    """History entries ever written, the number of the newest."""
    has_children: bool
    job: JobRecord
    ended: bool
    """In which table the row is."""
    news: list[HistoryEntry] = field(default_factory=list[HistoryEntry])
    """Entries to be written."""
    keeps_place: bool = True


def read_row(columns: tuple[Any, ...], payload: bytes = b"", result: bytes | None = None) -> Row:
    """The columns of the fragment `job`."""
    (
        num, entries, has_children, job_id, job_type, queue, priority, state, epoch, attempt, crashes, max_crashes,
        created_at, state_at, run_at, server, worker, parent, on, reason, cancel_requested, deferred_at, publish_by,
        expires_at,
    ) = columns  # fmt: skip
    job = JobRecord(
        job_id, job_type, queue, priority, payload, STATES[state], epoch, attempt, crashes, max_crashes, created_at,
        state_at, run_at, server, worker, parent, _ONS[on], reason, result, cancel_requested, deferred_at, publish_by,
        expires_at,
    )  # fmt: skip
    return Row(num, entries, has_children, job, job.state.ended)


def added(job: JobRecord, *, has_children: bool) -> dict[str, object]:
    """For `insert_decided`."""
    return {
        "id": job.id,
        "type": job.type,
        "queue": job.queue,
        "priority": job.priority,
        "state": job.state.value,
        "epoch": job.epoch,
        "attempt": job.attempt,
        "crashes": job.crashes,
        "max_crashes": job.max_crashes,
        "created_at": job.created_at,
        "state_at": job.state_at,
        "run_at": job.run_at,
        "parent": job.parent,
        "continues_on": job.on.value,
        "reason": storable(job.reason),
        "publish_by": job.publish_by,
        "expires_at": job.expires_at,
        "has_children": has_children,
        "line": job.state is State.ENQUEUED,
        "is_ended": job.state.ended,
        "payload": job.payload.hex(),
    }


def saved(row: Row) -> dict[str, object]:
    """For `save`."""
    job = row.job
    return {
        "id": job.id,
        "state": job.state.value,
        "epoch": job.epoch,
        "attempt": job.attempt,
        "crashes": job.crashes,
        "state_at": job.state_at,
        "run_at": job.run_at,
        "server": job.server,
        "worker": job.worker,
        "reason": storable(job.reason),
        "cancel_requested": job.cancel_requested,
        "deferred_at": job.deferred_at,
        "publish_by": job.publish_by,
        "expires_at": job.expires_at,
        "entries": row.entries,
        "news": [_written(entry) for entry in row.news],
        "keeps_place": row.keeps_place,
        "line": job.state is State.ENQUEUED and not row.keeps_place,
        "was_ended": row.ended,
        "is_ended": job.state.ended,
        "result": None if job.result is None else job.result.hex(),
    }


def _written(entry: HistoryEntry) -> dict[str, object]:
    return {
        "state": entry.state.value,
        "at": entry.at,
        "reason": storable(entry.reason),
        "attempt": entry.attempt,
        "server": entry.server,
        "worker": entry.worker,
    }


def read_history(entries: list[dict[str, Any]], last: int, errors: dict[int, str]) -> tuple[HistoryEntry, ...]:
    """The history of a job whose newest entry has the number `last`; `errors` are those of its entries, by number."""
    first = last - len(entries) + 1
    return tuple(
        HistoryEntry(
            STATES[entry["state"]],
            entry["at"],
            entry["reason"],
            entry["attempt"],
            entry["server"],
            entry["worker"],
            read_error(errors.get(number)),
        )
        for number, entry in enumerate(entries, start=first)
    )


def written_error(error: ErrorInfo) -> str:
    """As ASCII, so that it keeps every character."""
    return json.dumps([error.type, error.message, error.traceback])


def read_error(text: str | None) -> ErrorInfo | None:
    return None if text is None else ErrorInfo(*json.loads(text))
