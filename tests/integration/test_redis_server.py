"""Redis as it fails: logins, settings, restarts, lost connections, and servers that are none."""

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar, cast

import pytest
import redis

from later.backends.redis import Redis
from later.backends.redis.connection import Connection
from later.backends.redis.target import parse
from later.core.errors import (
    ConfigError,
    SchemaMismatch,
    StorageFull,
    StorageReadOnly,
    TooManyJobs,
    Unavailable,
    Unsupported,
)
from later.core.lifecycle import Cause, Change
from later.core.ports import Storage, StorageOptions
from later.core.records import SECOND, Claimant, NewJob, ServerInfo, State, Verdict
from tests.support.proxy import proxy_to
from tests.support.servers import RedisServer, free_port
from tests.support.waiting import until

BY = Claimant("server", "worker")
PASSWORD = "p@ss#w%rd/:?é"
ENCODED = "p%40ss%23w%25rd%2F%3A%3F%C3%A9"

Start = Callable[..., RedisServer]
Value = TypeVar("Value")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[RedisServer] = []

    def begin(*options: str, password: str | None = None) -> RedisServer:
        folder = tmp_path / f"redis-{len(servers)}"
        folder.mkdir()
        servers.append(RedisServer(folder, *options))
        return servers[-1].start(password)

    yield begin
    for server in servers:
        server.stop()


@pytest.fixture
def server(start: Start) -> RedisServer:
    return start()


@pytest.fixture
def client(server: RedisServer) -> Iterator["redis.Redis"]:
    with redis.Redis(port=server.port) as client:
        yield client


@pytest.fixture
def storage(server: RedisServer) -> Iterator[Storage]:
    storage = opened(server.url)
    storage.migrate()
    storage.register(ServerInfo(BY.server, None, "host", 1, None), 3_600 * SECOND)
    yield storage
    storage.close()


def opened(url: str, namespace: str = "app") -> Storage:
    return Redis(url).open_storage(StorageOptions(namespace))


def until_available(call: Callable[[], Value]) -> Value:
    """Repeat a call for as long as the server cannot be reached."""

    def attempt() -> tuple[Value] | None:
        try:
            return (call(),)
        except Unavailable:
            return None

    return until(attempt)[0]  # type: ignore[index]  # not None, or `until` would have gone on


def new(job_id: str = "job") -> NewJob:
    return NewJob(job_id, "type", "q", b"{}")


def state(storage: Storage, job_id: str = "job") -> State | None:
    [details] = storage.get([job_id])
    return None if details is None else details.job.state


@pytest.mark.parametrize("login", [f":{ENCODED}", f":{PASSWORD}", f"default:{ENCODED}"])
def test_a_password_may_hold_any_character(start: Start, login: str) -> None:
    server = start("--requirepass", PASSWORD, password=PASSWORD)
    storage = opened(f"redis://{login}@127.0.0.1:{server.port}")
    storage.migrate()
    storage.insert([new()])
    assert state(storage) is State.ENQUEUED
    storage.close()


@pytest.mark.parametrize(
    ("password", "login", "message"),
    [
        ("secret", "", "wants a login and the URL has none: write USER:PASSWORD@"),
        ("secret", ":wrong-secret@", "refused the login of the default user: check"),
        ("secret", "nobody:wrong-secret@", "refused the login of the user nobody: check"),
        ("", ":secret@", "has no password for the default user, and the URL gives one: leave it out"),
    ],
)
def test_a_refused_login_is_told_without_the_password(start: Start, password: str, login: str, message: str) -> None:
    server = start("--requirepass", password, password=password or None)
    storage = opened(f"redis://{login}127.0.0.1:{server.port}")
    with pytest.raises(ConfigError, match=message) as caught:
        storage.migrate()
    assert "secret" not in str(caught.value)
    assert f"127.0.0.1:{server.port}" in str(caught.value)


def test_a_user_without_rights_is_told_which_ones_to_have(start: Start) -> None:
    server = start()
    admin: Any = redis.Redis(port=server.port)
    admin.execute_command("ACL", "SETUSER", "jobs", "on", ">secret", "+info", "+evalsha")
    storage = opened(f"redis://jobs:secret@127.0.0.1:{server.port}")
    with pytest.raises(ConfigError, match=r"does not let the user jobs .*: ACL SETUSER jobs ") as caught:
        storage.migrate()
    assert "secret" not in str(caught.value)
    admin.execute_command(*str(caught.value).rpartition(": ")[2].split())
    storage.migrate()
    storage.insert([new()])
    assert not storage.wait(["other"], 0.01)
    assert state(storage) is State.ENQUEUED
    storage.close()
    admin.close()


