"""Two servers and a sentinel: the storage finds the primary, also after another one has become it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from later.backends.redis import Redis
from later.core.errors import StorageReadOnly, Unavailable
from later.core.ports import StorageOptions
from later.core.records import InsertVerdict, NewJob, State
from tests.support.servers import RedisServer, end, free_port, program, tied
from tests.support.waiting import until


@pytest.fixture
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """The primary first."""
    primary = RedisServer(tmp_path_factory.mktemp("primary")).start()
    replica = RedisServer(tmp_path_factory.mktemp("replica"), "--replicaof", f"127.0.0.1 {primary.port}").start()
    yield [primary, replica]
    for server in (primary, replica):
        server.stop()


@pytest.fixture
def sentinel(servers: list[RedisServer], tmp_path: Path) -> Iterator[int]:
    """Its port, once it knows of both servers."""
    port = free_port()
    settings = tmp_path / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor main 127.0.0.1 {servers[0].port} 1\n"
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
    )
    command = [*tied(), str(program("redis-server", "redis-server")), str(settings), "--sentinel"]
    with (tmp_path / "log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)

    def knows_both() -> bool:
        try:
            return bool(client.sentinel_slaves("main"))
        except redis.ConnectionError:
            return False

    with redis.Redis(port=port) as client:
        until(knows_both)
    yield port
    end(process)


def test_jobs_go_on_after_a_failover(servers: list[RedisServer], sentinel: int) -> None:
    storage = Redis(f"redis+sentinel://127.0.0.1:{sentinel}/main").open_storage(StorageOptions("app"))
    storage.migrate()
    storage.insert([NewJob("before", "type", "q", b"{}")])
    with redis.Redis(port=servers[0].port) as client:
        until(lambda: client.wait(1, 1000) == 1, "the replica to have it")
    servers[0].kill()

    def insert() -> InsertVerdict | None:
        try:
            return storage.insert([NewJob("after", "type", "q", b"{}")])[0].verdict
        except (Unavailable, StorageReadOnly):
            return None

    assert until(insert) is not None
    assert storage.counts().by_queue == {"q": {State.ENQUEUED: 2}}
    storage.close()


def test_a_group_that_no_sentinel_knows(sentinel: int) -> None:
    storage = Redis(f"redis+sentinel://127.0.0.1:{sentinel}/other").open_storage(StorageOptions("app"))
    with pytest.raises(Unavailable, match=f"127.0.0.1:{sentinel}/other"):
        storage.migrate()
    storage.close()
