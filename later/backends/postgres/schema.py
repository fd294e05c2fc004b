"""Creating and upgrading the tables: `migrations/NNNN_name.sql`, each run once per schema."""

import zlib
from importlib.resources import files
from typing import Final, NamedTuple

from later.backends.postgres.connection import Database, Session
from later.backends.postgres.statements import Statements, quoted
from later.core.errors import SchemaMismatch

_PATIENCE: Final = 600.0
"""Seconds that an upgrade may take, and the wait for somebody else's."""

_KEY: Final = 0x6C617465 << 32
"""The upper half of the advisory lock's key: "late"."""


class Migration(NamedTuple):
    version: int
    name: str
    statements: str


def all_migrations() -> list[Migration]:
    """Those that this version of `later` knows, oldest first."""
    folder = files("later.backends.postgres") / "migrations"
    scripts = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    parts = [(*file.name.removesuffix(".sql").partition("_"), file.read_text("utf-8")) for file in scripts]
    return sorted(Migration(int(number), name, text) for number, _, name, text in parts)


def migrate(database: Database, schema: str) -> None:
    """Bring the schema to the newest version; only reads when it is there.

    All that is missing is one transaction, so a schema is never half upgraded; processes that start at once wait for
    the first of them, by an advisory lock, and find nothing left to do. Raises SchemaMismatch when the schema is newer.
    """
    known = all_migrations()
    newest = known[-1].version
    sql = Statements(schema, 0)

    def check(session: Session) -> int:
        """The version of the schema; 0 when `later` was never there."""
        if session.rows(sql["has_migrations"], {"schema": schema}) == [(False,)]:
            return 0
        [(version,)] = session.rows(sql["version"], {})
        if version > newest:
            raise SchemaMismatch(
                f"the schema {schema} of PostgreSQL at {database.place} has version {version}, written by a newer "
                f"later; this one knows versions up to {newest}: upgrade later-jobs here as well, or name another "
                "schema"
            )
        return int(version)

    def upgrade(session: Session) -> None:
        with session.batch():
            session.send(sql["wait_patiently"], {})
            session.send(sql["lock_upgrade"], {"key": _KEY | zlib.crc32(schema.encode())})
        version = check(session)
        if version == 0:
            session.rows(sql["create_schema"], {})
            session.rows(sql["create_migrations"], {})
        for migration in known:
            if migration.version > version:
                session.script(migration.statements.replace("{schema}", quoted(schema)))
                session.rows(sql["add_migration"], {"version": migration.version, "name": migration.name})

    if database.run(check) < newest:
        database.run(upgrade, patience=_PATIENCE)
