"""Jobs in transactions of the user's, on connections of psycopg."""

import asyncio
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import psycopg
import pytest
from psycopg import IsolationLevel
from psycopg.adapt import Loader
from psycopg.rows import dict_row

from later import BackgroundJobs, ConfigError, DuplicateJob, State, Unavailable, UnknownParent, UnusableConnection
from later.backends.postgres import Postgres
from later.backends.postgres.storage import PostgresStorage
from later.core.lifecycle import Cause, Change
from later.core.ports import Storage, StorageOptions
from later.core.records import SECOND, Claimant, InsertVerdict, NewJob, On, Ref, ServerInfo
from tests.support.jobs import Work, jobs_of, work
from tests.support.postgres import PostgresServer
from tests.support.servers import Apart

Connection: TypeAlias = psycopg.Connection[Any]
Connect: TypeAlias = Callable[..., Connection]

BY = Claimant("server", "worker")
ISOLATIONS = [IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]
STRICT = ISOLATIONS[1:]


class InNamespace:
    """The backend, in a namespace that only one test uses."""

    def __init__(self, url: str, prefix: str) -> None:
        self._open = Apart(Postgres(url).open_storage, prefix)

    def open_storage(self, options: StorageOptions) -> Storage:
        return self._open(options)


@pytest.fixture
def users_url(postgres_url: str) -> str:
    return postgres_url.partition("?")[0]


@pytest.fixture
def connect(users_url: str) -> Iterator[Connect]:
    opened: list[Connection] = []

    def connect(**options: Any) -> Connection:
        opened.append(psycopg.connect(users_url, **options))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture
def jobs(postgres_url: str, postgres_prefix: str) -> Iterator[BackgroundJobs[None, Any]]:
    jobs = jobs_of(work(lambda _ctx, payload: payload.n), storage=InNamespace(postgres_url, postgres_prefix))
    yield jobs
    jobs.close()


@pytest.fixture
def storage(postgres_url: str, postgres_prefix: str) -> Iterator[PostgresStorage]:
    storage = Apart(Postgres(postgres_url).open_storage, postgres_prefix)(StorageOptions("within"))
    assert isinstance(storage, PostgresStorage)
    storage.migrate()
    storage.register(ServerInfo(BY.server, None, "host", 1, None), 600 * SECOND)
    yield storage
    storage.close()


def new_job(job_id: str, parent: str | None = None, on: On = On.SUCCEEDED) -> NewJob:
    return NewJob(job_id, "type", "q", b"{}", parent=parent, on=on)


def end(storage: Storage, job_id: str) -> None:
    [claim] = storage.exchange(BY, refs=[Ref(job_id, 1, "q", 0)]).by_ref
    assert claim is not None
    storage.exchange(BY, [Change(job_id, Cause.SUCCEED, "", claim.epoch, BY.server)])


def state(storage: Storage, job_id: str) -> State:
    [details] = storage.get([job_id])
    assert details is not None
    return details.job.state


class Refusing(Loader):
    """A user's loader that nobody but the user may meet."""

    def load(self, data: object) -> object:
        raise AssertionError("a loader of the user's was used")


def plain(_: Connection) -> None:
    pass


def with_factories(connection: Connection) -> None:
    connection.row_factory = dict_row
    connection.cursor_factory = psycopg.ClientCursor


def preparing_at_once(connection: Connection) -> None:
    connection.prepare_threshold = 0


def with_adapters(connection: Connection) -> None:
    for name in ("text", "int8", "bytea", "timestamptz", "bool", "json"):
        connection.adapters.register_loader(name, Refusing)


def with_settings(connection: Connection) -> None:
    connection.execute("SET search_path = nowhere")
    connection.execute("SET client_encoding = latin1")
    connection.execute("SET bytea_output = escape")
    connection.execute("SET DateStyle = 'German'")
    connection.commit()


