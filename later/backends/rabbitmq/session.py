"""One connection to RabbitMQ, from its opening to its end, in a thread of its own that does nothing but its input and
output. A session is never opened again: what was lost with it cannot come back by mistake.

Other threads hand work to the session's thread and wait on `changed`, the condition that guards what both see.
"""

import logging
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

from pika import exceptions
from pika.adapters.select_connection import IOLoop

from later.backends.rabbitmq.driver import THREAD_PREFIX, Connection, parameters
from later.backends.rabbitmq.errors import AccessRefused, again, too_old, translate
from later.backends.rabbitmq.health import HealthLog, Trouble
from later.backends.rabbitmq.names import Names
from later.backends.rabbitmq.target import Target
from later.core.errors import BackendError, Unavailable

log: Final = logging.getLogger("later.rabbitmq")

OPENING: Final = 4.0
"""Seconds for a connection to open: name look-up, TCP, TLS, login, channel."""

ANSWER: Final = 4.5
"""Seconds that a call waits for the connection or for one answer. More than `OPENING`, whose errors say more."""

STARTING: Final = 0.1
"""Seconds until the next try with a queue that cannot be used yet: it was declared a moment ago, or elects a leader."""

CLOSING: Final = 1.0
"""Seconds for the server to agree to the end of a connection."""

WATCH: Final = 1.0
PROBE: Final = 4.0
SILENCE: Final = 8.0
"""Seconds. Every `WATCH` a session looks whether anything came. After `PROBE` without a byte it asks for one, after
`SILENCE` it takes the connection for dead: a half-open one is noticed by that long before the second lost heartbeat."""

COUNTED: Final = 100
"""Queues that are counted at once, each on a channel of its own. A connection may have 2,047."""

QUORUM_SINCE: Final = (3, 8)
"""The first RabbitMQ with quorum queues. Older ones pass over the argument and make a classic queue, without a word."""

