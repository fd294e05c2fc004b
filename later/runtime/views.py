"""What a program sees of its jobs: read-only views with real datetimes (UTC).

Their reprs show no payload, result or error text, so that a logged job gives no secret away.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from later.core.codec import decode_json
from later.core.envelope import unseal
from later.core.records import ErrorInfo, JobDetails, JobRecord, On, ServerRecord, State
from later.core.records import HistoryEntry as StoredEntry
from later.core.records import Page as StoredPage
from later.core.troubles import of_note
from later.runtime.ticks import Tick, tick_of, to_datetime


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One state that the job entered."""

    state: State
    at: datetime
    reason: str
    attempt: int
    server: str | None
    worker: str | None
    error: ErrorInfo | None = field(repr=False)


@dataclass(frozen=True, slots=True, repr=False)
class Job:
    """A job as it was when it was asked for. All times are those of the storage's clock."""

    id: str
    type: str
    queue: str
    priority: int
    """0 to 9; a higher one is claimed first."""
    state: State
    attempt: int
    """Handler runs that count; the running one included."""
    crashes: int
    max_crashes: int
    epoch: int
    created_at: datetime
    state_at: datetime
    run_at: datetime | None
    """When a Scheduled job is due."""
    expires_at: datetime | None
    """From when on an ended job may be removed."""
    reason: str
    parent: str | None
    on: On
    """Which end of its parent the job waits for, or waited for."""
    children: tuple[str, ...]
    """Its continuations, oldest first. Empty in a listing, like `history`."""
    server: str | None
    worker: str | None
    cancel_requested: bool
    history: tuple[HistoryEntry, ...]
    """Oldest entry first."""
    stored_payload: bytes
    """With what travels with it, see `recurring`."""
    stored_result: bytes | None

    @property
    def payload(self) -> Any:
        """The payload as plain data, None in a listing. Raises Corrupt."""
        return decode_json(unseal(self.stored_payload).payload or None)

    @property
    def recurring(self) -> Tick | None:
        """The recurring job that made it, and for which time; None for any other job, and in a listing. Raises
        Corrupt."""
        return tick_of(self.stored_payload)

    @property
    def result(self) -> Any:
        """What the handler returned, as plain data; None unless Succeeded, and in a listing. Raises Corrupt."""
        return decode_json(self.stored_result)

    @property
    def error(self) -> ErrorInfo | None:
        """The last error, or None; also of a job that succeeded in the end."""
        return next((entry.error for entry in reversed(self.history) if entry.error is not None), None)

    def __repr__(self) -> str:
        return f"<Job {self.type} {self.id}: {self.state} in {self.queue}, attempt {self.attempt}>"


class Page(NamedTuple):
    """Jobs that a query found, newest state change first."""

    jobs: tuple[Job, ...]
    """Without payload, result, history and children: `get` has them."""
    next: str | None
    """Pass as `JobQuery(after=...)` for the next page; None at the end."""


@dataclass(frozen=True, slots=True)
class ServerTrouble:
    """Something that a server's connections to the broker have met: healed without help, but for what is
    refused."""

    what: str
    times: int
    """In all its processes, since they were started; those that have ended count as well, those of isolated jobs do
    not."""
    last_at: datetime
    """By that server's own clock."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: one `later` process tree."""

    id: str
    host: str
    pid: int
    queues: tuple[str, ...]
    slots: int
    started_at: datetime
    lease_until: datetime
    """It is dead when the storage's clock passes this."""
    claims: int
    """Jobs that it runs."""
    gone: bool
    """Its process is seen to have ended, before its lease has. Only known on its own host."""
    troubles: tuple[ServerTrouble, ...] = ()
    """As its last heartbeat told them, the latest first."""


def job_view(details: JobDetails) -> Job:
    return _job(details.job, tuple(map(_entry, details.history)), details.children)


def page_view(page: StoredPage) -> Page:
    return Page(tuple(_job(job, (), ()) for job in page.jobs), page.next)


def server_view(server: ServerRecord, *, gone: bool) -> Server:
    return Server(
        id=server.info.id,
        host=server.info.host,
        pid=server.info.pid,
        queues=server.info.queues,
        slots=server.info.slots,
        started_at=to_datetime(server.started_at),
        lease_until=to_datetime(server.lease_until),
        claims=server.claims,
        gone=gone,
        troubles=tuple(
            ServerTrouble(trouble.what, trouble.times, to_datetime(trouble.last_at)) for trouble in of_note(server.note)
        ),
    )


def _entry(entry: StoredEntry) -> HistoryEntry:
    return HistoryEntry(
        entry.state, to_datetime(entry.at), entry.reason, entry.attempt, entry.server, entry.worker, entry.error
    )


def _job(job: JobRecord, history: tuple[HistoryEntry, ...], children: tuple[str, ...]) -> Job:
    return Job(
        id=job.id,
        type=job.type,
        queue=job.queue,
        priority=job.priority,
        state=job.state,
        attempt=job.attempt,
        crashes=job.crashes,
        max_crashes=job.max_crashes,
        epoch=job.epoch,
        created_at=to_datetime(job.created_at),
        state_at=to_datetime(job.state_at),
        run_at=None if job.run_at is None else to_datetime(job.run_at),
        expires_at=None if job.expires_at is None else to_datetime(job.expires_at),
        reason=job.reason,
        parent=job.parent,
        on=job.on,
        children=children,
        server=job.server,
        worker=job.worker,
        cancel_requested=job.cancel_requested,
        history=history,
        stored_payload=job.payload,
        stored_result=job.result,
    )
