"""Finished jobs by the million, as copies of some that really ran: running ten million takes an hour."""

import sqlite3
from pathlib import Path
from typing import Final

import psycopg

_ORIGINALS: Final = 10_000
"""At most so many are copied, together, again and again."""

_POSTGRES_ORIGINALS: Final = (
    "CREATE TEMPORARY TABLE original AS SELECT * FROM later.ended WHERE state = 'Succeeded' LIMIT {originals}"
)
# As if they had been enqueued a second before the originals, and those of the next round another second. Ids sort by
# time, as those of the originals do.
_POSTGRES_COPY: Final = (
    """
    UPDATE original SET num = nextval('later.turn'), created_at = created_at - 1000000, state_at = state_at - 1000000,
        expires_at = expires_at - 1000000
    """,
    "UPDATE original SET id = lpad(to_hex(num), 12, '0') || substr(id, 13)",
    "INSERT INTO later.ended SELECT * FROM original LIMIT {count}",
    "INSERT INTO later.tally (app, jobs, queue, state) SELECT min(app), {count}, min(queue), 'Succeeded' FROM original",
)

_SQLITE_ORIGINALS: Final = (
    "CREATE TEMPORARY TABLE original AS SELECT * FROM later_job WHERE state = 'Succeeded' LIMIT {originals}",
    "CREATE TEMPORARY TABLE past AS SELECT * FROM later_history WHERE job IN (SELECT num FROM original)",
    "CREATE TEMPORARY TABLE step AS SELECT max(num) AS size FROM later_job",
)
_SQLITE_COPY: Final = (
    """
    UPDATE original SET num = num + (SELECT size FROM step), created_at = created_at - 1000000,
        state_at = state_at - 1000000, expires_at = expires_at - 1000000
    """,
    "UPDATE original SET id = printf('%012x', num) || substr(id, 13)",
    "UPDATE past SET job = job + (SELECT size FROM step)",
    "INSERT INTO later_job SELECT * FROM original LIMIT {count}",
    "INSERT INTO later_history SELECT * FROM past WHERE job IN (SELECT num FROM original LIMIT {count})",
    "UPDATE later_count SET jobs = jobs + {count} WHERE state = 'Succeeded'",
)


def copy_on_postgres(url: str, count: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_POSTGRES_ORIGINALS.format(originals=_ORIGINALS).encode())
        for portion in _portions(count, connection.execute("SELECT FROM original").rowcount):
            with connection.transaction():
                for statement in _POSTGRES_COPY:
                    connection.execute(statement.format(count=portion).encode())
            connection.execute("VACUUM original")  # nobody else does it for a temporary table
        connection.execute("CHECKPOINT")  # so that writing it all to the disk is not measured with what follows


def copy_on_sqlite(path: Path, count: int) -> None:
    connection = sqlite3.connect(path, timeout=60)
    try:
        for statement in _SQLITE_ORIGINALS:
            connection.execute(statement.format(originals=_ORIGINALS))
        [(originals,)] = connection.execute("SELECT count(*) FROM original")
        for portion in _portions(count, originals):
            with connection:
                for statement in _SQLITE_COPY:
                    connection.execute(statement.format(count=portion))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # likewise
    finally:
        connection.close()


def _portions(count: int, most: int) -> list[int]:
    whole, rest = divmod(count, most)
    return [most] * whole + [rest] * (rest > 0)