@pytest.mark.parametrize("prepare", [plain, with_factories, preparing_at_once, with_adapters, with_settings])
def test_the_user_s_settings_neither_matter_nor_change(
    jobs: BackgroundJobs[None, Any], connect: Connect, prepare: Callable[[Connection], None]
) -> None:
    connection = connect()
    prepare(connection)
    before = (connection.row_factory, connection.cursor_factory, connection.prepare_threshold, connection.autocommit)
    parent = jobs.enqueue(Work(n=1, text="ä€𝄞"), connection=connection)
    child = jobs.enqueue_continue(parent, Work(n=2), connection=connection.cursor())
    assert jobs.enqueue(Work(n=3), id="same", connection=connection) == "same"
    assert jobs.enqueue(Work(n=3), id="same", connection=connection) == "same"
    with pytest.raises(DuplicateJob):
        jobs.enqueue(Work(n=4), id="same", connection=connection)
    with pytest.raises(UnknownParent):
        jobs.enqueue_continue("nobody", Work(), connection=connection)
    assert jobs.counts().by_queue == {}
    connection.commit()
    after = (connection.row_factory, connection.cursor_factory, connection.prepare_threshold, connection.autocommit)
    assert after == before
    with psycopg.RawCursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
        prepared = cursor.execute("SELECT statement FROM pg_prepared_statements", prepare=False, binary=False)
        assert prepared.pgresult is not None
        assert prepared.pgresult.ntuples == 0
    with jobs.running(slots=2):
        assert jobs.result(child, 20) == 2
    assert jobs.get(parent).payload == {"n": 1, "text": "ä€𝄞"}


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_every_way_to_enqueue(jobs: BackgroundJobs[None, Any], connect: Connect, isolation: IsolationLevel) -> None:
    connection = connect()
    connection.isolation_level = isolation
    ids = [
        jobs.enqueue(Work(), connection=connection),
        *jobs.enqueue_many([Work(n=1), Work(n=2)], connection=connection),
        jobs.enqueue_delayed(Work(), timedelta(days=1), connection=connection),
        jobs.enqueue_delayed_at(Work(), datetime.now(UTC) + timedelta(days=1), connection=connection),
    ]
    ids.append(jobs.enqueue_continue(ids[0], Work(), connection=connection))
    assert jobs.enqueue_many([], connection=connection) == []
    assert jobs.counts().by_queue == {}
    connection.commit()
    assert [jobs.get(id).state for id in ids] == ["Enqueued"] * 3 + ["Scheduled"] * 2 + ["Awaiting"]


def test_a_connection_that_commits_by_itself(jobs: BackgroundJobs[None, Any], connect: Connect) -> None:
    connection = connect(autocommit=True)
    job = jobs.enqueue(Work(), connection=connection)
    assert jobs.get(job).state is State.ENQUEUED
    with connection.transaction(force_rollback=True):
        gone = jobs.enqueue(Work(), connection=connection)
    assert jobs.storage().get([gone]) == [None]
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_savepoints(jobs: BackgroundJobs[None, Any], connect: Connect) -> None:
    connection = connect()
    kept = jobs.enqueue(Work(), connection=connection)
    with connection.transaction(force_rollback=True):
        gone = jobs.enqueue(Work(), connection=connection)
        child = jobs.enqueue_continue(kept, Work(), connection=connection)
    with pytest.raises(UnknownParent):
        jobs.enqueue_continue(gone, Work(), connection=connection)
    with connection.transaction():
        inner = jobs.enqueue_continue(kept, Work(), connection=connection)
    connection.commit()
    assert [details is None for details in jobs.storage().get([kept, gone, child, inner])] == [False, True, True, False]
    with jobs.running(slots=1):
        assert jobs.wait(inner, 20).state is State.SUCCEEDED
    assert jobs.counts().by_queue == {"default": {State.SUCCEEDED: 2}}


def test_a_transaction_that_has_failed(jobs: BackgroundJobs[None, Any], connect: Connect) -> None:
    connection = connect()
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1 / 0")
    with pytest.raises(UnusableConnection, match="Roll it back"):
        jobs.enqueue(Work(), connection=connection)
    connection.rollback()
    jobs.enqueue(Work(), connection=connection)
    connection.commit()
    assert jobs.counts().total(State.ENQUEUED) == 1


def test_connections_that_cannot_be_used(jobs: BackgroundJobs[None, Any], connect: Connect, users_url: str) -> None:
    closed = connect()
    closed.close()
    with pytest.raises(UnusableConnection, match="closed"):
        jobs.enqueue(Work(), connection=closed)
    with pytest.raises(UnusableConnection, match="psycopg"):
        jobs.enqueue(Work(), connection="postgresql://a:secret@host/")
    with connect().pipeline() as pipeline, pytest.raises(UnusableConnection, match="pipeline"):
        jobs.enqueue(Work(), connection=pipeline._conn)

    async def give_async_to_sync() -> None:
        async with await psycopg.AsyncConnection.connect(users_url) as connection:
            jobs.enqueue(Work(), connection=connection)

    with pytest.raises(UnusableConnection, match="begins with `a`"):
        asyncio.run(give_async_to_sync())
    assert jobs.counts().by_queue == {}


