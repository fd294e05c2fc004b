"""Receiving by consumers that come and go with the demand.

A queue's consumers may hold as many unanswered messages as are handed out, plus as many as the last `receive` asked
for. So a busy worker's next messages are on its side already, without a round trip. What nobody has fetched `LINGER`
seconds after it came is given back, and the consumers end: a worker that is busy for longer hides nothing from the
others. The next `receive` that finds too little starts a consumer again, which costs it a few round trips.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, takewhile
from threading import Condition
from typing import Any, ClassVar, Final, NamedTuple

from typing_extensions import override

from later.backends.rabbitmq.errors import again
from later.backends.rabbitmq.health import Trouble
from later.backends.rabbitmq.session import ANSWER, Channel, Session, Setup, log
from later.core.errors import BackendError, Unavailable
from later.core.messages import ForeignMessage, decode
from later.core.ports import Delivery
from later.core.records import Ref

LINGER: Final = 0.1
"""Seconds. About as far ahead as a worker claims: what it finishes in less is not worth giving back."""

CONSUMERS: Final = 4
"""Of one queue. A consumer's prefetch is fixed; more is got by another consumer, and beyond this number by one that
replaces them all, at the price that the server gets back what is on its way."""


_TOP_PREFETCH: Final = 0xFFFF


class Receipt(NamedTuple):
    """The tag of a delivery: only the session that got a message can answer it."""

    session: "Consuming"
    number: int


class _Message(NamedTuple):
    ref: Ref
    number: int
    came_at: float


@dataclass(slots=True, eq=False)
class _Line:
    """What is known about one queue. Guarded by `changed`."""

    queue: str
    name: str
    asked: int = 0
    """The prefetch that was asked for; 0: no consumer, and none on its way."""
    granted: int = 0
    """The prefetch of its consumers together. Session's thread only."""
    consumers: list[str] = field(default_factory=list[str])
    """Their tags. Session's thread only."""
    settled: bool = False
    """What waited in the queue when the first consumer began has arrived, up to the prefetch."""
    waiting: list[_Message] = field(default_factory=list[_Message])
    """Arrived and not handed out."""
    handed: int = 0
    """Handed out and not answered."""
    foreign: int = 0
    error: BackendError | None = None


