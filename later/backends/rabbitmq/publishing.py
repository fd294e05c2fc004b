"""Publishing with confirms: persistent, mandatory, and returned to the caller only when the server has it."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition
from typing import Any, ClassVar, Final, NamedTuple

from pika import DeliveryMode, spec
from typing_extensions import override

from later.backends.rabbitmq.health import Trouble
from later.backends.rabbitmq.session import STARTING, Channel, Session, Setup
from later.core.errors import BackendError, Unavailable
from later.core.messages import encode
from later.core.records import Ref

WINDOW: Final = 1000
"""Messages on their way to the server at once: enough to hide the round trip and to share one sync of its disk."""

REFUSALS: Final = 10
"""How often a batch is sent of which the server refuses something: a second is enough for a quorum queue to start."""

CONFIRMED: Final = 5.0
"""Seconds for the confirms of one call, and one more for every 1,000 messages."""

_PROPERTIES: Final = [
    spec.BasicProperties(
        content_type="application/json", delivery_mode=DeliveryMode.Persistent.value, priority=priority
    )
    for priority in range(10)
]
"""By priority."""


class _Message(NamedTuple):
    queue: str
    priority: int
    body: bytes


@dataclass(slots=True, eq=False)
class _Batch:
    """The messages of one call."""

    messages: Sequence[_Message]
    answer: Callable[[bool | BackendError], None]
    unsent: "deque[_Message]" = field(init=False)
    unconfirmed: int = 0
    unrouted: set[str] = field(default_factory=set[str])
    """Queues that were gone."""
    sent_again: bool = False
    refusals: int = 0
    """How often the server has refused some of them."""
    refused: bool = False
    """It has refused some since they were last sent."""
    done: bool = False

    def __post_init__(self) -> None:
        self.unsent = deque(self.messages)


class Publishing(Session):
    what: ClassVar[str] = "publish"

    def __init__(self, setup: Setup, changed: Condition) -> None:
        super().__init__(setup, changed)
        self._sent = 0
        self._on_way: dict[int, _Batch] = {}
        """Unconfirmed messages by the channel's number for them, in the order of sending."""
        self._batches: deque[_Batch] = deque()
        """With messages to send."""

    def publish(self, refs: Sequence[Ref]) -> None:
        """Returns when the server has confirmed all. Raises Unavailable and what `declare` raises."""
        messages = [_Message(self.names.of(ref.queue), ref.priority, encode(self.namespace, ref)) for ref in refs]
        batches: list[_Batch] = []

        def submit(answer: Callable[[bool | BackendError], None]) -> None:
            batches.append(_Batch(messages, answer))
            self._submit(batches[0])

        try:
            self.ask(submit, CONFIRMED + len(refs) / 1000)
        finally:
            for batch in batches:  # what the caller has given up is not sent any more
                batch.done = True

    def takes_messages(self) -> bool:
        """Whether the server is not short of memory or disk, which it tells only who publishes: it is sent a message
        for nobody. Raises Unavailable."""

        def send(answer: Callable[[bool | BackendError], None]) -> None:
            self._enter(_Batch([_Message("", 0, b"")], answer))

        try:
            self.ask(send)
        except Unavailable:
            if self.blocked and not self.ended:
                return False
            raise
        return True

    @override
    def _on_ready(self) -> None:
        self._channel.add_on_return_callback(self._on_returned)
        self._channel.confirm_delivery(self._on_confirm, callback=self._on_confirming)

    def _on_confirming(self, _frame: object) -> None:
        self._set_open()

    @override
    def _set_blocked(self, blocked: bool) -> None:
        super()._set_blocked(blocked)
        if blocked:
            for batch in {*self._on_way.values(), *self._batches}:
                self._finish(batch, self._short())

    def _short(self) -> BackendError:
        return Unavailable(
            f"{self.place} is short of memory or disk and takes no messages at the moment: see rabbitmq-diagnostics "
            "alarms"
        )

    def _enter(self, batch: _Batch) -> None:
        if self.blocked:
            self._finish(batch, self._short())
        else:
            self._batches.append(batch)
            self._send()

    def _submit(self, batch: _Batch) -> None:
        if self.blocked:
            self._finish(batch, self._short())
            return

        def declared(result: bool | BackendError) -> None:
            if isinstance(result, BackendError):
                self._finish(batch, result)
            else:
                self._enter(batch)

        self._declare({message.queue for message in batch.messages}, declared)

    def _send(self) -> None:
        while self._batches and len(self._on_way) < WINDOW and not self.ended:
            batch = self._batches[0]
            if batch.done or not batch.unsent:
                self._batches.popleft()
                continue
            message = batch.unsent.popleft()
            self._sent += 1
            batch.unconfirmed += 1
            self._on_way[self._sent] = batch
            self._channel.basic_publish(
                "", message.queue, message.body, _PROPERTIES[message.priority], mandatory=bool(message.queue)
            )

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        confirmed = isinstance(method, spec.Basic.Ack)
        for number in self._answered(method.delivery_tag, method.multiple):
            batch = self._on_way.pop(number, None)
            if batch is None:
                continue
            batch.unconfirmed -= 1
            if not confirmed:
                self.health.note(Trouble.UNCONFIRMED)
                batch.refused = True
            if not batch.unconfirmed and not batch.unsent:
                self._all_answered(batch)
        self._send()

    def _answered(self, number: int, multiple: bool) -> Sequence[int]:
        if not multiple:
            return (number,)
        numbers: list[int] = []
        for sent in self._on_way:
            if sent > number:
                break
            numbers.append(sent)
        return numbers

    def _on_returned(self, _channel: Channel, method: Any, _properties: object, _body: bytes) -> None:
        """A queue is gone. Comes before the message's confirm, but does not say which message it was: all of the
        batches on their way to that queue are sent again."""
        self.health.note(Trouble.UNROUTED)
        self._declared.discard(method.routing_key)
        for batch in set(self._on_way.values()):
            batch.unrouted.add(method.routing_key)

    def _all_answered(self, batch: _Batch) -> None:
        if batch.refused:
            self._refused(batch)
            return
        lost = [message for message in batch.messages if message.queue in batch.unrouted]
        if not lost:
            self._finish(batch, True)
        elif batch.sent_again:
            self._finish(batch, Unavailable(f"{self.place} lost a queue as soon as it was declared"))
        else:
            batch.sent_again = True
            batch.unrouted.clear()
            batch.unsent.extend(lost)
            self._submit(batch)

    def _refused(self, batch: _Batch) -> None:
        batch.refusals += 1
        batch.refused = False
        if batch.refusals == REFUSALS:
            self._finish(batch, Unavailable(f"{self.place} did not take a message: the queue cannot store it"))
        else:
            batch.unsent.extend(batch.messages)
            self._loop.call_later(STARTING, lambda: None if self.ended else self._submit(batch))

    def _finish(self, batch: _Batch, result: bool | BackendError) -> None:
        if not batch.done:
            batch.done = True
            batch.answer(result)
