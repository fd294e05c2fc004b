"""What has happened to the connections of one process."""

import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock

from later.core.ports import BrokerTrouble


class Trouble(StrEnum):
    """What is noticed and healed."""

    REFUSED = "connections that could not be opened"
    DENIED = "times the user, the virtual host or a right was refused"
    LOST = "connections lost"
    SILENT = "connections given up because nothing came"
    CHANNEL = "channels closed by the server"
    BLOCKED = "times the server was short of memory or disk"
    CANCELLED = "consumers cancelled by the server"
    UNROUTED = "messages returned because their queue was gone"
    UNCONFIRMED = "messages that the server did not confirm"
    FOREIGN = "messages that were not ours, or could not be read"
    STALE = "answers to messages of an earlier connection"


@dataclass(frozen=True, slots=True)
class BrokerHealth:
    """A snapshot."""

    publishing: bool
    """A connection for publishing is open."""
    receiving: bool
    blocked: bool
    """The server is short of memory or disk: it takes no messages at the moment."""
    last_error: str | None
    troubles: dict[Trouble, int]
    """How often each has happened in this process; what never happened is absent."""


class HealthLog:
    """Counts, from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[Trouble] = Counter()
        self._last_at: dict[Trouble, int] = {}
        self.last_error: str | None = None

    def note(self, trouble: Trouble, number: int = 1, error: BaseException | None = None) -> None:
        with self._lock:
            self._counts[trouble] += number
            self._last_at[trouble] = time.time_ns() // 1000
            if error is not None:
                self.last_error = str(error)

    def troubles(self) -> tuple[BrokerTrouble, ...]:
        """The latest first."""
        with self._lock:
            found = [
                BrokerTrouble(trouble.value, times, self._last_at[trouble]) for trouble, times in self._counts.items()
            ]
        return tuple(sorted(found, key=lambda trouble: -trouble.last_at))

    def counts(self) -> dict[Trouble, int]:
        with self._lock:
            return dict(self._counts)
