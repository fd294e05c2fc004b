"""Slots, threads, tasks and isolated processes; interruption in every phase of a run."""

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from queue import SimpleQueue
from random import Random
from typing import Any

import pytest

from later import JobContext
from later.core.engine.worker import Interruption, RunEnded
from later.core.lifecycle import Cause, Change
from later.core.records import State
from later.core.retry import Retry
from later.runtime.board import Board
from later.runtime.executor import Executor
from later.runtime.jobs import BackgroundJobs
from later.runtime.pool import Pool
from tests.support import isolated
from tests.support.jobs import Work, claim_of, jobs_of, work
from tests.support.waiting import DEADLINE, later_threads, no_threads_left, until

Context = JobContext[None]


class Bench:
    """An executor whose ended runs can be waited for."""

    def __init__(self, jobs: BackgroundJobs[None, Any], slots: int) -> None:
        self.ended: SimpleQueue[RunEnded] = SimpleQueue()
        self.board = Board(slots)
        self._pool = Pool("later-pool", slots)
        self.executor = Executor(jobs, slots, self._pool, self.ended.put, Random(1), self.board)
        self._number = 0

    def run(self, number: int = 0, text: str = "", **fields: Any) -> tuple[str, int]:
        self._number += 1
        payload = Work(n=number, text=text).model_dump_json().encode()
        claim = claim_of(payload, id=f"job-{self._number}", **fields)
        self.executor.run(claim)
        return claim.id, claim.epoch

    def close(self) -> None:
        self.executor.close()
        self._pool.close()

    def next(self) -> Change:
        return self.ended.get(timeout=DEADLINE).change

    def interrupt(self, key: tuple[str, int], why: Interruption = Interruption.CANCEL) -> None:
        self.executor.interrupt(key, why)


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Makes benches of a handler; none leaves a thread behind."""
    benches: list[Bench] = []

    def make(handler: Callable[..., object], slots: int = 4, **options: Any) -> Bench:
        benches.append(Bench(jobs_of(work(handler, **options)), slots))
        return benches[-1]

    with no_threads_left():
        yield make
        for each in benches:
            each.close()


def test_a_run_is_posted_with_its_time(bench: Callable[..., Bench]) -> None:
    one = bench(lambda ctx, payload: payload.n)
    one.run(5)

    ended = one.ended.get(timeout=DEADLINE)

    assert (ended.change.id, ended.change.cause, ended.change.result) == ("job-1", Cause.SUCCEED, b"5")
    assert 0 <= ended.seconds < DEADLINE


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_all_slots_run_at_the_same_time(bench: Callable[..., Bench], kind: str) -> None:
    together = threading.Barrier(50)
    met = asyncio.Barrier(50)

    def run(ctx: Context, payload: Work) -> None:
        together.wait(DEADLINE)

    async def arun(ctx: Context, payload: Work) -> None:
        await asyncio.wait_for(met.wait(), DEADLINE)

    one = bench(run if kind == "def" else arun, slots=50)
    for _ in range(50):
        one.run()

    assert [one.next().cause for _ in range(50)] == [Cause.SUCCEED] * 50
    assert one.board.running() == []


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_the_board_has_what_runs(bench: Callable[..., Bench], kind: str) -> None:
    go_on = threading.Event()

    async def arun(ctx: Context, payload: Work) -> None:
        await asyncio.to_thread(go_on.wait, DEADLINE)

    one = bench((lambda ctx, payload: go_on.wait(DEADLINE)) if kind == "def" else arun)
    keys = [one.run(), one.run(epoch=9)]

    until(lambda: sorted(one.board.running()) == keys)
    go_on.set()
    one.next()
    one.next()
    assert one.board.running() == []


def test_what_may_run_once_at_most_stays_on_the_board_until_it_is_settled(bench: Callable[..., Bench]) -> None:
    one = bench(lambda ctx, payload: None, slots=1, retry=Retry.none(), max_crashes=0)
    key = one.run()
    one.next()
    assert one.board.running() == [key]

    one.executor.settled([key, ("another", 1)])
    assert one.board.running() == []
    one.run()
    assert one.next().cause is Cause.SUCCEED


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("id", ["ä", "x" * 200], ids=["not ASCII", "too long"])
def test_a_run_that_the_board_cannot_show_fails_and_frees_its_slot(
    bench: Callable[..., Bench], kind: str, id: str
) -> None:
    async def arun(ctx: Context, payload: Work) -> None:
        pass

    one = bench((lambda ctx, payload: None) if kind == "def" else arun, slots=1)
    one.executor.run(claim_of(id=id))
    failed = one.next()
    one.run()

    assert failed.cause is Cause.RETRY
    assert failed.error is not None
    assert "is not a name" in failed.error.message
    assert one.next().cause is Cause.SUCCEED


def test_threads_are_used_again(bench: Callable[..., Bench]) -> None:
    threads: set[int] = set()
    one = bench(lambda ctx, payload: threads.add(threading.get_ident()), slots=8)

    for _ in range(300):
        one.run()
        one.next()

    assert len(threads) == 1
    assert [name for name in later_threads() if name.startswith("later-pool")] == ["later-pool-0"]


def test_no_thread_is_started_for_async_handlers(bench: Callable[..., Bench]) -> None:
    async def handler(ctx: Context, payload: Work) -> None:
        pass

    one = bench(handler, slots=8)
    for _ in range(8):
        one.run()
    for _ in range(8):
        one.next()

    assert [name for name in later_threads() if name.startswith(("later-loop", "later-pool"))] == ["later-loop"]


def test_a_handler_that_raises_whatever_keeps_its_slot_usable(bench: Callable[..., Bench]) -> None:
    def handler(ctx: Context, payload: Work) -> None:
        raise [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError][payload.n]

    one = bench(handler, slots=1)
    for number in range(4):
        one.run(number)
        assert one.next().cause is Cause.RETRY


def test_an_async_handler_that_raises_whatever_does_not_end_the_loop(bench: Callable[..., Bench]) -> None:
    async def handler(ctx: Context, payload: Work) -> None:
        raise [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError][payload.n]

    one = bench(handler, slots=1)
    for number in range(4):
        one.run(number)
        assert one.next().cause is Cause.RETRY


VARIABLE: ContextVar[int] = ContextVar("VARIABLE", default=0)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_context_variables_do_not_reach_the_next_job(bench: Callable[..., Bench], kind: str) -> None:
    def run(ctx: Context, payload: Work) -> int:
        before = VARIABLE.get()
        VARIABLE.set(1)
        return before

    async def arun(ctx: Context, payload: Work) -> int:
        return run(ctx, payload)

    one = bench(run if kind == "def" else arun, slots=1)
    for _ in range(2):
        one.run()
        assert one.next().result == b"0"


# --- interruption


def test_a_thread_sees_its_interruption(bench: Callable[..., Bench]) -> None:
    begun = threading.Event()

    def handler(ctx: Context, payload: Work) -> None:
        begun.set()
        until(lambda: ctx.cancelled)
        ctx.raise_if_cancelled()

    one = bench(handler)
    key = one.run()
    assert begun.wait(DEADLINE)
    one.interrupt(key)

    assert one.next().cause is Cause.CANCEL


def test_a_task_is_cancelled(bench: Callable[..., Bench]) -> None:
    begun = threading.Event()

    async def handler(ctx: Context, payload: Work) -> None:
        begun.set()
        await asyncio.Event().wait()

    one = bench(handler)
    for why, cause in [(Interruption.CANCEL, Cause.CANCEL), (Interruption.STOP, Cause.RELEASE)]:
        begun.clear()
        key = one.run()
        assert begun.wait(DEADLINE)
        one.interrupt(key, why)
        assert one.next().cause is cause


def test_a_task_is_interrupted_before_its_first_step(bench: Callable[..., Bench]) -> None:
    busy, go_on = threading.Event(), threading.Event()
    ran: list[str] = []

    async def handler(ctx: Context, payload: Work) -> None:
        ran.append(ctx.job_id)
        if payload.n:
            busy.set()
            go_on.wait(DEADLINE)  # holds the loop, so that the next task cannot begin

    one = bench(handler)
    one.run(1)
    assert busy.wait(DEADLINE)
    key = one.run(0)
    one.interrupt(key)
    go_on.set()

    assert {one.next().cause, one.next().cause} == {Cause.SUCCEED, Cause.CANCEL}
    assert ran == ["job-1"]


def test_a_task_that_swallows_its_cancellation_keeps_its_slot_until_it_ends(bench: Callable[..., Bench]) -> None:
    begun, cancelled, go_on = threading.Event(), threading.Event(), threading.Event()

    async def handler(ctx: Context, payload: Work) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
        await asyncio.to_thread(go_on.wait, DEADLINE)
        return "done all the same"

    one = bench(handler)
    key = one.run()
    assert begun.wait(DEADLINE)
    one.interrupt(key)
    assert cancelled.wait(DEADLINE)
    assert one.board.running() == [key]
    go_on.set()

    assert one.next().cause is Cause.SUCCEED


def test_a_task_that_cleans_up_is_cancelled_once_however_often_it_is_asked(bench: Callable[..., Bench]) -> None:
    begun, cleaning, go_on = threading.Event(), threading.Event(), threading.Event()
    clean: list[bool] = []

    async def handler(ctx: Context, payload: Work) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await asyncio.to_thread(go_on.wait, DEADLINE)
            clean.append(True)

    one = bench(handler)
    key = one.run()
    assert begun.wait(DEADLINE)
    one.interrupt(key)
    assert cleaning.wait(DEADLINE)
    one.interrupt(key)
    one.interrupt(key)
    one.run()  # the loop takes this after the interruptions
    until(lambda: len(one.board.running()) == 2)
    go_on.set()

    assert one.next().cause is Cause.CANCEL
    assert clean == [True]


def test_an_interruption_after_the_end_is_ignored(bench: Callable[..., Bench]) -> None:
    async def handler(ctx: Context, payload: Work) -> int:
        return payload.n

    one = bench(handler)
    key = one.run()
    one.next()
    one.interrupt(key)
    one.interrupt(("unknown", 1))
    one.run(7)

    assert one.next().result == b"7"


def test_an_interruption_at_any_moment_reports_once(bench: Callable[..., Bench]) -> None:
    async def handler(ctx: Context, payload: Work) -> None:
        for _ in range(payload.n):
            await asyncio.sleep(0)

    one = bench(handler, slots=1)
    for number in range(300):
        key = one.run(number % 7)
        one.interrupt(key)
        assert one.next().cause in {Cause.SUCCEED, Cause.CANCEL}
    assert one.ended.empty()


def test_closing_cancels_what_runs_and_ends_the_loop(bench: Callable[..., Bench]) -> None:
    begun = threading.Event()
    ended: list[str] = []

    async def handler(ctx: Context, payload: Work) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(ctx.job_id)

    one = bench(handler)
    one.run()
    assert begun.wait(DEADLINE)
    one.close()

    until(lambda: "later-loop" not in later_threads())
    assert ended == ["job-1"]


def quit_by(error: type[BaseException]) -> Callable[[], Any]:
    async def leave() -> None:
        raise error

    return leave


def stop_the_loop() -> Any:
    asyncio.get_running_loop().stop()
    return asyncio.sleep(0)


def exit_in_a_callback() -> Any:
    asyncio.get_running_loop().call_soon(sys.exit)
    return asyncio.sleep(0)


@pytest.mark.parametrize(
    "leave",
    [quit_by(SystemExit), quit_by(KeyboardInterrupt), quit_by(GeneratorExit), exit_in_a_callback, stop_the_loop],
    ids=["SystemExit", "KeyboardInterrupt", "GeneratorExit", "a callback", "stop"],
)
def test_no_task_ends_the_loop_of_the_others(bench: Callable[..., Bench], leave: Callable[[], Any]) -> None:
    begun, go_on = threading.Event(), asyncio.Event()

    async def handler(ctx: Context, payload: Work) -> str:
        match payload.n:
            case 0:
                begun.set()
                await go_on.wait()
            case 1:
                task = asyncio.create_task(leave())
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                await asyncio.wait([task])
            case _:
                go_on.set()
        return "done"

    one = bench(handler)
    one.run(0)
    assert begun.wait(DEADLINE)
    one.run(1)
    assert one.next().cause is Cause.SUCCEED
    one.run(2)

    assert [one.next().cause, one.next().cause] == [Cause.SUCCEED] * 2


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_handler_that_awaits_such_a_task_has_failed_itself(
    bench: Callable[..., Bench], error: type[BaseException]
) -> None:
    async def handler(ctx: Context, payload: Work) -> None:
        if payload.n:
            await asyncio.create_task(quit_by(error)())

    one = bench(handler)
    one.run(1)
    failed = one.next()
    one.run(0)

    assert (failed.cause, failed.error and failed.error.type) == (Cause.RETRY, error.__name__)
    assert one.next().cause is Cause.SUCCEED


# --- isolated processes


@pytest.fixture
def isolates() -> Iterator[Callable[..., Bench]]:
    """Makes benches of apps that a spawned process can import; none leaves a process behind."""
    benches: list[Bench] = []

    def make(jobs: BackgroundJobs[None, Any]) -> Bench:
        benches.append(Bench(jobs, 2))
        return benches[-1]

    with no_threads_left():
        yield make
        for each in benches:
            each.close()
    until(lambda: not multiprocessing.active_children())


def test_a_process_is_used_again(isolates: Callable[..., Bench]) -> None:
    one = isolates(isolated.ANY)
    one.run(isolated.PID)
    first = one.next().result
    one.run(isolated.PID)

    assert first == one.next().result != str(os.getpid()).encode()


def test_a_process_knows_the_whole_claim(isolates: Callable[..., Bench]) -> None:
    one = isolates(isolated.ANY)
    one.run(isolated.CONTEXT, attempt=3, crashes=1, parent="p", parent_state=State.FAILED, parent_result=b"[1]")

    assert one.next().result == b'["job-1",1,3,"p","Failed",[1],"default"]'


def test_a_process_may_take_and_return_much(isolates: Callable[..., Bench]) -> None:
    one = isolates(isolated.ANY)
    one.run(isolated.LARGE, text="x" * 200_000)

    assert one.next().result == b'"' + b"x" * 60_000 + b'"'


def test_the_end_in_a_process_is_judged_as_anywhere(
    isolates: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    one = isolates(isolated.ANY)
    one.run(isolated.RAISE)
    raised = one.next()
    one.run(isolated.BAD_RESULT)
    bad_result = one.next()
    one.run(isolated.SYS_EXIT)
    sys_exit = one.next()

    assert (raised.cause, raised.reason) == (Cause.RETRY, "ValueError: no luck")
    assert raised.error is not None
    assert "no luck" in raised.error.traceback
    assert bad_result.cause is Cause.FAIL
    assert sys_exit.cause is Cause.RETRY
    assert "has failed after try 1: later.core.errors.BadResult" in caplog.text


@pytest.mark.parametrize(
    ("number", "how"),
    [
        (isolated.EXIT, "exited with status 5"),
        (isolated.KILL, "was killed by SIGKILL"),
        (isolated.SEGFAULT, "was killed by SIGSEGV"),
    ],
)
def test_a_process_that_dies_is_a_crash(isolates: Callable[..., Bench], number: int, how: str) -> None:
    one = isolates(isolated.ANY)
    one.run(number)
    died = one.next()
    one.run(isolated.PID)

    assert (died.cause, died.reason) == (Cause.CRASH, f"its isolated process {how}")
    assert one.next().cause is Cause.SUCCEED


def test_a_process_that_never_began_its_job_is_no_crash(
    isolates: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(isolated.CANNOT_START, "1")
    one = isolates(isolated.ANY)
    one.run(isolated.PID)
    deferred = one.next()
    one.run(isolated.PID, deferred_for=2 * 3_600_000_000)
    failed = one.next()
    monkeypatch.delenv(isolated.CANNOT_START)
    one.run(isolated.PID)

    assert (deferred.cause, failed.cause) == (Cause.DEFER, Cause.FAIL)
    assert deferred.delay > 0
    assert "exited with status 7 before the job began" in deferred.reason
    assert one.next().cause is Cause.SUCCEED


def test_an_idle_process_that_has_died_is_replaced(isolates: Callable[..., Bench]) -> None:
    one = isolates(isolated.ANY)
    one.run(isolated.PID)
    pid = int(one.next().result or b"")
    os.kill(pid, signal.SIGKILL)
    until(lambda: not multiprocessing.active_children())
    one.run(isolated.PID)

    assert one.next().cause is Cause.SUCCEED


def test_a_timeout_kills_and_is_retried(isolates: Callable[..., Bench]) -> None:
    one = isolates(isolated.HURRIED)
    one.run(isolated.HANG)
    late = one.next()

    assert late.cause is Cause.RETRY
    assert late.error is not None
    assert late.error.type == "later.core.errors.HandlerTimeout"
    assert not multiprocessing.active_children()
    one.run(isolated.PID)
    assert one.next().cause is Cause.SUCCEED


@pytest.mark.parametrize(
    ("why", "cause"), [(Interruption.CANCEL, Cause.CANCEL), (Interruption.STOP, Cause.RELEASE)], ids=str
)
def test_an_interruption_kills(isolates: Callable[..., Bench], why: Interruption, cause: Cause) -> None:
    one = isolates(isolated.ANY)
    key = one.run(isolated.HANG)
    until(multiprocessing.active_children)
    one.interrupt(key, why)
    assert one.next().cause is cause
    key = one.run(isolated.HANG)
    one.interrupt(key, why)  # before it has begun
    assert one.next().cause is cause
    assert not multiprocessing.active_children()


def test_async_handlers_of_a_process_share_a_loop(isolates: Callable[..., Bench]) -> None:
    one = isolates(isolated.ASYNC)
    for _ in range(2):
        one.run(isolated.LOOP)

    first, second = one.next(), one.next()
    assert first.cause is second.cause is Cause.SUCCEED
    one.run(isolated.LOOP)
    assert one.next().result in {first.result, second.result}


def test_a_task_in_a_process_does_not_end_its_loop(isolates: Callable[..., Bench]) -> None:
    one = isolates(isolated.SURVIVING)
    one.run()

    assert one.next().result == b'"SystemExit(3)"'


def test_what_has_crashed_before_runs_in_a_process_of_its_own(isolates: Callable[..., Bench]) -> None:
    one = isolates(isolated.THREADED)
    one.run(isolated.PID)
    assert one.next().result == str(os.getpid()).encode()
    one.run(isolated.PID, crashes=1)
    assert one.next().result != str(os.getpid()).encode()
    one.run(isolated.EXIT, crashes=1)
    assert one.next().cause is Cause.CRASH


def test_an_app_that_no_process_finds_fails_the_run(isolates: Callable[..., Bench]) -> None:
    one = isolates(jobs_of(work(lambda ctx, payload: None, isolation="process")))
    one.run()
    change = one.next()

    assert change.cause is Cause.RETRY
    assert change.error is not None
    assert "global name" in change.error.message


def test_a_handler_in_a_process_may_use_processes_and_programs(isolates: Callable[..., Bench]) -> None:
    one = isolates(isolated.ANY)
    one.run(isolated.POOL)

    assert one.next().result == b"[1,4,9]"

    one.run(isolated.PROGRAM)
    assert one.next().result == str(-signal.SIGTERM).encode()
