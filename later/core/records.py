"""What crosses the ports: plain values without behaviour.

Times (`..._at`, `publish_by`) are microseconds since the Unix epoch in the **storage's own clock**; durations on these
records are microseconds too. A microsecond fits a double exactly until the year 2255, so Lua and JSON can carry it.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

Micros: TypeAlias = int
SECOND: Final = 1_000_000

FURTHEST: Final = timedelta(days=36_525)
"""How far ahead any time that a user gives may lie. A hundred years: longer delays are mistakes, and what is due before
2255 stays exact in every backend."""

MOST_CRASHES: Final = 1_000_000
"""That a job may be given to survive."""

HISTORY_LIMIT: Final = 100
"""Entries of state history kept per job; the oldest go first. A job that snoozes for ever must not grow for ever."""


class State(StrEnum):
    """Where a job is in its life. Hangfire's words."""

    AWAITING = "Awaiting"
    SCHEDULED = "Scheduled"
    ENQUEUED = "Enqueued"
    PROCESSING = "Processing"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    DELETED = "Deleted"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to the job unless somebody requeues it."""
        return self in _ENDED


_ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.DELETED})


class On(StrEnum):
    """Which end of its parent a continuation waits for."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DELETED = "deleted"
    FINISHED = "finished"
    """Any of the three."""


class Ref(NamedTuple):
    """A hint that a job may be ready: all that a broker ever carries."""

    id: str
    epoch: int
    queue: str
    priority: int


class Claimant(NamedTuple):
    """Who claims: a server (random id per boot) and the worker process within it."""

    server: str
    worker: str


class NewJob(NamedTuple):
    """A job to insert. With `parent` it is a continuation and starts Awaiting (or as the parent's state decides);
    otherwise it starts Scheduled when it is due in the future, else Enqueued."""

    id: str
    type: str
    queue: str
    payload: bytes
    priority: int = 0
    """0 to 9; a higher one is claimed first."""
    max_crashes: int = 3
    """How many crashes the job survives."""
    delay: Micros = 0
    """Due this long after the storage's now; ignored when `run_at` is set."""
    run_at: Micros | None = None
    parent: str | None = None
    on: On = On.SUCCEEDED


class InsertVerdict(StrEnum):
    CREATED = "created"
    EXISTS = "exists"
    """The same id, type and payload were stored before: a repeated call, accepted again."""
    CONFLICT = "conflict"
    """The id is taken by a job of another type or with another payload; nothing was stored."""
    NO_PARENT = "no parent"
    """The parent does not exist; nothing was stored."""


class Inserted(NamedTuple):
    verdict: InsertVerdict
    state: State | None
    """The job's state now; None when nothing is stored under the id by this call."""
    ref: Ref | None
    """To publish: set when the call made the job Enqueued."""


class Joined(NamedTuple):
    """New jobs in a transaction of the user's."""

    inserted: tuple[Inserted, ...]
    committed: bool
    """True: the connection commits by itself, so the jobs are there already."""


class ErrorInfo(NamedTuple):
    """An exception as data; it is never turned back into an exception."""

    type: str
    message: str
    traceback: str


class HistoryEntry(NamedTuple):
    """One state that a job entered."""

    state: State
    at: Micros
    reason: str
    attempt: int
    server: str | None = None
    worker: str | None = None
    error: ErrorInfo | None = None


class JobRecord(NamedTuple):
    """A job as the storage holds it."""

    id: str
    type: str
    queue: str
    priority: int
    payload: bytes
    state: State
    epoch: int
    """The fence: one more on every entry into Enqueued, never reused. Names a message and a claim."""
    attempt: int
    """Handler runs that count; the running one included."""
    crashes: int
    max_crashes: int
    created_at: Micros
    state_at: Micros
    run_at: Micros | None = None
    """When a Scheduled job is due; None in every other state."""
    server: str | None = None
    """The server of the last claim."""
    worker: str | None = None
    parent: str | None = None
    on: On = On.SUCCEEDED
    reason: str = ""
    result: bytes | None = None
    cancel_requested: bool = False
    deferred_at: Micros | None = None
    """Since when servers give the job back because they lack its handler."""
    publish_by: Micros | None = None
    """Enqueued, with a broker: publish again when the storage's clock passes this. None: confirmed, or no broker."""
    expires_at: Micros | None = None
    """An ended job may be pruned from this time on."""


@dataclass(frozen=True, slots=True)
class JobDetails:
    """A job with its history, oldest entry first, and its children, oldest first."""

    job: JobRecord
    history: tuple[HistoryEntry, ...]
    children: tuple[str, ...] = ()


