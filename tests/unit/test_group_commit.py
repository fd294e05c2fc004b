"""Group commit: which calls share a round trip, and who learns what when one fails."""

import asyncio
import linecache
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from types import FrameType
from typing import Any, TypeVar

import pytest
from typing_extensions import override

from later import StorageFull, Unavailable
from later.core.records import Inserted, InsertVerdict, NewJob, Ref, State
from later.runtime import group_commit
from later.runtime.group_commit import BATCH_BYTES, BATCH_JOBS, GroupCommit, _SyncCall, _Turn

_Result = TypeVar("_Result")


def job(id: str, payload: bytes = b"{}") -> NewJob:
    return NewJob(id=id, type="t", queue="q", payload=payload)


class FakeStorage:
    """Each insert stops at a gate until the test lets it through, with what the test says."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: list[int] = []
        self.arrived = threading.Semaphore(0)
        self._gate = threading.Semaphore(0)
        self._errors: deque[BaseException | None] = deque()
        self.open = False

    def let_through(self, error: BaseException | None = None) -> None:
        self._errors.append(error)
        self._gate.release()

    def let_all_through(self) -> None:
        self.open = True
        self._gate.release()

    def insert(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        self.batches.append([each.id for each in jobs])
        self.threads.append(threading.get_ident())
        self.arrived.release()
        if not self.open:
            assert self._gate.acquire(timeout=10)
            error = self._errors.popleft() if self._errors else None
            if error is not None:
                raise error
        return [
            Inserted(InsertVerdict.CONFLICT, None, None)
            if each.id.startswith("taken")
            else Inserted(InsertVerdict.CREATED, State.ENQUEUED, Ref(each.id, 1, each.queue, 0))
            for each in jobs
        ]

    def await_insert(self) -> None:
        assert self.arrived.acquire(timeout=10)


class Setup:
    """A group commit on a fake storage and a clock that only sleeping moves."""

    def __init__(self) -> None:
        self.storage = FakeStorage()
        self.published: list[str] = []
        self.now = 0.0
        self.pauses: list[float] = []
        self.commit = GroupCommit(
            self.storage.insert,
            lambda refs: self.published.extend(ref.id for ref in refs),
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def waiting(self) -> int:
        return len(self.commit._waiting)


@pytest.fixture
def setup() -> Setup:
    return Setup()


@pytest.fixture
def pool() -> "ThreadPoolExecutor":
    return ThreadPoolExecutor(32)


def until(condition: Callable[[], bool]) -> None:
    """Wait for other threads to get somewhere."""
    ready = threading.Event()
    for _ in range(10_000):
        if condition():
            return
        ready.wait(0.001)
    raise AssertionError("the condition never held")


def call(setup: Setup, pool: ThreadPoolExecutor, *ids: str) -> "Future[list[Inserted]]":
    """A caller in a thread of its own, whose call has been taken or waits when this returns."""
    before, led = setup.waiting(), setup.commit._led
    future = pool.submit(setup.commit.insert, [job(id) for id in ids])
    if led:
        until(lambda: setup.waiting() > before)
    else:
        setup.storage.await_insert()
    return future


def verdicts(future: "Future[list[Inserted]]") -> list[InsertVerdict]:
    return [each.verdict for each in future.result(10)]


def test_a_single_caller_writes_in_its_own_thread(setup: Setup) -> None:
    setup.storage.let_all_through()
    assert [each.verdict for each in setup.commit.insert([job("a"), job("b")])] == [InsertVerdict.CREATED] * 2
    assert setup.storage.batches == [["a", "b"]]
    assert setup.storage.threads == [threading.get_ident()]
    assert setup.published == ["a", "b"]
    setup.commit.insert([job("c")])
    assert setup.storage.batches == [["a", "b"], ["c"]]


def test_calls_that_arrive_during_a_round_trip_share_the_next(setup: Setup, pool: ThreadPoolExecutor) -> None:
    first = call(setup, pool, "a")
    others = [call(setup, pool, f"b{n}") for n in range(10)]
    setup.storage.let_through()
    setup.storage.let_through()
    assert verdicts(first) == [InsertVerdict.CREATED]
    assert all(verdicts(other) == [InsertVerdict.CREATED] for other in others)
    assert setup.storage.batches == [["a"], [f"b{n}" for n in range(10)]]
    assert sorted(setup.published) == sorted(chain(*setup.storage.batches))
    assert not setup.commit._led


def test_a_caller_does_not_wait_for_later_ones(setup: Setup, pool: ThreadPoolExecutor) -> None:
    first = call(setup, pool, "a")
    second = call(setup, pool, "b")
    setup.storage.let_through()
    assert verdicts(first) == [InsertVerdict.CREATED]
    assert not second.done()
    setup.storage.let_through()
    assert verdicts(second) == [InsertVerdict.CREATED]


def test_a_conflict_is_the_matter_of_its_caller(setup: Setup, pool: ThreadPoolExecutor) -> None:
    first = call(setup, pool, "a")
    taken, fine = call(setup, pool, "taken"), call(setup, pool, "b")
    setup.storage.let_all_through()
    assert verdicts(first) == verdicts(fine) == [InsertVerdict.CREATED]
    assert verdicts(taken) == [InsertVerdict.CONFLICT]


def test_an_error_of_a_batch_is_found_call_by_call(setup: Setup, pool: ThreadPoolExecutor) -> None:
    first = call(setup, pool, "a")
    fine, full, fine_too = call(setup, pool, "b", "c"), call(setup, pool, "d"), call(setup, pool, "e")
    for error in (None, StorageFull("batch"), None, StorageFull("d"), None):
        setup.storage.let_through(error)
    assert verdicts(first) == verdicts(fine_too) == [InsertVerdict.CREATED]
    assert verdicts(fine) == [InsertVerdict.CREATED] * 2
    with pytest.raises(StorageFull, match="d"):
        full.result(10)
    assert setup.storage.batches == [["a"], ["b", "c", "d", "e"], ["b", "c"], ["d"], ["e"]]
    assert setup.published == ["a", "b", "c", "e"]


def test_any_error_reaches_the_caller(setup: Setup) -> None:
    setup.storage.let_through(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        setup.commit.insert([job("a")])
    setup.storage.let_all_through()
    setup.commit.insert([job("b")])


def test_unavailable_repeats_the_same_batch(setup: Setup, pool: ThreadPoolExecutor) -> None:
    first = call(setup, pool, "a")
    others = [call(setup, pool, "b"), call(setup, pool, "c")]
    for error in (None, Unavailable("x"), Unavailable("x"), None):
        setup.storage.let_through(error)
    assert all(verdicts(each) == [InsertVerdict.CREATED] for each in (first, *others))
    assert setup.storage.batches == [["a"], ["b", "c"], ["b", "c"], ["b", "c"]]
    assert 0.01 <= setup.pauses[0] <= 0.02
    assert 0.02 <= setup.pauses[1] <= 0.04


def test_unavailable_until_the_deadline(setup: Setup) -> None:
    for _ in range(1000):
        setup.storage.let_through(Unavailable("connection refused"))
    with pytest.raises(
        Unavailable, match=r"within 5 s: connection refused.*may be repeated with the same id"
    ) as caught:
        setup.commit.insert([job("a")])
    assert isinstance(caught.value.__cause__, Unavailable)
    assert setup.now == pytest.approx(5.0)
    assert max(setup.pauses) <= 0.5
    assert len(setup.storage.batches) < 30
    assert not setup.commit._led


def test_a_deadline_ends_one_call_and_not_the_batch(setup: Setup, pool: ThreadPoolExecutor) -> None:
    first = call(setup, pool, "a")
    early = call(setup, pool, "b")
    setup.now = 4.0
    late = call(setup, pool, "c")
    setup.storage.let_through()
    verdicts(first)
    setup.storage.await_insert()
    setup.now = 5.0
    setup.storage.let_through(Unavailable("x"))
    with pytest.raises(Unavailable):
        early.result(10)
    setup.storage.let_through()
    assert verdicts(late) == [InsertVerdict.CREATED]
    assert setup.storage.batches == [["a"], ["b", "c"], ["c"]]


def test_a_follower_gives_up_at_its_deadline(pool: ThreadPoolExecutor) -> None:
    setup = Setup()
    commit = GroupCommit(setup.storage.insert, lambda _refs: None, deadline=0.01)
    first = pool.submit(commit.insert, [job("a")])
    setup.storage.await_insert()
    with pytest.raises(Unavailable, match=r"other enqueues were still waiting"):
        commit.insert([job("b")])
    setup.storage.let_all_through()
    assert first.result(10)
    assert setup.storage.batches == [["a"]]
    assert not commit._led


def test_a_batch_is_bounded_and_a_call_never_split(setup: Setup, pool: ThreadPoolExecutor) -> None:
    first = call(setup, pool, "a")
    whole = call(setup, pool, *(f"b{n}" for n in range(BATCH_JOBS + 1)))
    small = call(setup, pool, "c")
    large = pool.submit(setup.commit.insert, [job("d", b"x" * BATCH_BYTES)])
    until(lambda: setup.waiting() == 3)
    setup.storage.let_all_through()
    for future in (first, whole, small, large):
        verdicts(future)
    assert [len(batch) for batch in setup.storage.batches] == [1, BATCH_JOBS + 1, 1, 1]


def test_an_interrupted_leader_passes_the_lead_on(setup: Setup, pool: ThreadPoolExecutor) -> None:
    first = call(setup, pool, "a")
    second, third = call(setup, pool, "b"), call(setup, pool, "c")
    setup.storage.let_through()
    verdicts(first)
    setup.storage.await_insert()
    setup.storage.let_through(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        second.result(10)
    setup.storage.let_all_through()
    assert verdicts(third) == [InsertVerdict.CREATED]
    assert setup.storage.batches == [["a"], ["b", "c"], ["c"]]
    assert not setup.commit._led


def interrupted_at(line: int, run: Callable[[], object]) -> bool:
    """Run, with a KeyboardInterrupt before so manieth line of the module; False when it has fewer."""
    left = line

    def trace(frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        nonlocal left
        if frame.f_code.co_filename != group_commit.__file__:
            return None
        source = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        # At the end of such a block the interpreter does not look for signals before the lock is free.
        if event == "line" and "with self._lock" not in source:
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_interrupt_between_any_two_lines_leaves_the_lead_to_others(setup: Setup, kind: str) -> None:
    setup.storage.let_all_through()

    def alone() -> None:
        if kind == "sync":
            setup.commit.insert([job("a")])
        else:
            asyncio.run(setup.commit.ainsert([job("a")]))

    line = 1
    while interrupted_at(line, alone):
        line += 1
        until(lambda: not setup.commit._led)
    assert line > 10
    assert [result.verdict for result in setup.commit.insert([job("b")])] == [InsertVerdict.CREATED]


def test_a_closed_one_has_no_thread_and_can_be_used_again(setup: Setup) -> None:
    setup.storage.let_all_through()

    def own() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("later-enqueue")} - before

    before: set[threading.Thread] = set()
    before = own()
    for _ in range(2):
        asyncio.run(setup.commit.ainsert([job("a")]))
        assert own()
        setup.commit.close()
        until(lambda: not own())


class InterruptedTurn(_Turn):
    """Ctrl-C arrives while the caller waits for it; `meanwhile` happens at that moment."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    @override
    def wait(self, timeout: float) -> bool:
        self.meanwhile()
        raise KeyboardInterrupt


