"""The Broker port on NATS JetStream: plain calls, each handed to an event loop in a thread of its own."""

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from typing_extensions import override

from later.core.errors import BackendError, Unavailable
from later.core.ports import Broker, BrokerCapabilities, BrokerReport, BrokerState, Delivery
from later.core.records import Ref
from later_nats.lines import Message
from later_nats.session import Session
from later_nats.target import Target

RETRY_FIRST: Final = 0.1
RETRY_LONGEST: Final = 2.0
"""Seconds between attempts to connect, doubled each time, with up to half of it in jitter."""

CANCELLED_AGAIN: Final = 1.5
"""Seconds for a cancelled task to end, before it is cancelled again: more than the one that a session ends within."""

LASTING: Final = 5.0
"""Seconds: the loss of a session that has lived for so long is no failure to connect: the next try is at once."""

_Value = TypeVar("_Value")


class Receipt(NamedTuple):
    """The tag of a delivery: only the session that got a message can answer it."""

    session: Session
    reply: str


async def _cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel until all have ended: `asyncio.wait_for` of Python 3.11, which the driver uses, forgets a cancellation
    that comes just as what it waits for ends (https://github.com/python/cpython/issues/86296)."""
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CANCELLED_AGAIN)


class _Link:
    """The way to a session: opens one when it is asked for, and waits longer after each failure. Loop's thread only."""

    def __init__(self, target: Target, namespace: str) -> None:
        self._make: Callable[[], Session] = partial(Session, target, namespace)
        self.current: Session | None = None
        self._opening: asyncio.Task[None] | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._woken: set[asyncio.Event] = set()

    async def session(self, stop: Callable[[], bool] = lambda: False) -> Session | None:
        """The open session; None when `stop` says so meanwhile. Raises the reason why the last attempt failed, without
        a new one until its pause is over."""
        session = self.current
        if session is None or session.ended:
            if session is not None and self._too_early(session):
                raise session.failure()
            session = self.current = self._make()
            self._opening = asyncio.ensure_future(session.open())
        opening = self._opening
        if opening is not None and not opening.done():
            woken = asyncio.Event()
            self._woken.add(woken)
            waking = asyncio.ensure_future(woken.wait())
            try:
                while not opening.done() and not stop():
                    woken.clear()
                    if waking.done():
                        waking = asyncio.ensure_future(woken.wait())
                    await asyncio.wait([opening, waking], return_when=asyncio.FIRST_COMPLETED)
            finally:
                waking.cancel()
                self._woken.discard(woken)
        if opening is not None and not opening.done():
            return None
        if session.ended:
            raise session.failure()
        self._opening = None
        return session

    def wake(self) -> None:
        """Have everybody who waits look again."""
        for woken in self._woken:
            woken.set()
        if self.current is not None:
            self.current.wake()

    async def close(self) -> None:
        session, opening = self.current, self._opening
        self.current = self._opening = None
        if opening is not None:
            await _cancelled([opening])
        if opening is not None and not opening.cancelled():
            opening.exception()  # looked at, so that asyncio does not complain
        if session is not None and not session.ended:
            await session.close()

    def _too_early(self, last: Session) -> bool:
        if last.opened_at is not None and last.ended_at - last.opened_at >= LASTING:
            self._failures = 0
            return False
        if self._retry_at <= last.ended_at:
            pause = min(RETRY_LONGEST, RETRY_FIRST * 2**self._failures)
            self._failures += 1
            self._retry_at = last.ended_at + pause * random.uniform(0.5, 1)
        return time.monotonic() < self._retry_at


class _Loop:
    """An event loop in a thread, from the first call to `close`. Made anew after that, and in each process."""

    def __init__(self, target: Target, namespace: str) -> None:
        self.link = _Link(target, namespace)
        self.wakes = 0
        self._name = f"later-nats-{namespace}"
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.closed = False

    def call(self, work: Coroutine[Any, Any, _Value]) -> _Value:
        """Run `work`, every part of which has a time limit of its own. Raises CancelledError when it was closed."""
        with self._lock:
            if self.closed:
                work.close()
                raise CancelledError
            future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def wake(self) -> None:
        with self._lock:
            self.wakes += 1
            if self._loop is not None and not self.closed:
                self._loop.call_soon_threadsafe(self.link.wake)

    def close(self) -> None:
        with self._lock:
            if self.closed:
                return
            self.closed = True
            if self._loop is None:
                return
            # In the order of the calls: what was begun before is ended by it.
            ended = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        assert self._thread is not None
        try:
            ended.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            # A daemon: a program may end without closing its broker.
            self._thread = threading.Thread(target=self._run, args=[self._loop], name=self._name, daemon=True)
            self._thread.start()
        return self._loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            loop.close()

    async def _end(self) -> None:
        await self.link.close()
        current = asyncio.current_task()
        await _cancelled([task for task in asyncio.all_tasks() if task is not current])
        loop = asyncio.get_running_loop()
        await loop.shutdown_asyncgens()
        await loop.shutdown_default_executor()


