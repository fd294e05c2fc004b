"""Hints in this process's memory."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Condition

from typing_extensions import override

from later.core.ports import Broker, BrokerCapabilities, BrokerReport, BrokerState, Delivery
from later.core.records import Ref


@dataclass(slots=True)
class Exchange:
    """What all brokers that were opened with one namespace of one `Memory` share."""

    queues: dict[str, dict[int, deque[Ref]]] = field(default_factory=dict[str, dict[int, deque[Ref]]])
    """By queue and priority."""
    changed: Condition = field(default_factory=Condition)
    """Its lock guards everything here. Notified when a message arrived, and by `wake`."""
    wakes: int = 0


class MemoryBroker(Broker):
    capabilities = BrokerCapabilities(durable=False, shared=False, priority=True)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._changed = exchange.changed
        self._tags = count()
        self._reserved: dict[object, Ref] = {}

    @override
    def declare(self, queues: Sequence[str]) -> None:
        with self._changed:
            for queue in queues:
                self._exchange.queues.setdefault(queue, {})

    @override
    def publish(self, refs: Sequence[Ref]) -> None:
        with self._changed:
            for ref in refs:
                self._line(ref).append(ref)
            self._changed.notify_all()

    @override
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        with self._changed:
            wakes = self._exchange.wakes
            self._changed.wait_for(
                lambda: self._exchange.wakes != wakes or any(self._depth(queue) for queue in queues), wait
            )
            deliveries: list[Delivery] = []
            lines = [
                line
                for queue in queues
                for _, line in sorted(self._exchange.queues.get(queue, {}).items(), reverse=True)
            ]
            for line in lines:
                while line and len(deliveries) < limit:
                    delivery = Delivery(line.popleft(), next(self._tags))
                    self._reserved[delivery.tag] = delivery.ref
                    deliveries.append(delivery)
            return deliveries

    @override
    def ack(self, deliveries: Sequence[Delivery]) -> None:
        with self._changed:
            for delivery in deliveries:
                self._reserved.pop(delivery.tag, None)

    @override
    def release(self, deliveries: Sequence[Delivery]) -> None:
        with self._changed:
            self._give_back([delivery.tag for delivery in deliveries])

    @override
    def wake(self) -> None:
        with self._changed:
            self._exchange.wakes += 1
            self._changed.notify_all()

    @override
    def depth(self, queues: Sequence[str]) -> dict[str, int]:
        with self._changed:
            return {queue: self._depth(queue) for queue in queues}

    @override
    def report(self, queues: Sequence[str]) -> BrokerReport:
        return BrokerReport("memory:", BrokerState.CONNECTED, depth=self.depth(queues), dead=0)

    @override
    def close(self) -> None:
        with self._changed:
            self._give_back(list(self._reserved))

    def _give_back(self, tags: Sequence[object]) -> None:
        """Put messages back where they were: in front. A tag that is no longer reserved is ignored."""
        for tag in reversed(tags):
            ref = self._reserved.pop(tag, None)
            if ref is not None:
                self._line(ref).appendleft(ref)
        self._changed.notify_all()

    def _line(self, ref: Ref) -> deque[Ref]:
        return self._exchange.queues.setdefault(ref.queue, {}).setdefault(ref.priority, deque())

    def _depth(self, queue: str) -> int:
        return sum(map(len, self._exchange.queues.get(queue, {}).values()))
