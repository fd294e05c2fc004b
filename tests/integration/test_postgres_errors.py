"""What goes wrong with a PostgreSQL server, and what the user is told."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeAlias

import psycopg
import pytest

from later.backends.postgres import Postgres, connection
from later.backends.postgres.errors import translate
from later.backends.postgres.storage import PostgresStorage
from later.backends.postgres.target import parse
from later.core.errors import (
    BackendError,
    ConfigError,
    Corrupt,
    InvalidOption,
    LaterError,
    SchemaMismatch,
    StorageFull,
    StorageReadOnly,
    Unavailable,
    Unsupported,
)
from later.core.ports import Storage, StorageOptions
from later.core.records import NewJob
from tests.support.postgres import PostgresServer
from tests.support.servers import free_port

SECRET = "s3cr3t@#%"
JOB = NewJob("job", "send_email", "q", b"{}")


Open: TypeAlias = Callable[..., Storage]


@pytest.fixture
def opened() -> Iterator[Open]:
    storages: list[Storage] = []

    def open_one(url: str, **options: Any) -> Storage:
        storages.append(Postgres(url, **options).open_storage(StorageOptions("errors")))
        return storages[-1]

    yield open_one
    for storage in storages:
        storage.close()


@contextmanager
def administrator(server: PostgresServer, database: str = "postgres") -> Iterator["psycopg.Connection[tuple[object]]"]:
    with psycopg.connect(server.url.replace("/postgres", f"/{database}"), autocommit=True) as admin:
        yield admin


def chain(error: BaseException) -> str:
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(f"{cause!r} {cause}")
        cause = cause.__cause__ or cause.__context__
    return "\n".join(texts)


@pytest.fixture(scope="module")
def guarded() -> Iterator[PostgresServer]:
    """A server that asks for passwords, and has no TLS."""
    server = PostgresServer()
    server.only("local all all trust", "host all postgres 127.0.0.1/32 trust", "host all all all scram-sha-256")
    server.start()
    with administrator(server) as admin:
        admin.execute(f"CREATE ROLE app LOGIN PASSWORD '{SECRET}'".encode())
        admin.execute("GRANT CREATE ON DATABASE postgres TO app")
        admin.execute("CREATE ROLE reader LOGIN PASSWORD 'reader'")
        admin.execute("CREATE ROLE standby LOGIN PASSWORD 'standby'")
        admin.execute("ALTER ROLE standby SET default_transaction_read_only = on")
        admin.execute("GRANT CREATE ON DATABASE postgres TO standby")
        admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    yield server
    server.stop()


def address(server: PostgresServer, login: str, database: str = "postgres") -> str:
    return f"postgresql://{login}@127.0.0.1:{server.port}/{database}"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("postgres://u:p@h/d", {"user": "u", "password": "p", "host": "h", "dbname": "d"}),
        ("postgresql://u:a@b#c%@h:1/d", {"user": "u", "password": "a@b#c%", "host": "h", "port": "1", "dbname": "d"}),
        ("postgresql://u:%2F%3F%40@h", {"user": "u", "password": "/?@", "host": "h"}),
        ("postgresql://[::1]:5433/d", {"host": "::1", "port": "5433", "dbname": "d"}),
        ("postgresql://a:1,b:2/d", {"host": "a,b", "port": "1,2", "dbname": "d"}),
        ("postgresql:///d?host=/run/postgresql", {"host": "/run/postgresql", "dbname": "d"}),
        ("postgresql://%2Frun/d?sslmode=require", {"host": "/run", "dbname": "d", "sslmode": "require"}),
        ("postgresql://u:p@h/d?application_name=x@y", {"user": "u", "password": "p", "host": "h", "dbname": "d"}),
    ],
)
def test_a_url_is_read(url: str, options: dict[str, str]) -> None:
    found = parse(url).options
    assert {name: found[name] for name in options} == options


@pytest.mark.parametrize(
    "url",
    [
        "",
        "postgres",
        "postgres:/h/d",
        "redis://h",
        f"postgres://u:{SECRET}/x@h:1/d",
        f"postgres://u:{SECRET}@h:port/d",
        f"postgres://u:{SECRET}@h:99999/d",
        f"postgres://u:{SECRET}@h:0/d",
        f"postgres://u:{SECRET}@a:b:c/d",
        f"postgres://u:{SECRET}%ff@h/d",
        f"postgres://u:{SECRET}@h/d?x",
        f"postgres://u:{SECRET}@h/d\0",
        f"postgres://u:{SECRET}\udce9@h/d",
        f"postgres://u:{SECRET}@h/d?pooler=perhaps",
    ],
)
def test_a_url_that_cannot_be_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Postgres(url)
    assert SECRET not in chain(raised.value)


@pytest.mark.parametrize("schema", ["x" * 41, "Later", "pg_later", "1", 'a"b', "a;b"])
def test_a_schema_that_cannot_be_is_refused(schema: str) -> None:
    with pytest.raises(InvalidOption):
        Postgres("postgres://h/d", schema=schema)


@pytest.mark.parametrize("options", [{"timeout": timedelta(0)}, {"connections": 0}, {"connections": True}])
def test_options_that_cannot_be_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOption):
        Postgres("postgres://h/d", **options)  # type: ignore[arg-type]


def test_nothing_shows_the_password() -> None:
    backend = Postgres(f"postgres://u:{SECRET}@h/d")
    assert SECRET not in f"{backend!r} {backend} {vars(backend)}"


def test_a_password_with_all_that_is_special_works(opened: Open, guarded: PostgresServer) -> None:
    storage = opened(address(guarded, f"app:{SECRET}"))
    storage.migrate()
    assert storage.insert([JOB])[0].ref is not None


@pytest.mark.parametrize(
    ("login", "database", "says"),
    [
        ("app:wrong", "postgres", "refused the login"),
        ("app", "postgres", "refused the login"),
        (f"nobody:{SECRET}", "postgres", "refused the login"),
        (f"app:{SECRET}", "nowhere", "no such database"),
        (f"app:{SECRET}", "latin", "LATIN1"),
        (f"app:{SECRET}", "postgres?sslmode=require", "TLS"),
        (f"app:{SECRET}", "postgres?sslmode=perhaps", "option"),
        (f"app:{SECRET}", "postgres?nonsense=1", "option"),
        (f"app:{SECRET}", "postgres?service=nosuch", "option"),
        (f"app:{SECRET}", "postgres?options=-c%20foo", "option"),
        (f"app:{SECRET}", "postgres?options=-c%20foo%3D1", "option"),
        (f"app:{SECRET}", "postgres?options=--foo", "option"),
        (f"app:{SECRET}", "postgres?options=foo", "option"),
        (f"app:{SECRET}", "postgres?options=-c%20jit%3Dperhaps", "option"),
        (f"app:{SECRET}", "postgres?replication=perhaps", "option"),
        (f"app:{SECRET}", "postgres?gssencmode=require", "option"),
        ("reader:reader", "postgres?schema=mine", "create"),
    ],
)
def test_a_wrong_address_or_login_is_told_at_once(
    opened: Open, guarded: PostgresServer, login: str, database: str, says: str
) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError, match=says) as raised:
        opened(address(guarded, login, database)).migrate()
    assert time.monotonic() - started < 5
    assert "s3cr3t" not in chain(raised.value)


def test_a_read_only_server(opened: Open, guarded: PostgresServer) -> None:
    with pytest.raises(StorageReadOnly, match="read-only"):
        opened(address(guarded, "standby:standby", "postgres?schema=standby")).migrate()


def test_without_tables(opened: Open, guarded: PostgresServer) -> None:
    with pytest.raises(SchemaMismatch, match="migrate"):
        opened(address(guarded, f"app:{SECRET}", "postgres?schema=empty")).insert([JOB])


def test_an_older_server_is_refused(opened: Open, guarded: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "OLDEST", 99)
    with pytest.raises(Unsupported, match="99 or newer"):
        opened(address(guarded, f"app:{SECRET}")).migrate()


def test_nobody_listens(opened: Open) -> None:
    with pytest.raises(Unavailable, match="is it running"):
        opened(f"postgres://u:{SECRET}@127.0.0.1:{free_port()}/d").counts()


def test_a_name_that_does_not_resolve(opened: Open) -> None:
    with pytest.raises(Unavailable) as raised:
        opened(f"postgres://u:{SECRET}@nowhere.invalid/d").counts()
    assert "s3cr3t" not in chain(raised.value)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["another protocol", "silence"])
def test_something_else_answers(opened: Open, answer: bytes) -> None:
    """Neither hangs."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connected, _ = listening.accept()
                except OSError:
                    return
                accepted.append(connected)
                if answer:
                    connected.sendall(answer)

        accepted: list[socket.socket] = []
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"postgres://u:{SECRET}@127.0.0.1:{listening.getsockname()[1]}/d?sslmode=disable&connect_timeout=2"
        with pytest.raises((ConfigError, Unavailable)):
            opened(url, timeout=timedelta(seconds=1)).counts()
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connected in accepted:
            connected.close()


