"""The whole contract of the `Broker` port."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from threading import Barrier, Thread
from typing import ClassVar, TypeAlias

import pytest

from later.core.ports import Broker, BrokerOptions, BrokerState, Delivery
from later.core.records import Ref
from later.testing.contract.plugin import check_plugin
from later.testing.contract.together import together

MakeBroker: TypeAlias = Callable[[BrokerOptions], Broker]


def ref(job_id: str, queue: str = "q", priority: int = 0, epoch: int = 1) -> Ref:
    return Ref(job_id, epoch, queue, priority)


def refs(deliveries: list[Delivery]) -> list[Ref]:
    return [delivery.ref for delivery in deliveries]


class BrokerContract:
    """Subclass it in a test module, override the fixture `make_broker`, and pytest runs the contract:

        class TestMyBroker(BrokerContract):
            @pytest.fixture
            def make_broker(self):
                return MyBackend("mine://localhost").open_broker

    `make_broker` takes `BrokerOptions` and opens a broker. All brokers opened within one test must reach the same
    queues, which are empty or absent when the test begins.
    """

    patience: ClassVar[float] = 20.0
    """Seconds within which a message that was published has to come."""

    scheme: ClassVar[str | None] = None
    """The scheme that the backend is installed under, if it is. Then the contract also looks at its plugin."""

    def receive(self, broker: Broker, number: int, *queues: str) -> list[Delivery]:
        """Receive until `number` messages came."""
        deliveries: list[Delivery] = []
        end = time.monotonic() + self.patience
        while len(deliveries) < number and time.monotonic() < end:
            deliveries += broker.receive(queues or ("q",), number - len(deliveries), min(self.patience, 0.5))
        assert len(deliveries) == number
        return deliveries

    @pytest.fixture
    def make_broker(self) -> MakeBroker:
        raise NotImplementedError("override the fixture make_broker: (BrokerOptions) -> Broker")

    @pytest.fixture
    def broker(self, make_broker: MakeBroker) -> Iterator[Broker]:
        broker = make_broker(BrokerOptions("contract"))
        yield broker
        broker.close()

    @pytest.fixture
    def other(self, make_broker: MakeBroker) -> Iterator[Broker]:
        """A second connection to the same queues."""
        broker = make_broker(BrokerOptions("contract"))
        yield broker
        broker.close()

    def test_the_plugin_says_what_the_broker_can_do(self, broker: Broker) -> None:
        check_plugin(self.scheme, broker.capabilities)

    def test_a_message_is_what_was_published(self, broker: Broker) -> None:
        message = Ref("job-1.a_B", 2**40, "queue-1.a_B", 9)
        broker.publish([message])
        assert refs(self.receive(broker, 1, "queue-1.a_B")) == [message]

    def test_declare_again(self, broker: Broker) -> None:
        for _ in range(2):
            broker.declare(["q", "r"])
        broker.declare([])
        assert broker.receive(["q", "r"], 5, 0) == []

    def test_declaring_keeps_messages(self, broker: Broker) -> None:
        broker.publish([ref("job")])
        broker.declare(["q"])
        assert refs(self.receive(broker, 1)) == [ref("job")]

    def test_nothing_to_publish(self, broker: Broker) -> None:
        broker.publish([])
        assert broker.receive(["q"], 5, 0) == []

    def test_nothing_to_receive(self, broker: Broker) -> None:
        broker.declare(["q"])
        for wait in (0.0, 0.01):
            assert broker.receive(["q"], 5, wait) == []
        assert broker.receive([], 5, 0) == []

    def test_a_receive_that_finds_nothing_waits_and_then_returns(self, broker: Broker) -> None:
        broker.declare(["q"])
        started = time.monotonic()
        assert broker.receive(["q"], 5, 0.1) == []
        waited = time.monotonic() - started
        assert waited >= 0.05, "a worker would ask in a loop"
        assert waited < 0.1 + self.patience / 2

    def test_equals_come_in_order(self, broker: Broker) -> None:
        messages = [ref(f"job-{n}") for n in range(50)]
        broker.publish(messages[:20])
        broker.publish(messages[20:])
        assert refs(self.receive(broker, 50)) == messages

    def test_no_more_than_the_limit_comes(self, broker: Broker) -> None:
        broker.publish([ref(f"job-{n}") for n in range(5)])
        assert len(broker.receive(["q"], 2, self.patience)) in {1, 2}
        assert broker.receive(["q"], 0, 0) == []

    def test_only_the_queues_asked_for(self, broker: Broker) -> None:
        broker.publish([ref("a", "q"), ref("b", "r"), ref("c", "s")])
        assert set(refs(self.receive(broker, 2, "s", "q"))) == {ref("a", "q"), ref("c", "s")}
        assert broker.receive(["s", "q"], 5, 0.05) == []
        assert refs(self.receive(broker, 1, "r")) == [ref("b", "r")]

    def test_a_higher_priority_comes_first(self, broker: Broker) -> None:
        if not broker.capabilities.priority:
            pytest.skip("no priorities")
        broker.publish([ref(f"job-{n}", priority=priority) for n, priority in enumerate([0, 9, 5, 1, 5])])
        assert [message.priority for message in refs(self.receive(broker, 5))] == [9, 5, 5, 1, 0]

    def test_a_message_is_received_once_while_it_is_reserved(self, broker: Broker, other: Broker) -> None:
        broker.publish([ref("job")])
        self.receive(broker, 1)
        assert broker.receive(["q"], 5, 0) == []
        assert other.receive(["q"], 5, 0.05) == []

    def test_an_acked_message_is_gone(self, broker: Broker, other: Broker) -> None:
        broker.publish([ref("a"), ref("b")])
        broker.ack(self.receive(broker, 2))
        broker.close()
        assert other.receive(["q"], 5, 0.05) == []

    def test_acking_twice_is_ignored(self, broker: Broker) -> None:
        broker.publish([ref("a"), ref("b")])
        [first] = self.receive(broker, 1)
        broker.ack([first])
        broker.ack([first, first])
        broker.ack([])
        assert refs(self.receive(broker, 1)) == [ref("b")]

    def test_acking_after_a_reconnect_is_ignored(self, broker: Broker) -> None:
        broker.publish([ref("job")])
        deliveries = self.receive(broker, 1)
        broker.close()
        broker.ack(deliveries)
        broker.release(deliveries)
        assert refs(self.receive(broker, 1)) == [ref("job")]
        assert broker.receive(["q"], 5, 0.05) == []
        broker.ack(deliveries)  # of the earlier connection, while this one has the message reserved
        broker.close()
        assert refs(self.receive(broker, 1)) == [ref("job")]

    def test_a_released_message_comes_again_to_anyone(self, broker: Broker, other: Broker) -> None:
        broker.publish([ref("a"), ref("b")])
        [first, second] = self.receive(broker, 2)
        broker.ack([second])
        broker.release([first])
        assert refs(self.receive(other, 1)) == [ref("a")]
        assert broker.receive(["q"], 5, 0) == []

    def test_a_released_message_does_not_hold_up_other_queues(self, broker: Broker) -> None:
        broker.publish([ref("a", "q"), ref("b", "r")])
        for _ in range(5):
            broker.release(broker.receive(["q", "r"], 1, self.patience))
        got = [*self.receive(broker, 1, "q", "r"), *self.receive(broker, 1, "q", "r")]
        assert set(refs(got)) == {ref("a", "q"), ref("b", "r")}

    def test_reserved_messages_return_when_the_connection_is_closed(self, broker: Broker, other: Broker) -> None:
        messages = [ref(f"job-{n}") for n in range(5)]
        broker.publish(messages)
        deliveries = self.receive(broker, 3)
        broker.ack(deliveries[:1])
        broker.close()
        assert sorted(refs(self.receive(other, 4))) == sorted(set(messages) - {deliveries[0].ref})

    def test_a_closed_broker_may_be_used_again(self, broker: Broker) -> None:
        broker.publish([ref("job")])
        for _ in range(2):
            broker.close()
        assert refs(self.receive(broker, 1)) == [ref("job")]

    def test_namespaces_do_not_see_each_other(self, broker: Broker, make_broker: MakeBroker) -> None:
        stranger = make_broker(BrokerOptions("contract-other"))
        broker.publish([ref("job")])
        stranger.declare(["q"])
        assert stranger.receive(["q"], 5, 0.05) == []
        assert stranger.depth(["q"]) == {"q": 0}
        stranger.close()

    def test_the_depth_is_roughly_known(self, broker: Broker) -> None:
        broker.declare(["q", "empty"])
        assert set(broker.depth(["q", "empty", "undeclared"])) == {"q", "empty", "undeclared"}
        broker.publish([ref("a"), ref("b")])
        end = time.monotonic() + self.patience
        while (depth := broker.depth(["q"])["q"]) == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert depth > 0
        assert broker.depth(["empty"]) == {"empty": 0}
        assert broker.depth([]) == {}

    def test_a_report_says_how_the_broker_is(self, broker: Broker) -> None:
        if broker.report(["q"]) is None:
            pytest.skip("this adapter does not report")
        broker.declare(["q"])
        report = broker.report(["q", "undeclared"])
        assert report is not None
        assert (report.state, report.error) == (BrokerState.CONNECTED, None)
        assert set(report.depth) == {"q", "undeclared"}
        assert report.dead in {0, None}
        assert report.address

    def test_a_waiting_receiver_gets_a_message_at_once(self, broker: Broker) -> None:
        broker.declare(["q"])
        got: list[Delivery] = []
        started = time.monotonic()
        thread = Thread(target=lambda: got.extend(broker.receive(["q"], 5, self.patience)))
        thread.start()
        broker.publish([ref("job")])
        thread.join(self.patience)
        assert refs(got) == [ref("job")]
        assert time.monotonic() - started < self.patience / 2

    def test_wake_ends_every_receive(self, broker: Broker) -> None:
        broker.declare(["q"])
        started = time.monotonic()
        threads = [Thread(target=broker.receive, args=(["q"], 5, self.patience)) for _ in range(2)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            broker.wake()
            threads[0].join(0.01)
        assert time.monotonic() - started < self.patience / 2

    def test_a_new_queue_may_be_used_from_all_sides_at_once(self, broker: Broker, other: Broker) -> None:
        """As when several processes start together for the first time."""
        for n in range(10):
            queue = f"q-{n}"
            got: list[Ref] = []

            def publish(who: Broker, job_id: str, queue: str = queue) -> Callable[[Barrier], None]:
                def run(barrier: Barrier) -> None:
                    barrier.wait()
                    who.publish([ref(job_id, queue)])

                return run

            def consume(barrier: Barrier, queue: str = queue, got: list[Ref] = got) -> None:
                barrier.wait()
                deliveries = self.receive(broker, 3, queue)
                got.extend(refs(deliveries))
                broker.ack(deliveries)

            together([publish(broker, "a"), publish(broker, "b"), publish(other, "c"), consume])
            assert {message.id for message in got} == {"a", "b", "c"}

    def test_threads_share_the_messages(self, broker: Broker) -> None:
        messages = [ref(f"job-{n}") for n in range(300)]

        def publish(part: int) -> Callable[[Barrier], list[Ref]]:
            def run(barrier: Barrier) -> list[Ref]:
                barrier.wait()
                for n in range(part, 300, 10):
                    broker.publish(messages[n : n + 5])
                return []

            return run

        got: list[Ref] = []

        def consume(barrier: Barrier) -> list[Ref]:
            barrier.wait()
            patience = time.monotonic() + self.patience
            while len(got) < len(messages) and time.monotonic() < patience:
                deliveries = broker.receive(["q"], 7, 1.0)
                got.extend(refs(deliveries))
                broker.ack(deliveries)
            broker.wake()
            return got

        together([publish(0), publish(5), consume, consume])
        assert Counter(got) == Counter(messages)
        assert broker.receive(["q"], 7, 0) == []
