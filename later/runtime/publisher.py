"""Hands refs to the broker behind the caller's back: a broker that is slow or gone neither delays nor fails anything.

What is not published here is found and published by the servers' upkeep: every Enqueued job whose `publish_by` has
passed.
"""

import atexit
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from later.core.errors import BackendError, Unavailable
from later.core.ports import Broker, Storage
from later.core.records import Ref
from later.runtime.broker_log import BrokerLog, Use
from later.runtime.log import log

WAITING_MOST: Final = 10_000
"""Refs beyond these are dropped: the memory of a process that enqueues must not grow while its broker is gone."""

BATCH: Final = 500
"""Refs in one publish: enough to hide the round trip, few enough to be confirmed long before `publish_by`."""

FLUSH: Final = 2.0
"""Seconds that a process waits at its end for what it has not published yet."""

CONFIRM_EVERY: Final = 1.0
"""Seconds for which confirmations are collected, to write them to the storage at once: most jobs are claimed by then,
which confirms them too. Well below the 5 s of `publish_by`."""

RETRY_FIRST: Final = 0.1
RETRY_LONGEST: Final = 5.0
"""Seconds between tries while the broker does not answer, doubled each time, with up to half of it in jitter. After
5 s the upkeep takes over anyway."""


class Publisher:
    """The publishing thread of one process, started at first use, stopped by `close` or at the end of the process."""

    def __init__(self, storage: Callable[[], Storage], broker: Callable[[], Broker], told: BrokerLog) -> None:
        self._storage = storage
        self._broker = broker
        self._told = told
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._waiting: deque[Ref] = deque()
        self._busy = False
        self._flushing = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        _publishers.add(self)

    def publish(self, refs: Sequence[Ref]) -> None:
        """Take refs over. Returns at once and never raises; beyond 10,000 waiting ones they are left to the upkeep."""
        with self._changed:
            self._waiting.extend(refs[: WAITING_MOST - len(self._waiting)])
            self._flushing = self._stopping = False
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="later-publisher", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads, or the interpreter is shutting down
                    self._waiting.clear()
                    return
                self._thread = thread
            self._changed.notify_all()

    def close(self, timeout: float = FLUSH) -> None:
        """Wait up to `timeout` seconds until everything is published, then stop. A later `publish` starts anew."""
        if os.getpid() != self._pid:  # forked: the thread, and what it had to publish, stayed with the parent
            return
        ends = time.monotonic() + timeout
        with self._changed:
            self._flushing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout)
            self._waiting.clear()
            self._stopping = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(max(0.0, ends - time.monotonic()))

    def _run(self) -> None:
        unconfirmed: list[Ref] = []
        confirm_at = 0.0
        while True:
            with self._changed:
                self._busy = bool(unconfirmed)
                self._changed.notify_all()
                self._changed.wait_for(
                    lambda: self._waiting or self._stopping or (unconfirmed and self._flushing),
                    max(0.0, confirm_at - time.monotonic()) if unconfirmed else None,
                )
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                if not batch and not unconfirmed:
                    # In the same step as the decision to end, so that `publish` starts another thread.
                    self._thread = None
                    return
                self._busy = True
                flush = self._flushing
            if batch and self._publish(batch):
                confirm_at = confirm_at if unconfirmed else time.monotonic() + CONFIRM_EVERY
                unconfirmed.extend(batch)
            if flush or len(unconfirmed) >= BATCH or time.monotonic() >= confirm_at:
                self._confirm(unconfirmed)
                unconfirmed.clear()

    def _publish(self, batch: list[Ref]) -> bool:
        """Whether the broker has taken them."""
        pause = RETRY_FIRST
        while True:
            try:
                self._broker().publish(batch)
                self._told.worked(Use.TAKE)
                return True
            except Unavailable as error:
                self._told.failed(Use.TAKE, error)
                with self._changed:
                    if self._changed.wait_for(lambda: self._stopping, pause * random.uniform(0.5, 1)):
                        return False
                pause = min(pause * 2, RETRY_LONGEST)
            except BackendError as error:
                self._told.failed(Use.TAKE, error)
                return False  # nothing has changed in a moment; the upkeep tries it later
            except Exception as error:  # noqa: BLE001  a faulty broker must not end this thread
                # Not again: the batch may be what the broker cannot take. The upkeep tries it later.
                log.warning("the broker refused messages; their jobs go on later: %s", type(error).__name__)
                return False

    def _confirm(self, refs: list[Ref]) -> None:
        if not refs:
            return
        try:
            self._storage().published(refs)
        except Exception as error:  # noqa: BLE001  unconfirmed only means that they are published once more
            log.debug("published messages could not be confirmed in the storage: %s", type(error).__name__)


_publishers: "weakref.WeakSet[Publisher]" = weakref.WeakSet()


def _close_all() -> None:
    ends = time.monotonic() + FLUSH
    for publisher in list(_publishers):
        publisher.close(max(0.0, ends - time.monotonic()))


# Runs before the interpreter freezes daemon threads.
atexit.register(_close_all)
