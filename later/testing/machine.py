"""Random histories: an adapter and the reference model get the same calls, and have to answer the same.

Both read one virtual clock. After each call everything that can be seen is compared, too. Hypothesis shortens a history
in which they differ to the fewest calls that show it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from later.core.lifecycle import DAY, Cause, Change, Reschedule
from later.core.ports import Storage, StorageOptions
from later.core.records import (
    SECOND,
    Claimant,
    ErrorInfo,
    JobQuery,
    JobRecord,
    Micros,
    NewJob,
    On,
    Page,
    Ref,
    ServerInfo,
    State,
)
from later.testing.clock import VirtualClock
from later.testing.model import ModelStorage

_Answer = TypeVar("_Answer")

JOBS: Final = [f"job-{n}" for n in range(6)]
QUEUES: Final = ["q", "r"]
SCHEDULES: Final = ["nightly", "hourly"]
SERVERS: Final = ["server-1", "server-2", "server-3"]
LEASE: Final = 15 * SECOND
LEASES: Final = {"server-1": 36_500 * DAY, "server-2": LEASE, "server-3": LEASE}
"""The first server outlives every jump of the clock, so that jobs go on being claimed."""

STEADY: Final = Claimant("server-1", "worker-1")

REPORTS: Final = [
    Cause.SUCCEED,
    Cause.SUCCEED,
    Cause.FAIL,
    Cause.RETRY,
    Cause.CRASH,
    Cause.RELEASE,
    Cause.CANCEL,
    Cause.DEFER,
]


def mostly(usual: Any, *others: Any, of: int = 8) -> st.SearchStrategy[Any]:
    """`usual` in `of` cases for each of the others."""
    return st.sampled_from([*[usual] * of, *others])


limits = st.integers(0, 4)
servers = st.sampled_from(SERVERS)
claimants = st.builds(Claimant, servers, st.sampled_from(["worker-1", "worker-2"]))

new_jobs = st.builds(
    NewJob,
    id=st.sampled_from(JOBS),
    type=st.sampled_from(["mail", "mail", "mail", "report"]),
    queue=st.sampled_from(QUEUES),
    payload=st.sampled_from([b"{}", b"{}", b"{}", b"\x00\xff"]),
    priority=st.integers(0, 2),
    max_crashes=st.integers(0, 2),
    delay=mostly(0, 1, SECOND, of=3),
    run_at=st.none(),
    parent=mostly(None, *JOBS),
    on=st.sampled_from(On),
)


@dataclass(frozen=True, slots=True)
class Aim:
    """A change before it is known in what state its job is: whose fence it carries is decided when it is made."""

    change: Change
    epoch_off: int
    own_server: bool

    def at(self, job: JobRecord | None) -> Change:
        if job is None:
            return self.change
        server = job.server if self.own_server else "stranger"
        return self.change._replace(epoch=job.epoch + self.epoch_off, server=server)


aims = st.builds(
    Aim,
    st.builds(
        Change,
        id=st.sampled_from(JOBS),
        cause=st.sampled_from(Cause),
        reason=st.sampled_from(["", "because"]),
        epoch=st.none(),
        server=st.none(),
        delay=st.sampled_from([0, 1, SECOND]),
        result=st.sampled_from([None, b"", b"42"]),
        error=st.sampled_from([None, ErrorInfo("Error", "message", "traceback")]),
        keep=st.sampled_from([None, None, 0, SECOND]),
    ),
    epoch_off=mostly(0, -1, 1),
    own_server=mostly(True, False),
)

queries = st.builds(
    JobQuery,
    states=st.frozensets(st.sampled_from(State), max_size=2),
    queues=st.frozensets(st.sampled_from(QUEUES), max_size=1),
    types=st.frozensets(st.sampled_from(["mail", "report"]), max_size=1),
    parent=st.none() | st.sampled_from(JOBS),
    limit=st.integers(1, 4),
)


def _unpublish(queues: Sequence[str], waiting: Micros, limit: int, after: str | None, storage: Storage) -> str | None:
    return storage.unpublish(queues, waiting, limit, after)


class StorageMachine(RuleBasedStateMachine):
    """One history. `open_storage` opens an empty storage."""

    def __init__(self, open_storage: Callable[[VirtualClock, bool], Storage]) -> None:
        super().__init__()
        self._open = open_storage
        self.clock = VirtualClock()
        self.storage: Storage
        self.model: ModelStorage

    @initialize(outbox=st.booleans(), jobs=st.lists(new_jobs, min_size=3, max_size=6))
    def begin(self, outbox: bool, jobs: list[NewJob]) -> None:
        self.storage = self._open(self.clock, outbox)
        self.model = ModelStorage(StorageOptions("model", outbox=outbox, clock=self.clock))
        self.storage.migrate()
        for server in SERVERS:
            self.register(server)
        self.agree(lambda storage: storage.insert(jobs))

    def agree(self, call: Callable[[Storage], _Answer]) -> _Answer:
        """Make one call to both and compare what they say."""
        answer = call(self.storage)
        assert answer == call(self.model)
        return answer

    def record(self, job_id: str) -> JobRecord | None:
        [details] = self.model.get([job_id])
        return None if details is None else details.job

    def reference(self, job_id: str, epoch_off: int) -> Ref:
        job = self.record(job_id)
        return Ref(job_id, (job.epoch if job else 0) + epoch_off, "q", 0)

    def in_state(self, *states: State) -> list[JobRecord]:
        """The jobs in one of the states; without any, all."""
        jobs = [details.job for details in self.model.get(JOBS) if details is not None]
        return [job for job in jobs if not states or job.state in states]

    def running(self, which: int) -> JobRecord | None:
        """One of the Processing jobs; when there are none, one is claimed, if there are any Enqueued."""
        if not self.in_state(State.PROCESSING):
            self.agree(lambda storage: storage.exchange(STEADY, queues=QUEUES, limit=1))
        jobs = self.in_state(State.PROCESSING)
        return jobs[which % len(jobs)] if jobs else None

    @rule(by=st.sampled_from([1, SECOND, 5 * SECOND, LEASE - 1, LEASE]), limit=limits)
    def time_passes(self, by: int, limit: int) -> None:
        self.clock.advance(by)
        self.agree(lambda storage: storage.promote(limit))

    @rule(days=st.sampled_from([1, 90]), limit=st.integers(0, 8))
    def days_pass(self, days: int, limit: int) -> None:
        self.clock.advance(days * DAY)
        self.agree(lambda storage: storage.prune(limit))

    @rule(jobs=st.lists(st.tuples(new_jobs, mostly(None, -1, 0, 1, SECOND, of=16)), min_size=1, max_size=5))
    def insert(self, jobs: list[tuple[NewJob, int | None]]) -> None:
        now = self.clock()
        timed = [job if ahead is None else job._replace(run_at=now + ahead) for job, ahead in jobs]
        self.agree(lambda storage: storage.insert(timed))

    @rule(job=new_jobs, parent=st.integers(0), on=st.sampled_from(On))
    def insert_child(self, job: NewJob, parent: int, on: On) -> None:
        """Below a parent that exists, if there is one."""
        if parents := self.in_state():
            child = job._replace(parent=parents[parent % len(parents)].id, on=on)
            self.agree(lambda storage: storage.insert([child]))

    @rule(server=servers, came=st.booleans(), went=st.booleans(), limit=limits)
    def server_comes_and_goes(self, server: str, came: bool, went: bool, limit: int) -> None:
        if went:
            self.agree(lambda storage: storage.unregister(server))
            self.agree(lambda storage: storage.rescue(limit))
        if came:
            self.register(server)

    def register(self, server: str) -> None:
        info = ServerInfo(server, "node", "host", 1, "1", ("q",), 4)
        self.agree(lambda storage: storage.register(info, LEASES[server]))

    @rule(server=servers, note=st.sampled_from(["", "note", "another"]))
    def beat(self, server: str, note: str) -> None:
        def call(storage: Storage) -> tuple[bool, list[tuple[str, int]]]:
            alive, cancels = storage.beat(server, LEASES[server], note)
            return alive, sorted(cancels)

        self.agree(call)

    @rule(limit=st.integers(1, 3), cause=st.none() | st.sampled_from(REPORTS))
    def work(self, limit: int, cause: Cause | None) -> None:
        """A server that is alive claims and, unless None, reports and claims what is next."""
        before = self.in_state(State.PROCESSING)
        self.agree(lambda storage: storage.exchange(STEADY, queues=QUEUES, limit=limit))
        if cause is not None:
            new = [job for job in self.in_state(State.PROCESSING) if job not in before]
            changes = [self.change(job, cause) for job in new]
            self.agree(lambda storage: storage.exchange(STEADY, changes, queues=QUEUES, limit=limit))

    @staticmethod
    def change(job: JobRecord, cause: Cause, epoch_off: int = 0) -> Change:
        return Change(job.id, cause, "", job.epoch + epoch_off, job.server, delay=1, result=b"1")

    @rule(which=st.integers(0), cause=st.sampled_from(REPORTS), epoch_off=mostly(0, -1, 1), own=mostly(True, False))
    def report(self, which: int, cause: Cause, epoch_off: int, own: bool) -> None:
        if job := self.running(which):
            change = self.change(job, cause, epoch_off)
            fenced = change if own else change._replace(server="stranger")
            self.agree(lambda storage: storage.apply([fenced]))

    @rule(which=st.integers(0), cause=st.none() | st.sampled_from(REPORTS))
    def cancel(self, which: int, cause: Cause | None) -> None:
        """Somebody asks for the cancel of a running job; its server hears of it and, unless None, reports."""
        if job := self.running(which):
            self.agree(lambda storage: storage.apply([Change(job.id, Cause.DELETE)]))
            if job.server in LEASES:
                self.beat(job.server, "")
            if cause is not None:
                self.agree(lambda storage: storage.apply([self.change(job, cause)]))

    @rule(which=st.integers(0), cause=st.sampled_from([Cause.REQUEUE, Cause.DELETE]))
    def repair(self, which: int, cause: Cause) -> None:
        if ended := self.in_state(State.SUCCEEDED, State.FAILED, State.DELETED):
            change = Change(ended[which % len(ended)].id, cause)
            self.agree(lambda storage: storage.apply([change]))

    @rule(which=st.integers(0), delay=st.sampled_from([0, 1, SECOND]))
    def postpone(self, which: int, delay: int) -> None:
        if waiting := self.in_state(State.SCHEDULED):
            change = Change(waiting[which % len(waiting)].id, Cause.RESCHEDULE, delay=delay)
            self.agree(lambda storage: storage.apply([change]))

    @rule(which=st.integers(0), by=claimants)
    def claim_again(self, which: int, by: Claimant) -> None:
        """As the worker that holds the claim does when a reply was lost, or as another one by mistake."""
        if job := self.running(which):
            refs = [Ref(job.id, job.epoch, job.queue, job.priority)]
            self.agree(lambda storage: storage.exchange(by, refs=refs))

    @rule(
        by=claimants,
        aimed=st.lists(aims, max_size=4),
        jobs=st.lists(st.tuples(st.sampled_from(JOBS), mostly(0, -1, 1)), max_size=3),
        queues=st.permutations(QUEUES),
        limit=limits,
    )
    def exchange(
        self, by: Claimant, aimed: list[Aim], jobs: list[tuple[str, int]], queues: Sequence[str], limit: int
    ) -> None:
        changes = [aim.at(self.record(aim.change.id)) for aim in aimed]
        refs = [self.reference(job_id, off) for job_id, off in jobs]
        self.agree(lambda storage: storage.exchange(by, changes, refs, queues, limit))

    @rule(by=servers, cause=st.sampled_from(REPORTS), twice=st.booleans())
    def report_all(self, by: str, cause: Cause, twice: bool) -> None:
        """A server reports all that it holds; its first reply may have been lost."""
        changes = [self.change(job, cause) for job in self.in_state(State.PROCESSING) if job.server == by]
        for _ in range(1 + twice):
            self.agree(lambda storage: storage.apply(changes))

    @rule(limit=limits, dead=st.lists(st.sampled_from([*SERVERS, "stranger"]), max_size=2))
    def rescue(self, limit: int, dead: list[str]) -> None:
        self.agree(lambda storage: storage.rescue(limit, dead))

    @rule(limit=limits)
    def publish(self, limit: int) -> None:
        self.agree(lambda storage: storage.unpublished(limit, SECOND))

    @rule(
        queues=st.lists(st.sampled_from(QUEUES), max_size=2),
        waiting=st.sampled_from([0, 0, SECOND]),
        limit=st.integers(2, 6),
    )
    def lose(self, queues: list[str], waiting: Micros, limit: int) -> None:
        """The broker was wiped."""
        after: str | None = None
        while True:
            after = self.agree(partial(_unpublish, queues, waiting, limit, after))
            if after is None:
                return

    @rule(jobs=st.lists(st.tuples(st.sampled_from(JOBS), mostly(0, -1, of=1)), max_size=4))
    def confirm(self, jobs: list[tuple[str, int]]) -> None:
        refs = [self.reference(job_id, off) for job_id, off in jobs]
        self.agree(lambda storage: storage.published(refs))

    @rule(
        schedule=st.sampled_from(SCHEDULES),
        off=mostly(0, -1, 1),
        ahead=st.none() | st.sampled_from([-1, 0, 1, SECOND]),
        body=mostly(b"{}", None, of=6),
        jobs=st.lists(new_jobs, max_size=2),
        aimed=st.lists(aims, max_size=2),
    )
    def reschedule(
        self, schedule: str, off: int, ahead: int | None, body: bytes | None, jobs: list[NewJob], aimed: list[Aim]
    ) -> None:
        [known] = self.model.schedules([schedule])
        version = (0 if known is None else known.version) + off
        tied = {name for job in jobs for name in (job.id, job.parent)}
        moves = tuple(aim.at(self.record(aim.change.id)) for aim in aimed if aim.change.id not in tied)
        next_at = None if ahead is None else self.clock() + ahead
        change = Reschedule(schedule, version, next_at, body, tuple(jobs), moves)
        self.agree(lambda storage: storage.reschedule([change]))

    @rule(limit=limits)
    def due(self, limit: int) -> None:
        self.agree(lambda storage: storage.due(limit))

    @rule(query=queries)
    def find(self, query: JobQuery) -> None:
        self.agree(lambda storage: listing(storage, query))

    @rule()
    def close(self) -> None:
        self.storage.close()

    @precondition(lambda self: hasattr(self, "storage"))
    @invariant()
    def everything_that_can_be_seen_is_equal(self) -> None:
        self.agree(lambda storage: storage.get(JOBS))
        self.agree(lambda storage: storage.counts())
        self.agree(lambda storage: storage.servers())
        self.agree(lambda storage: storage.schedules())
        # Claims of one instant have no order among themselves.
        self.agree(lambda storage: [sorted(storage.claims(server)) for server in SERVERS])

    def teardown(self) -> None:
        if hasattr(self, "storage"):
            self.storage.close()


def listing(storage: Storage, query: JobQuery) -> list[tuple[JobRecord, ...]]:
    """All pages. Each storage has cursors of its own."""
    pages: list[tuple[JobRecord, ...]] = []
    page = Page((), None)
    while not pages or page.next is not None:
        page = storage.find(replace(query, after=page.next))
        pages.append(page.jobs)
    return pages


def check_against_model(
    make_storage: Callable[[StorageOptions], Storage],
    fresh_namespace: Callable[[], str],
    options: settings,
) -> None:
    """Compare the storages that `make_storage` opens with the model, in as many histories as `options` says.

    Each history runs in a namespace of its own, so that it begins with nothing.
    """

    class Machine(StorageMachine):
        def __init__(self) -> None:
            super().__init__(
                lambda clock, outbox: make_storage(StorageOptions(fresh_namespace(), outbox=outbox, clock=clock))
            )

    # Storages differ in speed, and by much; a slow one is not wrong.
    unhurried = settings(options, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    run_state_machine_as_test(Machine, settings=unhurried)
