"""A broker that goes away, comes back empty, or is there and of no use: real workers go on, and return to it."""

import json
import logging
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pika
import pytest
from typing_extensions import override

from later import ServerTrouble, State, Unavailable
from later.backends.memory import Memory
from later.backends.memory.broker import Exchange, MemoryBroker
from later.backends.rabbitmq import Trouble
from later.core.engine import keeper
from later.core.ports import BrokerOptions, BrokerTrouble, Delivery
from tests.support.jobs import jobs_of, work
from tests.support.ledger import APP, Aside, Note, Worker, environment, make_jobs
from tests.support.proxy import Proxy, proxy_to
from tests.support.rabbitmq import RabbitServer
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(480)

FALLEN_BACK = 10.0
"""Seconds within which jobs go on without their broker."""
RETURNED = 20.0
"""Seconds within which workers consume again from a broker that is back, though the machine be slow."""
SEEN = 10.0 + 5.0
"""Seconds within which `later status` tells what a worker has met: two beats, and the command itself takes a while."""
QUICK = 1.0
"""Seconds for an enqueue, whatever the broker does."""


class App:
    """The ledger's app in this process, with its workers in others."""

    def __init__(self, folder: Path, server: RabbitServer, broker: str) -> None:
        self.folder = folder
        self.name = f"outage-{uuid.uuid4().hex[:8]}"
        self._server = server
        self._backends = f"sqlite:///{folder / 'jobs.sqlite3'}", broker
        self.jobs = make_jobs(folder, *self._backends, self.name)
        self._workers: list[Worker] = []

    def work(self, *arguments: str) -> None:
        self._workers.append(Worker(self.folder, *self._backends, self.name, *arguments))

    def status(self) -> dict[str, Any]:
        """What `later status` says about the broker."""
        broker: dict[str, Any] = json.loads(self.told("--json"))["broker"]
        return broker

    def troubles(self) -> list[dict[str, int]]:
        """How often each trouble was met, by server, as `later status` says."""
        servers: list[dict[str, Any]] = json.loads(self.told("--json"))["servers"]
        return [{trouble["what"]: trouble["times"] for trouble in server["troubles"]} for server in servers]

    def told(self, *arguments: str) -> str:
        """What `later status` says. It ends with status 0, also when the broker is gone."""
        told = subprocess.run(
            [sys.executable, "-m", "later.cli.main", "status", "-A", APP, *arguments],
            cwd=self.folder,
            env=environment(self.folder, *self._backends, self.name),
            check=True,
            capture_output=True,
            text=True,
        )
        return told.stdout

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
            sys.stdout.write(worker.log.read_text())  # pytest shows it when the test fails
        self.jobs.close()

    def enqueue(self, number: int = 1, payload: Note | None = None) -> list[str]:
        """One after the other, each quickly."""
        ids: list[str] = []
        for _ in range(number):
            started = time.monotonic()
            ids.append(self.jobs.enqueue(payload or Note()))
            assert time.monotonic() - started < QUICK
        return ids

    def ran(self, ids: list[str]) -> bool:
        return set(ids) <= self.jobs.app.runs().keys()

    def runs(self, seconds: float, number: int = 20) -> None:
        """Enqueue some jobs, which run within that time."""
        ids = self.enqueue(number)
        until(lambda: self.ran(ids), f"{number} jobs to run", seconds)

    @contextmanager
    def looking(self) -> Iterator[Callable[[str], Any]]:
        """What RabbitMQ says about a queue, not asked through `later`."""
        connection = pika.BlockingConnection(pika.URLParameters(self._server.url))
        try:
            channel = connection.channel()
            yield lambda queue: channel.queue_declare(f"{self.name}:{queue}", passive=True).method
        finally:
            connection.close()

    def consumers(self, queue: str = "default") -> int:
        """How many consumers the queue has; none when it does not exist."""
        try:
            with self.looking() as look:
                number: int = look(queue).consumer_count
        except (pika.exceptions.ChannelClosedByBroker, pika.exceptions.AMQPConnectionError):
            return 0
        return number

    def depth(self, queue: str = "default") -> int:
        try:
            with self.looking() as look:
                number: int = look(queue).message_count
        except (pika.exceptions.ChannelClosedByBroker, pika.exceptions.AMQPConnectionError):
            return 0
        return number

    def consumed(self, workers: int = 2) -> None:
        """Wait until each worker process waits at the broker, and jobs come through it."""
        until(lambda: self.consumers() >= workers, "workers to consume from the broker", RETURNED)
        latencies: list[float] = []
        for _ in range(9):
            started = time.monotonic()
            [id] = self.enqueue()
            until(partial(self.ran, [id]))
            latencies.append(time.monotonic() - started)
        # Workers that have a broker look into the storage every 5 to 10 s only.
        assert sorted(latencies)[4] < 1.0, latencies

    def finished(self) -> None:
        """All that was accepted has succeeded."""

        def only_succeeded() -> bool:
            counts = self.jobs.counts()
            return not any(counts.total(state) for state in State if state is not State.SUCCEEDED)

        until(only_succeeded, "every job to succeed")


