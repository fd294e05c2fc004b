"""Interpreters for the engine's machines: one thread that owns the machine, and lanes for what blocks."""

import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

from later.runtime.log import log

_Event_contra = TypeVar("_Event_contra", contravariant=True)
_Command_co = TypeVar("_Command_co", covariant=True)
_Event = TypeVar("_Event")
_Command = TypeVar("_Command")


class Machine(Protocol[_Event_contra, _Command_co]):
    """A sans-IO machine of `later.core.engine`."""

    wake_at: float | None

    def handle(self, event: _Event_contra, now: float) -> Sequence[_Command_co]: ...


class Loop(Generic[_Event, _Command]):
    """Feeds a machine with events, one at a time, and executes its commands in order.

    `execute` must not block; it returns False to end the loop. `on_end` is called in the loop's thread, however the
    loop ends. `post` may be called from any thread, also after the end: such events are dropped.
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
        self._events: SimpleQueue[_Event] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.error: BaseException | None = None
        """What ended the loop, when it was not the machine: a defect in `later` itself."""

    def start(self) -> None:
        self._thread.start()

    def post(self, event: _Event) -> None:
        self._events.put(event)

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end; False when time ran out first."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def unhandled(self) -> list[_Event]:
        """After the end: the events that came too late."""
        events: list[_Event] = []
        while True:
            try:
                events.append(self._events.get_nowait())
            except Empty:
                return events

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:  # noqa: BLE001  kept for the owner, who must not wait for ever
            self.error = error
            log.critical("%s ended on a defect in later", self._name, exc_info=error)
        finally:
            self._on_end()

    def _turn(self) -> bool:
        wake_at = self._machine.wake_at
        try:
            if wake_at is None:
                event = self._events.get()
            else:
                event = self._events.get(timeout=max(0.0, wake_at - time.monotonic()))
        except Empty:
            event = self._tick
        goes_on = True
        for command in self._machine.handle(event, time.monotonic()):
            goes_on &= self._execute(command)
        return goes_on


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
