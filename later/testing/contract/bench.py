"""What the tests of the storage contract have in common: fixtures, and short words for what they do often."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol, TypeAlias

import pytest

from later.core.lifecycle import Cause, Change
from later.core.ports import Storage, StorageOptions
from later.core.records import (
    SECOND,
    Applied,
    Claim,
    Claimant,
    ErrorInfo,
    HistoryEntry,
    Inserted,
    InsertVerdict,
    JobDetails,
    JobRecord,
    Micros,
    NewJob,
    On,
    Ref,
    ServerInfo,
    State,
    Verdict,
)
from later.testing.clock import VirtualClock

MakeStorage: TypeAlias = Callable[[StorageOptions], Storage]


class UserTransaction(Protocol):
    """A transaction on a connection as users of the backend have one."""

    @property
    def connection(self) -> object: ...

    def commit(self) -> None: ...

    def rollback(self) -> None: ...


Begin: TypeAlias = Callable[[], UserTransaction]

LEASE: Final = 15 * SECOND
QUEUE: Final = "q"
BY: Final = Claimant("server", "worker")
ERROR: Final = ErrorInfo("ValueError", "wrong", "Traceback ...")

END_BY: Final = {State.SUCCEEDED: Cause.SUCCEED, State.FAILED: Cause.FAIL, State.DELETED: Cause.CANCEL}
"""The cause by which a running job comes to each end."""

PATHS: Final[dict[State, Sequence[Cause]]] = {
    State.SCHEDULED: [Cause.SNOOZE],
    State.ENQUEUED: [Cause.RELEASE],
    State.PROCESSING: [],
    **{state: [cause] for state, cause in END_BY.items()},
}
"""How a claimed job comes into each state. Nothing leads back to Awaiting."""


def new_job(
    job_id: str,
    *,
    type: str = "type",  # noqa: A002 - the name of the field
    queue: str = QUEUE,
    payload: bytes = b"{}",
    priority: int = 0,
    max_crashes: int = 3,
    delay: Micros = 0,
    run_at: Micros | None = None,
    parent: str | None = None,
    on: On = On.SUCCEEDED,
) -> NewJob:
    return NewJob(
        id=job_id,
        type=type,
        queue=queue,
        payload=payload,
        priority=priority,
        max_crashes=max_crashes,
        delay=delay,
        run_at=run_at,
        parent=parent,
        on=on,
    )


def server_info(server: str) -> ServerInfo:
    return ServerInfo(server, "node", "host", 4711, "123456", ("q", "other"), 8)


def report(
    claim: Claim | JobRecord,
    cause: Cause,
    reason: str = "",
    *,
    server: str | None = BY.server,
    delay: Micros = 0,
    result: bytes | None = None,
    error: ErrorInfo | None = None,
    keep: Micros | None = None,
) -> Change:
    """What the worker of `server` says about its claim."""
    return Change(claim.id, cause, reason, claim.epoch, server, delay, result, error, keep)


def ids(claims: Sequence[Claim | JobRecord | Ref]) -> list[str]:
    return [claim.id for claim in claims]


@dataclass(frozen=True)
class Bench:
    """A storage with its clock. The methods assert that they did what their name says."""

    storage: Storage
    clock: VirtualClock

    def add(self, *jobs: NewJob) -> list[Inserted]:
        """Insert new jobs."""
        inserted = self.storage.insert(jobs)
        assert [item.verdict for item in inserted] == [InsertVerdict.CREATED] * len(jobs)
        return inserted

    def details(self, job_id: str) -> JobDetails:
        [details] = self.storage.get([job_id])
        assert details is not None
        return details

    def job(self, job_id: str) -> JobRecord:
        return self.details(job_id).job

    def history(self, job_id: str) -> tuple[HistoryEntry, ...]:
        return self.details(job_id).history

    def state(self, job_id: str) -> State:
        return self.job(job_id).state

    def exists(self, job_id: str) -> bool:
        return self.storage.get([job_id]) != [None]

    def serve(self, by: Claimant = BY, lease: Micros = LEASE) -> Claimant:
        """Register the server of `by`."""
        self.storage.register(server_info(by.server), lease)
        return by

    def take(self, *queues: str, limit: int = 1, by: Claimant = BY) -> tuple[Claim, ...]:
        """Claim what is next in the queues (without any: in the usual one)."""
        return self.storage.exchange(by, queues=queues or (QUEUE,), limit=limit).next

    def claim(self, job_id: str, by: Claimant = BY) -> Claim:
        """Claim this Enqueued job for a live server."""
        job = self.job(job_id)
        [claim] = self.storage.exchange(by, refs=[Ref(job.id, job.epoch, job.queue, job.priority)]).by_ref
        assert claim is not None
        return claim

    def start(self, job_id: str = "job", by: Claimant = BY, *, max_crashes: int = 3) -> Claim:
        """Insert a job, register the server and claim the job."""
        self.add(new_job(job_id, max_crashes=max_crashes))
        return self.claim(job_id, self.serve(by))

    def apply(self, change: Change) -> Applied:
        [applied] = self.storage.apply([change])
        return applied

    def move(self, change: Change) -> Applied:
        applied = self.apply(change)
        assert applied.verdict is Verdict.APPLIED
        return applied

    def end(self, job_id: str, state: State) -> Applied:
        """Bring an Enqueued job to an end, by a server that is alive whatever time has passed."""
        if not self.storage.beat(BY.server, LEASE).alive:
            self.storage.unregister(BY.server)
            self.serve()
        return self.move(report(self.claim(job_id), END_BY[state]))

    def go_on(self) -> list[str]:
        """Promote until nothing is due: what became Enqueued."""
        enqueued: list[str] = []
        while True:
            promoted = self.storage.promote(1000)
            enqueued += ids(promoted.enqueued)
            if promoted.next_due_in is None or promoted.next_due_in > 0:
                return enqueued

    def bring(self, job_id: str, state: State) -> JobRecord:
        """Insert a job and bring it into `state`; unless Awaiting it has been claimed once."""
        if state is State.AWAITING:
            self.add(new_job(f"parent-of-{job_id}"), new_job(job_id, parent=f"parent-of-{job_id}"))
        else:
            claim = self.start(job_id)
            for cause in PATHS[state]:
                self.move(report(claim, cause, delay=SECOND))
        job = self.job(job_id)
        assert job.state is state
        return job


class StorageFixtures:
    """Override `make_storage`; the other fixtures follow."""

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        """Opens a storage. All that are opened within one test open the same, at first empty, store.

        For a backend with the capability `shared` the callable must be picklable: other processes open it too.
        """
        raise NotImplementedError("override the fixture make_storage: (StorageOptions) -> Storage")

    @pytest.fixture
    def begin(self) -> Begin:
        """Begins a transaction on a new connection to the store that `make_storage` opens. Only for a backend with the
        capability `transactional`."""
        raise NotImplementedError("override the fixture begin: () -> UserTransaction")

    @pytest.fixture
    def clock(self) -> VirtualClock:
        return VirtualClock()

    @pytest.fixture
    def bench(self, make_storage: MakeStorage, clock: VirtualClock) -> Iterator[Bench]:
        """A storage without a broker."""
        storage = make_storage(StorageOptions("contract", clock=clock))
        storage.migrate()
        yield Bench(storage, clock)
        storage.close()

    @pytest.fixture
    def outbox(self, make_storage: MakeStorage, clock: VirtualClock) -> Iterator[Bench]:
        """A storage beside a broker."""
        storage = make_storage(StorageOptions("contract", outbox=True, clock=clock))
        storage.migrate()
        yield Bench(storage, clock)
        storage.close()

    @pytest.fixture
    def storage(self, bench: Bench) -> Storage:
        return bench.storage


_names = count(1)


def fresh_namespace() -> str:
    """A namespace that nobody else in this process uses."""
    return f"contract-{next(_names)}"
