"""Jobs in transactions of the user's, on connections of sqlite3."""

import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from later import BackgroundJobs, DuplicateJob, State, Unavailable, UnknownParent, UnusableConnection
from later.backends.memory import Memory
from later.backends.sqlite import SQLite
from later.core.errors import StorageReadOnly, Unsupported
from tests.support.jobs import Work, jobs_of, work

Connect: TypeAlias = Callable[..., sqlite3.Connection]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.sqlite3"


@pytest.fixture
def jobs(path: Path) -> Iterator[BackgroundJobs[None, Any]]:
    jobs = jobs_of(work(lambda _ctx, payload: payload.n), storage=SQLite(path))
    jobs.counts()
    yield jobs
    jobs.close()


@pytest.fixture
def connect(path: Path) -> Iterator[Connect]:
    opened: list[sqlite3.Connection] = []

    def connect(file: Path | str = path, **options: Any) -> sqlite3.Connection:
        opened.append(sqlite3.connect(file, **options))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


class Suspicious(sqlite3.Connection):
    """A subclass of the user's, whose methods are their own."""

    def cursor(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a method of the user's was used")

    def execute(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a method of the user's was used")


def plain(_: sqlite3.Connection) -> None:
    pass


def begun(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")


def with_factories(connection: sqlite3.Connection) -> None:
    connection.row_factory = lambda _cursor, _row: pytest.fail("a row factory of the user's was used")
    connection.text_factory = bytes


@pytest.mark.parametrize(
    ("options", "prepare"),
    [
        ({}, plain),
        ({}, begun),
        ({"isolation_level": None}, begun),
        ({"isolation_level": "IMMEDIATE"}, plain),
        ({}, with_factories),
        ({"factory": Suspicious}, plain),
        ({"detect_types": sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES}, plain),
        pytest.param(
            {"autocommit": False},
            plain,
            marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="the attribute came with Python 3.12"),
        ),
    ],
    ids=["legacy", "legacy begun", "None begun", "IMMEDIATE", "factories", "subclass", "detect_types", "autocommit"],
)
def test_the_user_s_settings_neither_matter_nor_change(
    jobs: BackgroundJobs[None, Any],
    connect: Connect,
    options: dict[str, Any],
    prepare: Callable[[sqlite3.Connection], None],
) -> None:
    connection = connect(**options)
    prepare(connection)
    before = (connection.isolation_level, connection.row_factory, connection.text_factory)
    parent = jobs.enqueue(Work(n=1, text="ä" * 2000), connection=connection)
    child = jobs.enqueue_continue(parent, Work(n=2), connection=sqlite3.Cursor(connection))
    ids = [
        parent,
        child,
        *jobs.enqueue_many([Work(n=3), Work(n=4)], connection=connection),
        jobs.enqueue_delayed(Work(), timedelta(days=1), connection=connection),
        jobs.enqueue_delayed_at(Work(), datetime.now(UTC) + timedelta(days=1), connection=connection),
    ]
    assert jobs.enqueue(Work(n=3), id="same", connection=connection) == "same"
    assert jobs.enqueue(Work(n=3), id="same", connection=connection) == "same"
    with pytest.raises(DuplicateJob):
        jobs.enqueue(Work(n=4), id="same", connection=connection)
    with pytest.raises(UnknownParent):
        jobs.enqueue_continue("nobody", Work(), connection=connection)
    assert jobs.counts().by_queue == {}
    assert (connection.isolation_level, connection.row_factory, connection.text_factory) == before
    connection.commit()
    assert [jobs.get(id).state for id in ids] == ["Enqueued", "Awaiting", *["Enqueued"] * 2, *["Scheduled"] * 2]
    with jobs.running(slots=2):
        assert jobs.result(child, 20) == 2


def test_a_rollback_takes_the_jobs_along(jobs: BackgroundJobs[None, Any], connect: Connect) -> None:
    connection = connect()
    connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.execute("INSERT INTO orders VALUES (1)")
    job = jobs.enqueue(Work(), connection=connection)
    connection.rollback()
    assert jobs.storage().get([job]) == [None]
    assert connection.execute("SELECT count(*) FROM orders").fetchone() == (0,)


@pytest.mark.parametrize(
    "options",
    [
        {"isolation_level": None},
        pytest.param(
            {"autocommit": True},
            marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="the attribute came with Python 3.12"),
        ),
    ],
    ids=["None", "autocommit"],
)
def test_a_connection_that_commits_by_itself(
    jobs: BackgroundJobs[None, Any], connect: Connect, options: dict[str, Any]
) -> None:
    connection = connect(**options)
    job = jobs.enqueue(Work(), connection=connection)
    assert jobs.get(job).state is State.ENQUEUED
    assert not connection.in_transaction


def test_savepoints(jobs: BackgroundJobs[None, Any], connect: Connect) -> None:
    connection = connect()
    kept = jobs.enqueue(Work(), connection=connection)
    connection.execute("SAVEPOINT mine")
    gone = jobs.enqueue(Work(), connection=connection)
    connection.execute("ROLLBACK TO mine")
    with pytest.raises(UnknownParent):
        jobs.enqueue_continue(gone, Work(), connection=connection)
    connection.commit()
    assert [details is None for details in jobs.storage().get([kept, gone])] == [False, True]
    assert jobs.counts().by_queue == {"default": {State.ENQUEUED: 1}}


def test_other_files(jobs: BackgroundJobs[None, Any], connect: Connect, tmp_path: Path, path: Path) -> None:
    other = connect(tmp_path / "other.sqlite3")
    for connection, named in ((other, "other.sqlite3"), (connect(":memory:"), "in memory")):
        with pytest.raises(UnusableConnection, match=named):
            jobs.enqueue(Work(), connection=connection)
        assert not connection.in_transaction
        assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
    # Attached, the file is not what the statements without a name of their own go to.
    other.execute("ATTACH DATABASE ? AS shop", (str(path),))
    with pytest.raises(UnusableConnection, match=r"other\.sqlite3"):
        jobs.enqueue(Work(), connection=other)
    assert jobs.counts().by_queue == {}


def test_the_same_file_by_another_name(jobs: BackgroundJobs[None, Any], connect: Connect, path: Path) -> None:
    link = path.with_name("link.sqlite3")
    link.symlink_to(path)
    connection = connect(f"file:{link}?cache=private", uri=True)
    jobs.enqueue(Work(), connection=connection)
    connection.commit()
    assert jobs.counts().total(State.ENQUEUED) == 1


def test_connections_that_cannot_be_used(jobs: BackgroundJobs[None, Any], connect: Connect) -> None:
    closed = connect()
    closed.close()
    with pytest.raises(UnusableConnection, match="closed"):
        jobs.enqueue(Work(), connection=closed)
    with pytest.raises(UnusableConnection, match="sqlite3"):
        jobs.enqueue(Work(), connection="sqlite:///shop.sqlite3")
    foreign = connect()
    errors: list[Exception] = []

    def enqueue() -> None:
        try:
            jobs.enqueue(Work(), connection=foreign)
        except UnusableConnection as error:
            errors.append(error)

    thread = threading.Thread(target=enqueue)
    thread.start()
    thread.join(20)
    assert "thread" in str(errors[0])
    reading = connect(isolation_level=None)
    reading.execute("PRAGMA query_only = ON")
    reading.execute("BEGIN")
    with pytest.raises(StorageReadOnly):
        jobs.enqueue(Work(), connection=reading)
    assert jobs.counts().by_queue == {}


def test_a_transaction_that_has_read_before_another_wrote(jobs: BackgroundJobs[None, Any], connect: Connect) -> None:
    connection = connect(isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM later_job").fetchone()
    jobs.enqueue(Work())
    with pytest.raises(Unavailable, match="BEGIN IMMEDIATE"):
        jobs.enqueue(Work(), connection=connection)
    connection.execute("ROLLBACK")
    jobs.enqueue(Work(), connection=connection)
    assert jobs.counts().total(State.ENQUEUED) == 2


def test_a_file_that_another_transaction_keeps(jobs: BackgroundJobs[None, Any], connect: Connect) -> None:
    first, second = connect(), connect(timeout=0.05)
    jobs.enqueue(Work(), connection=first)
    with pytest.raises(Unavailable, match="roll back and repeat"):
        jobs.enqueue(Work(), connection=second)
    assert not second.in_transaction
    first.commit()
    jobs.enqueue(Work(), connection=second)
    second.commit()
    assert jobs.counts().total(State.ENQUEUED) == 2


def test_an_error_leaves_the_rest_of_the_transaction(
    jobs: BackgroundJobs[None, Any], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect()
    kept = jobs.enqueue(Work(), connection=connection)
    # A trigger of somebody's refuses the last statement of the next insert.
    connection.execute("CREATE TEMP TRIGGER no BEFORE UPDATE ON later_count BEGIN SELECT raise(ABORT, 'no'); END")
    with pytest.raises(Exception, match="refused a statement"):
        jobs.enqueue(Work(), connection=connection)
    connection.execute("DROP TRIGGER no")
    assert connection.execute("SELECT count(*) FROM later_job").fetchone() == (1,)
    connection.commit()
    assert jobs.get(kept).state is State.ENQUEUED
    assert jobs.counts().by_queue == {"default": {State.ENQUEUED: 1}}


@pytest.mark.parametrize("file", ["new.sqlite3", "shop.sqlite3"], ids=["new file", "new app"])
def test_the_first_use_of_all_is_in_a_transaction(
    jobs: BackgroundJobs[None, Any], connect: Connect, tmp_path: Path, file: str
) -> None:
    connection = connect(tmp_path / file)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    storage = SQLite(tmp_path / file, timeout=timedelta(milliseconds=50))
    new: BackgroundJobs[None, Any] = BackgroundJobs(None, "new", jobs.registry, storage, None, jobs.limits, runs=True)
    with pytest.raises(Unavailable, match="once before you begin"):
        new.enqueue(Work(), connection=connection)
    connection.rollback()
    new.counts()
    connection.execute("BEGIN IMMEDIATE")
    new.enqueue(Work(), connection=connection)
    connection.commit()
    assert new.counts().total(State.ENQUEUED) == 1
    new.close()


def test_a_hundred_threads(jobs: BackgroundJobs[None, Any], path: Path) -> None:
    kept: list[str] = []
    errors: list[BaseException] = []

    def enqueue(number: int) -> None:
        try:
            with closing(sqlite3.connect(path, timeout=30)) as connection:
                job = jobs.enqueue(Work(n=number), connection=connection)
                child = jobs.enqueue_continue(job, Work(n=number), connection=connection)
                if number % 3:
                    connection.commit()
                    kept.extend([job, child])
                else:
                    connection.rollback()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=enqueue, args=[n]) for n in range(100)]
    with jobs.running(slots=4):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
        assert errors == []
        for job in kept:
            assert jobs.wait(job, 30).state is State.SUCCEEDED
    assert (len(kept), jobs.counts().by_queue) == (132, {"default": {State.SUCCEEDED: 132}})


async def test_async_code(jobs: BackgroundJobs[None, Any], connect: Connect) -> None:
    connection = connect()
    gone = await jobs.aenqueue(Work(), connection=connection)
    connection.rollback()
    parent = await jobs.aenqueue(Work(), connection=connection)
    ids = [
        parent,
        await jobs.aenqueue_continue(parent, Work(), connection=connection),
        *await jobs.aenqueue_many([Work()], connection=connection),
        await jobs.aenqueue_delayed(Work(), timedelta(days=1), connection=connection),
        await jobs.aenqueue_delayed_at(Work(), datetime.now(UTC) + timedelta(days=1), connection=connection),
    ]
    assert await jobs.aenqueue_many([], connection=connection) == []
    connection.commit()
    assert jobs.storage().get([gone]) == [None]
    assert [jobs.get(id).state for id in ids] == ["Enqueued", "Awaiting", "Enqueued", "Scheduled", "Scheduled"]


async def test_a_storage_without_transactions_says_which_have_them(connect: Connect) -> None:
    jobs = jobs_of(work(lambda: None), storage=Memory())
    with pytest.raises(Unsupported, match="SQLite or Postgres"):
        jobs.enqueue(Work(), connection=connect())
    with pytest.raises(Unsupported, match="SQLite or Postgres"):
        await jobs.aenqueue(Work(), connection=connect())
    assert jobs.counts().by_queue == {}
    jobs.close()
