"""Runs handlers: `def` in threads, `async def` on one event loop, isolated ones in processes of their own."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from random import Random
from typing import Any, TypeVar

from later.core.engine.judge import Interrupted
from later.core.engine.worker import Interruption, Key, RunEnded
from later.core.lifecycle import Change
from later.core.records import Claim
from later.core.registry import JobType
from later.runtime.board import Board
from later.runtime.event_loop import run_through
from later.runtime.handling import Handling, Stop
from later.runtime.isolate import Isolates
from later.runtime.jobs import BackgroundJobs
from later.runtime.pool import Pool

_Value = TypeVar("_Value")


class Executor:
    """Runs up to `slots` claims at once and posts one RunEnded for each. Used by one thread at a time.

    All threads are daemons: a handler that never returns cannot keep the process alive.
    """

    def __init__(
        self,
        jobs: BackgroundJobs[Any, Any],
        slots: int,
        pool: Pool,
        post: Callable[[RunEnded], None],
        random: Random,
        board: Board | None = None,
    ) -> None:
        """pool: of at least `slots` threads. board: given in a process that a supervisor watches and starts again when
        it dies."""
        self._handling = Handling(jobs, random)
        self._isolates = Isolates(jobs, self._handling)
        self._tasks = Tasks()
        self._pool = pool
        self._free = list(range(slots))
        self._runs: dict[Key, Stop] = {}
        self._post = post
        self._board = board
        self._kept: dict[Key, int] = {}
        """Slots of ended runs that the board still shows, until they are settled."""

    def run(self, claim: Claim) -> None:
        """Start a run; does not block. The caller keeps to `slots` runs at once."""
        run = _Run(claim, self._free.pop(), self._handling.type_of(claim))
        self._runs[run.key] = run.stop
        job_type = run.type
        # What has crashed before may have killed its process. Alone in one, it cannot do that to its neighbours again.
        suspect = claim.crashes > 0 and self._board is not None
        if job_type is not None and (job_type.isolation == "process" or suspect):
            run.isolated = True
        elif job_type is not None and job_type.is_async:
            self._on_loop(run)
            return
        self._pool.follow(partial(self._in_thread, run))

    def interrupt(self, key: Key, why: Interruption) -> None:
        """Ask a run to stop: a thread by its flag alone, a task by cancelling it, a process by killing it.

        Once for each reason, so that a task can clean up in peace however often it is asked.
        """
        stop = self._runs.get(key)
        if stop is not None and stop.why is not why:
            stop.why = why
            self._isolates.kill(key)
            self._tasks.cancel(key)

    def close(self) -> None:
        """Let the loop and idle isolated processes end; does not wait for running handlers."""
        self._tasks.close()
        self._isolates.close()

    def _in_thread(self, run: "_Run") -> None:
        self._ended(run, self._run(run))

    def _run(self, run: "_Run") -> Change:
        try:
            self._begins(run)
            if run.isolated:
                return self._isolates.run(run.claim, run.stop)
            return self._handling.run(run.claim, run.stop, asyncio.run)
        except BaseException as error:  # noqa: BLE001  one run of these threads must not be the last
            return self._handling.raised(run.claim, error)

    def _on_loop(self, run: "_Run") -> None:
        async def begin() -> Change:
            self._begins(run)
            return await self._handling.arun(run.claim, run.stop)

        def ended(task: asyncio.Task[Change]) -> None:
            if task.cancelled():  # before its first step
                change = self._handling.judged(run.claim, Interrupted(run.stop.why is Interruption.CANCEL))
            elif (error := task.exception()) is not None:
                change = self._handling.raised(run.claim, error)
            else:
                change = task.result()
            self._ended(run, change)

        self._tasks.start(run.key, begin(), ended)

    def _begins(self, run: "_Run") -> None:
        run.began = time.monotonic()
        if self._board is not None:
            self._board.started(run.slot, run.key)

    def _ended(self, run: "_Run", change: Change) -> None:
        # Single steps of built-in types, so other threads may do the same meanwhile.
        del self._runs[run.key]
        if self._board is not None and run.type is not None and run.type.at_most_once:
            self._kept[run.key] = run.slot
        else:
            self._release(run.slot)
        self._post(RunEnded(change, time.monotonic() - run.began))

    def settled(self, keys: Sequence[Key]) -> None:
        """The reports on these runs have arrived."""
        for key in keys:
            slot = self._kept.pop(key, None)
            if slot is not None:
                self._release(slot)

    def _release(self, slot: int) -> None:
        if self._board is not None:
            self._board.ended(slot)
        self._free.append(slot)


class _Run:
    """One run of a claim, from its start."""

    __slots__ = ("began", "claim", "isolated", "key", "slot", "stop", "type")

    def __init__(self, claim: Claim, slot: int, job_type: JobType | None) -> None:
        self.claim = claim
        self.key: Key = (claim.id, claim.epoch)
        self.slot = slot
        self.type = job_type
        self.stop = Stop()
        self.isolated = False
        self.began = time.monotonic()


class Tasks:
    """Tasks on one event loop, whose thread starts with the first of them."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: int | None = None
        self._closing = asyncio.Event()
        self._tasks: dict[Key, asyncio.Task[Any]] = {}

    def start(self, key: Key, run: Coroutine[Any, Any, _Value], ended: Callable[[asyncio.Task[_Value]], None]) -> None:
        """Run the coroutine; `ended` gets its task on the loop, however it ends, also if it never took a step."""
        if self._loop is None:
            runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
            self._loop = runner.get_loop()
            thread = threading.Thread(target=self._serve, args=(runner,), name="later-loop", daemon=True)
            thread.start()
            self._thread = thread.ident
        if threading.get_ident() == self._thread:  # an end leads to the next start; nobody has to wake the loop up
            self._start(key, run, ended)
        else:
            self._loop.call_soon_threadsafe(self._start, key, run, ended)

    def cancel(self, key: Key) -> None:
        """Cancel the task, if it has not ended."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel, key)

    def close(self) -> None:
        """Cancel what still runs, and end the loop when all has ended; does not wait."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(self._closing.set)

    def _serve(self, runner: asyncio.Runner) -> None:
        with runner:
            run_through(runner, self._closing.wait())

    def _start(self, key: Key, run: Coroutine[Any, Any, _Value], ended: Callable[[asyncio.Task[_Value]], None]) -> None:
        task = self._tasks[key] = asyncio.get_running_loop().create_task(run)

        # Not by awaiting it: GeneratorExit, which whatever it awaits may raise, unwinds all that await in one go.
        def done(task: asyncio.Task[_Value]) -> None:
            del self._tasks[key]
            ended(task)

        task.add_done_callback(done)

    def _cancel(self, key: Key) -> None:
        task = self._tasks.get(key)
        if task is not None:
            task.cancel()