def test_another_database(
    postgres_server: PostgresServer, jobs: BackgroundJobs[None, Any], connect: Connect, postgres_url: str
) -> None:
    admin = connect(autocommit=True)
    admin.execute("CREATE DATABASE elsewhere")
    # With a schema of the same name, whose tables would take the job.
    other = postgres_url.replace("/postgres?", "/elsewhere?")
    there = Postgres(other).open_storage(StorageOptions("elsewhere"))
    there.migrate()
    there.close()
    try:
        with psycopg.connect(other.partition("?")[0]) as connection:
            with pytest.raises(UnusableConnection, match="another database"):
                jobs.enqueue(Work(), connection=connection)
            # The transaction is as it was.
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with (
            psycopg.connect(other.partition("?")[0], autocommit=True) as connection,
            pytest.raises(UnusableConnection, match="another database"),
        ):
            jobs.enqueue(Work(), connection=connection)
        assert jobs.counts().by_queue == {}
    finally:
        admin.execute("DROP DATABASE elsewhere")


def test_a_server_that_was_started_anew_is_still_the_same(postgres_prefix: str) -> None:
    server = PostgresServer().start()
    jobs = jobs_of(work(lambda: None), storage=InNamespace(server.url, postgres_prefix))
    try:
        with psycopg.connect(server.url) as connection:
            jobs.enqueue(Work(), connection=connection)
        server.restart()
        with psycopg.connect(server.url) as connection:
            jobs.enqueue(Work(), connection=connection)
        assert jobs.counts().total(State.ENQUEUED) == 2
    finally:
        jobs.close()
        server.stop()


def test_a_user_without_rights(
    postgres_server: PostgresServer, jobs: BackgroundJobs[None, Any], connect: Connect, postgres_url: str
) -> None:
    jobs.counts()
    schema = postgres_url.partition("schema=")[2]
    admin = connect(autocommit=True)
    admin.execute("CREATE ROLE shopkeeper LOGIN")
    try:
        url = postgres_server.url.replace("postgres@", "shopkeeper@")
        with psycopg.connect(url) as connection, pytest.raises(ConfigError, match="USAGE"):
            jobs.enqueue(Work(), connection=connection)
        for right in (
            "USAGE ON SCHEMA {}",
            "SELECT ON ALL TABLES IN SCHEMA {}",
            "USAGE ON SEQUENCE {}.turn",
            "INSERT ON {}.job, {}.tally, {}.unsettled",
            "DELETE ON {}.job, {}.unsettled",
        ):
            admin.execute(f"GRANT {right} TO shopkeeper".replace("{}", schema).encode())
        with psycopg.connect(url) as connection:
            parent = jobs.enqueue(Work(), connection=connection)
            jobs.enqueue_continue(parent, Work(), connection=connection)
        assert jobs.counts().by_queue == {"default": {State.ENQUEUED: 1, State.AWAITING: 1}}
    finally:
        admin.execute("DROP OWNED BY shopkeeper")
        admin.execute("DROP ROLE shopkeeper")


def test_the_first_use_of_all_is_in_a_transaction(
    postgres_server: PostgresServer, connect: Connect, postgres_prefix: str
) -> None:
    schema = postgres_prefix.replace("-", "_").rstrip("_")
    jobs = jobs_of(work(lambda: None), storage=Postgres(f"{postgres_server.url}?schema={schema}"))
    connection = connect()
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.execute("SELECT 1")
    job = jobs.enqueue(Work(), connection=connection)
    connection.rollback()
    assert jobs.storage().get([job]) == [None]
    jobs.close()
    connection.execute(f'DROP SCHEMA "{schema}" CASCADE'.encode())
    connection.commit()


# What other transactions do meanwhile


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_what_was_committed_after_the_snapshot(
    storage: PostgresStorage, connect: Connect, isolation: IsolationLevel
) -> None:
    connection = connect()
    connection.isolation_level = isolation
    connection.execute("SELECT count(*) FROM pg_class")
    storage.insert([new_job("parent"), new_job("ended")])
    end(storage, "ended")
    inserted = storage.insert_within(
        connection, [new_job("child", "parent"), new_job("orphan", "nobody"), new_job("ended"), new_job("own")]
    ).inserted
    assert [item.verdict for item in inserted] == [
        InsertVerdict.CREATED,
        InsertVerdict.NO_PARENT,
        InsertVerdict.EXISTS,
        InsertVerdict.CREATED,
    ]
    assert inserted[2].state is State.SUCCEEDED
    connection.commit()
    assert storage.counts().by_queue == {
        "q": {State.ENQUEUED: 2, State.SUCCEEDED: 1, State.AWAITING: 1},
    }
    end(storage, "parent")
    storage.promote(10)
    assert state(storage, "child") is State.ENQUEUED


