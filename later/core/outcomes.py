"""What a handler can say besides "done": return one of these, or raise it."""

from datetime import timedelta

from later.core.errors import InvalidOption
from later.core.retry import LONGEST


class Outcome(Exception):
    """Base of the outcomes. They are exceptions so that deeply nested code can raise them."""


class _Delayed(Outcome):
    def __init__(self, delay: timedelta, reason: str = "") -> None:
        if not isinstance(delay, timedelta):
            raise InvalidOption(
                f"{type(self).__name__} delay {delay!r} is not a timedelta: write timedelta(seconds=...)"
            )
        if not timedelta(0) <= delay <= LONGEST:
            raise InvalidOption(f"{type(self).__name__} delay {delay} is outside 0 to {LONGEST.days} days")
        super().__init__(delay, reason)
        self.delay = delay
        self.reason = reason


class RetryAfter(_Delayed):
    """Run again after `delay`; this run counts as an attempt. Failed when no attempt is left."""


class Snooze(_Delayed):
    """Run again after `delay`; this run does not count as an attempt."""


class Cancel(Outcome):
    """Give up for good: the job becomes Deleted with `reason`."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
