"""The connections of this process to one database file: opening, transactions, forks."""

import errno
import logging
import os
import random
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from sqlite3 import Connection
from threading import Lock
from typing import Final

from later.backends.sqlite.errors import check_place, primary_code, translate
from later.backends.sqlite.gate import Gate
from later.core.errors import ConfigError, StorageFull, StorageReadOnly, Unavailable, Unsupported
from later.core.forks import follow_forks

OLDEST: Final = (3, 37, 0)
"""The first SQLite with STRICT tables."""

_IDLE_READERS: Final = 4
"""Reading connections kept open between calls."""

_CHECKPOINT_PAGES: Final = 4000
"""Pages (of 4 KiB) in the write-ahead log before they are copied into the file. A checkpoint syncs the log and the
file; at SQLite's 1000, inserts one by one spend a noticeable part of their time on it."""

_LOG_BYTES: Final = 64 * 1024 * 1024
"""A log that one huge transaction has grown is cut back to this."""

_CACHE_KIB: Final = 16 * 1024
"""Page cache of the writing connection. SQLite's 2 MiB hold the hot end of about 5,000 jobs."""

_SHORTEST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.010
_PAUSE_SHARE: Final = 1 / 16
"""Seconds between attempts at another process's lock, and their share of the time waited so far. A transaction takes
about a millisecond. Pauses that double starve who has waited long, as SQLite's own do, up to 100 ms; short ones for
ever cost many processes that wait for each other their processors."""

_log: Final = logging.getLogger("later.sqlite")