class NatsBroker(Broker):
    """Opened lazily, in each process: after a fork the parent's connection and thread are left alone."""

    def __init__(self, target: Target, namespace: str, capabilities: BrokerCapabilities) -> None:
        self.capabilities = capabilities
        self._place = target.place
        self._address = target.address
        self._make: Callable[[], _Loop] = partial(_Loop, target, namespace)
        self._loops: dict[int, _Loop] = {}
        """By process id. What the parent made stays referenced: nothing closes its sockets from here."""

    @override
    def declare(self, queues: Sequence[str]) -> None:
        if queues:
            self._call(lambda session: session.declare(queues))

    @override
    def publish(self, refs: Sequence[Ref]) -> None:
        if refs:
            self._call(lambda session: session.publish(refs))

    @override
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        if not queues or limit < 1:
            return []
        ends = time.monotonic() + wait
        loop = self._loop()
        wakes = loop.wakes

        def stop() -> bool:
            return loop.wakes != wakes

        async def work() -> list[Delivery]:
            taken: list[Message] = []
            session: Session | None = None
            try:
                session = await loop.link.session(stop)
                if session is not None:
                    await session.receive(queues, limit, ends, stop, taken)
            except BackendError:
                # What was taken is this worker's, whatever came then. A broker that is being closed has no more to say.
                if not taken and not loop.closed:
                    raise
            return [Delivery(message.ref, Receipt(session, message.reply)) for message in taken if session is not None]

        with suppress(CancelledError):  # closed meanwhile
            return loop.call(work())
        return []

    @override
    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._answer(deliveries, Session.ack)

    @override
    def release(self, deliveries: Sequence[Delivery]) -> None:
        self._answer(deliveries, Session.release)

    @override
    def wake(self) -> None:
        self._loop().wake()

    @override
    def depth(self, queues: Sequence[str]) -> dict[str, int]:
        return self._call(lambda session: session.depth(queues)) if queues else {}

    @override
    def report(self, queues: Sequence[str]) -> BrokerReport:
        try:
            depth, dead = self._call(lambda session: session.look(queues))
        except BackendError as error:
            away = isinstance(error, Unavailable)
            state = BrokerState.UNREACHABLE if away else BrokerState.MISCONFIGURED
            return BrokerReport(self._address, state, str(error))
        return BrokerReport(self._address, BrokerState.CONNECTED, None, depth, dead)

    @override
    def close(self) -> None:
        self._loop().close()

    def _loop(self) -> _Loop:
        pid = os.getpid()
        loop = self._loops.get(pid)
        if loop is not None and loop.closed:
            # pop() and setdefault() are atomic. A loop that nobody has called has no thread.
            self._loops.pop(pid, None)
            loop = None
        return loop if loop is not None else self._loops.setdefault(pid, self._make())

    def _call(self, work: Callable[[Session], Coroutine[Any, Any, _Value]]) -> _Value:
        loop = self._loop()

        async def run() -> _Value:
            session = await loop.link.session()
            assert session is not None
            return await work(session)

        try:
            return loop.call(run())
        except CancelledError:
            raise Unavailable(f"the connection to NATS at {self._place} was closed meanwhile") from None

    def _answer(
        self,
        deliveries: Sequence[Delivery],
        answer: Callable[[Session, Sequence[str]], Coroutine[Any, Any, None]],
    ) -> None:
        """Answer those that can still be answered: a message of an earlier session comes again."""
        loop = self._loop()
        current = loop.link.current
        replies = [
            delivery.tag.reply
            for delivery in deliveries
            if isinstance(delivery.tag, Receipt) and delivery.tag.session is current
        ]
        if current is not None and replies and not current.ended:
            # An answer that does not arrive is as one that was never given: the message comes again.
            with suppress(CancelledError, Unavailable):
                loop.call(answer(current, replies))
