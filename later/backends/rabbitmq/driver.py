"""pika, made ready. The only place that reaches into what pika does not document."""

import logging
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import pika
from pika import exceptions, frame, spec
from typing_extensions import override

from later.backends.rabbitmq.target import Target

HEARTBEAT: Final = 20
"""Seconds. Not less, because a handler that holds the interpreter's lock for long also holds up the heartbeats."""

CONNECT: Final = 2.0
"""Seconds for one address of the host; the next one is tried after that."""

BLOCKED: Final = 120.0
"""Seconds that a server may be short of memory or disk before the connection is made anew."""

THREAD_PREFIX: Final = "later-rabbitmq-"
"""Begins the names of the threads in which connections live."""

_TCP_OPTIONS: Final = {"TCP_USER_TIMEOUT": 10_000}
"""Milliseconds until the kernel gives up a connection whose other end acknowledges nothing."""


if TYPE_CHECKING:

    class _SelectConnection:
        """What is used of pika's class, which type checkers cannot read."""

        is_open: bool
        is_closed: bool
        bytes_received: int
        server_properties: dict[str, object] | None
        _frame_buffer: bytes

        def __init__(
            self,
            parameters: pika.ConnectionParameters,
            on_open_callback: Callable[[Any], None],
            on_open_error_callback: Callable[[Any, BaseException], None],
            on_close_callback: Callable[[Any, BaseException], None],
            custom_ioloop: object,
        ) -> None: ...
        def channel(self, *, on_open_callback: Callable[[Any], None]) -> Any: ...
        def close(self) -> None: ...
        def add_on_connection_blocked_callback(self, callback: Callable[[Any, Any], None]) -> None: ...
        def add_on_connection_unblocked_callback(self, callback: Callable[[Any, Any], None]) -> None: ...
        def _terminate_stream(self, error: Exception) -> None: ...
        def _read_frame(self) -> tuple[int, object]: ...
        def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None: ...

else:
    _SelectConnection = pika.SelectConnection


class Connection(_SelectConnection):
    @property
    def version(self) -> str:
        """The server's, once the connection is open; "" when it does not say."""
        told = (self.server_properties or {}).get("version")
        return told if isinstance(told, str) else ""

    def abort(self) -> None:
        """Close the socket, whatever the other end does."""
        if not self.is_closed:
            self._terminate_stream(exceptions.StreamLostError("given up"))

    @override
    def _read_frame(self) -> tuple[int, object]:
        """As pika's, but a message with properties that pika cannot decode (a date beyond the year 9999, a number that
        is none, tables within tables) comes without them. Else each of its deliveries would end the connection."""
        try:
            return super()._read_frame()
        except Exception:
            bare = _without_properties(self._frame_buffer)
            if bare is None:
                raise
            return bare

    @override
    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        """One system call and one packet for a message, instead of three."""
        super()._output_marshaled_frames([b"".join(marshaled_frames)])


def _without_properties(data: bytes) -> tuple[int, frame.Header] | None:
    """The header frame at the beginning of `data`, its properties left out; None when that is another frame."""
    kind, channel, size = struct.unpack_from(">BHL", data)
    if kind != spec.FRAME_HEADER or len(data) < spec.FRAME_HEADER_SIZE + size + spec.FRAME_END_SIZE:
        return None
    body_size = struct.unpack_from(">Q", data, spec.FRAME_HEADER_SIZE + 4)[0]
    consumed = spec.FRAME_HEADER_SIZE + size + spec.FRAME_END_SIZE
    return consumed, frame.Header(channel, body_size, spec.BasicProperties())


def parameters(target: Target, tls: ssl.SSLContext | None, name: str) -> pika.ConnectionParameters:
    """`name`: how the connection is called in RabbitMQ's own lists."""
    return pika.ConnectionParameters(
        host=target.host,
        port=target.port,
        virtual_host=target.vhost,
        credentials=pika.PlainCredentials(target.user, target.password),
        ssl_options=None if tls is None else pika.SSLOptions(tls, target.host),
        heartbeat=HEARTBEAT,
        blocked_connection_timeout=BLOCKED,
        socket_timeout=CONNECT,
        stack_timeout=None,
        connection_attempts=1,
        client_properties={"product": "later", "connection_name": name},
        tcp_options=_TCP_OPTIONS if hasattr(socket, "TCP_USER_TIMEOUT") else None,
    )


class _NotOurs(logging.Filter):
    """Keeps what pika says about our connections out of the program's log: all that matters comes as an error of
    `later`, once, and without the addresses and traces of pika. Other users of pika in the process are left alone."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.threadName or "").startswith(THREAD_PREFIX)


def _hush() -> None:
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("pika."):
            logging.getLogger(name).addFilter(_NotOurs())


_hush()