class Claim(NamedTuple):
    """A job that this worker may run. Everything that it writes about the job carries `epoch` and the server."""

    id: str
    epoch: int
    type: str
    queue: str
    priority: int
    payload: bytes
    attempt: int
    crashes: int
    server: str
    """The server in whose name it is claimed."""
    deferred_for: Micros | None = None
    """How long servers have been giving the job back for want of its handler."""
    parent: str | None = None
    parent_state: State | None = None
    parent_result: bytes | None = None


class HeldClaim(NamedTuple):
    """A claim as the storage lists it, to be compared with what really runs."""

    id: str
    epoch: int
    worker: str


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A running process tree as it registers itself."""

    id: str
    node: str | None
    """Names the host, its boot and the process name space; None where the platform does not tell."""
    host: str
    pid: int
    pid_started: str | None
    """The start time of the process as the kernel tells it: a reused pid has another one."""
    queues: tuple[str, ...] = ()
    slots: int = 0


class ServerRecord(NamedTuple):
    info: ServerInfo
    started_at: Micros
    lease_until: Micros
    claims: int
    """Jobs Processing in its name."""
    note: str = ""
    """What its last beat said."""


class Beat(NamedTuple):
    alive: bool
    """False: the lease had run out (or was never granted); the server must stop what it runs and take a new id."""
    cancels: tuple[tuple[str, int], ...]
    """(id, epoch) of this server's Processing jobs whose cancel was asked for."""


class Verdict(StrEnum):
    """What became of one `Change`."""

    APPLIED = "applied"
    REPEATED = "repeated"
    """The same change had been applied before: a repeated call, accepted again."""
    REQUESTED = "requested"
    """The job is Processing: its worker has been asked to stop it."""
    FENCED = "fenced"
    """The claim is no longer the worker's; nothing changed."""
    REFUSED = "refused"
    """The job's state does not allow the change; nothing changed."""
    UNKNOWN = "unknown"
    """No job has this id."""


class Applied(NamedTuple):
    verdict: Verdict
    state: State | None
    """The job's state after the call."""
    enqueued: tuple[Ref, ...]
    """Jobs that this change made Enqueued: the job itself, or continuations that it released."""


class Promoted(NamedTuple):
    enqueued: tuple[Ref, ...]
    next_due_in: Micros | None
    """Until the earliest job that is still Scheduled; 0 or less when there was more to do than one call may."""


class Rescued(NamedTuple):
    servers: tuple[str, ...]
    """Servers found dead, by id."""
    enqueued: tuple[Ref, ...]
    jobs: int
    """Claims taken from them."""
    more: bool
    """The limit was reached and claims of dead servers are left: call again."""


class Exchanged(NamedTuple):
    applied: tuple[Applied, ...]
    by_ref: tuple[Claim | None, ...]
    """In the order of `refs`; None where the reference is stale."""
    next: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """What makes recurring jobs, as a storage holds it: when it is to be looked at next, and a text of the core's."""

    id: str
    version: int
    """1 when it is new, one more with every change: the fence of the next one."""
    next_at: Micros | None
    """None: never, until it is changed."""
    body: bytes


class Due(NamedTuple):
    now: Micros
    schedules: tuple[ScheduleRecord, ...]
    next_due_in: Micros | None
    """Until the earliest of all others; 0 or less when more are due than the limit let through."""


class RescheduleVerdict(StrEnum):
    APPLIED = "applied"
    STALE = "stale"
    """The schedule has another version than the caller knew, or the parent of a job has gone; nothing changed."""


class Rescheduled(NamedTuple):
    verdict: RescheduleVerdict
    inserted: tuple[Inserted, ...]
    applied: tuple[Applied, ...]
    """One for each job and each move of the change; none when it was STALE."""


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs to list. All given conditions hold together; newest state change first.

    `after` is the opaque cursor of the previous page: pages are keyed by (state_at, id), so that they stay cheap and
    do not shift when rows come and go.
    """

    states: frozenset[State] = frozenset()
    queues: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    parent: str | None = None
    limit: int = 50
    after: str | None = None


class Page(NamedTuple):
    jobs: tuple[JobRecord, ...]
    """Without payload and result: they are b"" and None. `get` has them."""
    next: str | None
    """Pass as `after` for the next page; None at the end."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Jobs now, by queue and state. A pair without jobs is absent."""

    by_queue: dict[str, dict[State, int]] = field(default_factory=dict[str, dict[State, int]])

    def total(self, state: State) -> int:
        return sum(states.get(state, 0) for states in self.by_queue.values())
