"""The connections of this process to one database: opening, lending, transactions, deadlines, forks."""

import math
import os
import random
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from threading import Condition, Lock
from typing import Any, Final, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from later.backends.postgres.errors import REPEATABLE, translate
from later.backends.postgres.target import Target
from later.backends.postgres.wire import Answer, DeadlineError, Query, Row, Value, Wire
from later.core.errors import ConfigError, Unavailable, Unsupported
from later.core.forks import follow_forks

T = TypeVar("T")

OLDEST: Final = 13
"""The first PostgreSQL that later works with: it has incremental sorts, which the listings need."""

_UNUSED: Final = 300.0
"""Seconds after which a connection that nobody needed is closed."""

_AGAIN: Final = 8
"""How often a transaction is begun anew that was rolled back for the sake of another one."""

_PAUSE: Final = 0.005
"""Seconds, on average, before it is. Jitter, because the other one does the same."""

_KEEPALIVE: Final = {
    "keepalives": "1",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "application_name": "later",
    "client_encoding": "utf-8",
}
"""A peer that vanished without a word is noticed by the kernel within half a minute also where nothing is sent."""

_BEGIN: Final = Query(b"BEGIN ISOLATION LEVEL READ COMMITTED")
_BEGIN_READING: Final = Query(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
_COMMIT: Final = Query(b"COMMIT")
_ROLLBACK: Final = Query(b"ROLLBACK")


class Session:
    """One transaction on a lent connection. The statements of each `batch` take one round trip."""

    def __init__(self, wire: Wire, prologue: Query | None) -> None:
        self._wire = wire
        self._prologue = prologue
        self._begun = False

    @contextmanager
    def batch(self, *, last: bool = False, commits: bool = False, reading: bool = False) -> Generator[None]:
        """The answers to what is sent in the block are there after it, but for what is not awaited. `last`: commits
        behind it. `commits`: the block itself does. `reading`: the transaction only reads, and sees one moment."""
        # A batch that is the whole transaction needs no words for it.
        if not self._begun and (reading or not (last or commits) or self._prologue is not None):
            self._wire.send(_BEGIN_READING if reading else _BEGIN, {})
            if self._prologue is not None:
                self._wire.send(self._prologue, {})
            self._begun = True
        yield
        if last:
            self.commit()
        self._wire.exchange()

    def commit(self) -> None:
        """Commit. What the block of `batch` sends after it is a transaction of its own."""
        if self._begun:
            self._wire.send(_COMMIT, {})
            self._begun = False
        self._wire.divide()

    def no_more_awaited(self) -> None:
        """After `commit`: what the block of `batch` still sends is not waited for, and its failure not told."""
        self._wire.no_more_awaited()

    def finish(self) -> None:
        """Commit unless that was done."""
        if self._begun:
            self._begun = False
            self._wire.send(_COMMIT, {})
            self._wire.exchange()

    def send(self, query: Query, values: Mapping[str, Value]) -> Answer:
        """Within `batch`."""
        return self._wire.send(query, values)

    def rows(self, query: Query, values: Mapping[str, Value], *, last: bool = False) -> list[Row]:
        """A round trip of its own, in the transaction; `last`: commits."""
        with self.batch(last=last):
            answer = self.send(query, values)
        return answer.rows

    def script(self, statements: str) -> None:
        """Several statements without values, in the transaction that was begun."""
        assert self._begun
        self._wire.script(statements)


class _Turn:
    """One of the connections that a process may have, as its borrower sees it. An object, so that it can be given back
    whether or not an interrupt came before it was taken."""

    closings = 0
    """Calls of `close` before it."""


class Database:
    """Opens connections in the calling thread, as they are needed: an error of the first one is the caller's error, at
    once. (psycopg's own pool opens them in threads, which do not survive a fork, and whose caller learns after a
    timeout only that there was none.)

    Every method may be called from any thread. A connection belongs to the process that opened it: after a fork the
    child forgets it without a word to the server.
    """

    def __init__(self, target: Target, *, pooler: bool, timeout: float, limit: int) -> None:
        self.place = target.place
        self.pooler = pooler
        self.timeout = timeout
        self._secrets = target.secrets
        self._limit = limit
        self.after_fork_calls: list[Callable[[], None]] = []
        """For what shares the fate of the connections: called in a child, where locks may be held by threads that
        it has not got."""
        connect_timeout = str(max(2, math.ceil(timeout)))
        self._options = {**_KEEPALIVE, "connect_timeout": connect_timeout, **target.options}
        self._settings = _settings(timeout, local=pooler)
        self._start()
        follow_forks(self)

    def _start(self) -> None:
        self._pid = os.getpid()
        self._changed = Condition(Lock())
        self._idle: list[tuple[Wire, float]] = []
        self._open: set[Wire] = set()
        self._lent: set[_Turn] = set()
        self._closings = 0

    def run(self, work: Callable[[Session], T], *, patience: float | None = None) -> T:
        """What `work` returns, when its transaction has committed. A transaction that was rolled back for the sake of
        another one is run again, so `work` may be called several times.

        `patience`: seconds, instead of the timeout. Raises the errors of `later.core.errors` only.
        """
        deadline = time.monotonic() + (patience or self.timeout)
        for attempt in range(_AGAIN):
            try:
                with self._lend(deadline) as wire:
                    session = Session(wire, self._settings if self.pooler else None)
                    done = work(session)
                    session.finish()
                    return done
            except REPEATABLE as error:
                if attempt + 1 == _AGAIN or time.monotonic() > deadline:
                    raise self.translated(error) from error
                time.sleep(random.uniform(0, 2 * _PAUSE))
            except psycopg.Error as error:
                raise self.translated(error) from error
        raise AssertionError

    def translated(self, error: psycopg.Error) -> Exception:
        if isinstance(error, DeadlineError):
            return Unavailable(f"PostgreSQL at {self.place} gave no answer within {self.timeout:g} s; try again")
        return translate(error, self.place, self._secrets)

    def close(self) -> None:
        """Close what is not in use now, and the rest when it is given back."""
        with self._changed:
            self._closings += 1
            wires = [wire for wire, _ in self._idle]
            self._idle.clear()
        for wire in wires:
            self.shut(wire)

    def open(self) -> Wire:
        """A new connection, outside the limit; `shut` ends it. Raises errors of the driver, and of
        `later.core.errors`."""
        # The driver executes nothing itself but `script`.
        connection = psycopg.connect(make_conninfo("", **self._options), autocommit=True)
        try:
            self._check(connection)
            wire = Wire(connection, prepares=not self.pooler, deadline=time.monotonic() + self.timeout)
        except BaseException:
            connection.close()
            raise
        with self._changed:
            self._open.add(wire)
        if not self.pooler:
            try:
                wire.send(self._settings, {})
                wire.exchange()
            except BaseException:
                self.shut(wire)
                raise
        return wire

    def shut(self, wire: Wire) -> None:
        with self._changed:
            self._open.discard(wire)
        wire.close()

    def _check(self, connection: "psycopg.Connection[Any]") -> None:
        version = connection.info.server_version // 10_000
        if version < OLDEST:
            raise Unsupported(f"PostgreSQL at {self.place} is of version {version}; later needs {OLDEST} or newer")
        encoding = connection.info.parameter_status("server_encoding")
        if encoding not in {None, "UTF8"}:
            raise ConfigError(
                f"the database of PostgreSQL at {self.place} stores text as {encoding}, which has not every character: "
                "create one with the encoding UTF8"
            )

    @contextmanager
    def _lend(self, deadline: float) -> Generator[Wire]:
        turn = _Turn()
        wire: Wire | None = None
        try:
            self._take(turn, deadline)
            wire = self._idle_wire(deadline) or self.open()
            wire.deadline = deadline
            yield wire
        except BaseException:
            if wire is not None:
                _roll_back(wire)
            raise
        finally:
            self._give_back(turn, wire)

    def _take(self, turn: _Turn, deadline: float) -> None:
        if self._pid != os.getpid():
            self.after_fork_in_child()
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._lent) < self._limit, deadline - time.monotonic()):
                raise Unavailable(
                    f"all {self._limit} connections of this process to PostgreSQL at {self.place} stayed in use: try "
                    "again, or raise `connections` of Postgres(...)"
                )
            turn.closings = self._closings
            self._lent.add(turn)

    def _idle_wire(self, deadline: float) -> Wire | None:
        """The one used last, if the server has not ended it meanwhile."""
        while True:
            with self._changed:
                if not self._idle:
                    return None
                wire, _ = self._idle.pop()
            alive = False
            try:
                alive = wire.alive(deadline)
            finally:
                if not alive:
                    self.shut(wire)
            if alive:
                return wire

    def _give_back(self, turn: _Turn, wire: Wire | None) -> None:
        now = time.monotonic()
        superfluous: list[Wire] = []
        with self._changed:
            self._lent.discard(turn)
            self._changed.notify()
            if wire is not None:
                if wire.idle and turn.closings == self._closings:
                    self._idle.append((wire, now))
                else:
                    superfluous.append(wire)
            if self._idle and self._idle[0][1] < now - _UNUSED:
                superfluous.append(self._idle.pop(0)[0])
        for unused in superfluous:
            self.shut(unused)

    # Forks

    def before_fork(self) -> None:
        self._changed.acquire()

    def after_fork_in_parent(self) -> None:
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """In the child: the parent's connections stay the parent's. Closing one would tell the server that the
        parent has gone; only this process's copies of the sockets are closed."""
        for wire in self._open:
            with suppress(OSError, psycopg.Error):
                os.close(wire.socket)
        _forgotten.extend(self._open)
        self._start()
        for call in self.after_fork_calls:
            call()