Channel: TypeAlias = Any
"""pika's Channel: its callbacks are not typed."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Setup:
    """What all sessions of a broker have in common."""

    target: Target
    tls: ssl.SSLContext | None
    namespace: str
    quorum: bool
    health: HealthLog


class Session(ABC):
    """What publishing and receiving have in common. Methods with an underscore run in the session's thread."""

    what: ClassVar[str]
    """For thread and connection names."""

    def __init__(self, setup: Setup, changed: Condition) -> None:
        self.namespace = setup.namespace
        self.names = Names(setup.namespace)
        self.health = setup.health
        self.changed = changed
        self.blocked = False
        self.opened_at: float | None = None
        self.ended_at: float | None = None
        self.error: BackendError | None = None
        """Why it ended; None when it was closed by us."""
        self._target = setup.target
        self._parameters = parameters(setup.target, setup.tls, f"later {setup.namespace} {self.what}")
        self._quorum = setup.quorum
        self._declared: set[str] = set()
        self._heard = 0
        self._heard_at = time.monotonic()
        self._closing = False
        self._loop: Any = IOLoop()
        self._connection: Connection | None = None
        self._channel: Channel = None
        self._thread = Thread(target=self._run, name=f"{THREAD_PREFIX}{self.what}", daemon=True)

    @property
    def place(self) -> str:
        return f"RabbitMQ at {self._target.place}"

    @property
    def open(self) -> bool:
        return self.opened_at is not None and self.ended_at is None

    @property
    def ended(self) -> bool:
        return self.ended_at is not None

    def start(self) -> None:
        """Begin to connect. Raises Unavailable when the process can have no more threads."""
        try:
            self._thread.start()
        except RuntimeError as error:
            self._loop.close()
            raise Unavailable(f"no thread can be started for {self.place}: {error}") from error

    def failure(self) -> BackendError:
        """What to raise after the end."""
        return again(self.error) if self.error is not None else Unavailable(f"the connection to {self.place} is closed")

    def post(self, work: Callable[[], None]) -> None:
        """Have `work` run in the session's thread; never, when the session has ended."""
        self._loop.add_callback_threadsafe(lambda: None if self.ended else work())

    def ask(self, work: Callable[[Callable[[_Value | BackendError], None]], None], timeout: float = ANSWER) -> _Value:
        """Have `work` run in the session's thread and wait until it, or what it started, calls back with a value, or
        with an error to raise. Raises Unavailable when the session ends or the time runs out."""
        answers: list[_Value | BackendError] = []

        def answer(value: _Value | BackendError) -> None:
            with self.changed:
                answers.append(value)
                self.changed.notify_all()

        self.post(lambda: work(answer))
        with self.changed:
            self.changed.wait_for(lambda: answers or self.ended, timeout)
            if answers:
                value = answers[0]
                if isinstance(value, BackendError):
                    raise again(value)
                return value
            if self.ended:
                raise self.failure()
        raise Unavailable(f"{self.place} did not answer within {timeout:g} s")

    def declare(self, queues: Sequence[str]) -> None:
        """Make the queues exist. Raises QueueMismatch, AccessRefused, Unavailable."""
        names = [self.names.of(queue) for queue in queues]

        def work(answer: Callable[[bool | BackendError], None]) -> None:
            self._declare(names, answer)

        self.ask(work)

    def depth(self, queues: Sequence[str], *, dead: bool = False) -> dict[str, int]:
        """How many messages wait, by RabbitMQ's name of the queue; those that were set aside, too, with `dead`."""
        names = sorted({self.names.of(queue) for queue in queues})
        if dead:
            names.append(self.names.dead)
        depths: dict[str, int] = {}
        for first in range(0, len(names), COUNTED):
            depths |= self._depths(names[first : first + COUNTED])
        return depths

    def _depths(self, names: Sequence[str]) -> dict[str, int]:
        depths: dict[str, int] = {}

        def count(answer: Callable[[bool | BackendError], None]) -> None:
            def counted(name: str, number: int) -> None:
                depths[name] = number
                if len(depths) == len(names):
                    answer(True)

            for name in names:
                self._count(name, counted, answer)

        self.ask(count)
        return depths

    def close(self) -> None:
        """End the session politely; returns when it has ended, within about a second."""
        self.post(self._close)
        self._thread.join(CLOSING + WATCH)

    # --- the thread

    def _run(self) -> None:
        try:
            self._connection = Connection(
                self._parameters,
                on_open_callback=self._on_open,
                on_open_error_callback=self._on_closed,
                on_close_callback=self._on_closed,
                custom_ioloop=self._loop,
            )
            self._loop.call_later(OPENING, self._too_late)
            self._loop.call_later(WATCH, self._watch)
            self._loop.start()
        except Exception as error:
            log.exception("the connection to %s is made anew after a defect", self.place)
            self._end(translate(error, self._target), Trouble.LOST)
        finally:
            self._leave()

    def _leave(self) -> None:
        """Close what is open, however the session has ended."""
        try:
            if self._connection is not None and not self._connection.is_closed:
                self._connection.abort()
                while not self._connection.is_closed:
                    self._loop.start()
        except Exception as error:  # noqa: BLE001  pika's, of an attempt to connect that ends in two ways at once
            log.debug("the connection to %s ended with a defect: %r", self.place, error)
        finally:
            self._loop.close()

    def _on_open(self, connection: Connection) -> None:
        connection.add_on_connection_blocked_callback(lambda _connection, _frame: self._set_blocked(True))
        connection.add_on_connection_unblocked_callback(lambda _connection, _frame: self._set_blocked(False))
        if self._quorum and (error := too_old(connection.version, QUORUM_SINCE, self._target)) is not None:
            self._end(error, Trouble.REFUSED)
            return
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Channel) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_closed)
        self._on_ready()

    @abstractmethod
    def _on_ready(self) -> None:
        """The channel is open: set it up, then call `_set_open`."""

    def _set_open(self) -> None:
        with self.changed:
            self.opened_at = time.monotonic()
            self.changed.notify_all()

    def _set_blocked(self, blocked: bool) -> None:
        with self.changed:
            self.blocked = blocked
        if blocked:
            self.health.note(Trouble.BLOCKED)

    def _on_channel_closed(self, _channel: Channel, reason: Exception) -> None:
        if self._connection is not None and self._connection.is_open:
            self._end(translate(reason, self._target), Trouble.CHANNEL)

    def _on_closed(self, _connection: Connection, error: BaseException | None) -> None:
        """The connection is down, or never came up."""
        trouble = Trouble.REFUSED if self.opened_at is None else Trouble.LOST
        self._end(None if self._closing else translate(error, self._target), trouble)
        self._loop.stop()

    def _too_late(self) -> None:
        if self.opened_at is None and not self.ended:
            self._end(
                Unavailable(f"{self.place} did not answer within {OPENING:g} s: is it a RabbitMQ?"), Trouble.REFUSED
            )

    def _watch(self) -> None:
        assert self._connection is not None
        now = time.monotonic()
        heard = self._connection.bytes_received
        if heard != self._heard:
            self._heard, self._heard_at = heard, now
        # A server that is short of memory reads nothing, so it answers no question; its heartbeats still come.
        elif self.open and not self.blocked:
            silent = now - self._heard_at
            if silent >= SILENCE:
                self._end(Unavailable(f"{self.place} has fallen silent: the connection is given up"), Trouble.SILENT)
                return
            if PROBE <= silent < PROBE + WATCH:
                self._connection.channel(on_open_callback=lambda channel: channel.close())
        self._loop.call_later(WATCH, self._watch)

    def _close(self) -> None:
        self._closing = True
        self._end(None, Trouble.LOST)

    def _end(self, error: BackendError | None, trouble: Trouble) -> None:
        """Tell the waiting threads at once, then close. The first reason counts."""
        if self.ended:
            return
        if error is not None:
            self.health.note(Trouble.DENIED if isinstance(error, AccessRefused) else trouble, error=error)
        with self.changed:
            self.error = error
            self.ended_at = time.monotonic()
            self.changed.notify_all()
        connection = self._connection
        if connection is None or connection.is_closed:
            return
        if not connection.is_open or trouble is Trouble.SILENT:
            connection.abort()
            return
        # Politely, so that acks on their way arrive; else the server also logs a client that died.
        connection.close()
        self._loop.call_later(CLOSING, connection.abort)

    # --- queues

    def _arguments(self, name: str) -> dict[str, object]:
        """What a queue is declared with. It can never be changed for a queue that exists."""
        # Named, because a virtual host may have another default.
        arguments: dict[str, object] = {"x-queue-type": "quorum" if self._quorum else "classic"}
        if name != self.names.dead:
            # A message that is refused goes there, moved by the server in one step.
            arguments |= {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": self.names.dead}
            if not self._quorum:
                arguments["x-max-priority"] = 9
        return arguments

    def _declare(self, names: Iterable[str], answer: Callable[[bool | BackendError], None]) -> None:
        """Declare what this session has not declared yet, on a channel of its own, because an error closes it."""
        missing = [name for name in dict.fromkeys([self.names.dead, *names]) if name not in self._declared]
        if not missing:
            answer(True)
            return

        def opened(channel: Channel) -> None:
            channel.add_on_close_callback(closed)
            for name in missing:
                # Without an answer but to the last: one round trip for all.
                channel.queue_declare(
                    name,
                    durable=True,
                    arguments=self._arguments(name),
                    callback=declared if name == missing[-1] else None,
                )

        def declared(_frame: object) -> None:
            self._declared.update(missing)
            if channel.is_open:
                channel.close()
            answer(True)

        def closed(_channel: Channel, reason: Exception) -> None:
            if not isinstance(reason, exceptions.ChannelClosedByClient):
                answer(translate(reason, self._target))

        assert self._connection is not None
        channel = self._connection.channel(on_open_callback=opened)

    def _count(self, name: str, counted: Callable[[str, int], None], failed: Callable[[BackendError], None]) -> None:
        def opened(channel: Channel) -> None:
            channel.add_on_close_callback(closed)
            channel.queue_declare(name, passive=True, callback=declared)

        def declared(frame: Any) -> None:
            counted(name, frame.method.message_count)
            if channel.is_open:
                channel.close()

        def closed(_channel: Channel, reason: Exception) -> None:
            if isinstance(reason, exceptions.ChannelClosed) and reason.reply_code == 404:
                counted(name, 0)
            elif not isinstance(reason, exceptions.ChannelClosedByClient):
                failed(translate(reason, self._target))

        assert self._connection is not None
        channel = self._connection.channel(on_open_callback=opened)
