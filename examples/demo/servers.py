"""Servers for the demo alone: on free ports, with directories that are removed at the end."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

# The tests have such servers as well.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.support.servers import MissingProgramError

__all__ = ["BACKENDS", "MissingProgramError", "servers"]

BACKENDS = ("sqlite", "redis", "postgres", "rabbitmq+redis", "rabbitmq+postgres")


@contextmanager
def servers(console: Console, backend: str) -> Iterator[dict[str, str]]:
    """Run what `backend` names; gives the variables that app.py reads."""
    with ExitStack() as running:
        urls: dict[str, str] = {}
        for part in backend.split("+"):
            if part == "redis":
                urls["DEMO_STORAGE"] = running.enter_context(redis())
            elif part == "postgres":
                urls["DEMO_STORAGE"] = running.enter_context(postgres())
            elif part == "rabbitmq":
                urls["DEMO_BROKER"] = running.enter_context(rabbitmq())
            if part != "sqlite":
                console.print(f"Started {part} for this demo.")
        yield urls


@contextmanager
def redis() -> Iterator[str]:
    from tests.support.servers import RedisServer

    with tempfile.TemporaryDirectory(prefix="later-demo-redis-") as folder:
        server = RedisServer(Path(folder)).start()
        try:
            yield server.url
        finally:
            server.stop()


@contextmanager
def postgres() -> Iterator[str]:
    from tests.support.postgres import PostgresServer

    server = PostgresServer()
    try:
        yield server.start().url
    finally:
        server.stop()


@contextmanager
def rabbitmq() -> Iterator[str]:
    from tests.support.rabbitmq import RabbitServer

    with tempfile.TemporaryDirectory(prefix="later-demo-rabbitmq-") as folder:
        server = RabbitServer(Path(folder))
        try:
            yield server.start().url
        finally:
            server.end()