def _settings(timeout: float, *, local: bool) -> Query:
    """One statement that makes settings, for the transaction (`local`) or for the session.

    Plans: tables here grow and shrink faster than their statistics, and every statement is written for its indexes, so
    the planner is told to use them, and to plan once whatever the values; its costs then mean nothing, so it must not
    compile statements for being expensive.
    """
    settings = {
        "statement_timeout": str(math.ceil(timeout * 1000)),
        "idle_in_transaction_session_timeout": str(math.ceil(timeout * 4000)),
        "enable_seqscan": "off",
        "enable_bitmapscan": "off",
        "enable_mergejoin": "off",
        "jit": "off",
        "plan_cache_mode": "force_generic_plan",
        "search_path": "pg_catalog",
        # Of batches that are a transaction as they are.
        "default_transaction_isolation": "read committed",
    }
    made = [f"set_config('{name}', '{value}', {local})" for name, value in settings.items()]
    durable = f"set_config('synchronous_commit', 'on', {local})"
    made.append(f"CASE current_setting('synchronous_commit') WHEN 'off' THEN {durable} END")
    return Query(f"SELECT {', '.join(made)}".encode())


def _roll_back(wire: Wire) -> None:
    """End the transaction that failed, or else the connection."""
    if wire.in_transaction:
        try:
            wire.send(_ROLLBACK, {})
            wire.exchange()
        except psycopg.Error:
            wire.close()
    elif not wire.idle:
        wire.close()


_forgotten: list[Wire] = []
"""Connections of the parent process: kept, because the driver's clean-up of an object would speak to its server."""
