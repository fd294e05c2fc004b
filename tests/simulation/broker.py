"""A broker that loses, repeats, delays, reorders and makes up messages, goes away and comes back empty."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from later.core.ports import Delivery
from later.core.records import Ref
from tests.simulation.faults import MESSAGE_FAULTS, Fault, Weather
from tests.simulation.scheduler import Actor, Scheduler


@dataclass(frozen=True, slots=True)
class Message:
    ref: Ref
    forged: bool = False


@dataclass(slots=True, eq=False)
class _Listener:
    actor: Actor
    queues: Sequence[str]
    limit: int
    received: Callable[[Sequence[Delivery]], None]
    failed: Callable[[], None]


class SimBroker:
    def __init__(self, scheduler: Scheduler, weather: Weather, struck: Callable[[Ref, Fault], None]) -> None:
        """`struck`: told of every message that a fault has hit."""
        self.scheduler = scheduler
        self.weather = weather
        self.up = True
        self._struck = struck
        self._random = scheduler.random("broker")
        self._queues: dict[str, list[Message]] = {}
        self._reserved: dict[int, tuple[Actor, Message]] = {}
        self._tags = count(1)
        self._listeners: list[_Listener] = []

    def publish(self, refs: Sequence[Ref]) -> bool:
        """Take the messages; False when that is not confirmed."""
        if not self.up:
            return False
        for ref in refs:
            fault = self.weather.first_of(MESSAGE_FAULTS)
            if fault is not None:
                self._struck(ref, fault)
            match fault:
                case Fault.MESSAGE_LOST:
                    pass
                case Fault.MESSAGE_REPEATED:
                    self._add(Message(ref))
                    self.scheduler.after(self._random.uniform(0, 20), self._add, Message(ref))
                case Fault.MESSAGE_LATE:
                    self.scheduler.after(self._random.uniform(0, 20), self._add, Message(ref))
                case Fault.MESSAGE_REORDERED:
                    self._add(Message(ref), first=self._random.random() < 0.5)
                case _:
                    self._add(Message(ref))
        return not self.weather.strikes(Fault.UNCONFIRMED)

    def forge(self, ref: Ref) -> None:
        self._add(Message(ref, forged=True))

    def receive(
        self,
        actor: Actor,
        queues: Sequence[str],
        limit: int,
        wait: float,
        received: Callable[[Sequence[Delivery]], None],
        failed: Callable[[], None],
    ) -> None:
        if not self.up:
            actor.after(self._latency(), failed)
            return
        listener = _Listener(actor, queues, limit, received, failed)
        self._listeners.append(listener)
        self.scheduler.after(wait, self._give_up, listener)
        self._serve()

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._reserved.pop(_tag(delivery), None)

    def release(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            _, message = self._reserved.pop(_tag(delivery), (None, None))
            if message is not None:
                self._add(message)

    def is_forged(self, delivery: Delivery) -> bool:
        _, message = self._reserved.get(_tag(delivery), (None, None))
        return message is None or message.forged

    def disconnect(self, actor: Actor) -> None:
        """The actor has died: what it had reserved goes back."""
        self._listeners = [listener for listener in self._listeners if listener.actor is not actor]
        for tag in [tag for tag, (owner, _) in self._reserved.items() if owner is actor]:
            self._add(self._reserved.pop(tag)[1])

    def depth(self, queues: Iterable[str]) -> dict[str, int]:
        return {queue: len(self._queues.get(queue, ())) for queue in queues}

    def go_down(self, *, wiped: bool) -> None:
        self.up = False
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.actor.after(self._latency(), listener.failed)
        for _, message in self._reserved.values():
            self._queues.setdefault(message.ref.queue, []).append(message)
        self._reserved.clear()
        if wiped:
            for messages in self._queues.values():
                for message in messages:
                    self._struck(message.ref, Fault.BROKER_WIPED)
            self._queues.clear()

    def come_up(self) -> None:
        self.up = True

    def _add(self, message: Message, *, first: bool = False) -> None:
        queue = self._queues.setdefault(message.ref.queue, [])
        queue.insert(0 if first else len(queue), message)
        if self.up:
            self._serve()

    def _serve(self) -> None:
        for listener in list(self._listeners):
            taken: list[Message] = []
            for name in listener.queues:
                queue = self._queues.get(name, [])
                while queue and len(taken) < listener.limit:
                    taken.append(queue.pop(0))
            if not taken:
                continue
            self._listeners.remove(listener)
            if self.weather.strikes(Fault.RECEIVE_FAILED):
                listener.actor.after(self._latency(), listener.failed)
                self.scheduler.after(self._random.uniform(0.1, 5.0), self._return, taken)
                continue
            deliveries = [Delivery(message.ref, next(self._tags)) for message in taken]
            for delivery, message in zip(deliveries, taken, strict=True):
                self._reserved[_tag(delivery)] = listener.actor, message
            listener.actor.after(self._latency(), listener.received, deliveries)

    def _return(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._add(message)

    def _give_up(self, listener: _Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)
            listener.actor.after(self._latency(), listener.received, [])

    def _latency(self) -> float:
        return self._random.uniform(0.0005, 0.01)


def _tag(delivery: Delivery) -> int:
    assert isinstance(delivery.tag, int)
    return delivery.tag
