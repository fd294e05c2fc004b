"""The servers of one run: private, fresh, with the settings of the tests."""

# The annotations of redis and pika have gaps.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import itertools
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pika
import psycopg
import redis

from tests.support.postgres import PostgresServer
from tests.support.rabbitmq import RabbitServer
from tests.support.servers import MissingProgramError, RedisServer

VARIABLES: Final = {"redis": "BENCH_REDIS", "postgres": "BENCH_POSTGRES", "rabbitmq": "BENCH_AMQP"}
"""Which environment variable tells programs where a server is."""


@dataclass(frozen=True)
class Server:
    """One that runs. `requests`: how many it got so far, those of this call apart (transactions, for Postgres); None
    where that cannot be asked cheaply."""

    kind: str
    url: str
    pid: int
    requests: Callable[[], int] | None


@contextmanager
def running(kinds: Sequence[str]) -> Generator[list[Server]]:
    """Fresh servers of these kinds, for the length of the block. Raises MissingProgramError."""
    with ExitStack() as stack:
        yield [stack.enter_context(_STARTERS[kind]()) for kind in kinds]


def variables(servers: Sequence[Server]) -> dict[str, str]:
    return {VARIABLES[server.kind]: server.url for server in servers}


@contextmanager
def _redis() -> Generator[Server]:
    with tempfile.TemporaryDirectory(prefix="later-bench-redis-") as folder:
        server = RedisServer(Path(folder)).start()
        try:
            with redis.Redis.from_url(server.url) as client:
                yield Server("redis", server.url, server.pid, _less_own(lambda: _redis_requests(client)))
        finally:
            server.stop()


def _redis_requests(client: "redis.Redis") -> int:
    """Requests of clients: a pipeline is one, and what a script calls is none."""
    return int(client.info("stats")["total_reads_processed"])


def _less_own(count: Callable[[], int]) -> Callable[[], int]:
    """`count`, each call of which is a request itself, without these."""
    own = itertools.count(1)
    return lambda: count() - next(own)


@contextmanager
def _postgres() -> Generator[Server]:
    server = PostgresServer()
    try:
        server.start()
        with psycopg.connect(server.url, autocommit=True) as connection:
            yield Server("postgres", server.url, server.pid, _less_own(lambda: _postgres_transactions(connection)))
    finally:
        server.stop()


def _postgres_transactions(connection: psycopg.Connection) -> int:
    row = connection.execute(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def _rabbitmq() -> Generator[Server]:
    with tempfile.TemporaryDirectory(prefix="later-bench-rabbitmq-") as folder:
        server = RabbitServer(Path(folder))
        try:
            server.start()
            yield Server("rabbitmq", server.url, server.pid, None)
        finally:
            server.end()


_STARTERS: Final = {"redis": _redis, "postgres": _postgres, "rabbitmq": _rabbitmq}


@contextmanager
def _noticing(kind: str, missing: dict[str, str]) -> Generator[None]:
    try:
        yield
    except MissingProgramError as error:
        missing[kind] = str(error)


def look(kinds: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """What the servers say of themselves; and why those of some kinds cannot be run, by kind."""
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    for kind in kinds:
        with _noticing(kind, missing), running([kind]) as [server]:
            name, version = _version(server)
            versions[name] = version
    return versions, missing


def _version(server: Server) -> tuple[str, str]:
    match server.kind:
        case "redis":
            with redis.Redis.from_url(server.url) as client:
                return "Redis", str(client.info("server")["redis_version"])
        case "postgres":
            with psycopg.connect(server.url) as connection:
                return "PostgreSQL", str(connection.info.parameter_status("server_version"))
        case _:
            with pika.BlockingConnection(pika.URLParameters(server.url)) as connection:
                properties = connection._impl.server_properties  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]  told nowhere else
                return "RabbitMQ", str(properties["version"])
