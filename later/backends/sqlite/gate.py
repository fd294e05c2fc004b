"""Counts the calls that are under way, and can hold off new ones."""

import time
from threading import Condition, Lock


class Gate:
    """`with gate:` around each call. Not to be entered twice by one thread."""

    def __init__(self) -> None:
        self._changed = Condition(Lock())
        self._inside = 0
        self._shut = False

    def __enter__(self) -> None:
        with self._changed:
            while self._shut:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            if self._shut:
                self._changed.notify_all()

    @property
    def in_use(self) -> bool:
        return self._inside > 0

    def shut(self, timeout: float) -> bool:
        """Let no call begin until `reopen`, and wait for those under way; False when some are left after `timeout`
        seconds. Waits for another thread that has shut it."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._shut:
                self._changed.wait()
            self._shut = True
            return self._changed.wait_for(lambda: not self._inside, deadline - time.monotonic())

    def reopen(self) -> None:
        with self._changed:
            self._shut = False
            self._changed.notify_all()
