"""What is special about the RabbitMQ broker, beyond the contract."""

import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from pika import spec

from later.backends.rabbitmq import RabbitMQ, Trouble
from later.backends.rabbitmq.broker import RabbitBroker
from later.backends.rabbitmq.consuming import LINGER, Receipt
from later.backends.rabbitmq.errors import AccessRefused, QueueMismatch
from later.core.errors import BackendError, Unavailable
from later.core.messages import encode
from later.core.ports import BrokerOptions, Delivery
from later.core.records import Ref
from tests.support.waiting import later_threads, until

PATIENCE = 20.0


def ref(job_id: str, queue: str = "q", priority: int = 0) -> Ref:
    return Ref(job_id, 1, queue, priority)


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.ref.id for delivery in deliveries]


def receive(broker: RabbitBroker, number: int, *queues: str) -> list[Delivery]:
    """Receive until `number` messages came."""
    deliveries: list[Delivery] = []
    ends = time.monotonic() + PATIENCE
    while len(deliveries) < number and time.monotonic() < ends:
        deliveries += broker.receive(queues or ("q",), number - len(deliveries), 1.0)
    assert len(deliveries) == number
    return deliveries


@pytest.fixture
def namespace(rabbitmq_prefix: str) -> str:
    return f"{rabbitmq_prefix}app"


@pytest.fixture
def open_broker(rabbitmq_url: str, namespace: str) -> Iterator[Callable[[], RabbitBroker]]:
    opened: list[RabbitBroker] = []

    def open_broker() -> RabbitBroker:
        opened.append(RabbitMQ(rabbitmq_url).open_broker(BrokerOptions(namespace)))
        return opened[-1]

    yield open_broker
    for broker in opened:
        broker.close()


@pytest.fixture
def broker(open_broker: Callable[[], RabbitBroker]) -> RabbitBroker:
    return open_broker()


@pytest.fixture
def other(open_broker: Callable[[], RabbitBroker]) -> RabbitBroker:
    return open_broker()


@pytest.fixture
def admin(rabbitmq_url: str) -> Iterator[Any]:
    """A channel of pika's own, to meddle with."""
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_url))
    yield connection.channel()
    connection.close()


# What is hidden from others


def test_no_more_is_reserved_than_was_asked_for(broker: RabbitBroker, other: RabbitBroker) -> None:
    broker.publish([ref(f"job-{n}") for n in range(10)])
    mine = receive(broker, 4)
    assert ids(mine) == [f"job-{n}" for n in range(4)]
    assert sorted(ids(receive(other, 6))) == [f"job-{n}" for n in range(4, 10)]


def test_what_a_busy_worker_does_not_fetch_is_given_back(broker: RabbitBroker, other: RabbitBroker) -> None:
    broker.publish([ref("first")])
    [first] = broker.receive(["q"], 5, PATIENCE)  # its consumer may hold 5
    broker.publish([ref(f"job-{n}") for n in range(5)])
    started = time.monotonic()
    assert sorted(ids(receive(other, 5))) == [f"job-{n}" for n in range(5)]
    assert time.monotonic() - started < 20 * LINGER
    broker.ack([first])


def test_what_waits_behind_a_better_queue_is_given_back(broker: RabbitBroker, other: RabbitBroker) -> None:
    broker.publish([ref("high", "high"), ref("low", "low")])
    assert ids(broker.receive(["high", "low"], 1, PATIENCE)) == ["high"]
    got: list[Delivery] = []
    waiting = threading.Thread(target=lambda: got.extend(broker.receive(["high"], 1, PATIENCE)))
    waiting.start()
    assert ids(receive(other, 1, "low")) == ["low"]
    broker.publish([ref("next", "high")])
    waiting.join()
    assert ids(got) == ["next"]


def test_a_waiting_worker_goes_on_after_it_gave_back(broker: RabbitBroker) -> None:
    for n in range(3):
        broker.publish([ref(f"job-{n}")])
        assert ids(receive(broker, 1)) == [f"job-{n}"]
        until(lambda: not consumers(broker), "the consumer to end")


def consumers(broker: RabbitBroker) -> list[str]:
    session = broker._receiving()
    with session.changed:
        return [line.queue for line in session._lines.values() if line.consumers]


