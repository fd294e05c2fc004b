"""Waking up other processes of this host: SQLite itself cannot tell them that something was committed."""

import errno
import os
import re
import select
import socket
import stat
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Final

from later.core.forks import follow_forks

_MODE: Final = 0o700
"""Of the folder. Another user who may use the file, and not the folder, is not told, and looks now and then."""

_NAME: Final = re.compile(r"[0-9a-f]{32}")

_LONGEST: Final = 100
"""Bytes of a path that every system takes as an address: Linux has room for 107, macOS for 103."""

_OPEN_FOLDERS: Final = Path("/proc/self/fd")

_GONE: Final = frozenset({errno.ECONNREFUSED, errno.ENOENT})


class Bells:
    """Every wait has a Unix datagram socket in the folder `FILE-wake`, and who has committed new jobs sends a byte to
    each of them. While nobody waits this costs the look into a folder that is empty or not there.

    Only a hint, which does not arrive where there are no such sockets, the path is too long for one, or the folder
    cannot be written: see `Bell.can_be_rung`. A folder that another user has made, or that is a link, is not touched.
    """

    def __init__(self, path: Path) -> None:
        self._folder = Path(f"{path}-wake")
        self._start()
        follow_forks(self)

    def _start(self) -> None:
        self._lock = Lock()
        self._own: set[Bell] = set()
        """Those of this process; reached without the folder."""
        self._sender: socket.socket | None = None

    def ring(self) -> None:
        """Wake up everybody who waits, in this process and in others. Never raises."""
        self.ring_own()
        with suppress(OSError):
            for path in self._others():
                self._ring(path)

    def ring_own(self) -> None:
        """Wake up everybody who waits in this process."""
        with self._lock:
            bells = list(self._own)
        for bell in bells:
            bell.ring()

    def close(self) -> None:
        """Remove the folder, unless somebody waits. Usable again afterwards."""
        with self._lock:
            sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()
        with suppress(OSError):
            if self._is_ours():
                self._folder.rmdir()

    @contextmanager
    def waiting(self) -> Generator["Bell"]:
        path = self._folder / uuid.uuid4().hex
        bell = Bell(self._bind(path))
        with self._lock:
            self._own.add(bell)
        try:
            yield bell
        finally:
            with self._lock:
                self._own.discard(bell)
            if bell.can_be_rung:
                with suppress(OSError):
                    path.unlink()
            bell.close()

    def _others(self) -> Iterator[Path]:
        if not hasattr(socket, "AF_UNIX") or not self._is_ours():
            return
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name):
                yield path

    def _is_ours(self) -> bool:
        try:
            found = self._folder.lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()

    def _bind(self, path: Path) -> socket.socket | None:
        if not hasattr(socket, "AF_UNIX"):
            return None
        listening: socket.socket | None = None
        try:
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            listening.setblocking(False)
            with suppress(FileExistsError):
                self._folder.mkdir(_MODE)
            if self._is_ours():
                with _address(path) as address:
                    listening.bind(address)
                return listening
        except OSError:
            pass
        if listening is not None:
            listening.close()
        return None

    def _ring(self, path: Path) -> None:
        try:
            with self._lock, _address(path) as address:
                if self._sender is None:
                    self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    self._sender.setblocking(False)
                self._sender.sendto(b"\0", address)
        except OSError as error:
            if error.errno in _GONE:  # its process was killed
                with suppress(OSError):
                    if stat.S_ISSOCK(path.lstat().st_mode):
                        path.unlink()

    def before_fork(self) -> None:
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """The waits are the parent's; a copy of their sockets would keep their addresses alive."""
        bells, sender = self._own, self._sender
        self._start()
        for bell in bells:
            bell.close()
        if sender is not None:
            sender.close()


@contextmanager
def _address(path: Path) -> Generator[str]:
    """Of the socket at this path. Linux reaches one whose path is longer than an address through an open folder."""
    if len(os.fsencode(path)) <= _LONGEST or not _OPEN_FOLDERS.is_dir():
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield f"{_OPEN_FOLDERS}/{folder}/{path.name}"
    finally:
        os.close(folder)


class Bell:
    """What one wait sleeps on."""

    def __init__(self, listening: socket.socket | None) -> None:
        self._listening = listening
        self._ringing, self._rope = socket.socketpair()
        self._ringing.setblocking(False)
        self._rope.setblocking(False)

    @property
    def can_be_rung(self) -> bool:
        """By other processes."""
        return self._listening is not None

    def ring(self) -> None:
        with suppress(OSError):  # closed, or has been rung so often that it need not be once more
            self._rope.send(b"\0")

    def sleep(self, seconds: float) -> None:
        """Until it is rung, which it may have been before."""
        sockets = [self._ringing] if self._listening is None else [self._ringing, self._listening]
        _await(sockets, max(0.0, seconds))
        for ringing in sockets:
            with suppress(BlockingIOError):
                while ringing.recv(4096):
                    pass

    def close(self) -> None:
        if self._listening is not None:
            self._listening.close()
        self._ringing.close()
        self._rope.close()


def _await(sockets: list[socket.socket], seconds: float) -> None:
    """Until one of them can be read."""
    if not hasattr(select, "poll"):
        select.select(sockets, [], [], seconds)
        return
    poll = select.poll()  # unlike select, it takes file descriptors of any number
    for each in sockets:
        poll.register(each, select.POLLIN)
    poll.poll(seconds * 1000)
