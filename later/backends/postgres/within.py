"""Inserting within a transaction of the user's, on a connection of theirs.

What to say, and what to make of the answers, is one generator; it is run on a connection of either kind, sync or async.
"""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import psycopg
from psycopg import pq
from psycopg.adapt import Transformer
from psycopg.rows import tuple_row
from psycopg.types.string import StrDumperUnknown

from later.backends.postgres import arrays
from later.backends.postgres.errors import translate
from later.backends.postgres.rows import STATES, added
from later.backends.postgres.statements import Statements
from later.backends.postgres.wire import Query, Row, Value
from later.core import lifecycle
from later.core.errors import ConfigError, Unavailable, UnusableConnection
from later.core.records import Inserted, InsertVerdict, JobRecord, NewJob, State

_BINARY: Final = pq.Format.BINARY
_SEES_ALL: Final = frozenset({"read committed", "read uncommitted"})
"""Isolations in which every statement sees what was committed before it."""


class Ask(NamedTuple):
    """A statement in the user's transaction."""

    query: Query
    values: Mapping[str, Value]


class Look(NamedTuple):
    """A statement that reads, on a connection of the storage: it sees all that is committed, which the user's
    transaction need not."""

    query: Query
    values: Mapping[str, Value]


Script: TypeAlias = Generator[Ask | Look, list[Row], list[Inserted]]


class Within:
    """`channel`: where to notify; None: nowhere."""

    def __init__(
        self, sql: Statements, values: Callable[..., dict[str, Value]], *, outbox: bool, channel: str | None, place: str
    ) -> None:
        self._sql = sql
        self._values = values
        self._outbox = outbox
        self._channel = channel
        self._place = place
        self._own: str | None = None
        """Which server and database the storage's own connections lead to, as it was told last."""

    def check(self) -> Generator[Ask | Look, list[Row], tuple[int, str]]:
        """The time and the isolation. Raises UnusableConnection when it is not the database of the storage."""
        whereabouts = self._sql["whereabouts"], self._values()
        [(now, isolation, here)] = yield Ask(*whereabouts)
        if here != self._own:
            # The server may have been started anew since.
            [(_, _, self._own)] = yield Look(*whereabouts)
        if here != self._own:
            raise UnusableConnection(
                "the connection given leads to another database than that of the jobs, which is in PostgreSQL at "
                f"{self._place}: a job stored there would be lost. Give a connection to that database, or leave out "
                "`connection`"
            )
        return now, isolation

    def insert(self, jobs: Sequence[NewJob]) -> Script:
        now, isolation = yield from self.check()
        known: set[str] = yield from self._parents(jobs, isolation)
        fresh: dict[str, int] = {}
        for place, new in enumerate(jobs):
            if new.id not in fresh and (new.parent is None or new.parent in known or new.parent in fresh):
                fresh[new.id] = place
        records = {place: self._record(jobs[place], now) for place in fresh.values()}
        created: set[str] = set()
        if records:
            rows = json.dumps([added(job, has_children=False) for job in records.values()])
            answer = yield Ask(self._sql["insert_joining"], {"rows": rows})
            created = {job_id for (job_id,) in answer}
            # Those that wait are looked at again by whoever is woken.
            queues = {job.queue for job in records.values() if job.id in created and job.state is not State.SCHEDULED}
            created -= yield from self._seal(created, queues, isolation)
        others = {new.id for place, new in enumerate(jobs) if new.id not in created or fresh[new.id] != place}
        stored: dict[str, Row] = yield from self._stored(others, isolation)
        inserted: list[Inserted] = []
        for place, new in enumerate(jobs):
            if new.id in created and fresh[new.id] == place:
                job = records[place]
                ref = lifecycle.ref_of(job) if job.state is State.ENQUEUED else None
                inserted.append(Inserted(InsertVerdict.CREATED, job.state, ref))
            else:
                inserted.append(_verdict(new, stored.get(new.id)))
        return inserted

    def _record(self, new: NewJob, now: int) -> JobRecord:
        # Whatever the parent's state is now: the commit may be far away, and `unsettled` has it looked at then.
        parent_state = None if new.parent is None else State.ENQUEUED
        return lifecycle.create(new, parent_state, now, outbox=self._outbox)[0]

    def _parents(self, jobs: Sequence[NewJob], isolation: str) -> Generator[Ask | Look, list[Row], set[str]]:
        """Those that exist, of all that are named."""
        parents = {new.parent for new in jobs if new.parent is not None}
        if not parents:
            return set()
        found = yield Ask(self._sql["which_parents"], {"parents": arrays.texts(sorted(parents))})
        missing = parents - {job_id for (job_id,) in found}
        if missing and isolation not in _SEES_ALL:
            found = yield Look(self._sql["which_parents"], {"parents": arrays.texts(sorted(missing))})
            missing -= {job_id for (job_id,) in found}
        return parents - missing

    def _seal(self, created: set[str], queues: set[str], isolation: str) -> Generator[Ask | Look, list[Row], set[str]]:
        """Returns the ids that were taken after all, by jobs that have ended. From the insert on nobody else can insert
        under these ids, so that a look after it is the truth."""
        ids = arrays.texts(sorted(created))
        ended: list[Row] = []
        if isolation not in _SEES_ALL:
            ended = yield Look(self._sql["ended_twins"], {"ids": ids})
        told = sorted(queues) if self._channel is not None else []
        dropped = yield Ask(
            self._sql["seal"],
            {
                "ids": ids,
                "ended": arrays.texts([job_id for (job_id,) in ended]),
                "channel": self._channel or "",
                "queues": arrays.texts(told),
            },
        )
        return {job_id for (job_id,) in dropped if job_id is not None}

    def _stored(self, ids: set[str], isolation: str) -> Generator[Ask | Look, list[Row], dict[str, Row]]:
        if not ids:
            return {}
        found = yield Ask(self._sql["stored"], {"ids": arrays.texts(sorted(ids))})
        stored = {row[0]: row for row in found}
        missing = ids - stored.keys()
        if missing and isolation not in _SEES_ALL:
            found = yield Look(self._sql["stored"], {"ids": arrays.texts(sorted(missing))})
            stored |= {row[0]: row for row in found}
        return stored


