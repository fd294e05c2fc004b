"""The two ports. Every adapter, built in or not, implements these and nothing else of `later`.

Rules for all methods of both:
- Sequences in, sequences out, in the order of the input, one verdict per item.
- `Unavailable` means that the outcome is unknown and the same call may be repeated; every method is made for that.
  Adapters turn every driver error into an error of `later.core.errors` at their edge. Any other error of `exchange`
  makes a worker repeat the changes one by one; one that is refused while others are taken fails its job.
- Safe to call from several threads at once. After a fork, an adapter opens new connections.
- `later.testing` has the contract suite that says all this in tests.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from later.core.errors import Unsupported
from later.core.lifecycle import Change, Reschedule
from later.core.records import (
    Applied,
    Beat,
    Claimant,
    Counts,
    Due,
    Exchanged,
    HeldClaim,
    Inserted,
    JobDetails,
    JobQuery,
    Joined,
    Micros,
    NewJob,
    Page,
    Promoted,
    Ref,
    Rescheduled,
    Rescued,
    ScheduleRecord,
    ServerInfo,
    ServerRecord,
)

Clock = Callable[[], Micros]
"""Microseconds since the epoch. Injected for tests and simulation; None means the storage's own clock."""


@dataclass(frozen=True, slots=True)
class StorageCapabilities:
    """What a storage promises beyond the port. Tests and start-up checks ask for these, never for a backend's name."""

    durable: bool
    """An insert that has returned survives the death of every process, and of the machine."""
    shared: bool
    """Other processes of this host see the same jobs."""
    shared_between_hosts: bool
    push: bool
    """`wait` returns as soon as another thread or process made a job Enqueued, not only after a poll."""
    transactional: bool = False
    """New jobs can join a transaction of the user's, on a connection of theirs (`insert_within`)."""


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """What the core tells a storage when it opens it."""

    namespace: str
    """The app's name; nothing outside this namespace is read or written."""
    outbox: bool = False
    """A broker is in use: jobs that become Enqueued get `publish_by`."""
    clock: Clock | None = None
    create: bool = True
    """False, for who only looks: a storage that is a file raises ConfigError when it is not there, and makes none."""


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    namespace: str


