"""A server in this process, on real storages."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from later import (
    BackgroundJobs,
    Cancel,
    ConfigError,
    Job,
    JobContext,
    JobNotSucceeded,
    On,
    Retry,
    RetryAfter,
    Snooze,
    State,
    Unavailable,
    Verdict,
)
from later.backends.memory import Memory
from later.backends.memory.broker import MemoryBroker
from later.backends.memory.storage import MemoryStorage
from later.backends.sqlite import SQLite
from later.core.engine import judge, keeper, worker
from later.core.lifecycle import Change
from later.core.ports import BrokerOptions, Delivery, StorageOptions
from later.core.records import Claimant, Exchanged
from tests.support.jobs import Other, Work, jobs_of, other, work
from tests.support.waiting import DEADLINE, later_threads, no_threads_left, until

Context = JobContext[None]
App = BackgroundJobs[None, Any]
MakeApp = Callable[..., App]
AT_ONCE = Retry(attempts=10, delays=[timedelta(0)])


@pytest.fixture(params=["memory", "sqlite", "memory with a broker", "sqlite with a broker"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeApp]:
    """Makes apps of one store; none leaves a thread behind."""
    kind: str = request.param
    storage = Memory() if kind.startswith("memory") else SQLite(tmp_path / "jobs.sqlite3")
    broker = Memory() if kind.endswith("broker") else None
    yield from _makes(storage, broker)


@pytest.fixture
def make_sqlite(tmp_path: Path) -> Iterator[MakeApp]:
    yield from _makes(SQLite(tmp_path / "jobs.sqlite3"), None)


@pytest.fixture
def make_memory() -> Iterator[MakeApp]:
    yield from _makes(Memory(), None)


def _makes(storage: Any, broker: Any) -> Iterator[MakeApp]:
    apps: list[App] = []

    def make(*types: Any) -> App:
        apps.append(jobs_of(*types, storage=storage, broker=broker))
        return apps[-1]

    with no_threads_left():
        yield make
        for app in apps:
            app.close()


def _states(job: Job) -> list[State]:
    return [entry.state for entry in job.history]


# --- ends


def test_a_job_runs_and_its_result_is_kept(make: MakeApp) -> None:
    jobs = make(work(lambda ctx, payload: {"n": payload.n + 1}))
    early = jobs.enqueue(Work(n=1))
    with jobs.running():
        late = jobs.enqueue(Work(n=2))
        assert jobs.result(early, DEADLINE) == {"n": 2}
        assert jobs.result(late, DEADLINE) == {"n": 3}
        job = jobs.get(late)
        assert [server.id for server in jobs.servers()] == [job.server]

    assert _states(job) == [State.ENQUEUED, State.PROCESSING, State.SUCCEEDED]
    assert job.attempt == 1
    assert jobs.servers() == []


def test_a_job_is_retried_with_its_delays(make: MakeApp) -> None:
    attempts: list[tuple[int, float]] = []

    def handler(ctx: Context, payload: Work) -> str:
        attempts.append((ctx.attempt, time.monotonic()))
        if ctx.attempt < 3:
            raise ValueError(f"attempt {ctx.attempt}")
        return "at last"

    jobs = make(work(handler, retry=Retry(3, delays=[timedelta(seconds=0.1), timedelta(seconds=0.3)])))
    with jobs.running():
        job = jobs.wait(jobs.enqueue(Work()), DEADLINE)

    assert job.result == "at last"
    assert [attempt for attempt, _ in attempts] == [1, 2, 3]
    assert attempts[1][1] - attempts[0][1] >= 0.1
    assert attempts[2][1] - attempts[1][1] >= 0.3
    assert attempts[2][1] - attempts[0][1] < 3
    assert [entry.reason for entry in job.history if entry.state is State.SCHEDULED] == [
        "ValueError: attempt 1",
        "ValueError: attempt 2",
    ]
    assert job.error is not None
    assert job.error.message == "attempt 2"


def test_a_job_fails_when_no_attempt_is_left(make: MakeApp) -> None:
    def handler(ctx: Context, payload: Work) -> None:
        raise ValueError("no luck")

    jobs = make(work(handler, retry=Retry(2, delays=[timedelta(0)])))
    with jobs.running():
        id = jobs.enqueue(Work())
        job = jobs.wait(id, DEADLINE)
        with pytest.raises(JobNotSucceeded):
            jobs.result(id, DEADLINE)

    assert (job.state, job.attempt, job.reason) == (State.FAILED, 2, "ValueError: no luck")


def test_a_policy_may_depend_on_the_exception(make: MakeApp) -> None:
    def handler(ctx: Context, payload: Work) -> None:
        raise [LookupError, KeyError, IndexError, ZeroDivisionError][payload.n]

    once = Retry(
        4,
        delays=[timedelta(0)],
        per={LookupError: Retry(2, delays=[timedelta(0)]), KeyError: Retry.none()},
        never_on=(ZeroDivisionError,),
    )
    jobs = make(work(handler, retry=once))
    with jobs.running():
        ended = [jobs.wait(id, DEADLINE) for id in jobs.enqueue_many([Work(n=n) for n in range(4)])]

    assert [(job.state, job.attempt) for job in ended] == [
        (State.FAILED, 2),
        (State.FAILED, 1),
        (State.FAILED, 2),
        (State.FAILED, 1),
    ]


def test_a_snooze_is_no_attempt_and_a_retry_is(make: MakeApp) -> None:
    runs: dict[int, list[int]] = {0: [], 1: []}

    def handler(ctx: Context, payload: Work) -> object:
        runs[payload.n].append(ctx.attempt)
        if len(runs[payload.n]) < 3:
            delay = timedelta(milliseconds=20)
            return Snooze(delay, "too early") if payload.n == 0 else RetryAfter(delay, "busy")
        return "done"

    jobs = make(work(handler))
    with jobs.running():
        ids = jobs.enqueue_many([Work(n=0), Work(n=1)])
        assert [jobs.result(id, DEADLINE) for id in ids] == ["done", "done"]

    assert runs == {0: [1, 1, 1], 1: [1, 2, 3]}


def test_a_handler_may_cancel_its_job(make: MakeApp) -> None:
    def handler(ctx: Context, payload: Work) -> None:
        raise Cancel("no such user")

    jobs = make(work(handler))
    with jobs.running():
        job = jobs.wait(jobs.enqueue(Work()), DEADLINE)

    assert (job.state, job.reason) == (State.DELETED, "cancelled by its handler: no such user")


def test_what_the_storage_cannot_hold_does_not_stop_the_others(make: MakeApp) -> None:
    def handler(ctx: Context, payload: Work) -> object:
        match payload.n:
            case 0:
                raise Cancel("\ud800\0")
            case 1:
                raise ValueError("\ud800\0" * 1_000_000)
            case 2:
                return Snooze(timedelta.max)
            case 3:
                return "\ud800"
            case _:
                return "fine"

    jobs = make(work(handler, retry=Retry.none()))
    with jobs.running(slots=1):
        ended = [jobs.wait(id, DEADLINE).state for id in jobs.enqueue_many([Work(n=n) for n in range(5)])]

    assert ended == [State.DELETED, State.FAILED, State.FAILED, State.FAILED, State.SUCCEEDED]


# --- many at once


def test_async_handlers_run_at_the_same_time(make: MakeApp) -> None:
    together = asyncio.Barrier(100)

    async def handler(ctx: Context, payload: Work) -> int:
        await asyncio.wait_for(together.wait(), DEADLINE)
        return payload.n

    jobs = make(work(handler, retry=Retry.none()))
    with jobs.running(slots=100):
        ids = jobs.enqueue_many([Work(n=n) for n in range(100)])
        assert [jobs.result(id, DEADLINE) for id in ids] == list(range(100))


def test_handlers_in_threads_run_at_the_same_time_and_never_more_than_slots(make: MakeApp) -> None:
    together, lock = threading.Barrier(4), threading.Lock()
    now = most = 0

    def handler(ctx: Context, payload: Work) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(DEADLINE)
        with lock:
            now -= 1

    jobs = make(work(handler, retry=Retry.none()))
    with jobs.running(slots=4):
        for id in jobs.enqueue_many([Work() for _ in range(40)]):
            jobs.result(id, DEADLINE)

    assert most == 4


def test_each_of_many_jobs_runs_once(make: MakeApp) -> None:
    ran: list[int] = []
    jobs = make(work(lambda ctx, payload: ran.append(payload.n)))
    with jobs.running():
        ids = jobs.enqueue_many([Work(n=n) for n in range(500)])
        for id in ids:
            jobs.wait(id, DEADLINE)

    assert sorted(ran) == list(range(500))
    assert jobs.counts().total(State.SUCCEEDED) == 500


def test_two_servers_share_one_file(make_sqlite: MakeApp) -> None:
    ran: list[int] = []
    together = threading.Barrier(2)

    def handler(ctx: Context, payload: Work) -> None:
        if payload.n < 2:
            together.wait(DEADLINE)  # both have one slot, so each has one of these
        ran.append(payload.n)

    one, two = make_sqlite(work(handler)), make_sqlite(work(handler))
    with one.running(slots=1), two.running(slots=1):
        ids = one.enqueue_many([Work(n=n) for n in range(200)])
        for id in ids:
            two.wait(id, DEADLINE)
        assert len(one.servers()) == 2

    assert sorted(ran) == list(range(200))


# --- jobs that make jobs


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_handler_may_enqueue(make: MakeApp, kind: str) -> None:
    def run(ctx: Context, payload: Work) -> list[str]:
        child = ctx.enqueue(Other(n=payload.n))
        return [child, ctx.enqueue_continue(child, Other(n=payload.n + 1))]

    async def arun(ctx: Context, payload: Work) -> list[str]:
        child = await ctx.aenqueue(Other(n=payload.n))
        return [child, await ctx.aenqueue_continue(child, Other(n=payload.n + 1))]

    def count(ctx: Context, payload: Other) -> list[Any]:
        return [payload.n, ctx.parent, ctx.parent_state, ctx.parent_result]

    jobs = make(work(run if kind == "def" else arun), other(count))
    with jobs.running():
        child, grandchild = jobs.result(jobs.enqueue(Work(n=5)), DEADLINE)
        assert jobs.result(child, DEADLINE) == [5, None, None, None]
        assert jobs.result(grandchild, DEADLINE) == [6, child, "Succeeded", [5, None, None, None]]


def test_a_tree_of_continuations(make: MakeApp) -> None:
    def handler(ctx: Context, payload: Work) -> int:
        if payload.n < 0:
            raise ValueError("no luck")
        return payload.n + (ctx.parent_result or 0)

    jobs = make(work(handler, retry=Retry.none()))
    root = jobs.enqueue_delayed(Work(n=1), timedelta(milliseconds=50))
    left, right = (jobs.enqueue_continue(root, Work(n=n)) for n in (10, 20))
    leaves = [jobs.enqueue_continue(parent, Work(n=n)) for parent in (left, right) for n in (100, 200)]
    fails = jobs.enqueue_continue(root, Work(n=-1))
    after_failure = jobs.enqueue_continue(fails, Work(n=1), on=On.FAILED)
    waits = jobs.enqueue_continue(fails, Work(n=1))
    with jobs.running():
        assert [jobs.result(id, DEADLINE) for id in leaves] == [111, 211, 121, 221]
        assert jobs.result(after_failure, DEADLINE) == 1
        assert jobs.get(waits).state is State.AWAITING
        assert jobs.delete(fails) == [Verdict.APPLIED]
        assert jobs.wait(waits, DEADLINE).state is State.DELETED


# --- which jobs


def test_queues_in_strict_order(make_sqlite: MakeApp) -> None:
    ran: list[int] = []
    jobs = make_sqlite(work(lambda ctx, payload: ran.append(payload.n)))
    ids = [jobs.enqueue(Work(n=n), queue="ba"[n % 2]) for n in range(40)]
    unserved = jobs.enqueue(Work(n=99), queue="c")
    with jobs.running(slots=1, queues=["a", "b"]):
        for id in ids:
            jobs.wait(id, DEADLINE)

    assert ran == [*range(1, 40, 2), *range(0, 40, 2)]
    assert jobs.get(unserved).state is State.ENQUEUED


def test_a_higher_priority_goes_first(make_sqlite: MakeApp) -> None:
    ran: list[int] = []
    jobs = make_sqlite(work(lambda ctx, payload: ran.append(payload.n)))
    ids = [jobs.enqueue(Work(n=n), priority=n % 10) for n in range(30)]
    with jobs.running(slots=1):
        for id in ids:
            jobs.wait(id, DEADLINE)

    assert ran == [n for priority in range(9, -1, -1) for n in range(30) if n % 10 == priority]


def test_queues_with_weights_share(make_sqlite: MakeApp) -> None:
    ran: list[str] = []

    def handler(ctx: Context, payload: Work) -> None:
        ran.append(ctx.queue)
        time.sleep(0.0003)  # long enough that batches stay far smaller than the queues

    jobs = make_sqlite(work(handler))
    ids = jobs.enqueue_many([Work()] * 1000, queue="a") + jobs.enqueue_many([Work()] * 1000, queue="b")
    with jobs.running(slots=1, queues={"a": 3, "b": 1}):
        until(lambda: len(ran) >= 1000)
        share = ran[:1000].count("a") / 1000
        for id in ids:
            jobs.wait(id, DEADLINE)

    assert 0.5 < share < 0.95


def test_a_type_unknown_to_one_server_is_run_by_another(make: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "DEFER", timedelta(milliseconds=50))
    old = make(work(lambda ctx, payload: "old"))
    new = make(work(lambda ctx, payload: "new"), other(lambda ctx, payload: "new"))
    id = new.enqueue(Other())
    with old.running():
        until(lambda: len(_states(new.get(id))) > 4)
        assert new.get(id).attempt <= 1
        with new.running():
            assert new.result(id, DEADLINE) == "new"

    job = new.get(id)
    assert job.attempt == 1
    assert any("no handler for job type other" in entry.reason for entry in job.history)


# --- deleting what runs


@pytest.fixture
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "BEAT", 0.1)


@pytest.mark.usefixtures("quick_beats")
def test_deleting_a_running_job_sets_the_flag_of_its_thread(make: MakeApp) -> None:
    begun = threading.Event()

    def handler(ctx: Context, payload: Work) -> None:
        begun.set()
        until(lambda: ctx.cancelled)
        ctx.raise_if_cancelled()

    _delete_while_it_runs(make(work(handler)), begun)


@pytest.mark.usefixtures("quick_beats")
def test_deleting_a_running_job_cancels_its_task(make: MakeApp) -> None:
    begun, cleaned = threading.Event(), threading.Event()

    async def handler(ctx: Context, payload: Work) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    _delete_while_it_runs(make(work(handler)), begun)
    assert cleaned.is_set()


def _delete_while_it_runs(jobs: App, begun: threading.Event) -> None:
    with jobs.running(slots=1):
        id = jobs.enqueue(Work())
        assert begun.wait(DEADLINE)
        assert jobs.delete(id) == [Verdict.REQUESTED]
        job = jobs.wait(id, DEADLINE)
        assert (job.state, job.reason) == (State.DELETED, "cancelled on request")


@pytest.mark.usefixtures("quick_beats")
def test_a_job_that_ends_in_spite_of_its_deletion_has_succeeded(make: MakeApp) -> None:
    begun, seen = threading.Event(), threading.Event()

    def handler(ctx: Context, payload: Work) -> str:
        begun.set()
        until(lambda: ctx.cancelled)
        seen.set()
        return "done"

    jobs = make(work(handler))
    with jobs.running():
        id = jobs.enqueue(Work())
        assert begun.wait(DEADLINE)
        jobs.delete(id)
        assert jobs.result(id, DEADLINE) == "done"
        assert seen.is_set()


# --- stopping


def test_stopping_waits_for_what_runs(make: MakeApp) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def handler(ctx: Context, payload: Work) -> str:
        begun.set()
        go_on.wait(DEADLINE)
        return "done"

    jobs = make(work(handler))
    with jobs.running(slots=1):
        runs = jobs.enqueue(Work())
        waits = jobs.enqueue(Work())
        assert begun.wait(DEADLINE)
        threading.Timer(0.1, go_on.set).start()

    assert jobs.get(runs).result == "done"
    job = jobs.get(waits)
    assert (job.state, job.attempt) == (State.ENQUEUED, 0)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_what_outlasts_the_grace_is_given_back_unspent(make: MakeApp, kind: str) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def run(ctx: Context, payload: Work) -> str:
        begun.set()
        go_on.wait(DEADLINE)  # ignores everything
        return "too late"

    async def arun(ctx: Context, payload: Work) -> str:
        begun.set()
        while not go_on.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        return "too late"

    jobs = make(work(run if kind == "def" else arun))
    with no_threads_left():
        try:
            with jobs.running(grace=timedelta(seconds=0.2)):
                id = jobs.enqueue(Work())
                assert begun.wait(DEADLINE)
                began = time.monotonic()
            assert 0.2 <= time.monotonic() - began < 3
            job = jobs.get(id)
            assert (job.state, job.attempt, job.crashes) == (State.ENQUEUED, 0, 0)
            assert job.reason == "interrupted: the server stops"
            assert jobs.servers() == []
        finally:
            go_on.set()
    assert jobs.get(id).state is State.ENQUEUED


def test_a_task_is_cancelled_at_the_end_of_the_grace(make: MakeApp) -> None:
    begun, cleaned = threading.Event(), threading.Event()

    async def handler(ctx: Context, payload: Work) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    jobs = make(work(handler))
    with jobs.running(grace=timedelta(0)):
        id = jobs.enqueue(Work())
        assert begun.wait(DEADLINE)

    assert cleaned.wait(DEADLINE)
    assert jobs.get(id).state is State.ENQUEUED


def test_an_idle_server_stops_at_once(make: MakeApp) -> None:
    jobs = make(work(lambda ctx, payload: None))
    with jobs.running():
        until(jobs.servers)
        began = time.monotonic()
    assert time.monotonic() - began < 0.5
    began = time.monotonic()
    with jobs.running():
        pass  # stopped before it has begun
    assert time.monotonic() - began < 0.5
    assert jobs.servers() == []


def test_an_exception_within_the_block_stops_the_server(make: MakeApp) -> None:
    jobs = make(work(lambda ctx, payload: None))
    with pytest.raises(ZeroDivisionError), jobs.running():
        raise ZeroDivisionError

    assert jobs.servers() == []


def test_a_server_may_be_started_again_but_not_twice(make_memory: MakeApp) -> None:
    jobs = make_memory(work(lambda ctx, payload: "done"))
    server = jobs.running()
    for _ in range(2):
        with server:
            assert jobs.result(jobs.enqueue(Work()), DEADLINE) == "done"
            with pytest.raises(ConfigError), server:
                pass
    server.stop()


def test_a_second_interrupt_gives_everything_back(make: MakeApp) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def handler(ctx: Context, payload: Work) -> None:
        begun.set()
        until(lambda: ctx.cancelled or go_on.is_set())

    jobs = make(work(handler))
    try:
        with pytest.raises(KeyboardInterrupt), jobs.running(grace=timedelta(hours=1)):  # noqa: PT012  as it says
            id = jobs.enqueue(Work())
            assert begun.wait(DEADLINE)
            main = threading.main_thread().ident
            assert main is not None
            threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()  # while it stops
            raise KeyboardInterrupt
    finally:
        go_on.set()

    job = jobs.get(id)
    assert (job.state, job.attempt) == (State.ENQUEUED, 0)


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_many_servers_leave_nothing_behind(make_sqlite: MakeApp) -> None:
    async def handler(ctx: Context, payload: Work) -> None:
        await asyncio.sleep(0)

    jobs = make_sqlite(work(handler), other(lambda ctx, payload: None))

    def once() -> None:
        with jobs.running():
            for id in jobs.enqueue_many([Work(), Other()]):
                jobs.wait(id, DEADLINE)

    once()
    threads, files = threading.active_count(), _open_files()
    for _ in range(50):
        once()

    until(lambda: threading.active_count() <= threads)
    until(lambda: _open_files() < files + 25)  # the storage keeps a few connections, but not one for each server


# --- in async code


async def test_a_server_within_async_code(make: MakeApp) -> None:
    async def handler(ctx: Context, payload: Work) -> int:
        return payload.n + 1

    jobs = make(work(handler))
    async with jobs.running():
        assert await jobs.aresult(await jobs.aenqueue(Work(n=1)), DEADLINE) == 2
    assert await jobs.aservers() == []


async def test_cancelling_the_block_hurries_on_the_second_time(make: MakeApp) -> None:
    begun = threading.Event()
    inside = asyncio.Event()

    async def handler(ctx: Context, payload: Work) -> None:
        begun.set()
        await asyncio.Event().wait()

    jobs = make(work(handler))
    id = await jobs.aenqueue(Work())

    async def serve() -> None:
        async with jobs.running(grace=timedelta(hours=1)):
            await asyncio.to_thread(begun.wait, DEADLINE)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    await inside.wait()
    task.cancel()
    await asyncio.sleep(0.1)
    assert not task.done()  # drains
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    job = await jobs.aget(id)
    assert (job.state, job.attempt) == (State.ENQUEUED, 0)


# --- faults


def test_a_storage_that_cannot_be_opened_starts_nothing(tmp_path: Path) -> None:
    jobs = jobs_of(work(lambda ctx, payload: None), storage=SQLite(tmp_path / "missing" / "jobs.sqlite3"))
    with no_threads_left(), pytest.raises(Exception, match="missing"):
        jobs.running().start()


class Faulty(Memory):
    """A memory whose storage fails as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.exchanges = 0
        self.down: set[str] = set()

    def open_storage(self, options: StorageOptions) -> MemoryStorage:
        storage = super().open_storage(options)
        for method in ("exchange", "wait", "register", "beat", "unregister", "promote", "claims", "servers"):
            setattr(storage, method, self._guarded(method, getattr(storage, method)))
        return storage

    def _guarded(self, method: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.exchanges += method == "exchange"
            if method in self.down:
                raise Unavailable(f"{method} is down")
            return call(*args, **kwargs)

        return guarded


def test_a_storage_that_comes_back_is_used_again() -> None:
    storage = Faulty()
    jobs = jobs_of(work(lambda ctx, payload: "done"), storage=storage)
    storage.down = {"exchange", "wait", "register", "beat", "promote", "claims", "servers"}
    with no_threads_left(), jobs.running():
        id = jobs.enqueue(Work())
        until(lambda: "later-lease" in later_threads())
        storage.down = set()
        assert jobs.result(id, DEADLINE) == "done"


class Choosy(Memory):
    """A memory whose storage cannot store one result, and does not say so as it should."""

    def open_storage(self, options: StorageOptions) -> MemoryStorage:
        storage = super().open_storage(options)
        exchange = storage.exchange

        def choosy(by: Claimant, changes: Sequence[Change] = (), *args: Any) -> Exchanged:
            if any(change.result == b'"odd"' for change in changes):
                raise ValueError("cannot store a secret")
            return exchange(by, changes, *args)

        storage.exchange = choosy  # type: ignore[method-assign, assignment]
        return storage


def test_a_result_that_the_storage_cannot_store_fails_its_job_and_holds_up_no_other() -> None:
    def handler(ctx: Context, payload: Work) -> str:
        return payload.text

    jobs = jobs_of(work(handler), storage=Choosy())
    with no_threads_left(), jobs.running(slots=2):
        odd = jobs.enqueue(Work(text="odd"))
        others = jobs.enqueue_many([Work(text="even")] * 20)
        assert [jobs.result(id, DEADLINE) for id in others] == ["even"] * 20
        failed = jobs.wait(odd, DEADLINE)

    assert (failed.state, failed.attempt) == (State.FAILED, 1)
    assert failed.error is not None
    assert "refused to store that the run ended by 'succeed' (ValueError" in failed.error.message
    assert "secret" not in failed.error.message


def test_a_storage_that_is_gone_does_not_hold_the_end() -> None:
    storage = Faulty()
    jobs = jobs_of(work(lambda ctx, payload: "done"), storage=storage)
    with no_threads_left(), jobs.running():
        jobs.result(jobs.enqueue(Work()), DEADLINE)
        storage.down = {"exchange", "wait", "register", "beat", "unregister", "promote", "claims", "servers"}
        began = time.monotonic()
    assert time.monotonic() - began < 2


def test_a_storage_that_cannot_wait_is_not_asked_all_the_time() -> None:
    storage = Faulty()
    storage.down = {"wait"}
    jobs = jobs_of(work(lambda ctx, payload: "done"), storage=storage)
    with no_threads_left(), jobs.running():
        jobs.result(jobs.enqueue(Work()), DEADLINE)
        time.sleep(0.5)  # what would happen all the time would happen now
    assert storage.exchanges < 20


@pytest.mark.parametrize("machine", [worker.Worker, keeper.Keeper], ids=["worker", "keeper"])
def test_a_defect_does_not_hang_the_end(
    make: MakeApp, machine: type[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def faulty(self: object, event: object, now: float) -> object:
        if isinstance(event, worker.RunEnded | keeper.PromoteDone):
            raise ZeroDivisionError
        return handle(self, event, now)

    handle = machine.handle
    monkeypatch.setattr(machine, "handle", faulty)
    jobs = make(work(lambda ctx, payload: None))
    with pytest.raises(ZeroDivisionError), jobs.running():  # noqa: PT012  the end of the block is what raises
        jobs.enqueue(Work())
        until(lambda: "defect" in caplog.text)


class SlowBroker(MemoryBroker):
    """Gives a message to whoever it has just woken."""

    def __init__(self, exchange: Any) -> None:
        super().__init__(exchange)
        self.receiving = threading.Event()

    def receive(self, queues: Any, limit: int, wait: float) -> list[Delivery]:
        self.receiving.set()
        super().receive(["nothing comes here"], limit, wait)
        return super().receive(queues, limit, 0)


class Slow(Memory):
    def open_broker(self, options: BrokerOptions) -> MemoryBroker:
        return SlowBroker(super().open_broker(options)._exchange)


def test_a_message_that_comes_at_the_end_is_given_back() -> None:
    store = Slow()
    jobs = jobs_of(work(lambda ctx, payload: None), storage=store, broker=store)
    broker = jobs.broker()
    assert isinstance(broker, SlowBroker)
    with no_threads_left():
        with jobs.running():
            assert broker.receiving.wait(DEADLINE)
            storage = jobs.storage()
            assert isinstance(storage, MemoryStorage)
            monkey = Exchanged((), (), ())
            storage.exchange = lambda *_, **__: monkey  # type: ignore[method-assign]  # the sweep finds nothing
            jobs.enqueue(Work())
            until(lambda: broker.depth(["default"]) == {"default": 1})
        assert broker.depth(["default"]) == {"default": 1}
        jobs.close()


# --- isolated handlers: see also test_worker.py


def test_isolated_handlers_need_a_storage_that_processes_share(make_memory: MakeApp) -> None:
    jobs = make_memory(work(lambda ctx, payload: None, isolation="process"))
    with pytest.raises(ConfigError, match="isolation"), jobs.running():
        pass
