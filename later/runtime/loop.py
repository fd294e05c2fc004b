"""Interpreters for the engine's machines: one thread that owns the machine, and lanes for what blocks."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue
from typing import Final, Generic, Protocol, TypeVar

from later.runtime.log import log

_Event_contra = TypeVar("_Event_contra", contravariant=True)
_Command_co = TypeVar("_Command_co", covariant=True)
_Event = TypeVar("_Event")
_Command = TypeVar("_Command")

SHARE: Final = 32
"""Events that a thread which brings one handles, others' included, before it goes back to what it is there for."""


class Machine(Protocol[_Event_contra, _Command_co]):
    """A sans-IO machine of `later.core.engine`."""

    wake_at: float | None

    def handle(self, event: _Event_contra, now: float) -> Sequence[_Command_co]: ...


class Loop(Generic[_Event, _Command]):
    """Feeds a machine with events, one at a time, and executes its commands in order.

    A thread of its own ticks the machine. Events are handled there (`post`) or, which saves two changes of threads, in
    the thread that brings them (`turn`). `execute` must not block; it returns False to end the loop. `on_end` is called
    in the loop's thread, however the loop ends. Both ways to bring events may be used also after the end: such events
    are dropped.
    """

    def __init__(
        self,
        name: str,
        machine: Machine[_Event, _Command],
        tick: _Event,
        execute: Callable[[_Command], bool],
        on_end: Callable[[], None],
    ) -> None:
        self._name = name
        self._machine = machine
        self._tick = tick
        self._execute = execute
        self._on_end = on_end
        self._events: deque[_Event] = deque()
        self._handling = threading.Lock()
        self._over = False
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._wakes_at = inf
        """When the loop's thread looks by itself; changed by who holds the lock."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.error: BaseException | None = None
        """What ended the loop, when it was not the machine: a defect in `later` itself."""

    def start(self) -> None:
        self._thread.start()

    def post(self, event: _Event) -> None:
        """Have the event handled in the loop's thread. From any thread."""
        self._events.append(event)
        self._bell.put(None)

    def turn(self, event: _Event) -> None:
        """Have the event handled before this returns, or by a thread that is handling others right now.

        For threads of `later`'s own alone: an exception that a signal raises in the main thread would leave the machine
        between two states.
        """
        events, handling = self._events, self._handling
        events.append(event)
        # Looks again after letting go: somebody may have added an event in between and found the lock taken.
        while events and not self._over and handling.acquire(False):
            try:
                all_handled = self._handle(SHARE)
                wake_at = self._machine.wake_at
                if wake_at is not None and wake_at < self._wakes_at:
                    self._wakes_at = wake_at
                    self._bell.put(None)
                elif not all_handled:
                    self._bell.put(None)
            finally:
                handling.release()
            if not all_handled:
                return

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end; False when time ran out first."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def unhandled(self) -> list[_Event]:
        """After the end: the events that came too late."""
        events, self._events = self._events, deque()
        return list(events)

    def _run(self) -> None:
        while True:
            with self._handling:
                self._handle(sys.maxsize)
                if self._over:
                    break
                wake_at = self._machine.wake_at
                if wake_at is not None and wake_at <= time.monotonic():
                    self._events.append(self._tick)
                    continue
                self._wakes_at = inf if wake_at is None else wake_at
            if self._events:  # as in `turn`: who added it may have found the lock taken
                continue
            with suppress(Empty):
                self._bell.get(timeout=None if wake_at is None else max(0.0, wake_at - time.monotonic()))
        self._on_end()

    def _handle(self, most: int) -> bool:
        """With the lock held: so many events, or fewer; whether none is left."""
        try:
            while self._events and not self._over:
                if most == 0:
                    return False
                most -= 1
                ends = False
                for command in self._machine.handle(self._events.popleft(), time.monotonic()):
                    ends |= not self._execute(command)
                if ends:
                    self._end()
        except BaseException as error:  # noqa: BLE001  kept for the owner, who must not wait for ever
            self.error = error
            log.critical("%s ended on a defect in later", self._name, exc_info=error)
            self._end()
        return True

    def _end(self) -> None:
        self._over = True
        self._bell.put(None)


class Lane:
    """One daemon thread, started at first use, that runs calls in the order given. For calls that block.

    Calls must not raise.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def behind(self) -> bool:
        """Whether a call waits for the one under way."""
        return not self._calls.empty()

    def submit(self, call: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._calls.put(call)

    def close(self) -> None:
        """End the thread after the calls given so far; does not wait. Nothing may be submitted afterwards."""
        self._calls.put(None)

    def join(self, timeout: float) -> bool:
        """After `close`: wait for the end; False when time ran out first."""
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