def consuming(broker: RabbitBroker) -> list[str]:
    """Only those that the server has confirmed: a queue that is deleted before that is missed as it is asked for, which
    ends the connection, instead of cancelling the consumer."""
    session = broker._receiving()
    with session.changed:
        return [line.queue for line in session._lines.values() if line.settled]


def test_a_worker_that_waits_keeps_its_consumer(broker: RabbitBroker) -> None:
    broker.declare(["q"])
    waiting = threading.Thread(target=broker.receive, args=(["q"], 1, PATIENCE))
    waiting.start()
    until(lambda: consuming(broker) == ["q"], "the consumer to start")
    before = list(broker._receiving()._lines["q"].consumers)
    time.sleep(3 * LINGER)
    assert broker._receiving()._lines["q"].consumers == before
    while waiting.is_alive():
        broker.wake()
        waiting.join(0.01)


def test_earlier_queues_come_first(broker: RabbitBroker) -> None:
    for _ in range(5):
        broker.publish([ref(f"{queue}-{n}", queue) for n in range(3) for queue in "cba"])
        deliveries = broker.receive(["a", "b", "c"], 9, PATIENCE)
        assert [delivery.ref.queue for delivery in deliveries] == sorted("abc" * 3)
        broker.ack(deliveries)
        until(lambda: not consumers(broker), "the consumers to end")


def test_a_better_message_overtakes_those_that_wait_here(broker: RabbitBroker) -> None:
    broker.publish([ref("first")])
    assert ids(broker.receive(["q"], 3, PATIENCE)) == ["first"]
    broker.publish([ref("plain", priority=0), ref("better", priority=9)])
    assert ids(receive(broker, 2))[0] == "better"


# Answers


def test_acks_in_any_order(broker: RabbitBroker, other: RabbitBroker) -> None:
    broker.publish([ref(f"job-{n:02}") for n in range(30)])
    deliveries = receive(broker, 30)
    for chosen in ([3], [0, 1], [29, 2], [5, 7, 9], range(10, 20)):
        broker.ack([deliveries[n] for n in chosen])
    broker.close()
    left = {3, 0, 1, 29, 2, 5, 7, 9, *range(10, 20)} ^ set(range(30))
    assert sorted(ids(receive(other, len(left)))) == [f"job-{n:02}" for n in sorted(left)]


def test_answers_to_an_earlier_connection_are_dropped(broker: RabbitBroker) -> None:
    broker.publish([ref("a"), ref("b")])
    early = receive(broker, 2)
    broker.close()
    again = receive(broker, 2)
    broker.ack(early)
    broker.release([*early, Delivery(ref("x"), "the tag of another adapter")])
    assert broker.health().troubles[Trouble.STALE] == 5
    broker.ack(again)
    assert broker.receive(["q"], 5, 0) == []


def test_an_answer_the_server_does_not_expect_costs_the_channel_only(broker: RabbitBroker) -> None:
    broker.publish([ref("job")])
    receive(broker, 1)
    session = broker._receiving()
    session.post(lambda: session._channel.basic_ack(12345))
    until(lambda: session.ended, "the session to end")
    assert broker.health().troubles == {Trouble.CHANNEL: 1}
    assert "unknown delivery tag" in str(broker.health().last_error)
    assert ids(receive_through(broker, 1)) == ["job"]


def receive_through(broker: RabbitBroker, number: int) -> list[Delivery]:
    """As `receive`, and try again on errors, as a worker does."""
    deliveries: list[Delivery] = []
    ends = time.monotonic() + PATIENCE
    while len(deliveries) < number and time.monotonic() < ends:
        try:
            deliveries += broker.receive(["q"], number - len(deliveries), 1.0)
        except Unavailable:
            time.sleep(0.01)
    assert len(deliveries) == number
    return deliveries


# Queues that go away


def test_a_queue_that_is_deleted_under_a_receiver_comes_back(
    broker: RabbitBroker, other: RabbitBroker, namespace: str, admin: Any
) -> None:
    broker.declare(["q"])
    got: list[Delivery] = []
    waiting = threading.Thread(target=lambda: got.extend(broker.receive(["q"], 1, PATIENCE)))
    waiting.start()
    until(lambda: consuming(broker) == ["q"], "the consumer to start")
    admin.queue_delete(f"{namespace}:q")
    until(lambda: broker.health().troubles.get(Trouble.CANCELLED) == 1, "the loss to be noticed")
    other.publish([ref("job")])
    waiting.join()
    assert ids(got) == ["job"]