@pytest.mark.parametrize("chosen_to_lead", [False, True])
def test_an_interrupted_follower_leaves_nobody_waiting(
    setup: Setup, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, *, chosen_to_lead: bool
) -> None:
    first = call(setup, pool, "a")
    third: list[Future[list[Inserted]]] = []

    def meanwhile() -> None:
        monkeypatch.undo()
        third.append(call(setup, pool, "c"))
        if chosen_to_lead:
            setup.storage.let_through()
            verdicts(first)
            until(lambda: isinstance(setup.commit._waiting[0], _SyncCall) and setup.commit._waiting[0].leads)

    monkeypatch.setattr(InterruptedTurn, "meanwhile", staticmethod(meanwhile))
    monkeypatch.setattr(group_commit, "_Turn", InterruptedTurn)
    with pytest.raises(KeyboardInterrupt):
        setup.commit.insert([job("b")])
    setup.storage.let_all_through()
    assert verdicts(first) == verdicts(third[0]) == [InsertVerdict.CREATED]
    assert setup.storage.batches == [["a"], ["c"]]
    assert not setup.commit._led


async def test_async_callers_at_the_end_of_the_interpreter(setup: Setup) -> None:
    setup.commit._background = ThreadPoolExecutor(1)
    setup.commit._background.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        await setup.commit.ainsert([job("a")])
    assert not setup.commit._led