@pytest.fixture
def app(tmp_path: Path, rabbitmq_server: RabbitServer) -> Iterator[App]:
    app = App(tmp_path, rabbitmq_server, rabbitmq_server.url)
    yield app
    app.close()


@pytest.fixture
def proxy(rabbitmq_server: RabbitServer) -> Iterator[Proxy]:
    with proxy_to(rabbitmq_server.port) as proxy:
        yield proxy


def test_a_broker_that_is_down_from_the_start(app: App, rabbitmq_server: RabbitServer) -> None:
    rabbitmq_server.stop()
    ids = app.enqueue(20)
    app.work("--processes", "2")
    until(lambda: app.ran(ids), "jobs to run without a broker", FALLEN_BACK + 10)  # a worker takes a while to start
    app.runs(FALLEN_BACK)
    rabbitmq_server.start()
    app.consumed()
    app.finished()


def test_a_broker_that_is_killed_under_workers(app: App, rabbitmq_server: RabbitServer) -> None:
    app.work("--processes", "2")
    app.runs(30)
    app.consumed()
    for _ in range(2):
        rabbitmq_server.kill()
        app.runs(FALLEN_BACK)
        rabbitmq_server.start()
        app.consumed()
    app.finished()


def test_what_a_wiped_broker_had_is_published_again(app: App, rabbitmq_server: RabbitServer) -> None:
    """No worker serves the jobs' queue: what fills it is the upkeep of a server for another one."""
    ids = app.jobs.enqueue_many([Note()] * 1200)
    until(lambda: app.depth() == len(ids), "all to be published")
    app.work("--queues", "aside")
    [aside] = app.enqueue(1, Aside())
    until(lambda: app.ran([aside]), "the server to be up", 30)
    rabbitmq_server.stop()
    rabbitmq_server.wipe()
    rabbitmq_server.start()
    assert app.depth() == 0
    until(lambda: app.depth() == len(ids), "all to be published again", 40)
    with app.looking() as look:
        time.sleep(3 * 2.0)  # beats of the republishing: it was done once, and is done
        assert look("default").message_count == len(ids)
    app.work("--processes", "2")
    until(lambda: app.ran(ids), "the jobs to run", 60)
    app.finished()
    assert set(app.jobs.app.runs().values()) == {1}


def test_a_broker_wiped_under_workers_that_are_kept_busy(app: App, rabbitmq_server: RabbitServer) -> None:
    """More comes through the broker all the time, so that its queue is never empty for long."""
    ids = app.jobs.enqueue_many([Note(seconds=0.02)] * 1500)
    app.work("--processes", "2", "--slots", "2")
    until(app.jobs.app.runs, "the workers to begin", 30)
    rabbitmq_server.kill()
    rabbitmq_server.wipe()
    rabbitmq_server.start()
    until(lambda: len(app.jobs.app.runs()) >= len(ids), "the jobs to run", 90)
    app.consumed()
    app.finished()
    assert set(app.jobs.app.runs().values()) == {1}


def test_a_channel_that_is_closed_while_the_connection_lives(app: App, rabbitmq_server: RabbitServer) -> None:
    """The user may do nothing any more: each attempt to consume costs the channel."""
    app.work("--processes", "2")
    app.runs(30)
    app.consumed()
    rabbitmq_server.control("clear_permissions", "guest")
    try:
        for _ in range(3):
            app.runs(FALLEN_BACK, number=5)
    finally:
        rabbitmq_server.control("set_permissions", "guest", ".*", ".*", ".*")
    app.consumed()
    app.finished()


def test_a_queue_that_is_deleted_under_workers(app: App, rabbitmq_server: RabbitServer) -> None:
    app.work("--processes", "2")
    app.runs(30)
    app.consumed()
    for _ in range(3):
        rabbitmq_server.control("delete_queue", f"{app.name}:default")
        app.runs(FALLEN_BACK)
    app.consumed()
    app.finished()