def test_a_lock_that_somebody_keeps(opened: Open, guarded: PostgresServer) -> None:
    """The call ends in time, and the connection is good for the next."""
    storage = opened(address(guarded, f"app:{SECRET}"), timeout=timedelta(seconds=0.5), connections=1)
    storage.migrate()
    with administrator(guarded) as admin:
        admin.execute("BEGIN")
        admin.execute("LOCK TABLE later.job")
        started = time.monotonic()
        with pytest.raises(Unavailable, match=r"in time|no answer"):
            storage.insert([NewJob("locked", "t", "q", b"{}")])
        assert time.monotonic() - started < 3
        admin.execute("ROLLBACK")
    assert storage.insert([NewJob("after", "t", "q", b"{}")])[0].ref is not None


def test_a_server_that_stops_to_answer(opened: Open, guarded: PostgresServer) -> None:
    storage = opened(address(guarded, f"app:{SECRET}"), timeout=timedelta(seconds=0.5), connections=1)
    storage.migrate()
    with administrator(guarded) as admin:
        found = admin.execute("SELECT pid FROM pg_stat_activity WHERE usename = 'app'").fetchall()
    pids = [int(str(pid)) for (pid,) in found]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="gave no answer"):
            storage.insert([NewJob("frozen", "t", "q", b"{}")])
        assert storage.insert([NewJob("frozen", "t", "q", b"{}")])[0].ref is not None, "by another connection"
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_all_connections_of_the_process_are_in_use(opened: Open, guarded: PostgresServer) -> None:
    storage = opened(address(guarded, f"app:{SECRET}"), timeout=timedelta(seconds=0.1), connections=1)
    assert isinstance(storage, PostgresStorage)
    with storage._database._lend(time.monotonic() + 5), pytest.raises(Unavailable, match="all 1 connections"):
        storage.counts()
    storage.migrate()


def test_an_interrupt_while_a_connection_is_lent_keeps_none(
    opened: Open, guarded: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = opened(address(guarded, f"app:{SECRET}"), timeout=timedelta(seconds=5), connections=1)
    storage.migrate()
    assert isinstance(storage, PostgresStorage)
    before = storage.counts()  # the server is that of other tests as well
    database = storage._database
    take = database._take

    def interrupted(*arguments: Any) -> None:
        take(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(database, "_take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            storage.counts()
    assert storage.counts() == before


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("53100", StorageFull),
        ("25006", StorageReadOnly),
        ("XX001", Corrupt),
        ("57P01", Unavailable),
        ("53300", Unavailable),
        ("40P01", Unavailable),
        ("08006", Unavailable),
        ("42P01", SchemaMismatch),
        ("28P01", ConfigError),
        ("23514", BackendError),
    ],
)
def test_every_kind_of_error_has_a_meaning(code: str, kind: type[LaterError]) -> None:
    error = psycopg.errors.lookup(code)("a value: s3cr3t")
    found = translate(error, "host:1/d")
    assert type(found) is kind
    assert "s3cr3t" not in str(found)
    assert "host:1/d" in str(found)
