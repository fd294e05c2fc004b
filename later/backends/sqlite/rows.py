"""Rows of the tables as records, and back. `sql/jobs.sql` and `sql/listing.sql` name the columns in this order."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from later.core.records import ErrorInfo, HistoryEntry, JobRecord, On, State

_STATES: Final = {state.value: state for state in State}
_ONS: Final = {on.value: on for on in On}

PAYLOAD_IN_ROW: Final = 1024
"""Bytes of a payload up to which it is kept in the job's row: one page less to write, and still several jobs a page."""


@dataclass(slots=True)
class Row:
    """A job and what only this storage knows of it."""

    num: int
    entries: int
    """History entries ever written, the number of the newest; 0 when the job has not changed since its insert."""
    ticket: int | None
    """Enqueued: the place in the line of its queue and priority."""
    job: JobRecord


def read_row(columns: tuple[Any, ...]) -> Row:
    """The columns of the fragment `job` and the payload."""
    (
        num, entries, ticket, job_id, job_type, queue, priority, state, epoch, attempt, crashes, max_crashes,
        created_at, state_at, run_at, server, worker, parent, on, reason, result, cancel_requested, deferred_at,
        publish_by, expires_at, payload,
    ) = columns  # fmt: skip
    job = JobRecord(
        job_id, job_type, queue, priority, payload, _STATES[state], epoch, attempt, crashes, max_crashes,
        created_at, state_at, run_at, server, worker, parent, _ONS[on], reason, result, cancel_requested == 1,
        deferred_at, publish_by, expires_at,
    )  # fmt: skip
    return Row(num, entries, ticket, job)


def read_jobs(rows: Iterable[tuple[Any, ...]]) -> list[JobRecord]:
    return [read_row(row).job for row in rows]


def added(app: int, row: Row) -> tuple[Any, ...]:
    """The values of `add_job`."""
    job = row.job
    return (
        app, row.num, row.entries, row.ticket, job.id, job.type, job.queue, job.priority, job.state._value_,
        job.epoch, job.attempt, job.crashes, job.max_crashes, job.created_at, job.state_at, job.run_at, job.server,
        job.worker, job.parent, job.on._value_, _text(job.reason), job.result, int(job.cancel_requested),
        job.deferred_at, job.publish_by, job.expires_at, job.payload if len(job.payload) <= PAYLOAD_IN_ROW else None,
    )  # fmt: skip


def saved(row: Row) -> tuple[Any, ...]:
    """The values of `save_job`."""
    job = row.job
    return (
        row.entries, row.ticket, job.state._value_, job.epoch, job.attempt, job.crashes, job.state_at, job.run_at,
        job.server, job.worker, _text(job.reason), job.result, int(job.cancel_requested), job.deferred_at,
        job.publish_by, job.expires_at, row.num,
    )  # fmt: skip


def first_entry(job: JobRecord) -> HistoryEntry:
    """The history of a job that has not changed since its insert. The row says it all, so it is written by the first
    change only: an insert that is a transaction of its own has one page less to write."""
    return HistoryEntry(job.state, job.state_at, job.reason, job.attempt)


def written(num: int, number: int, entry: HistoryEntry) -> tuple[Any, ...]:
    """The values of `add_history`."""
    error = entry.error
    return (
        num, number, entry.state._value_, entry.at, _text(entry.reason), entry.attempt, entry.server,
        entry.worker, None if error is None else json.dumps([error.type, error.message, error.traceback]),
    )  # fmt: skip


def read_entry(columns: tuple[Any, ...]) -> HistoryEntry:
    state, at, reason, attempt, server, worker, error = columns
    return HistoryEntry(
        _STATES[state], at, reason, attempt, server, worker, None if error is None else ErrorInfo(*json.loads(error))
    )


def _text(text: str) -> str:
    """SQLite stores UTF-8, which has no lone surrogates; an exception's message may hold some."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
