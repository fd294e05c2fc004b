"""Waiting for jobs: told by the server when a queue has got one."""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import SHUT_RDWR
from threading import Condition, Thread
from typing import Any, Final

from later.backends.redis.connection import FAILURES, Connection
from later.backends.redis.scripts import PASS_ON, WAIT, Script
from later.core.errors import LaterError

_PING_EVERY: Final = 5.0
"""Seconds without a message after which the subscription is tried. One that does not answer in as long is dead: a
connection that breaks on the way tells nobody."""

_RETRY_EVERY: Final = 0.5
"""Seconds between attempts to subscribe again."""

_FALLBACK: Final = 1.0
"""Seconds between looks at the queues while there is no subscription."""

_READY: Final = 1
_LISTED: Final = 0
"""What wait.lua answers."""


class Wakeup:
    """Messages are hints. Who waits looks at the queues first, in the step in which it asks to be told, and again
    whenever the subscription was broken, so that a lost message costs time only.

    A job is told to one of those that wait for its queue. So a message that nobody waits for any more is passed on, and
    who claims all that it has room for and leaves more tells another. When the one that was told has vanished without a
    word (its host is gone, or it is stopped), the job waits until the next look of another: a few seconds.
    One thread per process listens, from the first `wait` until `close`; it sleeps in the kernel while nothing comes.
    """

    def __init__(self, connection: Connection, key: str, call: Callable[[Script, Sequence[str]], Any]) -> None:
        """call: of a script, with what follows the arguments that all have."""
        self._connection = connection
        self._key = key
        self._call = call
        self.start_anew()

    def start_anew(self) -> None:
        """Forget the threads of another process."""
        self._name = uuid.uuid4().hex
        self._changed = Condition()
        self._wakes = 0
        self._lost = 0
        self._told: dict[str, int] = {}
        """Messages so far, by queue."""
        self._waiting: Counter[str] = Counter()
        """Threads in `wait`, by queue."""
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
            self._waiting.update(queues)
        try:
            return self._wait(queues, wakes, deadline)
        finally:
            with self._changed:
                self._waiting.subtract(queues)

    def _wait(self, queues: Sequence[str], wakes: int, deadline: float) -> bool:
        listener = self._listen()
        listener.subscribed(min(deadline - time.monotonic(), self._connection.timeout))
        while True:
            with self._changed:
                lost, told = self._lost, self._count(queues)
            found = self._call(WAIT, [self._name, *queues]) if queues else _LISTED
            if found == _READY:
                return True
            left = deadline - time.monotonic()
            is_told = listener.is_subscribed and found == _LISTED
            if self._pause(queues, (wakes, lost, told), left if is_told else min(left, _FALLBACK)):
                return True
            if deadline <= time.monotonic():
                return False

    def _pause(self, queues: Sequence[str], seen: tuple[int, int, int], seconds: float) -> bool:
        """Sleep until something has changed since these counts; whether it was a call of `wake`, or word of a job."""
        wakes, _, told = seen
        with self._changed:
            self._changed.wait_for(lambda: (self._wakes, self._lost, self._count(queues)) != seen, seconds)
            is_told = self._count(queues) != told
            if self._wakes == wakes:
                return is_told
        if is_told:  # who calls `wake` may not want a job any more
            self._pass_on(queues)
        return True

    def _count(self, queues: Sequence[str]) -> int:
        return sum(self._told.get(queue, 0) for queue in queues)

    def _listen(self) -> "Listener":
        with self._changed:
            if self._listener is None:
                channel = f"{self._key}:wake:{self._name}"
                self._listener = Listener(self._connection, channel, self._tell, self._lose, self._changed)
            return self._listener

    def _tell(self, queue: str) -> None:
        with self._changed:
            waited = self._waiting[queue] > 0
            self._told[queue] = self._told.get(queue, 0) + 1
            self._changed.notify_all()
            closed = self._listener is None
        if not waited and not closed:
            self._pass_on([queue])

    def _pass_on(self, queues: Sequence[str]) -> None:
        for queue in queues:
            with suppress(LaterError):  # those who wait look by themselves too
                self._call(PASS_ON, [queue])

    def _lose(self) -> None:
        with self._changed:
            self._lost += 1
            self._changed.notify_all()


class Listener:
    """The thread that reads the subscription, on a connection of its own."""

    def __init__(
        self,
        connection: Connection,
        channel: str,
        tell: Callable[[str], None],
        lose: Callable[[], None],
        changed: Condition,
    ) -> None:
        """tell: gets each message. lose: called whenever some may have been missed."""
        self._connection = connection
        self._channel = channel
        self._tell = tell
        self._lose = lose
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
            try:
                with suppress(*FAILURES):
                    self._read()
            finally:
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
            case [b"message", _, queue]:
                self._tell(queue.decode())
            case _:  # the answer to a ping
                pass

    def _report(self, *, subscribed: bool) -> None:
        """Who waits looks again: what happened while nobody listened was not told."""
        with self._changed:
            self.is_subscribed = subscribed
            self._tried = True
        self._lose()