def test_an_ipv6_address(start: Start) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = start("--bind", "127.0.0.1", "::1")
    storage = opened(f"redis://[::1]:{server.port}/1")
    storage.migrate()
    assert storage.insert([new()])[0].state is State.ENQUEUED
    storage.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_is_refused(start: Start, policy: str) -> None:
    storage = opened(start("--maxmemory-policy", policy).url)
    with pytest.raises(ConfigError, match=f"{policy}.*noeviction"):
        storage.migrate()
    storage.close()


def test_a_server_without_aof_is_warned_about(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    for option, warnings in (("yes", 0), ("no", 1)):
        caplog.clear()
        storage = opened(start("--appendonly", option).url)
        with caplog.at_level(logging.WARNING):
            storage.migrate()
        assert sum("without AOF" in text for text in caplog.messages) == warnings
        storage.close()


def test_an_old_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection(parse("redis://example"), 1)
    monkeypatch.setattr(connection, "_info", lambda key: {"redis_version": "6.0.16"})
    with pytest.raises(Unsupported, match=r"6\.0\.16.*6\.2"):
        connection.check_server("key")


@pytest.mark.parametrize(("layout", "age"), [(999, "newer"), (1, "an older")])
def test_another_layout_is_refused(storage: Storage, client: "redis.Redis", layout: int, age: str) -> None:
    client.set("later:{app}", layout)
    with pytest.raises(SchemaMismatch, match=f"{age} version"):
        storage.migrate()


def test_a_missing_database(server: RedisServer) -> None:
    with pytest.raises(ConfigError, match="database"):
        opened(f"{server.url}99").migrate()


def test_nobody_listens() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
        opened(f"redis://:secret@127.0.0.1:{free_port()}").migrate()


def test_no_node_of_a_cluster_listens() -> None:
    with pytest.raises(Unavailable, match="try again"):
        opened(f"redis+cluster://127.0.0.1:{free_port()}").migrate()


def test_a_server_that_is_no_cluster(server: RedisServer) -> None:
    with pytest.raises(ConfigError, match="is no cluster"):
        opened(f"redis+cluster://127.0.0.1:{server.port}").migrate()


def test_something_else_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    with listening.accept()[0] as peer:
                        peer.recv(1000)
                        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = Thread(target=answer)
        thread.start()
        with pytest.raises(ConfigError, match="does not speak") as caught:
            opened(f"redis://:secret@127.0.0.1:{listening.getsockname()[1]}").migrate()
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        assert "secret" not in str(caught.value)


def test_tls_to_a_plain_port(server: RedisServer) -> None:
    backend = Redis(f"rediss://127.0.0.1:{server.port}", timeout=timedelta(seconds=0.5))
    with pytest.raises((ConfigError, Unavailable)):
        backend.open_storage(StorageOptions("app")).migrate()


@pytest.mark.parametrize("option", ["ca", "cert"])
def test_a_file_for_tls_that_is_not_there(server: RedisServer, option: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        opened(f"rediss://127.0.0.1:{server.port}?{option}=/nowhere.pem").migrate()


def test_memory_runs_out(storage: Storage, client: "redis.Redis") -> None:
    client.config_set("maxmemory", "1mb")
    with pytest.raises(StorageFull, match="maxmemory"):
        storage.insert([new()])
    client.config_set("maxmemory", "0")
    assert state(storage) is None, "nothing was stored"
    assert storage.insert([new()])[0].state is State.ENQUEUED


@pytest.mark.parametrize("room", [1, 2, 4, 8, 16], ids=lambda room: f"{room} MiB")
def test_memory_that_ends_within_a_call(storage: Storage, client: "redis.Redis", room: int) -> None:
    """All of its jobs are stored, or none, also of the most that a call may have."""
    storage.insert([new()])
    client.config_set("maxmemory", client.info("memory")["used_memory"] + room * 2**20)
    try:
        storage.insert([NewJob(f"job-{n}", "type", "q", b"x" * 200) for n in range(10_000)])
    except StorageFull:
        assert storage.counts().by_queue == {"q": {State.ENQUEUED: 1}}
    else:
        assert storage.counts().by_queue == {"q": {State.ENQUEUED: 10_001}}


def test_more_bytes_than_one_call_may_have(storage: Storage) -> None:
    payload = b"x" * 2**20
    with pytest.raises(TooManyJobs, match="64 MiB"):
        storage.insert([NewJob(f"job-{n}", "type", "q", payload) for n in range(65)])
    assert storage.counts().by_queue == {}
    storage.insert([NewJob(f"job-{n}", "type", "q", payload) for n in range(64)])


def test_a_replica_is_not_written(start: Start, server: RedisServer) -> None:
    replica = opened(start("--replicaof", f"127.0.0.1 {server.port}").url)
    with pytest.raises((StorageReadOnly, Unavailable)):
        replica.migrate()
    replica.close()


def test_scripts_are_sent_again_when_the_server_forgot_them(storage: Storage, client: "redis.Redis") -> None:
    storage.insert([new("a")])
    client.script_flush()
    storage.insert([new("b")])
    assert [claim.id for claim in storage.exchange(BY, queues=["q"], limit=2).next] == ["a", "b"]


def test_calls_survive_killed_connections(storage: Storage, client: "redis.Redis") -> None:
    """Each call finds its connection closed, or loses it on the way, and is sent again."""
    for n in range(100):
        client.client_kill_filter(_type="normal", skipme=True)
        storage.insert([new(f"job-{n}")])
    assert storage.counts().by_queue == {"q": {State.ENQUEUED: 100}}


def test_claims_whose_answer_was_lost_are_told_of(storage: Storage, server: RedisServer) -> None:
    """Claiming again would give other jobs, or none, and nobody would look for the first."""
    storage.insert([new()])
    storage.register(ServerInfo(BY.server, None, "host", 1, None), 3_600 * SECOND)
    with proxy_to(server.port) as proxy:
        behind = opened(f"redis://127.0.0.1:{proxy.port}")
        assert behind.exchange(BY, queues=["none"], limit=1).next == ()
        proxy.cut_after(250)  # within the answer
        with pytest.raises(Unavailable):
            behind.exchange(BY, queues=["q"], limit=1)
        behind.close()
    assert [claim.id for claim in storage.claims(BY.server)] == ["job"]


def test_calls_are_safe_to_repeat_while_connections_are_killed(storage: Storage, server: RedisServer) -> None:
    """Somebody kills connections all the time: no job is lost or made twice."""
    over: list[bool] = []

    def kill() -> None:
        with redis.Redis(port=server.port) as killer:
            while not over:
                killer.client_kill_filter(_type="normal", skipme=True)

    thread = Thread(target=kill)
    thread.start()
    try:
        for n in range(100):
            until_available(partial(storage.insert, [new(f"job-{n}")]))
            until_available(partial(storage.apply, [Change(f"job-{n}", Cause.DELETE)]))
    finally:
        over.append(True)
        thread.join()
    assert storage.counts().by_queue == {"q": {State.DELETED: 100}}
    details = storage.get([f"job-{n}" for n in range(100)])
    assert {len(job.history) for job in details if job} == {2}


def test_a_killed_server_comes_back_with_its_jobs(storage: Storage, server: RedisServer) -> None:
    storage.insert([new(f"job-{n}") for n in range(50)])
    [claim] = storage.exchange(BY, queues=["q"], limit=1).next
    server.kill()
    with pytest.raises(Unavailable):
        storage.counts()
    server.start()
    done = Change(claim.id, Cause.SUCCEED, epoch=claim.epoch, server=BY.server)
    assert storage.apply([done])[0].verdict is Verdict.APPLIED
    assert storage.counts().by_queue == {"q": {State.ENQUEUED: 49, State.SUCCEEDED: 1}}


def test_who_waits_hears_of_jobs_after_a_restart(storage: Storage, server: RedisServer) -> None:
    assert not storage.wait(["q"], 0.01)
    server.kill()
    server.start()
    answers: list[bool] = []

    def wait() -> None:
        answers.append(storage.wait(["q"], 20))

    thread = Thread(target=wait)
    thread.start()
    storage.insert([new()])
    thread.join(20)
    assert answers == [True]


def test_a_frozen_server_is_given_up_in_time(server: RedisServer) -> None:
    storage = Redis(server.url, timeout=timedelta(seconds=0.2)).open_storage(StorageOptions("app"))
    storage.migrate()
    server.freeze()
    with pytest.raises(Unavailable, match="in time"):
        storage.counts()
    server.thaw()
    assert until_available(storage.counts).by_queue == {}
    storage.close()


def test_a_user_who_may_not_run_scripts(server: RedisServer, client: "redis.Redis") -> None:
    client.acl_setuser("reader", enabled=True, passwords=["+secret"], keys=["*"], categories=["+@read", "+@connection"])
    storage = opened(f"redis://reader:secret@127.0.0.1:{server.port}")
    with pytest.raises(ConfigError, match="reader run EVALSHA") as caught:
        storage.insert([new()])
    assert "secret" not in str(caught.value)
    storage.close()


# --- word of a job


def waiting(storage: Storage, queue: str = "q") -> tuple[Thread, list[bool]]:
    answers: list[bool] = []
    thread = Thread(target=lambda: answers.append(storage.wait([queue], 20)))
    thread.start()
    return thread, answers


def test_a_job_is_told_to_one_of_those_that_wait(server: RedisServer, client: "redis.Redis") -> None:
    storages = [opened(server.url) for _ in range(3)]
    storages[0].migrate()
    waiters = [waiting(storage) for storage in storages]
    until(lambda: client.zcard("later:{app}:waiting:q") == 3)

    for number in range(1, 4):
        storages[0].insert([new(f"job-{number}")])
        assert client.zcard("later:{app}:waiting:q") == 3 - number
        until(lambda number=number: sum(len(answers) for _, answers in waiters) == number)  # type: ignore[misc]

    for (thread, answers), storage in zip(waiters, storages, strict=True):
        thread.join(20)
        assert answers == [True]
        storage.close()


def test_as_many_are_told_as_there_are_jobs(server: RedisServer, client: "redis.Redis") -> None:
    storages = [opened(server.url) for _ in range(3)]
    storages[0].migrate()
    waiters = [waiting(storage) for storage in storages]
    until(lambda: client.zcard("later:{app}:waiting:q") == 3)

    storages[0].insert([new("1"), new("2")])

    assert client.zcard("later:{app}:waiting:q") == 1
    storages[0].insert([NewJob("3", "t", "q", b"{}", delay=1)])  # which `promote` enqueues
    until(lambda: storages[0].promote(10).enqueued)
    for (thread, answers), storage in zip(waiters, storages, strict=True):
        thread.join(20)
        assert answers == [True]
        storage.close()


def test_who_has_gone_is_passed_over(storage: Storage, server: RedisServer, client: "redis.Redis") -> None:
    gone = opened(server.url)
    assert not gone.wait(["q"], 0.01)
    gone.close()
    until(lambda: not client.pubsub_channels())
    thread, answers = waiting(storage)
    until(lambda: client.zcard("later:{app}:waiting:q") == 2)

    storage.insert([new()])

    thread.join(20)
    assert answers == [True]


def test_word_that_nobody_waits_for_any_more_is_passed_on(
    storage: Storage, server: RedisServer, client: "redis.Redis"
) -> None:
    busy = opened(server.url)
    assert not busy.wait(["q"], 0.01)
    storage.insert([new()])  # `busy` alone is told
    thread, answers = waiting(storage)

    thread.join(20)
    assert answers == [True]
    assert client.zcard("later:{app}:waiting:q") == 0
    busy.close()


def test_who_claims_all_it_has_room_for_tells_another_of_the_rest(storage: Storage, client: "redis.Redis") -> None:
    thread, answers = waiting(storage)
    until(lambda: client.zcard("later:{app}:waiting:q") == 1)
    [(name, since)] = cast("Any", client).zrange("later:{app}:waiting:q", 0, -1, withscores=True)
    client.delete("later:{app}:waiting:q")
    storage.insert([new("1"), new("2")])  # somebody was told who has room for one
    client.zadd("later:{app}:waiting:q", {name: since})

    assert len(storage.exchange(BY, queues=["q"], limit=1).next) == 1

    thread.join(20)
    assert answers == [True]


def test_who_does_not_wait_any_more_is_forgotten(storage: Storage, client: "redis.Redis") -> None:
    client.zadd("later:{app}:waiting:q", {"a worker of yesterday": 1, "of this moment": 2**60})
    assert not storage.wait(["q"], 0.01)
    names = client.zrange("later:{app}:waiting:q", 0, -1)
    assert len(names) == 2
    assert b"a worker of yesterday" not in names


def test_where_nobody_can_be_listed_it_looks(storage: Storage, client: "redis.Redis") -> None:
    client.set("later:{app}:waiting:q", "not ours")
    thread, answers = waiting(storage)
    storage.insert([new()])
    thread.join(20)
    assert answers == [True]


def test_connections_may_be_made_again_any_number_of_times(server: RedisServer) -> None:
    connection = Connection(parse(server.url), 5.0)
    for _ in range(150):  # the driver's pool allows for 100
        connection.separate("later:{app}").disconnect()
    connection.close()