def test_a_queue_that_is_deleted_under_a_publisher_comes_back(
    broker: RabbitBroker, other: RabbitBroker, namespace: str, admin: Any
) -> None:
    broker.publish([ref("a"), ref("b", "r")])
    admin.queue_delete(f"{namespace}:q")
    broker.publish([ref("c"), ref("d", "r")])
    assert broker.health().troubles == {Trouble.UNROUTED: 1}
    assert ids(receive(other, 1)) == ["c"]
    assert sorted(ids(receive(other, 2, "r"))) == ["b", "d"]


def test_a_queue_that_was_declared_otherwise(broker: RabbitBroker, namespace: str, admin: Any) -> None:
    admin.queue_declare(f"{namespace}:q", durable=True)
    try:
        for use in (
            lambda: broker.publish([ref("job")]),
            lambda: broker.receive(["q"], 1, 1),
            lambda: broker.declare(["q"]),
        ):
            with pytest.raises(QueueMismatch, match="delete the queue"):
                use()
        broker.publish([ref("job", "sound")])
        assert ids(receive(broker, 1, "sound")) == ["job"]
    finally:
        admin.queue_delete(f"{namespace}:q")
    broker.publish([ref("job")])
    assert ids(receive(broker, 1)) == ["job"]


def test_a_queue_of_another_connection(broker: RabbitBroker, namespace: str, admin: Any) -> None:
    admin.queue_declare(f"{namespace}:q", exclusive=True)
    with pytest.raises(AccessRefused, match="another connection"):
        broker.receive(["q"], 1, 1)


# What is not ours


class RawProperties(spec.BasicProperties):  # type: ignore[misc]  # pika has no annotations
    """Properties with one header, given as it goes over the wire."""

    def __init__(self, value: bytes) -> None:
        super().__init__(headers={})
        self.value = value

    def encode(self) -> list[bytes]:
        table = b"\x01x" + self.value
        return [struct.pack(">H", spec.BasicProperties.FLAG_HEADERS), struct.pack(">I", len(table)), table]


