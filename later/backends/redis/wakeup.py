"""Waiting for jobs: told by the server when a queue has got its first one."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import SHUT_RDWR
from threading import Condition, Thread
from typing import Any, Final

from later.backends.redis.connection import FAILURES, Connection

_PING_EVERY: Final = 5.0
"""Seconds without a message after which the subscription is tried. One that does not answer in as long is dead: a
connection that breaks on the way tells nobody."""

_RETRY_EVERY: Final = 0.5
"""Seconds between attempts to subscribe again."""

_FALLBACK: Final = 1.0
"""Seconds between looks at the queues while there is no subscription."""


class Wakeup:
    """Messages are hints. Who waits looks at the queues first, and again whenever the subscription was broken, so that
    a lost message costs time only.

    One thread per process listens, from the first `wait` until `close`; it sleeps in the kernel while nothing comes.
    """

    def __init__(self, connection: Connection, key: str) -> None:
        self._connection = connection
        self._key = key
        self.start_anew()

    def start_anew(self) -> None:
        """Forget the threads of another process."""
        self._changed = Condition()
        self._wakes = 0
        self._told = 0
        self._listener: Listener | None = None

    def wake(self) -> None:
        """Make every `wait` of this process return."""
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Stop listening. The next `wait` begins again."""
        with self._changed:
            listener, self._listener = self._listener, None
            self._changed.notify_all()
        if listener is not None:
            listener.stop()

    def wait(self, queues: Sequence[str], timeout: float) -> bool:
        """Block until one of the queues has a job or `wake` is called; False when `timeout` seconds went by instead.
        Raises Unavailable."""
        deadline = time.monotonic() + timeout
        with self._changed:
            wakes = self._wakes
        listener = self._listen()
        listener.subscribed(min(timeout, self._connection.timeout))
        while True:
            with self._changed:
                told = self._told
            if self._any_ready(queues):
                return True
            left = deadline - time.monotonic()
            if self._pause(wakes, told, left if listener.is_subscribed else min(left, _FALLBACK)):
                return True
            if deadline <= time.monotonic():
                return False

    def _pause(self, wakes: int, told: int, seconds: float) -> bool:
        """Sleep until something has changed since these counts; whether it was a call of `wake`."""
        with self._changed:
            self._changed.wait_for(lambda: (self._wakes, self._told) != (wakes, told), seconds)
            return self._wakes != wakes

    def _any_ready(self, queues: Sequence[str]) -> bool:
        return (
            bool(queues) and self._connection.command("EXISTS", *(f"{self._key}:ready:{name}" for name in queues)) > 0
        )

    def _listen(self) -> "Listener":
        with self._changed:
            if self._listener is None:
                self._listener = Listener(self._connection, f"{self._key}:wake", self._tell, self._changed)
            return self._listener

    def _tell(self) -> None:
        with self._changed:
            self._told += 1
            self._changed.notify_all()


class Listener:
    """The thread that reads the subscription, on a connection of its own."""

    def __init__(self, connection: Connection, channel: str, tell: Callable[[], None], changed: Condition) -> None:
        self._connection = connection
        self._channel = channel
        self._tell = tell
        self._changed = changed
        self._stopping = False
        self._tried = False
        self._line: Any = None
        self.is_subscribed = False
        Thread(target=self._run, name="later-redis-wakeup", daemon=True).start()

    def subscribed(self, timeout: float) -> None:
        """Wait until the first attempt to subscribe is over, so that nothing told from now on is missed."""
        with self._changed:
            self._changed.wait_for(lambda: self._tried, timeout)

    def stop(self) -> None:
        """Ends the thread, which may be reading: what it reads from ends."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            sock = getattr(self._line, "_sock", None)
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(SHUT_RDWR)

    def _run(self) -> None:
        while not self._stopping:
            # The server or the network is gone. Those who wait meet the same error on their own connections.
            with suppress(*FAILURES):
                self._read()
            self._report(subscribed=False)
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, _RETRY_EVERY)

    def _read(self) -> None:
        line = self._connection.separate(self._channel)
        try:
            with self._changed:
                self._line = line
                if self._stopping:
                    return
            line.send_command("SUBSCRIBE", self._channel)
            asked = False
            while not self._stopping:
                if line.can_read(timeout=_PING_EVERY):
                    asked = False
                    self._react(line.read_response())
                elif asked:
                    return
                else:
                    line.send_command("PING")
                    asked = True
        finally:
            with self._changed:
                self._line = None
            line.disconnect()

    def _react(self, message: Any) -> None:
        match message:
            case [b"subscribe", *_]:
                self._report(subscribed=True)
            case [b"message", *_]:
                self._tell()
            case _:  # the answer to a ping
                pass

    def _report(self, *, subscribed: bool) -> None:
        """Who waits looks again: what happened while nobody listened was not told."""
        with self._changed:
            self.is_subscribed = subscribed
            self._tried = True
        self._tell()