async def wait_in_thread(what: Callable[[], _Result]) -> _Result:
    return await asyncio.to_thread(what)


async def test_many_coroutines_need_few_round_trips(setup: Setup) -> None:
    tasks = [asyncio.create_task(setup.commit.ainsert([job(f"j{n}")])) for n in range(400)]
    await wait_in_thread(setup.storage.await_insert)
    await wait_in_thread(lambda: until(lambda: sum(map(len, setup.storage.batches)) + setup.waiting() == 400))
    setup.storage.let_all_through()
    results = await asyncio.gather(*tasks)
    assert all(result[0].verdict is InsertVerdict.CREATED for result in results)
    assert len(setup.storage.batches) == 2
    assert set(setup.storage.threads).isdisjoint({threading.get_ident()})


async def test_the_loop_goes_on_while_a_round_trip_is_under_way(setup: Setup) -> None:
    task = asyncio.create_task(setup.commit.ainsert([job("a")]))
    await wait_in_thread(setup.storage.await_insert)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not task.done()
    setup.storage.let_all_through()
    await task


async def test_a_cancelled_caller_has_its_jobs_stored_all_the_same(setup: Setup) -> None:
    tasks = [asyncio.create_task(setup.commit.ainsert([job(name)])) for name in ("a", "b")]
    await wait_in_thread(setup.storage.await_insert)
    await wait_in_thread(lambda: until(lambda: sum(map(len, setup.storage.batches)) + setup.waiting() == 2))
    for task in tasks:
        task.cancel()
    assert all(
        isinstance(error, asyncio.CancelledError) for error in await asyncio.gather(*tasks, return_exceptions=True)
    )
    setup.storage.let_all_through()
    await wait_in_thread(lambda: until(lambda: not setup.commit._led))
    assert sorted(chain(*setup.storage.batches)) == ["a", "b"]
    assert sorted(setup.published) == ["a", "b"]