@pytest.mark.parametrize("isolation", STRICT)
def test_an_id_that_was_taken_after_the_snapshot(
    storage: PostgresStorage, connect: Connect, isolation: IsolationLevel
) -> None:
    connection = connect()
    connection.isolation_level = isolation
    connection.execute("SELECT count(*) FROM pg_class")
    storage.insert([new_job("taken")])
    with pytest.raises(Unavailable, match="repeat your transaction") as caught:
        storage.insert_within(connection, [new_job("taken")])
    assert isinstance(caught.value.__cause__, psycopg.errors.SerializationFailure)
    connection.rollback()
    assert storage.insert_within(connection, [new_job("taken")]).inserted[0].verdict is InsertVerdict.EXISTS


def test_two_transactions_with_one_id(storage: PostgresStorage, connect: Connect) -> None:
    first, second = connect(), connect()
    storage.insert_within(first, [new_job("job")])
    verdicts: list[InsertVerdict] = []
    waiting = threading.Thread(
        target=lambda: verdicts.append(storage.insert_within(second, [new_job("job")]).inserted[0].verdict)
    )
    waiting.start()
    first.commit()
    waiting.join(20)
    assert verdicts == [InsertVerdict.EXISTS]
    second.commit()
    assert storage.counts().by_queue == {"q": {State.ENQUEUED: 1}}


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_an_open_transaction_holds_nobody_up(
    storage: PostgresStorage, connect: Connect, isolation: IsolationLevel
) -> None:
    storage.insert([new_job("parent"), new_job("other")])
    connection = connect()
    connection.isolation_level = isolation
    storage.insert_within(connection, [new_job("child", "parent"), new_job("job")])
    started = time.monotonic()
    end(storage, "parent")
    end(storage, "other")
    storage.promote(10)
    storage.rescue(10)
    storage.prune(10)
    storage.insert([new_job("more", "parent")])
    assert time.monotonic() - started < 2  # a wait for a lock would be cut off after 5
    connection.commit()
    assert state(storage, "child") is State.AWAITING
    assert [ref.id for ref in storage.promote(10).enqueued] == ["child"]


def test_a_parent_that_is_removed_before_the_commit(storage: PostgresStorage, connect: Connect) -> None:
    storage.insert([new_job("parent")])
    connection = connect()
    storage.insert_within(connection, [new_job("child", "parent"), new_job("anyway", "parent", On.FINISHED)])
    [claim] = storage.exchange(BY, refs=[Ref("parent", 1, "q", 0)]).by_ref
    assert claim is not None
    storage.exchange(BY, [Change("parent", Cause.SUCCEED, "", claim.epoch, BY.server, keep=0)])
    assert storage.prune(10) == 1
    connection.commit()
    storage.promote(10)
    assert (state(storage, "child"), state(storage, "anyway")) == (State.DELETED, State.ENQUEUED)


@pytest.mark.parametrize(("cause", "on"), [(Cause.SUCCEED, On.SUCCEEDED), (Cause.FAIL, On.FAILED)])
def test_a_parent_is_kept_for_a_child_that_nobody_has_looked_at(
    storage: PostgresStorage, connect: Connect, cause: Cause, on: On
) -> None:
    """However many there are: upkeep looks at some hundreds at once."""
    storage.insert([new_job("parent"), new_job("other")])
    connection = connect()
    many = [new_job(f"a-{number:03}", "other") for number in range(600)]
    storage.insert_within(connection, [*many, new_job("child", "parent", on)])
    connection.commit()
    [claim] = storage.exchange(BY, refs=[Ref("parent", 1, "q", 0)]).by_ref
    assert claim is not None
    storage.exchange(BY, [Change("parent", cause, "", claim.epoch, BY.server, keep=0)])
    assert storage.prune(10) == 0
    storage.promote(10)
    storage.promote(10)
    assert state(storage, "child") is State.ENQUEUED
    assert storage.prune(10) == (1 if cause is Cause.FAIL else 0)


