"""The Broker port on RabbitMQ."""

import os
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial

from typing_extensions import override

from later.backends.rabbitmq.consuming import Consuming, Receipt
from later.backends.rabbitmq.errors import ServerFault
from later.backends.rabbitmq.health import BrokerHealth, HealthLog, Trouble
from later.backends.rabbitmq.link import Link
from later.backends.rabbitmq.publishing import Publishing
from later.backends.rabbitmq.session import ANSWER, STARTING, Setup
from later.backends.rabbitmq.target import Target
from later.core.errors import BackendError, Unavailable
from later.core.ports import Broker, BrokerCapabilities, BrokerReport, BrokerState, BrokerTrouble, Delivery
from later.core.records import Ref


def capabilities(*, quorum: bool) -> BrokerCapabilities:
    return BrokerCapabilities(durable=True, shared=True, priority=not quorum)


class _Links:
    """The connections of one process."""

    def __init__(self, target: Target, tls: ssl.SSLContext | None, namespace: str, *, quorum: bool) -> None:
        self.health = HealthLog()
        setup = Setup(target, tls, namespace, quorum, self.health)
        self.publish = Link(lambda changed: Publishing(setup, changed))
        self.receive = Link(lambda changed: Consuming(setup, changed))
        self.wakes = 0
        """Guarded by the condition of `receive`."""


class RabbitBroker(Broker):
    """Opened lazily, in each process: after a fork the parent's connections are left alone."""

    def __init__(self, target: Target, tls: ssl.SSLContext | None, namespace: str, *, quorum: bool) -> None:
        self.capabilities = capabilities(quorum=quorum)
        self._address = target.address
        self._make: Callable[[], _Links] = partial(_Links, target, tls, namespace, quorum=quorum)
        self._by_pid: dict[int, _Links] = {}

    @override
    def declare(self, queues: Sequence[str]) -> None:
        if queues:
            self._receiving().declare(queues)

    @override
    def publish(self, refs: Sequence[Ref]) -> None:
        if refs:
            session = self._links().publish.session()
            assert session is not None
            session.publish(refs)

    @override
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        if not queues or limit < 1:
            return []
        links = self._links()
        wakes = links.wakes

        def woken() -> bool:
            return links.wakes != wakes

        ends = time.monotonic() + ANSWER
        while True:
            try:
                session = links.receive.session(woken)
                return [] if session is None else session.receive(queues, limit, wait, woken)
            except ServerFault:
                # A quorum queue that another connection is declaring at this moment: RabbitMQ says that it exists, and
                # fails when it is used, until its process has started.
                if time.monotonic() >= ends:
                    raise
                with links.receive.changed:
                    if links.receive.changed.wait_for(woken, STARTING):
                        return []

    @override
    def ack(self, deliveries: Sequence[Delivery]) -> None:
        for session, numbers in self._by_session(deliveries).items():
            session.ack(numbers)

    @override
    def release(self, deliveries: Sequence[Delivery]) -> None:
        for session, numbers in self._by_session(deliveries).items():
            session.release(numbers)

    @override
    def wake(self) -> None:
        links = self._links()
        with links.receive.changed:
            links.wakes += 1
            links.receive.changed.notify_all()

    @override
    def depth(self, queues: Sequence[str]) -> dict[str, int]:
        if not queues:
            return {}
        session = self._receiving()
        depths = session.depth(queues)
        return {queue: depths[session.names.of(queue)] for queue in queues}

    @override
    def report(self, queues: Sequence[str]) -> BrokerReport:
        links = self._links()
        state, error = BrokerState.CONNECTED, None
        depth: dict[str, int] = {}
        dead: int | None = None
        try:
            publishing = links.publish.session()
            assert publishing is not None
            if not publishing.takes_messages():
                state = BrokerState.BLOCKED
            session = self._receiving()
            depths = session.depth(queues, dead=True)
            depth, dead = {queue: depths[session.names.of(queue)] for queue in queues}, depths[session.names.dead]
        except BackendError as reason:
            away = isinstance(reason, Unavailable)
            state, error = BrokerState.UNREACHABLE if away else BrokerState.MISCONFIGURED, str(reason)
        return BrokerReport(self._address, state, error, depth, dead)

    @override
    def troubles(self) -> tuple[BrokerTrouble, ...]:
        return self._links().health.troubles()

    @override
    def close(self) -> None:
        links = self._links()
        links.publish.close()
        links.receive.close()

    def health(self) -> BrokerHealth:
        """How the connections of this process are doing. Opens none."""
        links = self._links()
        publishing = links.publish.peek()
        return BrokerHealth(
            publishing=publishing is not None,
            receiving=links.receive.peek() is not None,
            blocked=publishing is not None and publishing.blocked,
            last_error=links.health.last_error,
            troubles=links.health.counts(),
        )

    def _links(self) -> _Links:
        pid = os.getpid()
        links = self._by_pid.get(pid)
        # setdefault() is atomic. What the parent made stays referenced: nothing closes its sockets from here.
        return links if links is not None else self._by_pid.setdefault(pid, self._make())

    def _receiving(self) -> Consuming:
        session = self._links().receive.session()
        assert session is not None
        return session

    def _by_session(self, deliveries: Sequence[Delivery]) -> dict[Consuming, list[int]]:
        """The numbers of those that can still be answered."""
        current = self._links().receive.peek()
        answerable: dict[Consuming, list[int]] = {}
        for delivery in deliveries:
            receipt = delivery.tag
            if isinstance(receipt, Receipt) and receipt.session is current:
                answerable.setdefault(receipt.session, []).append(receipt.number)
            else:
                self._links().health.note(Trouble.STALE)
        return answerable