def nested(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        table = b"\x01x" + value
        value = b"F" + struct.pack(">I", len(table)) + table
    return value


GARBAGE = [b"", b"x", b"\x80\x04\x95.", b"x" * 1_000_000, b'{"v":2}', b"[" * 500]


def test_garbage_is_set_aside_once(broker: RabbitBroker, namespace: str, admin: Any) -> None:
    broker.publish([ref("first")])
    for body in (*GARBAGE, encode("another-app", ref("job"))):
        admin.basic_publish("", f"{namespace}:q", body)
    depth(admin, f"{namespace}:q")  # asked behind them, it is answered when they are there
    broker.publish([ref("last")])
    deliveries = receive(broker, 2)
    assert ids(deliveries) == ["first", "last"]
    broker.ack(deliveries)
    assert broker.receive(["q"], 10, 0) == []
    count = len(GARBAGE) + 1
    assert broker.health().troubles == {Trouble.FOREIGN: count}
    until(lambda: depth(admin, f"{namespace}.dead") == count, "the dead queue to fill")
    report = broker.report(["q"])
    assert (report.depth, report.dead) == ({"q": 0}, count)
    assert [(trouble.what, trouble.times) for trouble in broker.troubles()] == [(Trouble.FOREIGN.value, count)]
    _, properties, body = admin.basic_get(f"{namespace}.dead", auto_ack=True)
    assert body == b""
    (death,) = properties.headers["x-death"]
    assert (death["reason"], death["queue"], death["count"]) == ("rejected", f"{namespace}:q", 1)


def depth(admin: Any, name: str) -> int:
    number: int = admin.queue_declare(name, passive=True).method.message_count
    return number


DATE_AFTER_THE_YEAR_9999 = b"T" + struct.pack(">Q", 2**62)


@pytest.mark.parametrize("header", [DATE_AFTER_THE_YEAR_9999, nested(2000)], ids=["date", "nested"])
def test_properties_that_the_driver_cannot_decode_do_no_harm(
    broker: RabbitBroker, namespace: str, admin: Any, header: bytes
) -> None:
    broker.declare(["q"])
    body = encode(namespace, ref("ours"))
    for content in (b"garbage", body):
        admin.basic_publish("", f"{namespace}:q", content, RawProperties(header))
    deliveries = receive(broker, 1)
    assert ids(deliveries) == ["ours"]
    broker.ack(deliveries)
    assert broker.receive(["q"], 10, 0) == []
    assert broker.health().troubles == {Trouble.FOREIGN: 1}


def test_a_flood_of_garbage_ends(
    broker: RabbitBroker, namespace: str, admin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broker.declare(["q"])
    for n in range(3000):
        admin.basic_publish("", f"{namespace}:q", b"%d" % n)
    depth(admin, f"{namespace}:q")
    broker.publish([ref("job")])
    assert ids(receive(broker, 1)) == ["job"]
    assert broker.health().troubles == {Trouble.FOREIGN: 3000}
    assert len([record for record in caplog.records if "is not one of ours" in record.getMessage()]) == 12
    until(lambda: depth(admin, f"{namespace}.dead") == 3000, "the dead queue to fill")


def test_messages_are_small_durable_and_readable(broker: RabbitBroker, namespace: str, admin: Any) -> None:
    broker.publish([ref("job", priority=3)])
    method, properties, body = admin.basic_get(f"{namespace}:q", auto_ack=True)
    assert method is not None
    assert body == encode(namespace, ref("job", priority=3))
    assert (properties.delivery_mode, properties.priority) == (2, 3)
    assert properties.content_type == "application/json"


def test_the_depth_of_more_queues_than_there_are_channels(broker: RabbitBroker) -> None:
    broker.publish([ref("job", "q-7"), ref("other", "q-7")])
    depths = broker.depth([f"q-{n}" for n in range(2500)])
    assert depths == {f"q-{n}": 2 if n == 7 else 0 for n in range(2500)}


# Processes and threads

FORK = """
import os, sys
from later.backends.rabbitmq import RabbitMQ
from later.core.ports import BrokerOptions
from later.core.records import Ref

broker = RabbitMQ(sys.argv[1]).open_broker(BrokerOptions(sys.argv[2]))
broker.publish([Ref("before", 1, "q", 0)])
[before] = broker.receive(["q"], 1, 10)
child = os.fork()
if not child:
    broker.ack([before])  # it is the parent's: dropped
    broker.publish([Ref("child", 1, "q", 0)])
    broker.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
broker.publish([Ref("parent", 1, "q", 0)])
broker.ack([before])
broker.close()
"""


def test_both_sides_of_a_fork_go_on(rabbitmq_url: str, namespace: str, broker: RabbitBroker) -> None:
    broker.declare(["q"])
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, rabbitmq_url, namespace],
        check=True,
        timeout=PATIENCE,
    )
    assert ids(receive(broker, 2)) == ["child", "parent"]


def test_a_process_that_just_ends_returns_what_it_reserved(
    rabbitmq_url: str, namespace: str, broker: RabbitBroker
) -> None:
    broker.publish([ref("job")])
    program = (
        "import sys; from later.backends.rabbitmq import RabbitMQ; from later.core.ports import BrokerOptions; "
        "assert RabbitMQ(sys.argv[1]).open_broker(BrokerOptions(sys.argv[2])).receive(['q'], 1, 10)"
    )
    subprocess.run([sys.executable, "-c", program, rabbitmq_url, namespace], check=True, timeout=PATIENCE)
    assert ids(receive(broker, 1)) == ["job"]


def test_closing_leaves_no_threads(open_broker: Callable[[], RabbitBroker]) -> None:
    before = later_threads()
    broker = open_broker()
    broker.publish([ref("job")])
    receive(broker, 1)
    assert len(later_threads()) == len(before) + 2
    assert broker.health().publishing
    assert broker.health().receiving
    broker.close()
    assert later_threads() == before
    assert not broker.health().receiving


def test_closing_ends_a_receive(broker: RabbitBroker) -> None:
    results: list[object] = []

    def wait() -> None:
        try:
            results.append(broker.receive(["q"], 1, PATIENCE))
        except BackendError as error:
            results.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(lambda: consuming(broker) == ["q"], "the consumer to start")
    broker.close()
    waiting.join()
    assert results == [[]]


def test_a_tag_names_its_connection(broker: RabbitBroker) -> None:
    broker.publish([ref("job")])
    [delivery] = receive(broker, 1)
    assert isinstance(delivery.tag, Receipt)
    assert delivery.tag.session is broker._receiving()