def race(storage: PostgresStorage, connection: Connection, rounds: int) -> list[State]:
    """In each round one thread commits a child while another ends the parent, and a third does the upkeep. What became
    of the children, after a last upkeep."""
    dice = random.Random(7)
    pauses = [(dice.uniform(0, 0.002), dice.uniform(0, 0.002)) for _ in range(rounds)]
    storage.insert([new_job(f"parent-{n}") for n in range(rounds)])
    start = threading.Barrier(2, timeout=20)
    over = threading.Event()
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)
                start.abort()

        return run

    def commit_children() -> None:
        for n in range(rounds):
            start.wait()
            storage.insert_within(connection, [new_job(f"child-{n}", f"parent-{n}")])
            time.sleep(pauses[n][0])
            connection.commit()

    def end_parents() -> None:
        for n in range(rounds):
            start.wait()
            time.sleep(pauses[n][1])
            end(storage, f"parent-{n}")

    def upkeep() -> None:
        while not over.wait(0.001):
            storage.promote(100)

    keeper = threading.Thread(target=guarded(upkeep))
    racers = [threading.Thread(target=guarded(each)) for each in (commit_children, end_parents)]
    for thread in (keeper, *racers):
        thread.start()
    for thread in racers:
        thread.join(100)
    over.set()
    keeper.join(20)
    assert errors == []
    storage.promote(rounds)
    return [state(storage, f"child-{n}") for n in range(rounds)]


@pytest.mark.timeout(240)
def test_a_parent_that_ends_while_its_child_is_committed(storage: PostgresStorage, connect: Connect) -> None:
    assert race(storage, connect(), 1_000) == [State.ENQUEUED] * 1_000
    # Each was released once.
    assert storage.counts().by_queue == {"q": {State.SUCCEEDED: 1_000, State.ENQUEUED: 1_000}}


def test_the_race_is_one(storage: PostgresStorage, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the second look, children wait for ever."""
    monkeypatch.setattr(PostgresStorage, "_settle", lambda _: ([], False))
    assert set(race(storage, connect(), 30)) >= {State.AWAITING}


def test_more_continuations_than_one_promotion_looks_at(storage: PostgresStorage, connect: Connect) -> None:
    """It says that it is not done."""
    storage.insert([new_job("parent")])
    with connect() as connection, connection.transaction():
        storage.insert_within(connection, [new_job(f"child-{n}", "parent") for n in range(501)])
    assert storage.promote(10).next_due_in == 0
    assert storage.promote(10).next_due_in is None


def test_a_hundred_threads(jobs: BackgroundJobs[None, Any], connect: Connect) -> None:
    connections: queue.Queue[Connection] = queue.Queue()
    for _ in range(20):
        connections.put(connect())
    kept: list[str] = []
    gone: list[str] = []
    errors: list[BaseException] = []

    def enqueue(number: int) -> None:
        connection = connections.get()
        try:
            job = jobs.enqueue(Work(n=number), connection=connection)
            child = jobs.enqueue_continue(job, Work(n=number), connection=connection)
            if number % 3:
                connection.commit()
                kept.extend([job, child])
            else:
                connection.rollback()
                gone.extend([job, child])
        except BaseException as error:
            errors.append(error)
        finally:
            connections.put(connection)

    threads = [threading.Thread(target=enqueue, args=[n]) for n in range(100)]
    with jobs.running(slots=4):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
        assert errors == []
        for job in kept:
            assert jobs.wait(job, 30).state is State.SUCCEEDED
    assert set(jobs.storage().get(gone)) == {None}
    assert (len(kept), jobs.counts().by_queue) == (132, {"default": {State.SUCCEEDED: 132}})


# Async


async def test_async_connections(jobs: BackgroundJobs[None, Any], users_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(users_url, row_factory=dict_row) as connection:
        await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        gone = await jobs.aenqueue(Work(), connection=connection)
        await connection.rollback()
        parent = await jobs.aenqueue(Work(n=1), connection=connection.cursor())
        child = await jobs.aenqueue_continue(parent, Work(n=2), connection=connection)
        [many] = await jobs.aenqueue_many([Work(n=3)], connection=connection)
        assert (await jobs.acounts()).by_queue == {}
        await connection.commit()
        await connection.set_autocommit(True)
        alone = await jobs.aenqueue(Work(n=4), connection=connection)
        with suppress(psycopg.Error):
            async with connection.transaction():
                await connection.execute("SELECT 1 / 0")
        async with jobs.running(slots=2):
            assert [await jobs.aresult(job, 20) for job in (parent, child, many, alone)] == [1, 2, 3, 4]
    assert jobs.storage().get([gone]) == [None]


async def test_async_code_that_is_cancelled_leaves_the_transaction_to_its_owner(
    jobs: BackgroundJobs[None, Any], users_url: str, connect: Connect
) -> None:
    holder = connect()
    jobs.enqueue(Work(), id="job", connection=holder)
    async with await psycopg.AsyncConnection.connect(users_url) as connection:
        waiting = asyncio.create_task(jobs.aenqueue(Work(), id="job", connection=connection))
        await asyncio.sleep(0.2)  # it waits for the other transaction by now, or will be cancelled before
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await connection.rollback()
    holder.commit()
    assert jobs.counts().total(State.ENQUEUED) == 1
