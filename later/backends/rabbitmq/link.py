"""The way to a session: opens one when it is asked for, and waits longer after each failure."""

import random
import time
from collections.abc import Callable
from threading import Condition
from typing import Final, Generic, TypeVar

from later.backends.rabbitmq.session import ANSWER, Session
from later.core.errors import Unavailable

RETRY_FIRST: Final = 0.1
RETRY_LONGEST: Final = 2.0
"""Seconds between attempts, doubled each time, with up to half of it in jitter. Callers have pauses of their own."""

LASTING: Final = 5.0
"""Seconds: the loss of a session that has lived for so long is no failure to connect: the next try is at once."""

_Session = TypeVar("_Session", bound=Session)


class Link(Generic[_Session]):
    def __init__(self, make: Callable[[Condition], _Session]) -> None:
        self.changed = Condition()
        self._make = make
        self._session: _Session | None = None
        self._failures = 0
        self._retry_at = 0.0

    def session(self, stop: Callable[[], bool] = lambda: False) -> _Session | None:
        """The open session; opens one, which may take some seconds. None when `stop` says so meanwhile.

        Raises the reason why the last attempt failed, without a new one until its pause is over.
        """
        ends = time.monotonic() + ANSWER
        with self.changed:
            session = self._session
            if session is None or session.ended:
                session = self._session = self._open(session)
            while not session.open:
                if session.ended:
                    raise session.failure()
                if stop():
                    return None
                if not self.changed.wait(ends - time.monotonic()):
                    raise Unavailable(f"{session.place} did not answer within {ANSWER:g} s")
            return session

    def peek(self) -> _Session | None:
        """The session if one is open."""
        session = self._session
        return session if session is not None and session.open else None

    def close(self) -> None:
        with self.changed:
            session, self._session = self._session, None
            self._failures, self._retry_at = 0, 0.0
            self.changed.notify_all()
        if session is not None:
            session.close()

    def _open(self, last: _Session | None) -> _Session:
        if last is not None and self._failed(last):
            raise last.failure()
        session = self._make(self.changed)
        session.start()
        return session

    def _failed(self, last: _Session) -> bool:
        """Whether it is too early after the end of `last`."""
        assert last.ended_at is not None
        if last.opened_at is not None and last.ended_at - last.opened_at >= LASTING:
            self._failures = 0
            return False
        if self._retry_at <= last.ended_at:
            pause = min(RETRY_LONGEST, RETRY_FIRST * 2**self._failures)
            self._failures += 1
            self._retry_at = last.ended_at + pause * random.uniform(0.5, 1)
        return time.monotonic() < self._retry_at
