"""RabbitMQ killed, stopped, wiped, cut off, silent and out of memory: noticed, survived and healed."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import count
from typing import Any, Self, cast

import pytest
from pika.adapters.select_connection import IOLoop

from later.backends.rabbitmq import RabbitMQ, Trouble
from later.backends.rabbitmq.broker import RabbitBroker
from later.backends.rabbitmq.driver import Connection
from later.backends.rabbitmq.session import SILENCE
from later.core.errors import BackendError, Unavailable
from later.core.ports import BrokerOptions, BrokerState, Delivery
from later.core.records import Ref
from tests.support.proxy import Proxy, proxy_to
from tests.support.rabbitmq import RabbitServer
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(300)

names = count(1)


@pytest.fixture
def namespace() -> str:
    return f"faults-{next(names)}"


@pytest.fixture
def broker(rabbitmq_server: RabbitServer, namespace: str) -> Iterator[RabbitBroker]:
    broker = RabbitMQ(rabbitmq_server.url).open_broker(BrokerOptions(namespace))
    yield broker
    broker.close()


@pytest.fixture
def proxy(rabbitmq_server: RabbitServer) -> Iterator[Proxy]:
    with proxy_to(rabbitmq_server.port) as proxy:
        yield proxy


@pytest.fixture
def behind(proxy: Proxy, namespace: str) -> Iterator[RabbitBroker]:
    """A broker that is reached through the proxy."""
    broker = RabbitMQ(f"amqp://127.0.0.1:{proxy.port}").open_broker(BrokerOptions(namespace))
    yield broker
    proxy.heal()
    broker.close()


def refs(first: int, number: int) -> list[Ref]:
    return [Ref(f"job-{n}", 1, "q", n % 10) for n in range(first, first + number)]


def publish_through(broker: RabbitBroker, batch: Sequence[Ref], seconds: float = 30.0) -> float:
    """Publish, again and again as the publisher does; how long it took."""
    started = time.monotonic()
    while True:
        try:
            broker.publish(batch)
            return time.monotonic() - started
        except Unavailable:
            if time.monotonic() - started > seconds:
                raise
            time.sleep(0.02)


def receive_all(broker: RabbitBroker, wanted: set[str], seconds: float = 30.0) -> set[str]:
    """Receive and ack, again and again as a worker does, until all that is wanted has come."""
    got: set[str] = set()
    ends = time.monotonic() + seconds
    while not wanted <= got and time.monotonic() < ends:
        try:
            deliveries = broker.receive(["q"], 50, 1.0)
        except Unavailable:
            time.sleep(0.02)
            continue
        got |= {delivery.ref.id for delivery in deliveries}
        broker.ack(deliveries)
    assert wanted <= got
    return got


class Publishing:
    """Publishes batches in a thread until it is stopped, and remembers what was confirmed."""

    def __init__(self, broker: RabbitBroker, size: int = 20) -> None:
        self._broker = broker
        self._size = size
        self._stop = threading.Event()
        self.confirmed: set[str] = set()
        self.errors: list[BackendError] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        for first in count(0, self._size):
            if self._stop.is_set():
                return
            batch = refs(first, self._size)
            try:
                self._broker.publish(batch)
            except BackendError as error:
                self.errors.append(error)
                self._stop.wait(0.02)
            else:
                self.confirmed |= {ref.id for ref in batch}

    def has_more_than(self, number: int) -> bool:
        return len(self.confirmed) > number

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_what_was_confirmed_survives_kill_9(rabbitmq_server: RabbitServer, broker: RabbitBroker) -> None:
    with Publishing(broker) as publishing:
        until(lambda: len(publishing.confirmed) >= 1000, "1,000 confirmed messages")
        rabbitmq_server.kill()
        until(lambda: publishing.errors, "the loss to be noticed")
        rabbitmq_server.start()
        before = len(publishing.confirmed)
        until(lambda: len(publishing.confirmed) >= before + 200, "publishing to go on")
    assert {type(error) for error in publishing.errors} == {Unavailable}
    assert broker.health().troubles[Trouble.LOST] >= 1
    receive_all(broker, publishing.confirmed)


def test_a_graceful_restart(rabbitmq_server: RabbitServer, broker: RabbitBroker) -> None:
    publish_through(broker, refs(0, 100))
    first = broker.receive(["q"], 10, 20)
    rabbitmq_server.stop()
    broker.ack(first)  # too late: they come again
    with pytest.raises(Unavailable):
        broker.receive(["q"], 1, 20)
    with pytest.raises(Unavailable):
        broker.publish(refs(100, 1))
    rabbitmq_server.start()
    assert publish_through(broker, refs(100, 100)) < 10
    receive_all(broker, {ref.id for ref in refs(0, 200)})


def test_a_wiped_server_is_set_up_anew(rabbitmq_server: RabbitServer, broker: RabbitBroker) -> None:
    publish_through(broker, refs(0, 10))
    assert broker.receive(["q"], 1, 20)
    rabbitmq_server.kill()
    rabbitmq_server.wipe()
    rabbitmq_server.start()
    publish_through(broker, refs(10, 10))
    assert receive_all(broker, {ref.id for ref in refs(10, 10)}) == {ref.id for ref in refs(10, 10)}


@pytest.mark.parametrize("bytes_until", [1, 7, 100, 1000, 5000, 20_000, 33_333])
def test_a_connection_that_is_cut_in_the_middle(behind: RabbitBroker, proxy: Proxy, bytes_until: int) -> None:
    wanted = {ref.id for ref in refs(0, 300)}
    publish_through(behind, refs(0, 1))
    assert behind.receive(["q"], 1, 20)
    got: set[str] = set()
    receiving = threading.Thread(target=lambda: got.update(receive_all(behind, wanted)))
    receiving.start()
    proxy.cut_after(bytes_until)
    for first in range(0, 300, 50):
        assert publish_through(behind, refs(first, 50)) < 10
    receiving.join()
    assert wanted <= got
    assert sum(behind.health().troubles.values()) >= 1


def test_a_connection_that_is_cut_while_it_opens(proxy: Proxy, behind: RabbitBroker) -> None:
    for bytes_until in range(1, 1400, 53):
        proxy.cut_after(bytes_until)
        publish_through(behind, refs(0, 1))  # which lets no other error pass than Unavailable
        behind.close()


def test_cuts_again_and_again(behind: RabbitBroker, proxy: Proxy) -> None:
    with Publishing(behind) as publishing:
        for _ in range(8):
            before = len(publishing.confirmed)
            until(partial(publishing.has_more_than, before), "publishing to go on")
            proxy.drop()
    receive_all(behind, publishing.confirmed)
    assert behind.health().troubles[Trouble.LOST] >= 1


def waiting(broker: RabbitBroker) -> tuple[threading.Thread, list[list[Delivery] | BackendError]]:
    """A receive for long, in a thread, and what it gave."""
    results: list[list[Delivery] | BackendError] = []

    def wait() -> None:
        try:
            results.append(broker.receive(["q"], 5, 60))
        except BackendError as error:
            results.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread, results


def test_a_half_open_connection_is_given_up(behind: RabbitBroker, proxy: Proxy, broker: RabbitBroker) -> None:
    publish_through(behind, refs(0, 1))
    receive_all(behind, {"job-0"})
    thread, results = waiting(behind)
    proxy.black_hole()
    started = time.monotonic()
    with pytest.raises(Unavailable):
        behind.publish(refs(1, 1))
    assert time.monotonic() - started < 6
    thread.join()
    assert time.monotonic() - started < SILENCE + 4
    assert [type(result) for result in results] == [Unavailable]
    assert "fallen silent" in str(results[0])
    until(lambda: behind.health().troubles.get(Trouble.SILENT) == 2, "both to be noticed")
    with pytest.raises(Unavailable, match="did not answer within"):  # and a new one gets no further
        behind.receive(["q"], 1, 60)
    proxy.heal()
    publish_through(behind, refs(2, 1))
    receive_all(behind, {"job-2"})


def test_a_server_that_hangs_and_comes_back(rabbitmq_server: RabbitServer, broker: RabbitBroker) -> None:
    publish_through(broker, refs(0, 1))
    receive_all(broker, {"job-0"})
    rabbitmq_server.signal(signal.SIGSTOP)
    try:
        for use in (lambda: broker.publish(refs(1, 1)), lambda: broker.receive(["q"], 1, 1)):
            started = time.monotonic()
            with pytest.raises(Unavailable):
                use()
            assert time.monotonic() - started < 10
    finally:
        rabbitmq_server.signal(signal.SIGCONT)
    publish_through(broker, refs(2, 1))
    receive_all(broker, {"job-2"})


def test_an_idle_connection_stays(broker: RabbitBroker) -> None:
    publish_through(broker, refs(0, 1))
    receive_all(broker, {"job-0"})
    assert broker.receive(["q"], 1, SILENCE + 2) == []
    assert broker.health().troubles == {}


def test_a_server_short_of_memory(rabbitmq_server: RabbitServer, broker: RabbitBroker) -> None:
    publish_through(broker, refs(0, 20))
    taken = broker.receive(["q"], 5, 20)
    assert taken
    rabbitmq_server.control("set_vm_memory_high_watermark", "0.00001")
    try:
        until(lambda: broker.health().blocked or not _publishes(broker), "the alarm")
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(Unavailable, match="short of memory or disk"):
                broker.publish(refs(20, 20))
            assert time.monotonic() - started < 2
        assert broker.health().blocked
        with closing(RabbitMQ(rabbitmq_server.url).open_broker(BrokerOptions("another"))) as other:
            for each in (broker, other):
                report = each.report([])
                assert (report.state, report.error) == (BrokerState.BLOCKED, None)
        # What is there goes on being received and answered.
        broker.ack(taken)
        left = {ref.id for ref in refs(0, 20)} - {delivery.ref.id for delivery in taken}
        receive_all(broker, left)
    finally:
        rabbitmq_server.control("set_vm_memory_high_watermark", "0.4")
    assert publish_through(broker, refs(20, 20)) < 10
    assert not broker.health().blocked
    receive_all(broker, {ref.id for ref in refs(20, 20)})
    assert broker.health().troubles[Trouble.BLOCKED] == 1
    assert broker.report([]).state is BrokerState.CONNECTED
    assert [(trouble.what, trouble.times) for trouble in broker.troubles()] == [(Trouble.BLOCKED.value, 1)]


def _publishes(broker: RabbitBroker) -> bool:
    try:
        broker.publish(refs(0, 1))
    except Unavailable:
        return False
    return True


def test_attempts_are_spaced(proxy: Proxy, behind: RabbitBroker) -> None:
    proxy.refuse()
    ends = time.monotonic() + 3
    errors = 0
    while time.monotonic() < ends:
        with pytest.raises(Unavailable):
            behind.publish(refs(0, 1))
        errors += 1
        time.sleep(0.005)
    assert errors > 50
    assert 3 <= proxy.accepted <= 10


def test_a_defect_of_the_driver_at_the_end_leaves_nothing_open(
    proxy: Proxy, behind: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when pika tells twice that an attempt to connect has failed."""
    closed: list[bool] = []
    abort, close = Connection.abort, IOLoop.close

    def faulty(connection: Connection) -> None:
        abort(connection)
        while not connection.is_closed:
            cast("Any", connection).ioloop.start()
        raise TypeError("'NoneType' object is not callable")

    def noted(loop: IOLoop) -> None:
        close(loop)
        closed.append(True)

    monkeypatch.setattr(Connection, "abort", faulty)
    monkeypatch.setattr(IOLoop, "close", noted)
    proxy.black_hole()
    thread, results = waiting(behind)
    until(lambda: proxy.accepted, "an attempt to connect")
    behind.close()
    thread.join()
    until(lambda: closed)
    assert [type(result) for result in results] == [Unavailable]


def test_nothing_waits_for_a_server_that_is_gone(rabbitmq_server: RabbitServer, broker: RabbitBroker) -> None:
    publish_through(broker, refs(0, 1))
    receive_all(broker, {"job-0"})
    thread, results = waiting(broker)
    started = time.monotonic()
    rabbitmq_server.kill()
    thread.join()
    assert time.monotonic() - started < 2
    assert [type(result) for result in results] == [Unavailable]


def test_wake_ends_a_receive_that_cannot_connect(proxy: Proxy, behind: RabbitBroker) -> None:
    proxy.black_hole()
    thread, results = waiting(behind)
    until(lambda: proxy.accepted, "an attempt to connect")
    started = time.monotonic()
    while thread.is_alive():
        behind.wake()
        thread.join(0.01)
    assert time.monotonic() - started < 1
    assert results == [[]]
