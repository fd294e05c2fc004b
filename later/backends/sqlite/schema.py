"""Creating and upgrading the tables: `migrations/NNNN_name.sql`, each run once per file."""

import sqlite3
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from sqlite3 import Connection
from typing import Final, NamedTuple

from later.backends.sqlite.connection import Database
from later.core.errors import SchemaMismatch
from later.core.records import Micros

_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS later_migration (
        version INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        applied_at INTEGER NOT NULL
    ) STRICT
"""


class Migration(NamedTuple):
    version: int
    name: str
    statements: str


def all_migrations() -> list[Migration]:
    """Those that this version of `later` knows, oldest first."""
    scripts = [file for file in (files("later.backends.sqlite") / "migrations").iterdir() if file.name.endswith(".sql")]
    parts = [(*file.name.removesuffix(".sql").partition("_"), file.read_text("utf-8")) for file in scripts]
    return sorted(Migration(int(number), name, text) for number, _, name, text in parts)


def migrate(database: Database, now: Micros) -> None:
    """Bring the file to the newest version; only reads when it is there.

    All that is missing is one transaction, so a file is never half upgraded; a second process that starts at once waits
    for the first and finds nothing left to do. Raises SchemaMismatch when the file is newer.
    """
    known = all_migrations()
    with database.read() as connection:
        version = _check(connection, known, database.path)
    if version == known[-1].version:
        return
    with database.write() as connection:
        version = _check(connection, known, database.path)
        connection.execute(_TABLE)
        for migration in known:
            if migration.version > version:
                # Not executescript, which commits what is open first.
                for statement in _split(migration.statements):
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO later_migration (version, name, applied_at) VALUES (?, ?, ?)",
                    (migration.version, migration.name, now),
                )


def _check(connection: Connection, known: list[Migration], path: Path) -> int:
    """The version of the file; 0 when `later` was never there."""
    exists = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'later_migration'").fetchone()
    if not exists:
        return 0
    version: int
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM later_migration").fetchone()
    newest = known[-1].version
    if version > newest:
        raise SchemaMismatch(
            f"the SQLite file {path} has schema version {version}, written by a newer later; this one knows versions "
            f"up to {newest}: upgrade later-jobs here as well, or name another file"
        )
    return version


def _split(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
