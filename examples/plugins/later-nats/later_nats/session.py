"""One connection, from its opening to its end. Everything here runs on the broker's event loop.

The driver is told not to reconnect: a reconnected client would go on with pulls and receipts that the server may have
forgotten. A new session begins with nothing.
"""

# The driver annotates some of its dictionaries and keyword arguments in part only.
# pyright: reportUnknownMemberType=false

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api

from later.core.errors import BackendError, Unavailable
from later.core.messages import ForeignMessage, decode, encode
from later.core.records import Ref
from later_nats.errors import StreamMismatch, again, translate
from later_nats.lines import Line, Message
from later_nats.names import Names, token
from later_nats.target import Target
from later_nats.tls import context

OPENING: Final = 5.0
"""Seconds to connect and log in."""
ANSWER: Final = 5.0
"""Seconds for an answer of the server."""
PING: Final = 5
"""Seconds between pings; after two without an answer the connection is given up."""
ACK_WAIT: Final = 30.0
"""Seconds after which the server gives a reserved message to another, if this process is gone."""
LINGER: Final = 0.1
"""Seconds for which a message waits here for a `receive` before it is given back."""
POLL: Final = 30.0
"""Seconds that a pull waits in the server at most."""
HOLD: Final = 1.0
"""Seconds without a pull after one that the server did not want."""
MAX_WAITING: Final = 2048
"""Pulls that may wait in the server for messages of one queue: one for each process."""
DEAD_KEPT: Final = 1000
"""Messages that were not ours, kept to be looked at."""

_EXISTS: Final = 10058

log = logging.getLogger("later_nats")


