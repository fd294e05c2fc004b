"""What the log tells of a broker that cannot be used."""

import time
from collections.abc import Callable
from enum import Enum
from threading import Lock
from typing import Final, NamedTuple

from later.core.errors import BackendError, Unavailable
from later.runtime.log import log

AGAIN: Final = (60.0, 3600.0)
"""Seconds after which what goes on is told again, first and at most; doubled each time. It may go on for days."""


class Use(Enum):
    TAKE = "take"
    """Publishing."""
    GIVE = "give"
    """Receiving."""


class _Told(NamedTuple):
    again_at: float
    pause: float


class BrokerLog:
    """Of one process, whatever part of it uses the broker: each tells how its own use goes, from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._failing: dict[Use, set[str]] = {}
        """By use, what it has met since it last worked: a fault may have two faces, by turns."""
        self._told: dict[str, _Told] = {}

    def failed(self, use: Use, error: BackendError) -> None:
        """`Unavailable` is an outage, which passes: told once for each use. Anything else is a fault of the set-up,
        which stays until somebody mends it: told once for all uses that meet it."""
        away = isinstance(error, Unavailable)
        what = use.value if away else str(error)
        with self._lock:
            self._failing.setdefault(use, set()).add(what)
            if not self._is_due(what):
                return
        if away:
            log.warning("the broker does not %s messages; jobs go on without it until it does: %s", use.value, error)
        else:
            log.error("the broker cannot be used, and jobs go on without it, until this is mended: %s", error)

    def worked(self, use: Use) -> None:
        with self._lock:
            met = self._failing.pop(use, set())
            over = met.difference(*self._failing.values())
            for what in over:
                del self._told[what]
        if over:
            log.warning("the broker %ss messages again", use.value)

    def _is_due(self, what: str) -> bool:
        now = self._clock()
        first, longest = AGAIN
        told = self._told.get(what)
        if told is None:
            self._told[what] = _Told(now + first, first)
            return True
        if now < told.again_at:
            return False
        pause = min(longest, 2 * told.pause)
        self._told[what] = _Told(now + pause, pause)
        return True