_READ_ONLY: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Database:
    """One writing connection behind a lock, so that threads of this process queue up instead of polling SQLite's lock;
    a few reading connections, which see the last commit and block nobody; one to watch for commits.

    Opens at first use. Every method may be called from any thread; none may be called inside the block of another.

    Forks: a child must not use what the parent has open. SQLite tracks its file locks per process and file, and POSIX
    locks are not inherited, so even a new connection of the child would work without its locks, and the parent's last
    close would delete the log under it: commits get lost. So everything is closed before a fork, and both sides
    open anew when they need to.
    """

    def __init__(self, path: Path, synchronous: str, timeout: float) -> None:
        self.path = path
        self._synchronous = synchronous
        self._timeout = timeout
        self._start()
        follow_forks(self)

    def _start(self) -> None:
        self._pid = os.getpid()
        self._gate = Gate()
        self._writing = Lock()
        self._watching = Lock()
        self._pooling = Lock()
        self._writer: Connection | None = None
        self._watcher: Connection | None = None
        self._readers: list[Connection] = []

    @contextmanager
    def write(self, *, lightly: bool = False) -> Generator[Connection]:
        """One write transaction: committed, and synced, when the block ends; rolled back when it raises.

        lightly: not synced. The next transaction that is syncs
        this one too; a crash of the machine before that, though not one of a process, undoes it.

        BEGIN IMMEDIATE: what is read in it cannot change before the commit, and no reader has to become a writer,
        which fails when another one was faster. Waits up to the timeout for the turn, then raises Unavailable.
        """
        deadline = time.monotonic() + self._timeout
        self._check_process()
        with self._gate:
            if not self._writing.acquire(timeout=self._timeout):
                raise Unavailable(
                    f"other threads of this process kept the SQLite file {self.path} busy for {self._timeout:g} s: "
                    "try again, or raise the timeout of SQLite(...)"
                )
            try:
                connection = self._writer = self._writer or self._open(writes=True)
                try:
                    if lightly:
                        connection.execute("PRAGMA synchronous = NORMAL")
                    # Within: an interrupt may come between the BEGIN and the next line.
                    self._begin(connection, deadline)
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    _end(connection, "ROLLBACK")
                    raise
                finally:
                    if lightly:
                        self._sync_again(connection)
            except sqlite3.Error as error:
                # It may be broken (an I/O error) or the file another one by now: the next call opens anew.
                if self._writer is not None and primary_code(error) != sqlite3.SQLITE_BUSY:
                    _close(self._writer)
                    self._writer = None
                raise translate(error, self.path) from error
            finally:
                self._writing.release()

    def _sync_again(self, connection: Connection) -> None:
        try:
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        except sqlite3.Error:  # its transaction could not be ended
            _close(connection)
            self._writer = None

    def _begin(self, connection: Connection, deadline: float) -> None:
        first: float | None = None
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                now = time.monotonic()
                first = now if first is None else first
                pause = min(max(_SHORTEST_PAUSE, (now - first) * _PAUSE_SHARE), _LONGEST_PAUSE)
                if primary_code(error) != sqlite3.SQLITE_BUSY or now + pause > deadline:
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))

    @contextmanager
    def read(self) -> Generator[Connection]:
        """One view of the last commit for all statements of the block. Neither blocks a writer nor waits for one."""
        self._check_process()
        with self._gate:
            connection: Connection | None = None
            try:
                connection = self._take_reader() or self._open(writes=False)
                try:
                    connection.execute("BEGIN")
                    yield connection
                finally:
                    _end(connection, "COMMIT")
            except sqlite3.Error as error:
                if connection is not None:
                    _close(connection)
                    connection = None
                raise translate(error, self.path) from error
            finally:
                if connection is not None:
                    self._give_back(connection)

    @contextmanager
    def watch(self) -> Generator[Connection]:
        """A connection without a transaction, the same one every time until it is closed: `PRAGMA data_version` is to
        be compared with its own earlier values only."""
        self._check_process()
        with self._gate, self._watching:
            try:
                connection = self._watcher = self._watcher or self._open(writes=False)
                yield connection
            except sqlite3.Error as error:
                if self._watcher is not None:
                    _close(self._watcher)
                    self._watcher = None
                raise translate(error, self.path) from error

    def close(self) -> None:
        """Close every connection, after the calls that are under way. The last one of all processes copies the log into
        the file and removes it."""
        if self._pid != os.getpid():
            return
        self._close_all()
        self._gate.reopen()

    def _take_reader(self) -> Connection | None:
        with self._pooling:
            return self._readers.pop() if self._readers else None

    def _give_back(self, connection: Connection) -> None:
        with self._pooling:
            if len(self._readers) < _IDLE_READERS:
                self._readers.append(connection)
                return
        _close(connection)

    def _close_all(self) -> None:
        """Hold off new calls (until `reopen`), wait for those under way, close everything. Waits no longer than a call
        may take; then everything stays open."""
        if self._gate.shut(self._timeout + 1):
            for connection in (self._writer, self._watcher, *self._readers):
                if connection is not None:
                    _close(connection)
            self._writer = self._watcher = None
            self._readers.clear()

    def before_fork(self) -> None:
        """The gate stays shut until after the fork, so that nothing is opened in between."""
        self._close_all()

    def after_fork_in_parent(self) -> None:
        self._gate.reopen()

    def after_fork_in_child(self) -> None:
        if not self._opened():
            self._start()

    def _check_process(self) -> None:
        """Raise ConfigError in a child that inherited open connections: whatever it did with the file, even closing
        them, could cost commits."""
        if self._pid != os.getpid():
            if self._opened():
                raise ConfigError(
                    f"this process was forked while the SQLite file {self.path} was in use, and without Python's fork "
                    "hooks having closed it: start jobs in the child only, or fork with os.fork or multiprocessing"
                )
            self._start()

    def _opened(self) -> bool:
        connections = (self._writer, self._watcher, *self._readers)
        return self._gate.in_use or any(connection is not None for connection in connections)

    def _open(self, *, writes: bool) -> Connection:
        check_version()
        check_place(self.path)
        _create(self.path)
        connection = sqlite3.connect(self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection, writes=writes)
        except BaseException:
            _close(connection)
            raise
        return connection

    def _prepare(self, connection: Connection, *, writes: bool) -> None:
        # Functions and virtual tables in the schema of a file that somebody else made are not to be trusted.
        connection.execute("PRAGMA trusted_schema = OFF")
        self._use_log(connection)
        if writes:
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
            # Only `_begin` meets the lock of another writer, and it waits on its own.
            connection.execute("PRAGMA busy_timeout = 0")
        else:
            connection.execute("PRAGMA query_only = ON")

    def _use_log(self, connection: Connection) -> None:
        """Write-ahead logging: readers and the writer do not block each other, and a commit is one sync."""
        deadline = time.monotonic() + self._timeout
        while True:
            mode: str
            try:
                (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
                if mode != "wal":
                    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError as error:
                # SQLite does not wait here: two processes that open a new file at once could wait for each other.
                if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(_SHORTEST_PAUSE, _LONGEST_PAUSE))
        if mode != "wal":
            raise Unsupported(
                f"SQLite cannot keep a write-ahead log for {self.path}: the file must be on a local disk, "
                "not on a network share"
            )


def check_version() -> None:
    """Raise Unsupported when the SQLite library is too old."""
    if sqlite3.sqlite_version_info < OLDEST:
        oldest = ".".join(map(str, OLDEST[:2]))
        raise Unsupported(
            f"this Python uses SQLite {sqlite3.sqlite_version}; later needs {oldest} or newer: "
            "use a newer build of Python, or a newer system"
        )


def _create(path: Path) -> None:
    """Make a missing file readable by its owner only (payloads are private), within the umask; SQLite gives its -wal
    and -shm files the same mode. A file that exists is not opened: closing it again would drop SQLite's locks on it."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        if error.errno in _READ_ONLY:
            raise StorageReadOnly(
                f"the SQLite file {path} cannot be created ({error.strerror}): let this user write its folder"
            ) from error
        if error.errno in _FULL:
            raise StorageFull(f"no room is left to create the SQLite file {path}: free space on its disk") from error
        raise Unavailable(f"the SQLite file {path} cannot be created ({error.strerror})") from error
    # A worker that was started in another folder than the program would otherwise look idle.
    _log.info("there was no SQLite file %s: it is made now, without jobs", path)


def _end(connection: Connection, how: str) -> None:
    """Some errors have ended the transaction already."""
    if connection.in_transaction:
        connection.execute(how)


def _close(connection: Connection) -> None:
    with suppress(sqlite3.Error):
        connection.close()