class Session:
    def __init__(self, target: Target, namespace: str) -> None:
        self.namespace = namespace
        self.error: BackendError | None = None
        """Why it ended."""
        self.ended = False
        self.opened_at: float | None = None
        self.ended_at = 0.0
        self._target = target
        self._names = Names(namespace)
        self._client = Client()
        self._connected = False
        self._stream = self._client.jetstream(timeout=ANSWER)
        self._inbox = ""
        self._last_error: Exception | None = None
        self._declared = asyncio.Lock()
        self._has_stream = False
        self._has_dead = False
        self._lines: dict[str, Line] = {}
        self._reserved: dict[str, Message] = {}
        """By the subject that a message is answered to: what waits here or is handed out."""
        self._confirming = False
        self._sent = 0
        self._unconfirmed: dict[str, asyncio.Future[None]] = {}
        self._waiters: set[asyncio.Event] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- opening and ending

    async def open(self) -> None:
        """Connect and log in; `error` says why it could not."""
        try:
            # No wait_for() here or below: the one of Python 3.11 hides the task that a cancellation has to reach.
            async with asyncio.timeout(OPENING):
                await self._connect()
        except (nats.errors.Error, OSError, TimeoutError, UnicodeError) as error:
            cause = self._last_error if isinstance(error, (nats.errors.NoServersError, TimeoutError)) else error
            await self.end(translate(cause or error, self._target))
        except BaseException:
            await self.end(Unavailable(f"the connection to NATS at {self._target.place} was given up"))
            raise
        if self.ended:
            return
        self.opened_at = time.monotonic()
        self._start(self._keep_reserved())

    async def _connect(self) -> None:
        """To the first server that lets us in. The driver would give up at one that accepts and says nothing."""
        servers = list(self._target.servers)
        random.shuffle(servers)
        for server in servers[:-1]:
            try:
                async with asyncio.timeout(OPENING / len(servers)):
                    await self._connect_to(server)
            except (nats.errors.Error, OSError, TimeoutError, UnicodeError):
                log.debug("NATS at %s does not let us in; trying another", server)
                with suppress(Exception):
                    await asyncio.wait_for(self._client.close(), 0.1)
                self._client = Client()
            else:
                return
        await self._connect_to(servers[-1])

    async def _connect_to(self, server: str) -> None:
        target = self._target
        tls = context(target) if target.tls else None
        self._last_error = None

        def secret(text: str | None) -> Callable[[], str] | None:
            """The driver asks for it when the server has said what it wants, and after the handshake if any."""

            def tell() -> str:
                if tls is not None and not tls.used:
                    raise nats.errors.SecureConnWantedError
                return text or ""

            return None if text is None else tell

        await self._client.connect(
            [f"nats://{server}"],
            name=f"later {self.namespace}",
            tls=tls,
            user=secret(target.user),
            password=secret(target.password),
            token=secret(target.token),
            allow_reconnect=False,
            connect_timeout=int(OPENING),
            # The driver tries the server until it has failed more often than this.
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            ping_interval=PING,
            max_outstanding_pings=2,
            error_cb=self._on_error,
            disconnected_cb=self._on_closed,
            closed_cb=self._on_closed,
        )
        if tls is not None and not tls.used:
            raise nats.errors.SecureConnWantedError
        if not self._client.is_connected:
            raise nats.errors.StaleConnectionError
        self._connected = True
        self._stream = self._client.jetstream(timeout=ANSWER)
        self._inbox = self._client.new_inbox()

    async def _on_error(self, error: Exception) -> None:
        self._last_error = error

    async def _on_closed(self) -> None:
        if self._connected and not self.ended:
            self._ended(translate(self._last_error, self._target))

    async def end(self, error: BackendError | None) -> None:
        """Close at once; what is reserved comes back after `ACK_WAIT`."""
        self._ended(error)
        with suppress(Exception):
            await asyncio.wait_for(self._client.close(), 1)

    def _ended(self, error: BackendError | None) -> None:
        if self.ended:
            return
        self.ended, self.error, self.ended_at = True, error, time.monotonic()
        if self.opened_at is not None and error is not None:
            log.warning("the connection is made anew: %s", error)
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self.wake()

    async def close(self) -> None:
        """Give back what is reserved, then end."""
        if self.opened_at is None:
            await self.end(None)
            return
        with suppress(nats.errors.Error, TimeoutError, OSError, BackendError):
            # After the answer to the ping nothing more can come, so that all that came is given back.
            for line in self._lines.values():
                if line.subscription is not None:
                    await line.subscription.unsubscribe()
            await self._client.flush(1)
            await self._answer(list(self._reserved), Msg.Ack.Nak)
            await self._client.flush(1)
        await self.end(None)

    def failure(self) -> BackendError:
        return again(self.error) if self.error is not None else Unavailable("the broker was closed meanwhile")

    # --- streams and consumers

    async def declare(self, queues: Sequence[str]) -> None:
        await self._guard(self._declare(queues))

    async def _declare(self, queues: Iterable[str]) -> None:
        async with self._declared:
            await self._declare_stream()
            for queue in queues:
                line = self._line(queue)
                if not line.declared:
                    await self._declare_consumer(queue)
                    line.subscription = await self._client.subscribe(f"{line.inbox}.*", cb=self._receiver(line))
                    line.declared = True

    async def _declare_stream(self) -> None:
        if self._has_stream:
            return
        names = self._names
        wanted = api.StreamConfig(
            name=names.stream,
            description=f"messages of the app {self.namespace}; see later-nats",
            subjects=[names.subjects],
            retention=api.RetentionPolicy.WORK_QUEUE,
            storage=api.StorageType.FILE,
            num_replicas=self._target.replicas,
        )
        try:
            found = await self._stream.stream_info(names.stream)
        except nats.js.errors.NotFoundError:
            try:
                found = await self._stream.add_stream(wanted)
            except nats.js.errors.BadRequestError as error:
                if error.err_code != _EXISTS:
                    raise
                found = await self._stream.stream_info(names.stream)  # another process was faster
        # Limits, replicas and so on are the administrator's to change.
        if found.config.retention != api.RetentionPolicy.WORK_QUEUE or found.config.subjects != wanted.subjects:
            raise StreamMismatch(
                f"NATS at {self._target.place} has a stream {names.stream} that is no work queue of {names.subjects}: "
                f"delete it (nats stream rm {names.stream}); no job is lost by that, the storage has all"
            )
        self._has_stream = True

    async def _declare_consumer(self, queue: str) -> None:
        name = token(queue)
        subject = self._names.subject(queue)
        try:
            found = await self._stream.consumer_info(self._names.stream, name)
        except nats.js.errors.NotFoundError:
            found = await self._stream.add_consumer(
                self._names.stream,
                api.ConsumerConfig(
                    durable_name=name,
                    filter_subject=subject,
                    ack_policy=api.AckPolicy.EXPLICIT,
                    ack_wait=ACK_WAIT,
                    max_deliver=-1,
                    max_ack_pending=-1,
                    max_waiting=MAX_WAITING,
                ),
            )
        config = found.config
        if config.filter_subject != subject or config.ack_policy != api.AckPolicy.EXPLICIT or config.deliver_subject:
            raise StreamMismatch(
                f"NATS at {self._target.place} has a consumer {name} of the stream {self._names.stream} that is not "
                f"later's: delete it (nats consumer rm {self._names.stream} {name})"
            )

    def _line(self, queue: str) -> Line:
        line = self._lines.get(queue)
        if line is None:
            line = self._lines[queue] = Line(queue, f"{self._inbox}.{len(self._lines)}")
        return line

    # --- publishing

    async def publish(self, refs: Sequence[Ref]) -> None:
        await self._guard(self._publish(refs))

    async def _publish(self, refs: Sequence[Ref]) -> None:
        await self._declare([])
        try:
            await self._send(refs)
        except nats.js.errors.NoStreamResponseError:
            # The stream was deleted under us.
            self._has_stream = False
            await self._declare([])
            await self._send(refs)

    async def _send(self, refs: Sequence[Ref]) -> None:
        """Send all, then wait for all confirmations."""
        if not self._confirming:
            self._confirming = True
            await self._client.subscribe(f"{self._inbox}.confirm.*", cb=self._on_confirmed)
        first = self._sent
        self._sent += len(refs)
        loop = asyncio.get_running_loop()
        sent = {str(number): loop.create_future() for number in range(first, self._sent)}
        self._unconfirmed |= sent
        try:
            for number, ref in zip(sent, refs, strict=True):
                subject = self._names.subject(ref.queue)
                reply = f"{self._inbox}.confirm.{number}"
                await self._client.publish(subject, encode(self.namespace, ref), reply=reply)
            _, unanswered = await asyncio.wait(sent.values(), timeout=ANSWER)
        finally:
            for number in sent:
                self._unconfirmed.pop(number, None)
            # Each error is looked at: asyncio complains of those that nobody has seen.
            errors = [future.exception() for future in sent.values() if not future.cancel()]
        if unanswered:
            raise TimeoutError
        for error in errors:
            if error is not None:
                raise error

    async def _on_confirmed(self, message: Msg) -> None:
        confirmed = self._unconfirmed.get(message.subject.rpartition(".")[2])
        if confirmed is None or confirmed.done():
            return
        if message.headers:
            confirmed.set_exception(nats.js.errors.NoStreamResponseError())
            return
        error = json.loads(message.data).get("error")
        if error is None:
            confirmed.set_result(None)
        else:
            confirmed.set_exception(nats.js.errors.APIError(**error))

    # --- receiving

    async def receive(
        self, queues: Sequence[str], limit: int, ends: float, stop: Callable[[], bool], taken: list[Message]
    ) -> None:
        """Up to `limit` messages into `taken`, with at least one unless `ends` (of the monotonic clock) or `stop` came
        first. What is in `taken` is the caller's, also after an error."""
        queues = list(dict.fromkeys(queues))
        await self._guard(self._declare(queues), stop)
        if stop():
            return
        lines = [self._line(queue) for queue in queues]
        for line in lines:
            line.receivers += 1
        try:
            await self._take_at_once(lines, limit, stop, taken)
            while not taken and not stop() and time.monotonic() < ends:
                await self._wait(lines, ends, stop)
                for line in lines:
                    taken += line.take(limit - len(taken))
        finally:
            for line in lines:
                line.receivers -= 1
                self._sweep_later(line)

    async def _take_at_once(
        self, lines: Sequence[Line], limit: int, stop: Callable[[], bool], taken: list[Message]
    ) -> None:
        """What is there, queue by queue: asking all of them together would reserve more than the limit."""
        for line in lines:
            taken += line.take(limit - len(taken))
            if len(taken) == limit or stop():
                return
            if line.free:
                await self._pull(line, limit - len(taken))
            pull = line.pull
            # A pull that waits in the server, and has got nothing, says that there is nothing.
            if pull is not None and not pull.waits:
                if not await self._until(partial(line.is_over, pull), stop, pull.ends) and not stop():
                    await self._lost(line)
                taken += line.take(limit - len(taken))

    async def _wait(self, lines: Sequence[Line], ends: float, stop: Callable[[], bool]) -> None:
        """Until something came, or may have come."""
        for line in lines:
            if line.free:
                # One message of each queue only: the others stay for other processes, until this one asks again.
                await self._pull(line, 1, min(max(ends - time.monotonic(), 0.01), POLL))
        overdue = min(line.pull.ends if line.pull is not None else line.held_until for line in lines)
        await self._until(lambda: any(line.waiting or line.free for line in lines), stop, min(ends, overdue))
        for line in lines:
            if line.pull is not None and line.pull.ends <= time.monotonic():
                await self._lost(line)

    async def _pull(self, line: Line, number: int, wait: float = 0) -> None:
        """Ask for messages. Without `wait`, for what is there."""
        pull = line.begin(number, wait, time.monotonic() + wait + ANSWER)
        request: dict[str, Any] = {"batch": number}
        request |= {"expires": max(1, int(wait * 1e9))} if wait else {"no_wait": True}
        await self._guard(
            self._client.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._names.stream}.{token(line.queue)}",
                json.dumps(request).encode(),
                reply=f"{line.inbox}.{pull.number}",
            )
        )

    async def _lost(self, line: Line) -> None:
        """The server did not answer a pull: its consumer is gone, or it is in trouble."""
        line.pull = None
        await self._guard(self._redeclare(line))

    async def _redeclare(self, line: Line) -> None:
        async with self._declared:
            self._has_stream = False
            await self._declare_stream()
            await self._declare_consumer(line.queue)

    def _receiver(self, line: Line) -> Callable[[Msg], Coroutine[Any, Any, None]]:
        async def receive(message: Msg) -> None:
            status = (message.headers or {}).get("Status")
            if status is not None and not message.reply.startswith("$JS.ACK"):
                line.end(int(message.subject.rpartition(".")[2]))
                if status not in {"404", "408"}:  # nothing there, or not in time
                    # The consumer was deleted, has too many pulls waiting, or there is no JetStream any more (503).
                    # Without the pause it would be asked again at once, and again.
                    why = str((message.headers or {}).get("Description"))
                    log.info("NATS ended a pull from the queue %s: %s", line.queue, why)
                    line.held_until = time.monotonic() + HOLD
                    asyncio.get_running_loop().call_later(HOLD, self.wake)
                    if "deleted" in why.lower():
                        self._start(self._lost_quietly(line))
            else:
                self._arrived(line, message)
            self.wake()

        return receive

    async def _lost_quietly(self, line: Line) -> None:
        with suppress(BackendError):
            await self._lost(line)
            line.held_until = 0
            self.wake()

    def _arrived(self, line: Line, message: Msg) -> None:
        line.count()
        try:
            ref = decode(self.namespace, line.queue, message.data)
        except ForeignMessage as reason:
            self._start(self._bury(line, message, str(reason)))
            return
        arrived = self._reserved[message.reply] = Message(ref, message.reply)
        line.waiting.append(arrived)
        if line.receivers == 0:
            self._sweep_later(line)

    async def _bury(self, line: Line, message: Msg, reason: str) -> None:
        """Put away what nobody can read, and have it never delivered again."""
        log.warning("a message in the queue %s was put into %s: %s", line.queue, self._names.dead_stream, reason)
        try:
            if not self._has_dead:
                await self._stream.add_stream(
                    api.StreamConfig(
                        name=self._names.dead_stream,
                        description=f"what was no message of the app {self.namespace}; see later-nats",
                        subjects=[self._names.dead_subject],
                        storage=api.StorageType.FILE,
                        max_msgs=DEAD_KEPT,
                        max_bytes=16 * 2**20,
                        num_replicas=self._target.replicas,
                    )
                )
                self._has_dead = True
            await self._stream.publish(self._names.dead_subject, message.data)
        except (nats.errors.Error, TimeoutError) as error:
            log.warning("it could not be kept there, and is gone: %s", translate(error, self._target))
        with suppress(nats.errors.Error, OSError):
            await self._client.publish(message.reply, Msg.Ack.Term)

    def _sweep_later(self, line: Line) -> None:
        if line.waiting and not line.sweeping and not self.ended:
            line.sweeping = True
            asyncio.get_running_loop().call_later(LINGER, self._sweep, line)

    def _sweep(self, line: Line) -> None:
        line.sweeping = False
        if line.receivers == 0 and line.waiting and not self.ended:
            unwanted = [message.reply for message in line.take(len(line.waiting))]
            self._start(self._answer_quietly(unwanted, Msg.Ack.Nak))

    # --- answering

    async def ack(self, replies: Sequence[str]) -> None:
        await self._guard(self._answer(replies, Msg.Ack.Ack))

    async def release(self, replies: Sequence[str]) -> None:
        await self._guard(self._answer(replies, Msg.Ack.Nak))

    async def _answer(self, replies: Sequence[str], answer: bytes) -> None:
        for reply in replies:
            if self._reserved.pop(reply, None) is not None:
                await self._client.publish(reply, answer)

    async def _answer_quietly(self, replies: Sequence[str], answer: bytes) -> None:
        with suppress(nats.errors.Error, OSError):
            await self._answer(replies, answer)

    async def _keep_reserved(self) -> None:
        """Tell the server that this process is still there, for as long as it has something reserved."""
        with suppress(nats.errors.Error, OSError):  # the end of the session is told elsewhere
            while True:
                await asyncio.sleep(ACK_WAIT / 3)
                for reply in list(self._reserved):
                    await self._client.publish(reply, Msg.Ack.Progress)

    async def depth(self, queues: Sequence[str]) -> dict[str, int]:
        """One round trip."""
        counted = await self._counted(self._names.stream, self._names.subjects)
        return {queue: counted.get(self._names.subject(queue), 0) for queue in queues}

    async def look(self, queues: Sequence[str]) -> tuple[dict[str, int], int]:
        """As `depth`, and how many messages were put away."""
        dead = await self._counted(self._names.dead_stream, self._names.dead_subject)
        return await self.depth(queues), sum(dead.values())

    async def _counted(self, stream: str, subjects: str) -> dict[str, int]:
        """Messages by subject; none when there is no such stream."""
        counted: dict[str, int] = {}

        async def count() -> None:
            with suppress(nats.js.errors.NotFoundError):
                info = await self._stream.stream_info(stream, subjects_filter=subjects)
                counted.update(info.state.subjects or {})

        await self._guard(count())
        return counted

    # --- waiting

    async def _guard(self, work: Coroutine[Any, Any, None], stop: Callable[[], bool] = lambda: False) -> None:
        """Run `work`, but no longer than the session lasts, or until `stop`. Raises errors of later only."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self.wake())
        try:
            await self._until(lambda: task.done() or self.ended, stop, time.monotonic() + 4 * ANSWER)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        if task.cancelled():
            if self.ended:
                raise self.failure()
            if stop():
                return
            raise Unavailable(f"NATS at {self._target.place} did not answer within {4 * ANSWER:g} s")
        error = task.exception()
        if error is None or isinstance(error, BackendError):
            if error is not None:
                raise error
            return
        if self.ended:
            raise self.failure() from error
        if isinstance(error, TimeoutError) and "permissions violation" in str(self._last_error).lower():
            # The server tells of it beside the question, and does not answer that.
            error, self._last_error = self._last_error, None
        if isinstance(error, (nats.errors.Error, OSError)):
            raise translate(error, self._target) from error
        assert error is not None
        raise error

    async def _until(self, look: Callable[[], bool], stop: Callable[[], bool], ends: float) -> bool:
        """Wait for `look` to be true; False when `stop` or the time came first. Raises when the session ends."""
        changed = asyncio.Event()
        self._waiters.add(changed)
        try:
            while not look():
                if self.ended:
                    raise self.failure()
                left = ends - time.monotonic()
                if stop() or left <= 0:
                    return False
                changed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), left)
            return True
        finally:
            self._waiters.discard(changed)

    def wake(self) -> None:
        """Have everybody who waits look again."""
        for waiter in self._waiters:
            waiter.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
