"""Waiting for jobs: told by who enqueues them, and looking now and then whether somebody did not tell."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Final

from later.backends.sqlite.bells import Bells
from later.backends.sqlite.connection import Database
from later.backends.sqlite.statements import SQL

_POLL: Final = 0.1
_POLL_ALONE: Final = 0.05
"""Seconds between looks at whether something was committed, when others can ring and when they cannot. Who enqueues
within a transaction of the user's, or is killed between its commit and its ring, tells nobody. A look is
`PRAGMA data_version`, which reads a counter in shared memory, in some 4 µs: what it costs is the waking up."""


class Wakeup:
    def __init__(self, database: Database, app: Callable[[], int]) -> None:
        self._database = database
        self._app = app
        self._bells = Bells(database.path)
        self._wakes = 0

    def wake(self) -> None:
        """Make every `wait` of this process return."""
        self._wakes += 1
        self._bells.ring_own()

    def enqueued(self) -> None:
        """This process has committed jobs that are Enqueued."""
        self._bells.ring()

    def close(self) -> None:
        self.wake()
        self._bells.close()

    def wait(self, queues: Sequence[str], timeout: float) -> bool:
        """Block until one of the queues has a job or `wake` is called; False when `timeout` seconds went by instead."""
        deadline = time.monotonic() + timeout
        wakes = self._wakes
        values = {"app": self._app(), "queues": json.dumps(list(queues))}
        looked_at: tuple[object, int] | None = None
        # The bell hangs before the first look: what is committed after a look rings it.
        with self._bells.waiting() as bell:
            while True:
                with self._database.watch() as connection:
                    # Read before the queues: what is committed in between is seen by the next look.
                    (version,) = connection.execute("PRAGMA data_version").fetchone()
                    if (connection, version) != looked_at:
                        looked_at = (connection, version)
                        if connection.execute(SQL["has_ready"], values).fetchone()[0]:
                            return True
                left = deadline - time.monotonic()
                bell.sleep(min(left, _POLL if bell.can_be_rung else _POLL_ALONE))
                if self._wakes != wakes:
                    return True
                if left <= 0:
                    return False
