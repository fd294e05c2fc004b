"""A transaction of the user's, on a connection of theirs."""

import sqlite3
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection, Cursor
from typing import Any, Final

from later.backends.sqlite.errors import translate
from later.backends.sqlite.statements import SQL
from later.core.errors import LaterError, Unavailable, UnusableConnection

_LEGACY: Final = -1
"""`Connection.autocommit` where Python 3.12 is not told to do otherwise; older ones have not got the attribute."""


class Own:
    """Executes on the user's connection what is written for our own: whatever row factory it has."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Any = ()) -> Cursor:
        return Cursor(self._connection).execute(statement, values)

    def executemany(self, statement: str, values: Iterable[Any]) -> Cursor:
        return Cursor(self._connection).executemany(statement, values)


def connection_of(given: object) -> Connection:
    """The connection to use. Raises UnusableConnection."""
    connection = given.connection if isinstance(given, Cursor) else given
    if not isinstance(connection, Connection):
        kind = f"{type(given).__module__}.{type(given).__qualname__}"
        raise UnusableConnection(
            f"a {kind} is no connection that SQLite can store a job on: give a Connection or Cursor of the module "
            "sqlite3, or one of SQLAlchemy or Django that uses it (an async one of aiosqlite does not)"
        )
    return connection


def commits_by_itself(connection: Connection) -> bool:
    """No transaction is open, and none is begun by a statement."""
    if connection.in_transaction:
        return False
    autocommit: bool | int = getattr(connection, "autocommit", _LEGACY)
    return connection.isolation_level is None if autocommit == _LEGACY else bool(autocommit)


@contextmanager
def borrowed(connection: Connection, path: Path) -> Generator[Own]:
    """The connection, for statements within the block. Raises UnusableConnection unless its main database is the file
    `path`; turns errors of the driver into others."""
    try:
        # The only setting that no cursor of our own is free of. Nobody else runs statements meanwhile, unless the user
        # shares the connection between threads, and then in no transaction that could be told from ours.
        factory, connection.text_factory = connection.text_factory, str
        try:
            own = Own(connection)
            _check_file(own, path)
            yield own
        finally:
            connection.text_factory = factory
    except sqlite3.ProgrammingError as error:
        raise UnusableConnection(f"the connection given takes no statement: {error}") from error
    except sqlite3.Error as error:
        raise _translated(error, path) from error


@contextmanager
def joined(connection: Connection, own: Own) -> Generator[None]:
    """Within the user's transaction, or in one that is begun for them; all of the block or nothing.

    With the turn to write: what is read in the block is true until the commit.
    """
    begun = not connection.in_transaction
    if begun:
        own.execute("BEGIN IMMEDIATE")
    try:
        own.execute("SAVEPOINT later_within")
        own.execute(SQL["take_turn"])
        yield
        own.execute("RELEASE later_within")
    except BaseException:
        # Some errors have ended the transaction already.
        if begun and connection.in_transaction:
            own.execute("ROLLBACK")
        elif connection.in_transaction:
            own.execute("ROLLBACK TO later_within")
            own.execute("RELEASE later_within")
        raise


def _check_file(own: Own, path: Path) -> None:
    file = next((file for _, name, file in own.execute("PRAGMA database_list") if name == "main"), "")
    # By name, not opened: closing a file drops all locks of the process on it.
    if not (file and path.exists() and path.samefile(file)):
        raise UnusableConnection(
            f"the connection given is to the SQLite file {file or '(none, in memory)'}, and the jobs are in {path}: a "
            "job stored there would be lost. Keep both in one file, or leave out `connection`"
        )


def _translated(error: sqlite3.Error, path: Path) -> LaterError:
    match getattr(error, "sqlite_errorcode", 0):
        case sqlite3.SQLITE_BUSY_SNAPSHOT:
            return Unavailable(
                f"the transaction on the SQLite file {path} has read before another one wrote, and cannot write any "
                "more: roll back and repeat it, begun by BEGIN IMMEDIATE"
            )
        case sqlite3.SQLITE_BUSY:
            return Unavailable(
                f"the SQLite file {path} stayed locked by another transaction for the timeout of the connection given: "
                "roll back and repeat yours"
            )
        case _:
            return translate(error, path)
