"""A cluster of three nodes: every key of an app lies in one slot, and everything works there."""

import subprocess
import time
from collections.abc import Iterator
from threading import Thread

import pytest
import redis

from later.backends.redis import Redis
from later.core.lifecycle import Cause, Change
from later.core.ports import StorageOptions
from later.core.records import SECOND, Claimant, JobQuery, NewJob, ServerInfo, State
from tests.support.servers import RedisServer, free_port, program
from tests.support.waiting import DEADLINE, until

BY = Claimant("server", "worker")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    # The nodes talk to each other on another port, by default 10,000 higher, which may be out of range.
    servers = [
        RedisServer(tmp_path_factory.mktemp("node"), "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
        for _ in range(3)
    ]
    try:
        for server in servers:
            server.start()
        addresses = [f"127.0.0.1:{server.port}" for server in servers]
        command = [str(program("redis-cli", "redis-tools")), "--cluster", "create", *addresses]
        subprocess.run([*command, "--cluster-yes"], check=True, capture_output=True, timeout=60)
        for server in servers:
            with redis.Redis(port=server.port) as client:
                until(lambda client=client: client.cluster("info")["cluster_state"] == "ok")  # type: ignore[misc]
        yield servers
    finally:
        for server in servers:
            server.stop()


def test_apps_on_all_nodes(cluster: list[RedisServer]) -> None:
    backend = Redis(f"redis+cluster://127.0.0.1:{cluster[0].port}")
    for number in range(8):
        storage = backend.open_storage(StorageOptions(f"app-{number}", outbox=True))
        storage.migrate()
        storage.register(ServerInfo(BY.server, None, "host", 1, None), 3_600 * SECOND)
        storage.insert([NewJob("parent", "type", "q", b"{}"), NewJob("child", "type", "q", b"{}", parent="parent")])
        [claim] = storage.exchange(BY, queues=["q", "other"], limit=5).next
        done = Change("parent", Cause.SUCCEED, epoch=claim.epoch, server=BY.server, result=b"1")
        [child] = storage.exchange(BY, [done], queues=["q"], limit=5).next
        assert (child.id, child.parent_result) == ("child", b"1")
        assert storage.beat(BY.server, SECOND).alive
        assert storage.rescue(5, [BY.server]).jobs == 1
        assert storage.promote(5) == ((), None)
        assert storage.unpublished(5, 1) == []
        assert storage.prune(5) == 0
        assert len(storage.find(JobQuery(limit=1)).jobs) == 1
        assert storage.counts().by_queue == {"q": {State.SUCCEEDED: 1, State.ENQUEUED: 1}}
        storage.close()
    found = [0, 0, 0]
    for node, server in enumerate(cluster):
        with redis.Redis(port=server.port) as client:
            found[node] = client.dbsize()
    assert all(found), "different apps may live on different nodes"


def test_waiting(cluster: list[RedisServer]) -> None:
    storage = Redis(f"redis+cluster://127.0.0.1:{cluster[1].port}").open_storage(StorageOptions("waits"))
    storage.migrate()
    answers: list[float] = []
    started = time.monotonic()

    def wait() -> None:
        assert storage.wait(["q"], DEADLINE)
        answers.append(time.monotonic() - started)

    thread = Thread(target=wait)
    thread.start()
    storage.insert([NewJob("job", "type", "q", b"{}")])
    thread.join(DEADLINE)
    assert answers
    assert answers[0] < DEADLINE / 2
    storage.close()
