"""Clocks to give a storage as `StorageOptions.clock`."""

from threading import Lock

from later.core.records import SECOND, Micros


class VirtualClock:
    """A clock that stands still until `advance` moves it. Safe to use from several threads.

    Call it to read it: it is a `later.core.ports.Clock`.
    """

    def __init__(self, start: Micros = 1_700_000_000 * SECOND) -> None:
        self._lock = Lock()
        self._now = start

    def __call__(self) -> Micros:
        with self._lock:
            return self._now

    def advance(self, by: Micros) -> Micros:
        """Let `by` microseconds pass; returns the new time."""
        with self._lock:
            self._now += by
            return self._now