def _verdict(new: NewJob, stored: Row | None) -> Inserted:
    if stored is not None:
        _, job_type, state, payload = stored
        if (job_type, payload) == (new.type, new.payload):
            return Inserted(InsertVerdict.EXISTS, STATES[state], None)
        return Inserted(InsertVerdict.CONFLICT, None, None)
    if new.parent is not None:
        return Inserted(InsertVerdict.NO_PARENT, None, None)
    raise Unavailable(f"the job with the id {new.id} was removed at this moment: try again")


# The user's connection

_NO_RIGHTS: Final = (
    "USAGE on the schema and on its sequence `turn`, SELECT on its tables, INSERT on job, tally and unsettled, and "
    "DELETE on job and unsettled"
)


def translated(error: psycopg.Error, place: str) -> Exception:
    """The error to raise instead of one on the user's connection."""
    code = error.sqlstate or ""
    if code.startswith("40"):
        return Unavailable(
            f"PostgreSQL at {place} let another transaction go first ({type(error).__name__}): roll back, and repeat "
            "your transaction from its beginning"
        )
    if code == "42501":
        return ConfigError(
            f"PostgreSQL at {place} does not let the user of the connection given store a job; grant {_NO_RIGHTS}, or "
            "connect as the user in the URL of the storage"
        )
    if not code and not isinstance(error, psycopg.OperationalError):
        return UnusableConnection(f"the connection given takes no statement: {type(error).__name__}")
    return translate(error, place)


Sync: TypeAlias = psycopg.Connection[Any]
Async: TypeAlias = psycopg.AsyncConnection[Any]


def connection_of(given: Any) -> Sync | Async:
    """The connection to use. Raises UnusableConnection, also for one in a state that takes no statement."""
    connection: Any = given.connection if _is(given, psycopg.Cursor, psycopg.AsyncCursor) else given
    if not _is(connection, psycopg.Connection, psycopg.AsyncConnection):
        kind = f"{type(given).__module__}.{type(given).__qualname__}"
        raise UnusableConnection(
            f"a {kind} is no connection that Postgres can store a job on: give a Connection or Cursor of psycopg "
            "(version 3), of SQLAlchemy with a postgresql+psycopg:// URL, or of Django with psycopg 3 installed"
        )
    if connection.closed:
        raise UnusableConnection("the connection given is closed")
    if connection.info.transaction_status == pq.TransactionStatus.INERROR:
        raise UnusableConnection(
            "the transaction of the connection given has failed: an earlier statement raised an error. Roll it back, "
            "or back to a savepoint, before you enqueue"
        )
    if connection.pgconn.pipeline_status != pq.PipelineStatus.OFF:
        raise UnusableConnection("the connection given is in pipeline mode: enqueue outside the `with` block of it")
    usable: Sync | Async = connection
    return usable


def _is(given: object, *classes: type) -> bool:
    return isinstance(given, classes)


def commits_by_itself(connection: Sync | Async) -> bool:
    """No transaction is open, and none is begun by a statement."""
    return connection.autocommit and connection.info.transaction_status == pq.TransactionStatus.IDLE


def ask(connection: Sync, step: Ask) -> list[Row]:
    # A cursor of our own: independent of the factories, adapters and preparing that the user has chosen.
    with psycopg.RawCursor(connection, row_factory=tuple_row) as cursor:
        cursor.adapters.register_dumper(str, StrDumperUnknown)
        cursor.execute(step.query.text, _parameters(step), prepare=False, binary=True)
        return _rows(cursor.pgresult)


async def aask(connection: Async, step: Ask) -> list[Row]:
    async with psycopg.AsyncRawCursor(connection, row_factory=tuple_row) as cursor:
        cursor.adapters.register_dumper(str, StrDumperUnknown)
        await cursor.execute(step.query.text, _parameters(step), prepare=False, binary=True)
        return _rows(cursor.pgresult)


def _parameters(step: Ask) -> list[str | None]:
    values = [step.values[name] for name in step.query.names]
    return [None if value is None else str(value) for value in values]


def _rows(result: "pq.abc.PGresult | None") -> list[Row]:
    assert result is not None
    loader = Transformer()
    loader.set_pgresult(result, format=_BINARY)
    return loader.load_rows(0, result.ntuples, tuple)