def test_what_workers_have_met_is_seen_in_the_status(app: App, rabbitmq_server: RabbitServer) -> None:
    """Each of the two processes has a consumer, and a connection to lose."""
    app.work("--processes", "2")
    app.runs(30)
    app.consumed()
    assert app.troubles() == [{}]

    rabbitmq_server.control("delete_queue", f"{app.name}:default")
    until(lambda: app.troubles()[0].get(Trouble.CANCELLED, 0) >= 2, "both cancelled consumers to be told", SEEN)
    app.consumed()
    rabbitmq_server.control("close_all_connections", "a test")
    until(lambda: app.troubles()[0].get(Trouble.LOST, 0) >= 2, "the lost connections to be told", SEEN)

    cancelled, lost = (app.troubles()[0][trouble] for trouble in (Trouble.CANCELLED, Trouble.LOST))
    lines = app.told().splitlines()
    assert any(line.startswith(f"{cancelled} {Trouble.CANCELLED}, the last ") for line in lines), lines
    assert any(line.startswith(f"{lost} {Trouble.LOST}, the last ") for line in lines), lines
    app.consumed()
    app.finished()


def test_a_broker_short_of_memory(app: App, rabbitmq_server: RabbitServer) -> None:
    app.work("--processes", "2")
    app.runs(30)
    app.consumed()
    rabbitmq_server.control("set_vm_memory_high_watermark", "0.00001")
    try:
        for _ in range(3):
            app.runs(FALLEN_BACK + 2)
    finally:
        rabbitmq_server.control("set_vm_memory_high_watermark", "0.4")
    app.consumed()
    app.finished()


def test_a_half_open_link(tmp_path: Path, rabbitmq_server: RabbitServer, proxy: Proxy) -> None:
    app = App(tmp_path, rabbitmq_server, f"amqp://guest:guest@127.0.0.1:{proxy.port}")
    try:
        app.work("--processes", "2")
        app.runs(30)
        app.consumed()
        proxy.black_hole()
        for _ in range(3):
            app.runs(FALLEN_BACK + 2)
        proxy.heal()
        proxy.drop()
        app.consumed()
        app.finished()
    finally:
        app.close()


class Flaky(MemoryBroker):
    """Fails as often as it is told to."""

    failures = 0

    @override
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        if self.failures:
            self.failures -= 1
            raise Unavailable("nobody at home")
        return super().receive(queues, limit, min(wait, 0.05))


def test_an_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    jobs = jobs_of(work(lambda ctx, payload: None), storage=Memory(), broker=Opens(Flaky(Exchange())))
    broker = jobs.broker()
    assert isinstance(broker, Flaky)

    def returned(times: int) -> bool:
        return caplog.text.count("messages again") == times

    with jobs.running(slots=1):
        for outage in (1, 2):
            broker.failures = 4
            until(lambda: not broker.failures, "receiving to fail")
            until(partial(returned, outage), "its return to be told")
    jobs.close()
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert (
        messages
        == [
            "the broker does not give messages; jobs go on without it until it does: nobody at home",
            "the broker gives messages again",
        ]
        * 2
    )


class Troubled(Flaky):
    @override
    def troubles(self) -> Sequence[BrokerTrouble]:
        return [BrokerTrouble("days without coffee", 2, 1_000_000)]


def test_what_a_server_within_a_program_has_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "BEAT", 0.05)
    jobs = jobs_of(work(lambda ctx, payload: None), storage=Memory(), broker=Opens(Troubled(Exchange())))
    with jobs.running(slots=1):
        until(lambda: any(server.troubles for server in jobs.servers()), "a beat to tell")
        [server] = jobs.servers()
    jobs.close()
    assert server.troubles == (ServerTrouble("days without coffee", 2, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),)


class Opens:
    """A backend that opens always the same broker."""

    def __init__(self, broker: Flaky) -> None:
        self._broker = broker

    def open_broker(self, options: BrokerOptions) -> Flaky:
        return self._broker


@pytest.mark.parametrize("fault", ["stopped", "black hole"])
def test_status_tells_of_it_at_once(tmp_path: Path, rabbitmq_server: RabbitServer, proxy: Proxy, fault: str) -> None:
    app = App(tmp_path, rabbitmq_server, f"amqp://guest:guest@127.0.0.1:{proxy.port}")
    address = f"amqp://guest:***@127.0.0.1:{proxy.port}"
    try:
        app.enqueue(3)
        until(lambda: app.depth() == 3, "all to be published")
        assert app.status() == {
            "address": address,
            "state": "connected",
            "error": None,
            "messages": {"default": 3},
            "dead": 0,
        }
        if fault == "stopped":
            rabbitmq_server.stop()
        else:
            proxy.black_hole()
        started = time.monotonic()
        told = app.status()
        assert time.monotonic() - started < 30  # 5 s for an answer, and the start of a process on a busy machine
        assert (told["address"], told["state"], told["messages"], told["dead"]) == (address, "unreachable", {}, None)
        assert told["error"]
    finally:
        app.close()
