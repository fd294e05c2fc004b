"""What one session knows about one queue. Only its event loop touches this."""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from nats.aio.subscription import Subscription

from later.core.records import Ref


class Message(NamedTuple):
    ref: Ref
    reply: str
    """The subject to answer it to."""


@dataclass(slots=True)
class Pull:
    """A question for messages that the server has not answered in full."""

    number: int
    wanted: int
    waits: bool
    """In the server, until messages come; otherwise it is answered at once."""
    ends: float
    """Of the monotonic clock: when it is lost."""


@dataclass(slots=True, eq=False)
class Line:
    queue: str
    inbox: str
    declared: bool = False
    subscription: Subscription | None = None
    waiting: deque[Message] = field(default_factory=deque[Message])
    """Arrived and not handed out."""
    pull: Pull | None = None
    """At most one at a time, so that it is known whose messages come."""
    held_until: float = 0.0
    receivers: int = 0
    sweeping: bool = False
    _pulls: int = 0

    @property
    def free(self) -> bool:
        """Whether a pull may begin."""
        return self.pull is None and time.monotonic() >= self.held_until

    def is_over(self, pull: Pull) -> bool:
        return self.pull is not pull

    def take(self, limit: int) -> list[Message]:
        return [self.waiting.popleft() for _ in range(min(limit, len(self.waiting)))]

    def begin(self, wanted: int, wait: float, ends: float) -> Pull:
        self._pulls += 1
        self.pull = Pull(self._pulls, wanted, wait > 0, ends)
        return self.pull

    def end(self, number: int) -> None:
        if self.pull is not None and self.pull.number == number:
            self.pull = None

    def count(self) -> None:
        """A message came."""
        if self.pull is not None:
            self.pull.wanted -= 1
            if self.pull.wanted == 0:
                self.pull = None
