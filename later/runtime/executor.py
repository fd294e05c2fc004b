"""Runs handlers: `def` in threads, `async def` on one event loop, isolated ones in processes of their own."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any, TypeVar

from later.core.engine.judge import Interrupted
from later.core.engine.worker import Interruption, Key, RunEnded
from later.core.lifecycle import Change
from later.core.records import Claim
from later.runtime.board import Board
from later.runtime.event_loop import run_through
from later.runtime.handling import Handling, Stop
from later.runtime.isolate import Isolates
from later.runtime.jobs import BackgroundJobs
from later.runtime.loop import Lane

_Value = TypeVar("_Value")


class Executor:
    """Runs up to `slots` claims at once and posts one RunEnded for each. Used by one thread.

    All threads are daemons: a handler that never returns cannot keep the process alive.
    """

    def __init__(
        self,
        jobs: BackgroundJobs[Any, Any],
        slots: int,
        post: Callable[[RunEnded], None],
        random: Random,
        board: Board | None = None,
    ) -> None:
        """board: given in a process that a supervisor watches and starts again when it dies."""
        self._handling = Handling(jobs, random)
        self._isolates = Isolates(jobs, self._handling)
        self._tasks = Tasks()
        self._lanes = [Lane(f"later-slot-{slot}") for slot in range(slots)]
        self._free = list(range(slots))
        """Used from its end, so that few jobs keep to few threads."""
        self._runs: dict[Key, Stop] = {}
        self._post = post
        self._board = board
        self._kept: dict[Key, int] = {}
        """Slots of ended runs that the board still shows, until they are settled."""

    def run(self, claim: Claim) -> None:
        """Start a run; does not block. The caller keeps to `slots` runs at once."""
        key, slot, stop = (claim.id, claim.epoch), self._free.pop(), Stop()
        self._runs[key] = stop
        job_type = self._handling.type_of(claim)
        # What has crashed before may have killed its process. Alone in one, it cannot do that to its neighbours again.
        suspect = claim.crashes > 0 and self._board is not None
        if job_type is not None and (job_type.isolation == "process" or suspect):
            self._lanes[slot].submit(lambda: self._in_thread(key, slot, self._isolates.run, claim, stop))
        elif job_type is not None and job_type.is_async:
            self._on_loop(key, slot, claim, stop)
        else:
            self._lanes[slot].submit(lambda: self._in_thread(key, slot, self._handle, claim, stop))

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
        """Let idle threads, the loop and idle isolated processes end; does not wait for running handlers."""
        for lane in self._lanes:
            lane.close()
        self._tasks.close()
        self._isolates.close()

    def _handle(self, claim: Claim, stop: Stop) -> Change:
        return self._handling.run(claim, stop, asyncio.run)

    def _in_thread(self, key: Key, slot: int, run: Callable[[Claim, Stop], Change], claim: Claim, stop: Stop) -> None:
        began = time.monotonic()
        try:
            began = self._began(key, slot)
            change = run(claim, stop)
        except BaseException as error:  # noqa: BLE001  one run of these threads must not be the last
            change = self._handling.raised(claim, error)
        self._ended(claim, slot, change, began)

    def _on_loop(self, key: Key, slot: int, claim: Claim, stop: Stop) -> None:
        began = time.monotonic()

        async def run() -> Change:
            nonlocal began
            began = self._began(key, slot)
            return await self._handling.arun(claim, stop)

        def ended(task: asyncio.Task[Change]) -> None:
            if task.cancelled():  # before its first step
                change = self._handling.judged(claim, Interrupted(stop.why is Interruption.CANCEL))
            elif (error := task.exception()) is not None:
                change = self._handling.raised(claim, error)
            else:
                change = task.result()
            self._ended(claim, slot, change, began)

        self._tasks.start(key, run(), ended)

    def _began(self, key: Key, slot: int) -> float:
        if self._board is not None:
            self._board.started(slot, key)
        return time.monotonic()

    def _ended(self, claim: Claim, slot: int, change: Change, began: float) -> None:
        key = (claim.id, claim.epoch)
        job_type = self._handling.type_of(claim)
        # Single steps of built-in types, so other threads may do the same meanwhile.
        del self._runs[key]
        if self._board is not None and job_type is not None and job_type.at_most_once:
            self._kept[key] = slot
        else:
            self._release(slot)
        self._post(RunEnded(change, time.monotonic() - began))

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


class Tasks:
    """Tasks on one event loop, whose thread starts with the first of them."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()
        self._tasks: dict[Key, asyncio.Task[Any]] = {}

    def start(self, key: Key, run: Coroutine[Any, Any, _Value], ended: Callable[[asyncio.Task[_Value]], None]) -> None:
        """Run the coroutine; `ended` gets its task on the loop, however it ends, also if it never took a step."""
        if self._loop is None:
            runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
            self._loop = runner.get_loop()
            threading.Thread(target=self._serve, args=(runner,), name="later-loop", daemon=True).start()
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