async def test_sync_and_async_callers_share(setup: Setup, pool: ThreadPoolExecutor) -> None:
    first = await wait_in_thread(lambda: call(setup, pool, "a"))
    task = asyncio.create_task(setup.commit.ainsert([job("b")]))
    await asyncio.sleep(0)
    third = await wait_in_thread(lambda: call(setup, pool, "c"))
    setup.storage.let_all_through()
    assert verdicts(first) == verdicts(third) == [InsertVerdict.CREATED]
    assert (await task)[0].verdict is InsertVerdict.CREATED
    assert setup.storage.batches == [["a"], ["b", "c"]]


async def test_errors_of_async_callers(setup: Setup) -> None:
    setup.storage.let_through(StorageFull("no room"))
    with pytest.raises(StorageFull, match="no room"):
        await setup.commit.ainsert([job("a")])
    await wait_in_thread(lambda: until(lambda: not setup.commit._led))


async def test_an_async_caller_gives_up_at_its_deadline() -> None:
    setup = Setup()
    commit = GroupCommit(setup.storage.insert, lambda _refs: None, deadline=0.01)
    with pytest.raises(Unavailable):
        await commit.ainsert([job("a")])
    setup.storage.let_all_through()
    await wait_in_thread(lambda: until(lambda: not commit._led))


def test_a_closed_loop_does_not_stop_the_others(setup: Setup, pool: ThreadPoolExecutor) -> None:
    first = call(setup, pool, "a")

    async def abandon() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(setup.commit.ainsert([job("b")]), 0.001)

    asyncio.run(abandon())
    setup.storage.let_all_through()
    verdicts(first)
    until(lambda: not setup.commit._led)
    assert setup.storage.batches == [["a"], ["b"]]


async def test_everybody_gets_the_own_answer_under_random_faults() -> None:
    faults = random.Random(7)
    stored: list[str] = []

    def insert(jobs: Sequence[NewJob]) -> list[Inserted]:
        fault = faults.random()
        if fault < 0.2:
            raise Unavailable("x")
        if fault < 0.3 or any(each.id.startswith("bad") for each in jobs):
            raise StorageFull("x")
        stored.extend(each.id for each in jobs if not each.id.startswith("taken"))
        return [
            Inserted(InsertVerdict.CONFLICT, None, None)
            if each.id.startswith("taken")
            else Inserted(InsertVerdict.CREATED, State.ENQUEUED, Ref(each.id, 1, "q", 0))
            for each in jobs
        ]

    published: list[str] = []
    commit = GroupCommit(insert, lambda refs: published.extend(ref.id for ref in refs), sleep=lambda _seconds: None)

    def check(name: str, results: list[Inserted]) -> str:
        expected = InsertVerdict.CONFLICT if name.startswith("taken") else InsertVerdict.CREATED
        assert not name.startswith("bad")
        assert [each.verdict for each in results] == [expected] * 2
        return name

    def sync_caller(name: str) -> str:
        return check(name, commit.insert([job(name + "-1"), job(name + "-2")]))

    async def async_caller(name: str) -> str:
        return check(name, await commit.ainsert([job(name + "-1"), job(name + "-2")]))

    names = [f"{kind}{number}" for number in range(300) for kind in ("good", "taken", "bad")]
    half = len(names) // 2
    with ThreadPoolExecutor(16) as pool:
        threads = [pool.submit(sync_caller, name) for name in names[:half]]
        outcomes = await asyncio.gather(*map(async_caller, names[half:]), return_exceptions=True)
        outcomes += [thread.exception(30) or thread.result() for thread in threads]
    assert {type(each) for each in outcomes} == {str, StorageFull}
    fine = {each for each in outcomes if isinstance(each, str) and each.startswith("good")}
    assert len(fine) > 150
    assert {f"{name}-{n}" for name in fine for n in (1, 2)} == set(stored) == set(published)
    assert not commit._led
