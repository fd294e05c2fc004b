"""A TCP proxy that spoils connections on demand."""

import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

_CHUNK: Final = 65536


@dataclass(eq=False)
class _Pipe:
    """One direction of one connection."""

    source: socket.socket
    target: socket.socket


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes everything on to another port, until it is told otherwise.

    Faults hold for all connections, present and future, until `heal`:
    - `drop`: cut all present connections, with a reset.
    - `refuse`: also cut new ones as soon as they come.
    - `cut_after(n)`: cut every connection when n more bytes have passed through all of them together.
    - `black_hole`: take everything, pass nothing on; connections stay up. A half-open link, for both sides.
    - `stall`: read nothing: what the client sends piles up in its own buffers.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake_up, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._pipes: dict[socket.socket, _Pipe] = {}
        self._refusing = self._swallowing = self._stalled = self._closed = self._dropping = False
        self._budget: int | None = None
        self.accepted = 0
        """Connections so far."""
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def drop(self) -> None:
        self._set(dropping=True)

    def refuse(self) -> None:
        self._set(refusing=True, dropping=True)

    def cut_after(self, number: int) -> None:
        self._set(budget=number)

    def black_hole(self) -> None:
        self._set(swallowing=True)

    def stall(self) -> None:
        self._set(stalled=True)

    def heal(self) -> None:
        self._set(refusing=False, swallowing=False, stalled=False, budget=None)

    def close(self) -> None:
        self._set(closed=True)
        self._thread.join()

    def _set(self, **state: object) -> None:
        with self._lock:
            for name, value in state.items():
                setattr(self, f"_{name}", value)
        self._wake_up.send(b"x")

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select(0.05 if self._stalled else None):
                with self._lock:
                    self._handle(key.fileobj)
            with self._lock:
                if self._dropping:
                    self._dropping = False
                    self._cut_all()
        self._cut_all()
        for end in (self._listener, self._wake_up, self._woken):
            end.close()
        self._selector.close()

    def _handle(self, end: object) -> None:
        if end is self._woken:
            self._woken.recv(_CHUNK)
        elif end is self._listener:
            self._accept()
        else:
            assert isinstance(end, socket.socket)
            pipe = self._pipes.get(end)
            if pipe is not None and not self._stalled:
                self._pass(pipe)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self.accepted += 1
        try:
            if self._refusing:
                raise ConnectionRefusedError
            server = socket.create_connection(("127.0.0.1", self._target_port), 5)
        except OSError:
            _reset(client)
            return
        for source, target in ((client, server), (server, client)):
            self._pipes[source] = _Pipe(source, target)
            self._selector.register(source, selectors.EVENT_READ)

    def _pass(self, pipe: _Pipe) -> None:
        try:
            data = pipe.source.recv(_CHUNK)
            if not data:
                raise ConnectionResetError
            if self._swallowing:
                return
            if self._budget is not None:
                data, self._budget = data[: self._budget], max(0, self._budget - len(data))
            pipe.target.sendall(data)
        except OSError:
            self._cut(pipe)
            return
        if self._budget == 0:
            self._budget = None
            self._cut_all()

    def _cut_all(self) -> None:
        for pipe in list(self._pipes.values()):
            self._cut(pipe)

    def _cut(self, pipe: _Pipe) -> None:
        for end in (pipe.source, pipe.target):
            if self._pipes.pop(end, None) is not None:
                self._selector.unregister(end)
                _reset(end)


def _reset(end: socket.socket) -> None:
    """Close with a reset, as a machine does that knows nothing of the connection."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


@contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
