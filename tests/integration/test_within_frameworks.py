"""Jobs in transactions that SQLAlchemy and Django hold, on both storages."""

import contextlib
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import django
import psycopg
import pytest
import sqlalchemy as sa
from django.conf import settings
from django.db import connections, transaction
from django.utils.connection import ConnectionProxy
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from later import BackgroundJobs, State, UnusableConnection
from later.backends.memory import Memory
from later.backends.sqlite import SQLite
from later.core.ports import StorageBackend
from tests.integration.test_within_postgres import InNamespace
from tests.support.jobs import Work, jobs_of, work
from tests.support.killed_process import jobs_at
from tests.support.rabbitmq import RabbitServer
from tests.support.waiting import until

Jobs: TypeAlias = BackgroundJobs[None, Any]

STORAGES = ["sqlite", "postgres"]
aliases = count(1)


@pytest.fixture(params=STORAGES)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of the database that jobs and users share, as SQLAlchemy writes it."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/shop.sqlite3"
    url: str = request.getfixturevalue("postgres_url")
    return url.partition("?")[0].replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture
def storage(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> StorageBackend:
    if kind == "sqlite":
        return SQLite(tmp_path / "shop.sqlite3")
    return InNamespace(request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres_prefix"))


@pytest.fixture
def jobs(storage: StorageBackend) -> Iterator[Jobs]:
    """With a broker, to see what is published."""
    jobs = jobs_of(work(lambda _ctx, payload: payload.n), storage=storage, broker=Memory())
    jobs.counts()
    yield jobs
    jobs.close()


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url)
    yield engine
    engine.dispose()


def published(jobs: Jobs) -> int:
    broker = jobs.broker()
    assert broker is not None
    return broker.depth(["default"])["default"]


def states(jobs: Jobs, *ids: str) -> list[State | None]:
    return [None if details is None else details.job.state for details in jobs.storage().get(ids)]


# SQLAlchemy


def test_a_session(jobs: Jobs, engine: sa.Engine) -> None:
    with Session(engine) as session:
        gone = jobs.enqueue(Work(), connection=session)
        session.rollback()
        parent = jobs.enqueue(Work(n=1), connection=session)
        child = jobs.enqueue_continue(parent, Work(n=2), connection=session)
        with session.begin_nested() as savepoint:
            undone = jobs.enqueue(Work(), connection=session)
            savepoint.rollback()
        with session.begin_nested():
            nested = jobs.enqueue(Work(n=3), connection=session)
        assert states(jobs, gone, parent, child, undone, nested) == [None] * 5
        assert published(jobs) == 0
        session.commit()
        assert states(jobs, gone, parent, child, undone, nested) == [
            None, State.ENQUEUED, State.AWAITING, None, State.ENQUEUED,
        ]  # fmt: skip
        # That of the savepoint too, which does no harm.
        until(lambda: published(jobs) == 3, "messages of the commit")
        again = jobs.enqueue(Work(), connection=session)
        session.commit()
        until(lambda: published(jobs) == 4, "the message of the second commit")
        jobs.enqueue(Work(), connection=session)
    assert published(jobs) == 4
    with jobs.running(slots=2):
        assert [jobs.wait(job, 30).state for job in (child, nested, again)] == [State.SUCCEEDED] * 3
    assert jobs.counts().by_queue == {"default": {State.SUCCEEDED: 4}}


def test_a_scoped_session_and_one_within_a_block(jobs: Jobs, engine: sa.Engine) -> None:
    scoped = scoped_session(sessionmaker(engine))
    first = jobs.enqueue(Work(), connection=scoped)
    scoped.commit()
    scoped.remove()
    with Session(engine) as session, session.begin():
        second = jobs.enqueue(Work(), connection=session)
    assert states(jobs, first, second) == [State.ENQUEUED] * 2


def test_a_connection(jobs: Jobs, engine: sa.Engine) -> None:
    with engine.connect() as connection:
        gone = jobs.enqueue(Work(), connection=connection)
        connection.rollback()
        kept = jobs.enqueue(Work(), connection=connection)
        connection.commit()
    with engine.begin() as connection:
        begun = jobs.enqueue(Work(), connection=connection)
        assert states(jobs, begun) == [None]
    assert states(jobs, gone, kept, begun) == [None, State.ENQUEUED, State.ENQUEUED]
    # Nobody tells of the commits of a connection; the upkeep publishes what is not claimed.
    assert published(jobs) == 0
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        alone = jobs.enqueue(Work(), connection=connection)
        assert states(jobs, alone) == [State.ENQUEUED]
    until(lambda: published(jobs) == 1, "the message of a commit that was its own")


def test_a_payload_is_not_in_the_log(jobs: Jobs, url: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = sa.create_engine(url, echo=True)
    with Session(engine) as session:
        session.execute(sa.text("SELECT 1"))
        jobs.enqueue(Work(text="confidential"), connection=session)
        session.commit()
    engine.dispose()
    assert "SELECT 1" in caplog.text
    assert "confidential" not in caplog.text


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders_within"
    number: Mapped[int] = mapped_column(primary_key=True)


def test_a_session_whose_transaction_has_failed(jobs: Jobs, engine: sa.Engine) -> None:
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Order(number=1))
        jobs.enqueue(Work(), connection=session)
        session.flush()
        session.expunge_all()
        session.add(Order(number=1))
        with pytest.raises(sa.exc.IntegrityError):
            session.flush()
        with pytest.raises(UnusableConnection, match="PendingRollbackError"):
            jobs.enqueue(Work(), connection=session)
        session.rollback()
        job = jobs.enqueue(Work(), connection=session)
        session.add(Order(number=1))
        session.commit()
    Base.metadata.drop_all(engine)
    assert states(jobs, job) == [State.ENQUEUED]
    assert jobs.counts().total(State.ENQUEUED) == 1


def test_a_connection_whose_transaction_has_failed(jobs: Jobs, engine: sa.Engine) -> None:
    with engine.connect() as connection:
        outer = connection.begin()
        savepoint = connection.begin_nested()
        outer.rollback()
        assert not savepoint.is_active
        with contextlib.suppress(sa.exc.DBAPIError):
            connection.execute(sa.text("SELECT nothing"))
        if engine.dialect.name == "postgresql":
            with pytest.raises(UnusableConnection, match="Roll it back"):
                jobs.enqueue(Work(), connection=connection)
        connection.rollback()
        job = jobs.enqueue(Work(), connection=connection)
        connection.commit()
    assert states(jobs, job) == [State.ENQUEUED]


def test_a_connection_of_another_database(jobs: Jobs, tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/other.sqlite3")
    with Session(engine) as session, pytest.raises(UnusableConnection):
        jobs.enqueue(Work(), connection=session)
    engine.dispose()


def test_a_closed_connection(jobs: Jobs, engine: sa.Engine) -> None:
    connection = engine.connect()
    connection.close()
    with pytest.raises(UnusableConnection, match="Connection given"):
        jobs.enqueue(Work(), connection=connection)


@pytest.fixture
def postgres_jobs(postgres_url: str, postgres_prefix: str) -> Iterator[Jobs]:
    storage = InNamespace(postgres_url, postgres_prefix)
    jobs = jobs_of(work(lambda _ctx, payload: payload.n), storage=storage, broker=Memory())
    yield jobs
    jobs.close()


async def test_async_sessions_and_connections(postgres_jobs: Jobs, postgres_url: str) -> None:
    jobs = postgres_jobs
    engine = create_async_engine(postgres_url.partition("?")[0].replace("postgresql://", "postgresql+psycopg://"))
    async with AsyncSession(engine) as session:
        gone = await jobs.aenqueue(Work(), connection=session)
        await session.rollback()
        parent = await jobs.aenqueue(Work(n=1), connection=session)
        child = await jobs.aenqueue_continue(parent, Work(n=2), connection=session)
        assert published(jobs) == 0
        await session.commit()
        assert states(jobs, gone, parent, child) == [None, State.ENQUEUED, State.AWAITING]
        until(lambda: published(jobs) == 1)
        scoped = async_scoped_session(async_sessionmaker(engine), lambda: 1)
        many = await jobs.aenqueue_many([Work()], connection=scoped)
        await scoped.commit()
        await scoped.remove()
        until(lambda: published(jobs) == 2)
        with pytest.raises(UnusableConnection, match="begins with `a`"):
            jobs.enqueue(Work(), connection=session)
    async with engine.connect() as connection:
        assert isinstance(connection, AsyncConnection)
        undone = await jobs.aenqueue(Work(), connection=connection)
        await connection.rollback()
        kept = await jobs.aenqueue(Work(), connection=connection)
        await connection.commit()
    await engine.dispose()
    assert states(jobs, *many, undone, kept) == [State.ENQUEUED, None, State.ENQUEUED]


# Django


@pytest.fixture
def alias(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The name of the shared database among those of Django."""
    if not settings.configured:
        settings.configure(DATABASES={})
        django.setup()
    if kind == "sqlite":
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "shop.sqlite3")}
    else:
        where = psycopg.conninfo.conninfo_to_dict(request.getfixturevalue("postgres_url").partition("?")[0])
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": str(where["dbname"]),
            "USER": str(where["user"]),
            "HOST": str(where["host"]),
            "PORT": str(where["port"]),
        }
    alias = f"shop{next(aliases)}"
    connections.settings.update(connections.configure_settings({"default": {}, alias: database}))
    yield alias
    connections[alias].close()


def test_django(jobs: Jobs, alias: str) -> None:
    shop = connections[alias]
    with contextlib.suppress(ZeroDivisionError), transaction.atomic(using=alias):
        gone = jobs.enqueue(Work(), connection=shop)
        raise ZeroDivisionError
    with transaction.atomic(using=alias):
        parent = jobs.enqueue(Work(n=1), connection=shop)
        with shop.cursor() as cursor:
            child = jobs.enqueue_continue(parent, Work(n=2), connection=cursor)
        with contextlib.suppress(ZeroDivisionError), transaction.atomic(using=alias):
            undone = jobs.enqueue(Work(), connection=shop)
            raise ZeroDivisionError
        with transaction.atomic(using=alias):
            nested = jobs.enqueue(Work(n=3), connection=shop)
        assert states(jobs, gone, parent, child, undone, nested) == [None] * 5
        assert published(jobs) == 0
    assert states(jobs, gone, parent, child, undone, nested) == [
        None, State.ENQUEUED, State.AWAITING, None, State.ENQUEUED,
    ]  # fmt: skip
    until(lambda: published(jobs) == 2, "messages of the commit, without that of the savepoint")
    alone = jobs.enqueue(Work(), connection=shop)  # autocommit
    assert states(jobs, alone) == [State.ENQUEUED]
    until(lambda: published(jobs) == 3, "the message of a commit that was its own")
    with jobs.running(slots=2):
        assert [jobs.wait(job, 30).state for job in (child, nested, alone)] == [State.SUCCEEDED] * 3


def test_django_s_proxy_and_an_unmanaged_transaction(jobs: Jobs, alias: str) -> None:
    proxy = ConnectionProxy(connections, alias)
    with transaction.atomic(using=alias):
        first = jobs.enqueue(Work(), connection=proxy)
        assert states(jobs, first) == [None]
    connections[alias].set_autocommit(False)
    second = jobs.enqueue(Work(), connection=proxy)
    assert states(jobs, first, second) == [State.ENQUEUED, None]
    connections[alias].commit()
    connections[alias].set_autocommit(True)
    assert states(jobs, second) == [State.ENQUEUED]


def test_a_block_of_django_that_has_failed(jobs: Jobs, alias: str) -> None:
    shop = connections[alias]
    with transaction.atomic(using=alias):
        transaction.set_rollback(True, using=alias)
        with pytest.raises(UnusableConnection, match="atomic block"):
            jobs.enqueue(Work(), connection=shop)
    assert jobs.counts().by_queue == {}


# None of the two


def test_neither_is_imported(tmp_path: Path) -> None:
    program = f"""
import sqlite3, sys
from tests.support.jobs import Work, jobs_of, work
from later.backends.sqlite import SQLite

jobs = jobs_of(work(lambda: None), storage=SQLite({str(tmp_path / "shop.sqlite3")!r}))
jobs.counts()
with sqlite3.connect({str(tmp_path / "shop.sqlite3")!r}) as connection:
    jobs.enqueue(Work(), connection=connection)
assert not {{"sqlalchemy", "django", "psycopg", "asyncio"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.timeout(150)
def test_a_process_that_dies_between_commit_and_publishing(
    kind: str, url: str, request: pytest.FixtureRequest, tmp_path: Path, rabbitmq_server: RabbitServer
) -> None:
    """The upkeep of any server publishes its jobs."""
    storage = f"sqlite:///{tmp_path}/shop.sqlite3" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    name = f"killed-{uuid.uuid4().hex[:8]}"
    jobs = jobs_at(name, storage, rabbitmq_server.url)
    jobs.counts()
    command = [sys.executable, "-m", "tests.support.killed_process", name, storage, url, rabbitmq_server.url]
    died = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (died.returncode, died.stderr) == (-signal.SIGKILL, "")
    job = died.stdout.strip()
    broker = jobs.broker()
    assert broker is not None
    broker.declare(["default"])
    assert states(jobs, job) == [State.ENQUEUED]
    assert broker.depth(["default"]) == {"default": 0}
    with jobs.running(slots=1, queues=["other"]):  # it does not run the job, but sees to all queues
        until(lambda: broker.depth(["default"]) == {"default": 1}, "its message", 30)
    assert states(jobs, job) == [State.ENQUEUED]
    with jobs.running(slots=1):
        assert jobs.result(job, 30) == 7
    jobs.close()
