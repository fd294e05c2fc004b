"""Waiting for jobs: at once for what this process enqueues, by a cheap poll for what others do."""

import json
import time
from collections.abc import Callable, Sequence
from threading import Condition
from typing import Final

from later.backends.sqlite.connection import Database
from later.backends.sqlite.statements import SQL

_POLL: Final = 0.020
_IDLE_POLL: Final = 0.050
_ALERT: Final = 1.0
"""Seconds between looks at whether another process has committed, while one did within the last `_ALERT` seconds and
otherwise. SQLite has no notifications between processes, and `PRAGMA data_version` reads a counter in shared memory, in
some 4 µs: what a look costs is the waking up. An idle wait takes 0.4 % of a core; at 20 ms it would be 1 %."""


class Wakeup:
    def __init__(self, database: Database, app: Callable[[], int]) -> None:
        self._database = database
        self._app = app
        self._changed = Condition()
        self._wakes = 0
        self._enqueues = 0
        self._alert_until = 0.0

    def wake(self) -> None:
        """Make every `wait` of this process return."""
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    def enqueued(self) -> None:
        """This process has committed jobs that are Enqueued."""
        with self._changed:
            self._enqueues += 1
            self._changed.notify_all()

    def wait(self, queues: Sequence[str], timeout: float) -> bool:
        """Block until one of the queues has a job or `wake` is called; False when `timeout` seconds went by instead."""
        deadline = time.monotonic() + timeout
        values = {"app": self._app(), "queues": json.dumps(list(queues))}
        looked_at: tuple[object, int] | None = None
        with self._changed:
            wakes = self._wakes
        while True:
            with self._changed:
                enqueues = self._enqueues
            with self._database.watch() as connection:
                # Read before the queues: what is committed in between is seen by the next look.
                (version,) = connection.execute("PRAGMA data_version").fetchone()
                if (connection, version) != looked_at:
                    if looked_at is not None:
                        self._alert_until = time.monotonic() + _ALERT
                    looked_at = (connection, version)
                    if connection.execute(SQL["has_ready"], values).fetchone()[0]:
                        return True
            now = time.monotonic()
            left = deadline - now
            if self._pause(wakes, enqueues, min(left, _POLL if now < self._alert_until else _IDLE_POLL)):
                return True
            if left <= 0:
                return False

    def _pause(self, wakes: int, enqueues: int, seconds: float) -> bool:
        """Sleep until something has changed since these counts; whether it was a call of `wake`."""
        with self._changed:
            self._changed.wait_for(lambda: (self._wakes, self._enqueues) != (wakes, enqueues), seconds)
            return self._wakes != wakes
