"""Jobs in a PostgreSQL database: shared between hosts, transactional, with no other server needed."""

import re
from datetime import timedelta

from later.backends.postgres.target import Target, parse
from later.core.errors import InvalidOption
from later.core.ports import Storage, StorageOptions

_SCHEMA = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,39}")


class Postgres:
    """A PostgreSQL (13 or newer) database to keep jobs in; several apps may share it, and other programs too.

    url: postgresql://USER:PASSWORD@HOST:PORT/DATABASE (or postgres://), with any option of libpq after a `?`, such as
        sslmode=verify-full&sslrootcert=FILE, and with schema=NAME and pooler=yes, which mean the same as those below. A
        password may hold @, # and % as they are; percent-encode / and ?.
    schema: where the tables are ("later" when nothing is said). It is created if the user may create it; else create it
        for that user before.
    pooler: the URL leads to a pooler that gives a server connection away after each transaction (PgBouncer in
        transaction mode, and the like). Then nothing outlives a transaction: no prepared statements, no LISTEN; jobs
        are found by polling.
    timeout: how long a call waits for a connection, and for its answer, before it raises Unavailable.
    connections: how many one process opens at most, beside one that listens; they are opened as they are needed.

    Connects at first use, in each process. Jobs and their ends are as durable as the database commits: a database that
    commits asynchronously is asked to wait for its disk, unless behind a pooler.

    Raises ConfigError, InvalidOption.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str | None = None,
        pooler: bool = False,
        timeout: timedelta = timedelta(seconds=5),
        connections: int = 8,
    ) -> None:
        if not timedelta(0) < timeout <= timedelta(hours=1):
            raise InvalidOption(f"timeout {timeout!r} is outside 0 to 1 hour")
        if isinstance(connections, bool) or not isinstance(connections, int) or connections < 1:
            raise InvalidOption(f"connections {connections!r} is not a whole number of 1 or more")
        self._target: Target = parse(url)
        self._schema = schema or self._target.schema or "later"
        if _SCHEMA.fullmatch(self._schema) is None:
            raise InvalidOption("schema is not a name: 1 to 40 of a-z 0-9 _, not beginning with a digit or with pg_")
        self._pooler = pooler or self._target.pooler
        self._timeout = timeout
        self._connections = connections

    def __repr__(self) -> str:
        return f"Postgres({self._target.place})"

    def open_storage(self, options: StorageOptions) -> Storage:
        # Here, so that naming a database does not import a driver.
        from later.backends.postgres.connection import Database
        from later.backends.postgres.storage import PostgresStorage

        database = Database(
            self._target, pooler=self._pooler, timeout=self._timeout.total_seconds(), limit=self._connections
        )
        return PostgresStorage(database, self._schema, options)