class Storage(ABC):
    """The truth about jobs. A job exists, is claimed and is finished only here, each by one compare-and-set.

    The decisions are those of `later.core.lifecycle`; an adapter runs them, or an equal statement of its own, within
    one atomic step per call (per item where the docstring says so).
    """

    capabilities: StorageCapabilities

    @abstractmethod
    def migrate(self) -> None:
        """Create or upgrade the schema; nothing when it is current. Safe to call from several processes at once.

        Raises SchemaMismatch when what is stored is newer than this version knows.
        """

    @abstractmethod
    def insert(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        """Store new jobs, durably when the call returns; one transaction, one round trip.

        Idempotent by id (see `InsertVerdict`). A parent is looked up in the same atomic step, so a parent that ends at
        this moment either releases the new job or is seen to have ended. A parent may stand earlier in the same call.
        Items with the verdict CONFLICT or NO_PARENT are not stored; the others are. The id is compared first: when
        it is stored, the parent is not looked at.
        """

    def insert_within(self, connection: object, jobs: Sequence[NewJob]) -> Joined:  # noqa: ARG002  for those that can
        """Store new jobs in the transaction that is open on `connection`, one of the driver's that the user holds: they
        are committed and rolled back with it, and nobody else sees them before.

        As `insert` otherwise, with the verdicts as of this moment, in 2 to 6 round trips on that connection. Begins a
        transaction where the connection would for any statement; is one of its own, as `insert`, where the connection
        commits by itself. Neither depends on the connection's settings nor changes them, and, where the storage can
        help it, locks no job that is stored already: the transaction may stay open for long. So a continuation may be
        Awaiting although its parent has ended; the first `promote` after the commit looks again and moves it.

        Raises UnusableConnection, before anything was done, for a connection of another database, of a kind that the
        storage does not know, or in a failed transaction. Raises Unsupported without the capability `transactional`.
        After any other error it may depend on the database whether the transaction can go on.
        """
        raise cannot_join(self)

    async def ainsert_within(self, connection: object, jobs: Sequence[NewJob]) -> Joined:
        """As `insert_within`, for connections of async drivers too. One that is not async blocks the event loop, as the
        user's own statements do."""
        return self.insert_within(connection, jobs)

    @abstractmethod
    def exchange(
        self,
        by: Claimant,
        changes: Sequence[Change] = (),
        refs: Sequence[Ref] = (),
        queues: Sequence[str] = (),
        limit: int = 0,
    ) -> Exchanged:
        """A worker's whole turn in one round trip: report changes, claim by reference, claim what is next.

        Changes are applied first, as by `apply`. Then each ref is claimed when its job is Enqueued with that epoch.
        Then up to `limit` Enqueued jobs are claimed: all of the first queue before the second, and within a queue by
        priority (higher first), then in the order in which they became Enqueued. Those that one call made Enqueued
        did so in the order of its input and of what it returned, also when the clock stood still.
        A job that has crashed before is claimed alone: it is the only job that this call claims by `limit`, so that it
        cannot take others down with it. When its turn comes after others', the call stops before it.
        Claims are given only while `by.server` holds its lease; else none, without an error. A claim repeated by the
        same server and worker with the same ref is given again.
        Atomic per item; adapters make it one transaction where they can.
        """

    def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """Move jobs, each by one compare-and-set as `lifecycle.advance` decides. The only way a state changes, besides
        `insert`, the claims of `exchange`, `promote`, `rescue`, `reschedule` and `prune`.

        When a job ends, its Awaiting children are moved in the same atomic step as `lifecycle.continuation` decides,
        and theirs if they end, and so on; all that became Enqueued is returned. What a
        storage does not do at once, after `steps.CASCADE` of them, it leaves to `promote`. The history entry is part of
        the step.
        Several changes of one job are applied in order. One round trip.
        """
        return list(self.exchange(Claimant("", ""), changes).applied)

    @abstractmethod
    def wait(self, queues: Sequence[str], timeout: float) -> bool:
        """Block up to `timeout` seconds until one of the queues may have got a job; False when time ran out.

        Only a hint: it may be wrong both ways. A job that became Enqueued after the last claim of this process and
        before the call must be noticed. Of several that wait, here and elsewhere, a storage may tell as many as there
        are jobs. Returns promptly, with either answer, when `wake` is called meanwhile.
        """

    @abstractmethod
    def wake(self) -> None:
        """Make every `wait` of this process return now."""

    @abstractmethod
    def register(self, server: ServerInfo, lease: Micros) -> None:
        """Record a new server whose lease runs from now. A repeated call with the same id changes nothing: it does
        not renew the lease, nor bring back one that has run out."""

    @abstractmethod
    def beat(self, server: str, lease: Micros, note: str = "") -> Beat:
        """Renew the lease, unless it has run out, and learn which of the server's jobs to cancel. One round trip.

        The lease has run out at the instant `lease_until` and after it, for every method.

        note: what the server tells of itself, kept with its record as it is, for `servers` to show. It replaces that of
        the beat before: each beat says all. A beat that comes too late leaves the old one. Raises InvalidOption,
        and does nothing, for what `notes.check_note` refuses."""

    @abstractmethod
    def unregister(self, server: str) -> None:
        """Forget a server that has ended; nothing for an unknown one. Claims still in its name are rescued like those
        of a dead server."""

    @abstractmethod
    def servers(self) -> list[ServerRecord]:
        """All registered servers, oldest first, dead ones that nobody rescued yet included."""

    @abstractmethod
    def claims(self, server: str) -> list[HeldClaim]:
        """The Processing jobs in the server's name, oldest claim first."""

    @abstractmethod
    def promote(self, limit: int) -> Promoted:
        """Move up to `limit` Scheduled jobs whose time has come to Enqueued, by (run_at, id); look again at
        continuations that were inserted within a transaction of the user's (`insert_within`); and go on with the
        children of jobs that had too many for one step (`apply`), oldest first, as the parent's state is now."""

    @abstractmethod
    def rescue(self, limit: int, dead: Sequence[str] = ()) -> Rescued:
        """Take up to `limit` claims from servers whose lease has run out, and from those named in `dead`, by
        (claim time, id).

        The lease is checked in the statement that takes the claims. Each is changed by the cause CRASH with the
        claim's own epoch and server, for `lifecycle.crash_reason`. The lease of a server named in `dead` ends with
        the call: it claims nothing more even when `limit` left it claims. A dead server without claims left is
        forgotten. Servers that are unknown and hold no claims are ignored.
        """

    @abstractmethod
    def unpublished(self, limit: int, again_in: Micros) -> list[Ref]:
        """Up to `limit` Enqueued jobs whose `publish_by` has come, by (publish_by, id); it is set to now + `again_in`
        in the same step, so that two servers do not publish the same jobs."""

    @abstractmethod
    def published(self, refs: Sequence[Ref]) -> None:
        """The broker has confirmed these: clear `publish_by` of those still Enqueued with the same epoch."""

    @abstractmethod
    def unpublish(self, queues: Sequence[str], waiting: Micros, limit: int, after: str | None = None) -> str | None:
        """The broker has lost what it had confirmed: have jobs of these queues published again.

        Looks at up to `limit` jobs that have been Enqueued for `waiting` or longer, by (state_at, id), the oldest
        first. Those of `queues` that have no `publish_by` get it: the time at which they became Enqueued, so that
        `unpublished` finds them in that order. The answer is where to go on with `after`; None when the end was
        reached. Raises InvalidOption for an `after` that is not one of ours."""

    @abstractmethod
    def schedules(self, ids: Sequence[str] | None = None) -> list[ScheduleRecord | None]:
        """Those with these ids, None for an unknown one; without `ids` all there are, by id. One round trip."""

    @abstractmethod
    def due(self, limit: int) -> Due:
        """Up to `limit` schedules whose `next_at` has come, by (next_at, id). Changes nothing. One round trip."""

    @abstractmethod
    def reschedule(self, changes: Sequence[Reschedule]) -> list[Rescheduled]:
        """Change schedules, each by one compare-and-set on its version.

        In the same atomic step the change's jobs are inserted, as by `insert`, and then its moves applied, as by
        `apply`: either all of it has happened or nothing, so one version of a schedule makes its jobs once. Atomic per
        item, in the order of the input; several changes of one schedule see each other. A change with a job whose
        parent is neither stored nor among the jobs before it is STALE: it was made of what has gone since.
        """

    @abstractmethod
    def get(self, ids: Sequence[str]) -> list[JobDetails | None]:
        """Jobs with history and children; None for an unknown id. One consistent view per job."""

    @abstractmethod
    def find(self, query: JobQuery) -> Page:
        """A page of jobs by (state_at, id), the greatest first. Raises InvalidOption for a cursor that is not one of
        ours."""

    @abstractmethod
    def counts(self) -> Counts:
        """How many jobs there are, by queue and state."""

    @abstractmethod
    def prune(self, limit: int) -> int:
        """Clear away up to `limit` ended jobs whose `expires_at` has come, by (expires_at, id); returns how many it
        touched.

        Succeeded and Deleted jobs are removed with their history, unless one of their children has not ended yet;
        such a job does not count towards `limit`. A Failed job becomes Deleted (cause EXPIRE), which ends its
        children's wait; it is removed a day later.
        """

    @abstractmethod
    def close(self) -> None:
        """Give connections back. The storage may be used again afterwards."""


def cannot_join(storage: Storage) -> Unsupported:
    """The error for a `connection` that was given to a storage without the capability `transactional`."""
    return Unsupported(
        f"{type(storage).__name__} cannot store a job within a transaction of another connection: leave out "
        "`connection` (the job is then stored at once, whatever becomes of the transaction), or keep the jobs in the "
        "database of the transaction, with SQLite or Postgres as storage"
    )


@dataclass(frozen=True, slots=True)
class BrokerCapabilities:
    durable: bool
    """A publish that has returned survives a restart of the broker."""
    shared: bool
    """Other processes receive what this one publishes."""
    priority: bool
    """Within a queue, messages of a higher priority are received first."""


class BrokerState(StrEnum):
    CONNECTED = "connected"
    BLOCKED = "blocked"
    """It takes no messages at the moment, because it is short of memory or disk."""
    UNREACHABLE = "unreachable"
    """No connection, or no answer. The next use of the broker tries again."""
    MISCONFIGURED = "misconfigured"
    """It answers, and cannot be used as it is set up: a wrong login, for instance. Somebody has to mend that."""


@dataclass(frozen=True, slots=True)
class BrokerTrouble:
    """Something that was noticed: healed without help, but for what is refused."""

    what: str
    times: int
    """Since this process opened the broker."""
    last_at: Micros
    """By this process's clock."""


@dataclass(frozen=True, slots=True)
class BrokerReport:
    """How a broker is, as one process sees it; for people."""

    address: str
    """Its URL, the password left out."""
    state: BrokerState
    error: str | None = None
    """Why it is not connected."""
    depth: Mapping[str, int] = field(default_factory=dict[str, int])
    """As `Broker.depth`; empty when it cannot be asked."""
    dead: int | None = None
    """Messages set aside because they are none of this app's, or cannot be read; None when that is not known."""


class Delivery(NamedTuple):
    """A received message: a `Ref`, and the adapter's own handle to answer it by."""

    ref: Ref
    tag: object


class Broker(ABC):
    """Carries hints from where jobs become Enqueued to workers. What it loses, repeats, reorders or makes up does no
    harm: storage decides. It knows no delays, retries or results."""

    capabilities: BrokerCapabilities

    @abstractmethod
    def declare(self, queues: Sequence[str]) -> None:
        """Make the queues exist. Idempotent."""

    @abstractmethod
    def publish(self, refs: Sequence[Ref]) -> None:
        """Hand over refs, durably when the call returns. Queues are declared on the way.

        Raises Unavailable: some may have been taken; publish all of them again."""

    @abstractmethod
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        """Up to `limit` messages, those of earlier queues first as far as the broker can; blocks up to `wait` seconds
        for the first, and no less when none comes. With a wait of 0: what is there, which may cost a round trip. Each
        stays reserved for this process until acked, released, or the connection ends. What was reserved on the way and
        is not returned goes back soon."""

    @abstractmethod
    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Done with these messages. Acking twice, or after a reconnect, is ignored; so is an ack that does not arrive:
        the message comes again."""

    @abstractmethod
    def release(self, deliveries: Sequence[Delivery]) -> None:
        """Give messages back to be delivered again, to anyone."""

    @abstractmethod
    def wake(self) -> None:
        """Make every `receive` of this process return now, also one that is still connecting."""

    @abstractmethod
    def depth(self, queues: Sequence[str]) -> dict[str, int]:
        """Roughly how many messages wait in each queue, without those that are reserved; 0 for a queue that does not
        exist. Servers compare it with the jobs in the storage: where it is too low, messages come twice."""

    def report(self, queues: Sequence[str]) -> BrokerReport | None:  # noqa: ARG002  for adapters
        """How the broker is, and how many messages wait in these queues. Asks it, so it may take some seconds to find
        that there is no answer; never raises for that. None: this adapter does not tell."""
        return None

    def troubles(self) -> Sequence[BrokerTrouble]:
        """What has happened to the connections of this process so far, the latest first. Asks nobody and does not
        block: it is called every second or so, and each server's sum is seen in `later status`."""
        return ()

    @abstractmethod
    def close(self) -> None:
        """Give connections back; reserved messages return to their queues."""


class StorageBackend(Protocol):
    """A storage not yet opened, as a user passes it to `JobsBuilder`. Keeps no connection, so it may cross a fork."""

    def open_storage(self, options: StorageOptions) -> Storage: ...


class BrokerBackend(Protocol):
    """A broker not yet opened; otherwise as `StorageBackend`."""

    def open_broker(self, options: BrokerOptions) -> Broker: ...