class Consuming(Session):
    what: ClassVar[str] = "receive"

    def __init__(self, setup: Setup, changed: Condition) -> None:
        super().__init__(setup, changed)
        self._lines: dict[str, _Line] = {}
        self._unanswered: dict[int, _Line] = {}
        """By number, in the order of arrival: what waits here, is handed out, or is about to be answered."""
        self._handed: set[int] = set()
        """Numbers of what is handed out."""
        self._receivers = 0
        self._left_at = 0.0
        """When the last receiver left."""
        self._sweeping = False
        self._tags = count(1)

    def receive(self, queues: Sequence[str], limit: int, wait: float, stop: Callable[[], bool]) -> list[Delivery]:
        """As `Broker.receive`; `stop` tells, under `changed`, that the caller is to return now."""
        now = time.monotonic()
        ends, settled_by = now + wait, now + ANSWER
        with self.changed:
            lines = [self._line(queue) for queue in dict.fromkeys(queues)]
            self._receivers += 1
            try:
                while True:
                    if self.ended:
                        if self.error is None:
                            return []
                        raise self.failure()
                    self._raise_errors(lines)
                    self._demand(lines, limit)
                    deliveries = self._take(lines, limit)
                    if deliveries or stop():
                        return deliveries
                    now = time.monotonic()
                    settled = all(line.settled for line in lines)
                    if settled and now >= ends:
                        return []
                    if not settled and now >= settled_by:
                        raise Unavailable(f"{self.place} did not start to deliver within {ANSWER:g} s")
                    self.changed.wait((ends if settled else settled_by) - now)
            finally:
                self._receivers -= 1
                self._left_at = time.monotonic()
                self._sweep_later()

    def ack(self, numbers: Collection[int]) -> None:
        self._answer(numbers, self._ack)

    def release(self, numbers: Collection[int]) -> None:
        self._answer(numbers, self._release)

    def _answer(self, numbers: Collection[int], answer: Callable[[set[int]], None]) -> None:
        """Take those that are handed out off the accounts, then have them answered."""
        with self.changed:
            handed = self._handed.intersection(numbers)
            self._handed -= handed
            for number in handed:
                self._unanswered[number].handed -= 1
        if handed:
            self.post(lambda: answer(handed))

    # --- in the caller's thread, under `changed`

    def _line(self, queue: str) -> _Line:
        line = self._lines.get(queue)
        if line is None:
            line = self._lines[queue] = _Line(queue, self.names.of(queue))
        return line

    def _raise_errors(self, lines: Sequence[_Line]) -> None:
        for line in lines:
            if line.error is not None:
                error, line.error = line.error, None
                raise again(error)

    def _demand(self, lines: Sequence[_Line], limit: int) -> None:
        """Have consumers started, or given more room, where less has come than is wanted."""
        # What is behind an unsettled queue cannot be taken: it must not be why that queue is never asked.
        if sum(len(line.waiting) for line in takewhile(lambda line: line.settled, lines)) >= limit:
            return
        starting: list[_Line] = []
        for line in lines:
            room = line.handed + limit
            if line.asked < room:
                line.asked = room
                starting.append(line)
        if starting:
            self.post(lambda: self._start(starting))

    def _take(self, lines: Sequence[_Line], limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        for line in lines:
            if not line.settled or len(taken) == limit:
                break  # what is behind an unsettled queue has to wait, or the order would be lost
            # Kept in the order of arrival within a priority.
            line.waiting.sort(key=lambda message: -message.ref.priority)
            wanted = line.waiting[: limit - len(taken)]
            del line.waiting[: len(wanted)]
            line.handed += len(wanted)
            self._handed.update(message.number for message in wanted)
            taken += [Delivery(message.ref, Receipt(self, message.number)) for message in wanted]
        return taken

    def _sweep_later(self) -> None:
        if not self._sweeping and not self.ended and any(line.asked for line in self._lines.values()):
            self._sweeping = True
            self.post(lambda: self._loop.call_later(LINGER, self._sweep))

    # --- in the session's thread

    @override
    def _on_ready(self) -> None:
        self._channel.add_on_cancel_callback(self._on_cancelled)
        self._set_open()

    def _start(self, lines: Sequence[_Line]) -> None:
        def declared(result: bool | BackendError) -> None:
            if isinstance(result, BackendError):
                with self.changed:
                    for line in lines:
                        line.asked, line.error = 0, result
                    self.changed.notify_all()
            elif not self.ended:
                self._consume(lines)

        self._declare([line.name for line in lines], declared)

    def _consume(self, lines: Sequence[_Line]) -> None:
        for line in lines:
            if line.asked <= line.granted:
                continue  # stopped meanwhile, or started by an earlier call that saw this demand too
            if len(line.consumers) == CONSUMERS:
                self._cancel(line)
            tag = f"{line.queue}-{next(self._tags)}"
            self._channel.basic_qos(prefetch_count=min(line.asked - line.granted, _TOP_PREFETCH))
            self._channel.basic_consume(line.name, partial(self._on_message, line), consumer_tag=tag)
            line.consumers.append(tag)
            line.granted = line.asked
        # What the queues had waiting is delivered behind the last consumer's confirmation, and before the answer to a
        # question that is asked after it.
        started = [(line, line.consumers[-1]) for line in lines if line.consumers]
        self._question(lambda: self._settle(started))

    def _question(self, then: Callable[[], None]) -> None:
        def answered(_frame: object) -> None:
            then()

        if not self.ended:
            self._channel.basic_qos(prefetch_count=0, callback=answered)

    def _settle(self, started: Sequence[tuple[_Line, str]]) -> None:
        with self.changed:
            for line, consumer in started:
                if consumer in line.consumers:
                    line.settled = True
            self.changed.notify_all()

    def _on_message(self, line: _Line, channel: Channel, method: Any, _properties: object, body: bytes) -> None:
        try:
            ref = decode(self.namespace, line.queue, body)
        except ForeignMessage as reason:
            channel.basic_reject(method.delivery_tag, requeue=False)
            self._note_foreign(line, reason)
            return
        with self.changed:
            line.waiting.append(_Message(ref, method.delivery_tag, time.monotonic()))
            self._unanswered[method.delivery_tag] = line
            if self._receivers:
                self.changed.notify_all()
            self._sweep_later()

    def _note_foreign(self, line: _Line, reason: ForeignMessage) -> None:
        self.health.note(Trouble.FOREIGN)
        line.foreign += 1
        if line.foreign & (line.foreign - 1) == 0:  # the 1st, 2nd, 4th, 8th: a flood is not to flood the log
            log.warning(
                "message number %d in the queue %s that is not one of ours was moved to %s: %s",
                line.foreign,
                line.name,
                self.names.dead,
                reason,
            )

    def _on_cancelled(self, frame: Any) -> None:
        """The server ended a consumer: its queue was deleted or has moved. It is declared again when it is wanted."""
        with self.changed:
            for line in self._lines.values():
                if frame.method.consumer_tag in line.consumers:
                    self.health.note(Trouble.CANCELLED)
                    self._declared.discard(line.name)
                    line.consumers.remove(frame.method.consumer_tag)
                    line.asked, line.settled = 0, False
                    self._cancel(line)
            self.changed.notify_all()

    def _sweep(self) -> None:
        """End consumers that nobody asks for, and give back what nobody has fetched in time."""
        if self.ended:
            return
        now = time.monotonic()
        idle = now - LINGER
        with self.changed:
            self._sweeping = False
            left = not self._receivers and self._left_at <= idle
            stopped = [
                line
                for line in self._lines.values()
                # What waits for its queue to settle has not been offered yet.
                if line.asked and (left or (line.settled and any(message.came_at <= idle for message in line.waiting)))
            ]
            numbers = [number for line in stopped for number in self._stop(line)]
            if not self._receivers or any(line.waiting for line in self._lines.values()):
                self._sweep_later()
        for line in stopped:
            self._cancel(line)
        for number in numbers:
            self._channel.basic_nack(number, requeue=True)

    def _stop(self, line: _Line) -> list[int]:
        """The numbers of the messages to give back."""
        line.asked, line.settled = 0, False
        numbers = [message.number for message in line.waiting]
        line.waiting.clear()
        for number in numbers:
            del self._unanswered[number]
        return numbers

    def _cancel(self, line: _Line) -> None:
        for consumer in line.consumers:
            # With an answer: pika gives back what is still on its way, until that has come.
            self._channel.basic_cancel(consumer, callback=_ignore)
        line.consumers.clear()
        line.granted = 0

    def _ack(self, numbers: set[int]) -> None:
        with self.changed:
            up_to = 0
            for number in self._unanswered:
                if number not in numbers:
                    break
                up_to = number
            for number in numbers:
                del self._unanswered[number]
        if up_to:
            self._channel.basic_ack(up_to, multiple=True)
        for number in sorted(number for number in numbers if number > up_to):
            self._channel.basic_ack(number)

    def _release(self, numbers: set[int]) -> None:
        with self.changed:
            lines = {self._unanswered.pop(number) for number in numbers}
            idle = [] if self._receivers else [line for line in lines if line.asked]
            numbers |= {number for line in idle for number in self._stop(line)}
        # First, or the messages would come straight back.
        for line in idle:
            self._cancel(line)
        for number in sorted(numbers):
            self._channel.basic_nack(number, requeue=True)


def _ignore(_frame: object) -> None:
    pass
