"""The clock that storages in a process of `later` read."""

import time

from later.core.records import Micros


def wall_clock() -> Micros:
    """What a storage reads when it is given no clock, unless a server has one: microseconds since the epoch."""
    return time.time_ns() // 1000
