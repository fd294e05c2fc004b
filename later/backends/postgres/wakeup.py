"""Waiting for jobs: pushed by LISTEN/NOTIFY where there is no pooler in between, found by polling where there is
one."""

import select
import socket
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from threading import Condition, Lock, Thread
from typing import Final

import psycopg

from later.backends.postgres.connection import Database
from later.backends.postgres.wire import Query, Wire
from later.core.errors import LaterError

_POLL: Final = 0.1
"""Seconds between looks where nothing is pushed."""

_POLL_LISTENING: Final = 5.0
"""Seconds between looks where it is: a process that dies between its commit and its notification tells nobody."""

_RECONNECT: Final = 1.0
"""Seconds after which a lost connection is opened again; until then waiting polls."""


class Wakeup:
    """`channel` names what the namespace's notifications go through, with the queue as their text; None: do not listen.

    A notification is a hint. It is sent after the commit of what it tells of, as a transaction of its own: those that
    notify commit one after the other in the whole database, which must not include a wait for the disk.
    """

    def __init__(
        self, database: Database, ready: Callable[[Sequence[str]], bool], channel: Callable[[], str] | None
    ) -> None:
        self._database = database
        self._ready = ready
        self._channel = channel
        self._start()
        database.after_fork_calls.append(self._start)

    def _start(self) -> None:
        self._changed = Condition(Lock())
        self._wakes = 0
        self._enqueues: dict[str, int] = {}
        self._lost = 0
        self._listener: Listener | None = None

    def wake(self) -> None:
        """Make every `wait` of this process return."""
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    def enqueued(self, queues: Collection[str]) -> None:
        """Jobs of these queues have become Enqueued."""
        with self._changed:
            for queue in queues:
                self._enqueues[queue] = self._enqueues.get(queue, 0) + 1
            self._changed.notify_all()

    def wait(self, queues: Sequence[str], timeout: float) -> bool:
        """Block until one of the queues has a job or `wake` is called; False when `timeout` seconds went by instead."""
        deadline = time.monotonic() + timeout
        with self._changed:
            wakes = self._wakes
        listening = self._listen(deadline)
        while True:
            with self._changed:
                seen = self._seen(queues)
            # After the note of what was seen: what is enqueued in between is seen by the next look.
            if self._ready(queues):
                return True
            left = deadline - time.monotonic()
            poll = _POLL_LISTENING if listening() else _POLL
            if self._pause(queues, wakes, seen, min(left, poll)):
                return True
            if left <= 0:
                return False

    def _pause(self, queues: Sequence[str], wakes: int, seen: list[int], seconds: float) -> bool:
        """Sleep until something has changed since these counts; whether it was a call of `wake`."""
        with self._changed:
            self._changed.wait_for(lambda: self._wakes != wakes or self._seen(queues) != seen, seconds)
            return self._wakes != wakes

    def _seen(self, queues: Sequence[str]) -> list[int]:
        return [self._lost, *(self._enqueues.get(queue, 0) for queue in queues)]

    def _listen(self, deadline: float) -> Callable[[], bool]:
        """Make sure that a thread listens, or is trying to; what tells whether it does."""
        if self._channel is None:
            return lambda: False
        channel = self._channel()
        with self._changed:
            listener = self._listener
            if listener is None:
                listener = self._listener = Listener(self._database, channel, self._heard)
                listener.start()
            # Only a little while: a look at the queues says more about what is wrong with the server.
            self._changed.wait_for(lambda: listener.tried, min(max(0.0, deadline - time.monotonic()), 1.0))
        return lambda: listener.listening

    def _heard(self, queues: Collection[str] | None) -> None:
        """From the listener: notifications; None: it has begun or ceased to listen, and may have missed some."""
        if queues is not None:
            self.enqueued(queues)
            return
        with self._changed:
            self._lost += 1
            self._changed.notify_all()

    def close(self) -> None:
        self.wake()
        with self._changed:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop()


class Listener:
    """A thread that holds a connection of its own and sleeps in the kernel until the server says something."""

    def __init__(self, database: Database, channel: str, heard: Callable[[Collection[str] | None], None]) -> None:
        self._thread = Thread(target=self._run, name="later-postgres-listen", daemon=True)
        self._database = database
        self._channel = channel
        self._heard = heard
        self._stopping, self._open = socket.socketpair()
        self.tried = False
        self.listening = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._open.close()
        self._thread.join(self._database.timeout + 1)
        self._stopping.close()

    def _run(self) -> None:
        while True:
            with suppress(psycopg.Error, LaterError, OSError):
                self._hold()
            self.tried = True
            if self.listening:
                self.listening = False
            self._heard(None)
            if self._stopped(_RECONNECT):
                return

    def _hold(self) -> None:
        wire = self._database.open()
        try:
            # Letters, digits and _ only.
            wire.send(Query(f'LISTEN "{self._channel}"'.encode()), {})
            wire.exchange()
            self.listening = self.tried = True
            self._heard(None)
            self._until_stopped(wire)
        finally:
            self._database.shut(wire)

    def _until_stopped(self, wire: Wire) -> None:
        poll = select.poll()
        poll.register(wire.socket, select.POLLIN)
        poll.register(self._stopping, select.POLLIN)
        while not self._stopped(0):
            poll.poll()
            queues = set(wire.notifications())
            if queues:
                self._heard(queues)

    def _stopped(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._stopping, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
