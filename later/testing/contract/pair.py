"""The contract of a storage and a broker together: whatever the one does, the jobs of the other run once."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Barrier, Event, Lock
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel
from typing_extensions import override

from later.core.codec import Limits
from later.core.errors import Unavailable
from later.core.lifecycle import PUBLISH_WITHIN, Cause, Change
from later.core.ports import (
    Broker,
    BrokerBackend,
    BrokerOptions,
    Delivery,
    Storage,
    StorageBackend,
    StorageOptions,
)
from later.core.records import SECOND, Claim, Claimant, Ref, State, Verdict
from later.core.registry import JobType, Registry
from later.runtime.context import JobContext
from later.runtime.jobs import BackgroundJobs
from later.testing.clock import VirtualClock
from later.testing.contract.bench import BY, Bench, MakeStorage, ids, new_job, report
from later.testing.contract.broker import MakeBroker
from later.testing.contract.together import together

OTHER = Claimant("other-server", "worker")


@dataclass(frozen=True)
class Pair(Bench):
    """A storage with its clock, and the broker beside it."""

    broker: Broker
    patience: float

    def enqueue(self, *names: str, **options: Any) -> list[Ref]:
        """Insert jobs and publish them, as a program that enqueues does."""
        refs = [item.ref for item in self.add(*(new_job(name, **options) for name in names)) if item.ref is not None]
        self.publish(refs)
        return refs

    def publish(self, refs: Sequence[Ref]) -> None:
        self.broker.publish(refs)
        self.storage.published(refs)

    def republish(self) -> list[Ref]:
        """What the upkeep of a server does."""
        refs = self.storage.unpublished(100, 30 * SECOND)
        self.publish(refs)
        return refs

    def receive(self, number: int, *queues: str) -> list[Delivery]:
        """Receive until `number` messages came."""
        deliveries: list[Delivery] = []
        end = time.monotonic() + self.patience
        while len(deliveries) < number and time.monotonic() < end:
            deliveries += self.broker.receive(queues or ("q",), number - len(deliveries), min(self.patience, 0.5))
        assert len(deliveries) == number
        return deliveries

    def quiet(self, *queues: str) -> bool:
        """Whether the broker has nothing to receive."""
        return self.broker.receive(queues or ("q",), 10, 0.05) == []

    def claim_all(self, deliveries: Sequence[Delivery], by: Claimant = BY) -> list[Claim | None]:
        """Claim what the messages are about, and ack them, as a worker does."""
        claims = self.storage.exchange(by, refs=[delivery.ref for delivery in deliveries]).by_ref
        self.broker.ack(deliveries)
        return list(claims)

    def work(self, number: int, *queues: str, by: Claimant = BY) -> list[Claim]:
        """Receive messages, each of which leads to a claim."""
        claims = [claim for claim in self.claim_all(self.receive(number, *queues), by) if claim is not None]
        assert len(claims) == number
        return claims

    def succeed(self, claims: Sequence[Claim], by: Claimant = BY) -> list[Ref]:
        """Report success; what became Enqueued by that is published."""
        applied = self.storage.apply([report(claim, Cause.SUCCEED, server=by.server) for claim in claims])
        assert {each.verdict for each in applied} <= {Verdict.APPLIED}
        refs = [ref for each in applied for ref in each.enqueued]
        self.publish(refs)
        return refs

    def lose(self, number: int, *queues: str) -> None:
        """The broker loses its messages: somebody else takes them all."""
        self.broker.ack(self.receive(number, *queues))


class Ping(BaseModel):
    n: int = 0


class Switch:
    """A backend whose broker can be made unreachable; what it has meanwhile stays."""

    def __init__(self, make_broker: MakeBroker) -> None:
        self._make = make_broker
        self.off = Event()

    def open_broker(self, options: BrokerOptions) -> "SwitchedBroker":
        return SwitchedBroker(self._make(options), self.off)


class SwitchedBroker(Broker):
    def __init__(self, broker: Broker, off: Event) -> None:
        self._broker = broker
        self._off = off
        self._wakes = 0
        self.capabilities = broker.capabilities

    def _reached(self) -> Broker:
        if self._off.is_set():
            raise Unavailable("the broker is switched off")
        return self._broker

    @override
    def declare(self, queues: Sequence[str]) -> None:
        self._reached().declare(queues)

    @override
    def publish(self, refs: Sequence[Ref]) -> None:
        self._reached().publish(refs)

    @override
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        end, wakes = time.monotonic() + wait, self._wakes
        while True:
            # In short turns, so that the switch is noticed.
            deliveries = self._reached().receive(queues, limit, min(0.1, max(0.0, end - time.monotonic())))
            if deliveries or time.monotonic() >= end or self._wakes != wakes:
                return deliveries

    @override
    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._reached().ack(deliveries)

    @override
    def release(self, deliveries: Sequence[Delivery]) -> None:
        self._reached().release(deliveries)

    @override
    def wake(self) -> None:
        self._wakes += 1
        self._broker.wake()

    @override
    def depth(self, queues: Sequence[str]) -> dict[str, int]:
        return self._reached().depth(queues)

    @override
    def close(self) -> None:
        self._broker.close()


class Opens:
    """A storage backend made of a fixture."""

    def __init__(self, make_storage: MakeStorage) -> None:
        self._make = make_storage

    def open_storage(self, options: StorageOptions) -> Storage:
        return self._make(options)


class App:
    """An app with this pair as its backends, whose only job counts its runs."""

    def __init__(self, storage: StorageBackend, broker: BrokerBackend) -> None:
        self.runs: Counter[str] = Counter()
        self._lock = Lock()
        registry = Registry([JobType("ping", Ping, handler=self._run, is_async=False)])
        self.jobs: BackgroundJobs[None, Any] = BackgroundJobs(
            None, "contract", registry, storage, broker, Limits(), runs=True
        )

    def _run(self, ctx: JobContext[None], payload: Ping) -> None:  # noqa: ARG002  as the handler of a job is called
        with self._lock:
            self.runs[ctx.job_id] += 1

    def until_run(self, ids: Sequence[str], patience: float) -> None:
        end = time.monotonic() + patience
        while not set(ids) <= self.runs.keys():
            assert time.monotonic() < end, f"{len(set(ids) - self.runs.keys())} jobs did not run in {patience:g} s"
            time.sleep(0.01)


class PairContract:
    """Subclass it in a test module, override two fixtures, and pytest runs the contract:

        class TestMine(PairContract):
            @pytest.fixture
            def make_storage(self, tmp_path):
                return MyStorageBackend(tmp_path / "jobs.db").open_storage

            @pytest.fixture
            def make_broker(self):
                return MyBrokerBackend("mine://localhost").open_broker

    They open a storage and a broker, as for `StorageContract` and `BrokerContract`; both are to pass these first. All
    that are opened within one test must reach the same jobs and the same queues, which are empty when it begins.
    """

    patience: ClassVar[float] = 20.0
    """Seconds within which a message that was published has to come, and a job that was enqueued has to run."""

    fallback: ClassVar[float] = 15.0
    """Seconds within which jobs go on without their broker."""

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        raise NotImplementedError("override the fixture make_storage: (StorageOptions) -> Storage")

    @pytest.fixture
    def make_broker(self) -> MakeBroker:
        raise NotImplementedError("override the fixture make_broker: (BrokerOptions) -> Broker")

    @pytest.fixture
    def pair(self, make_storage: MakeStorage, make_broker: MakeBroker) -> Iterator[Pair]:
        clock = VirtualClock()
        storage = make_storage(StorageOptions("contract", outbox=True, clock=clock))
        storage.migrate()
        broker = make_broker(BrokerOptions("contract"))
        pair = Pair(storage, clock, broker, self.patience)
        pair.serve()
        pair.serve(OTHER)
        yield pair
        broker.close()
        storage.close()

    @pytest.fixture
    def other(self, pair: Pair, make_broker: MakeBroker) -> Iterator[Pair]:
        """The same storage and queues, as another process reaches them."""
        broker = make_broker(BrokerOptions("contract"))
        yield replace(pair, broker=broker)
        broker.close()

    # The way of a job

    def test_a_job_goes_all_the_way(self, pair: Pair) -> None:
        [ref] = pair.enqueue("job", priority=3)
        [delivery] = pair.receive(1)
        assert delivery.ref == ref
        [claim] = pair.claim_all([delivery])
        assert claim is not None
        assert (claim.id, claim.epoch, claim.payload) == ("job", 1, b"{}")
        assert pair.succeed([claim]) == []
        assert pair.state("job") is State.SUCCEEDED
        pair.clock.advance(PUBLISH_WITHIN)
        assert pair.republish() == []
        assert pair.quiet()

    def test_each_job_comes_through_its_own_queue(self, pair: Pair) -> None:
        pair.enqueue("a", "b", queue="q")
        pair.enqueue("c", queue="r")
        assert ids(pair.work(1, "r")) == ["c"]
        assert sorted(ids(pair.work(2, "q"))) == ["a", "b"]

    def test_equals_are_claimed_in_the_order_in_which_they_were_enqueued(self, pair: Pair) -> None:
        names = [f"job-{n:02}" for n in range(40)]
        pair.enqueue(*names[:15])
        pair.enqueue(*names[15:])
        assert ids(pair.work(40)) == names

    def test_a_higher_priority_is_claimed_first(self, pair: Pair) -> None:
        for priority in (0, 9, 5, 1):
            pair.enqueue(f"job-{priority}", priority=priority)
        claimed = ids(pair.work(4))
        if pair.broker.capabilities.priority:
            assert claimed == ["job-9", "job-5", "job-1", "job-0"]
        else:
            assert sorted(claimed) == ["job-0", "job-1", "job-5", "job-9"]

    def test_a_continuation_is_published_when_its_parent_has_ended(self, pair: Pair) -> None:
        pair.enqueue("parent")
        pair.add(new_job("child", parent="parent"))
        assert ids(pair.succeed(pair.work(1))) == ["child"]
        assert ids(pair.work(1)) == ["child"]

    def test_a_scheduled_job_is_published_when_its_time_has_come(self, pair: Pair) -> None:
        pair.add(new_job("job", delay=SECOND))
        assert pair.quiet()
        pair.clock.advance(SECOND)
        pair.publish(pair.storage.promote(10).enqueued)
        assert ids(pair.work(1)) == ["job"]

    def test_a_retry_comes_with_a_new_message(self, pair: Pair) -> None:
        pair.enqueue("job")
        [claim] = pair.work(1)
        pair.move(report(claim, Cause.RETRY, delay=SECOND))
        pair.clock.advance(SECOND)
        pair.publish(pair.storage.promote(10).enqueued)
        [again] = pair.work(1)
        assert (again.id, again.epoch, again.attempt) == ("job", 2, 2)

    # Messages that are not what they seem

    def test_a_message_that_comes_twice_is_one_claim(self, pair: Pair, other: Pair) -> None:
        refs = pair.enqueue("a", "b")
        pair.broker.publish(refs)
        first, second = pair.receive(2), other.receive(2)
        claims = [*pair.claim_all(first), *other.claim_all(second, OTHER)]
        assert sorted(claim.id for claim in claims if claim is not None) == ["a", "b"]
        assert pair.quiet()

    def test_a_message_that_comes_twice_to_one_worker_is_one_claim(self, pair: Pair) -> None:
        pair.broker.publish(pair.enqueue("job"))
        claims = {(claim.id, claim.epoch) for claim in pair.claim_all(pair.receive(2)) if claim is not None}
        assert claims == {("job", 1)}
        assert len(pair.history("job")) == 2

    def test_a_message_of_an_earlier_epoch_claims_nothing(self, pair: Pair) -> None:
        pair.enqueue("job")
        pair.move(Change("job", Cause.DELETE))
        requeued = pair.move(Change("job", Cause.REQUEUE))
        pair.publish(requeued.enqueued)
        claims = pair.claim_all(pair.receive(2))
        assert [claim.epoch for claim in claims if claim is not None] == [2]

    @pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.DELETED])
    def test_a_message_for_a_job_that_has_ended_claims_nothing(self, pair: Pair, state: State) -> None:
        pair.enqueue("job")
        pair.end("job", state)
        before = pair.job("job")
        assert pair.claim_all(pair.receive(1)) == [None]
        assert pair.job("job") == before

    @pytest.mark.parametrize("state", [State.AWAITING, State.SCHEDULED])
    def test_a_message_for_a_job_that_waits_claims_nothing(self, pair: Pair, state: State) -> None:
        job = pair.bring("job", state)
        pair.broker.publish([Ref("job", epoch, "q", 0) for epoch in range(job.epoch + 2)])
        assert pair.claim_all(pair.receive(job.epoch + 2)) == [None] * (job.epoch + 2)
        assert pair.job("job") == job

    def test_a_forged_message_harms_no_job(self, pair: Pair) -> None:
        forged = [Ref("nobody", 1, "q", 0), Ref("job", 2, "q", 9), Ref("job", 2**40, "q", 0), Ref("job", 0, "q", 0)]
        pair.broker.publish(forged)
        [ref] = pair.enqueue("job")
        deliveries = pair.receive(5)
        claims = pair.claim_all(deliveries)
        assert [delivery.ref for delivery, claim in zip(deliveries, claims, strict=True) if claim] == [ref]
        assert pair.quiet()

    # Messages that do not come

    def test_what_was_not_confirmed_is_published_again(self, pair: Pair) -> None:
        refs = [item.ref for item in pair.add(new_job("a"), new_job("b")) if item.ref is not None]
        pair.broker.publish(refs[:1])  # and the program died, before it told the storage
        pair.clock.advance(PUBLISH_WITHIN - 1)
        assert pair.republish() == []
        pair.clock.advance(1)
        assert sorted(pair.republish()) == sorted(refs)
        claims = [claim.id for claim in pair.claim_all(pair.receive(3)) if claim is not None]
        assert sorted(set(claims)) == ["a", "b"]
        assert all(len(pair.history(job_id)) == 2 for job_id in ("a", "b")), "each was claimed once"

    def test_a_claim_confirms_the_message_too(self, pair: Pair) -> None:
        refs = [item.ref for item in pair.add(new_job("job")) if item.ref is not None]
        pair.broker.publish(refs)
        pair.work(1)
        pair.clock.advance(PUBLISH_WITHIN)
        assert pair.republish() == []

    def test_a_job_whose_message_was_lost_is_found_in_the_storage(self, pair: Pair) -> None:
        pair.enqueue("job")
        pair.lose(1)
        assert ids(pair.take("q", limit=10)) == ["job"]

    def test_a_message_that_comes_after_a_look_into_the_storage_claims_nothing(self, pair: Pair) -> None:
        pair.enqueue("job")
        assert ids(pair.take("q", by=OTHER)) == ["job"]
        assert pair.claim_all(pair.receive(1)) == [None]

    def test_a_broker_that_has_lost_all_is_filled_again(self, pair: Pair) -> None:
        names = [f"job-{n:02}" for n in range(25)]
        pair.enqueue(*names)
        [running] = pair.work(1)
        pair.lose(24)
        pair.clock.advance(SECOND)
        assert pair.republish() == []
        after = pair.storage.unpublish(["q"], SECOND, 10)
        while after is not None:
            after = pair.storage.unpublish(["q"], SECOND, 10, after)
        assert ids(pair.republish()) == names[1:]
        pair.succeed([running, *pair.work(24)])
        assert pair.storage.counts().total(State.SUCCEEDED) == 25
        assert pair.quiet()

    # Workers that do not answer

    def test_a_message_that_was_given_back_reaches_another_worker(self, pair: Pair, other: Pair) -> None:
        pair.enqueue("job")
        pair.broker.release(pair.receive(1))
        assert ids(other.work(1, by=OTHER)) == ["job"]

    def test_a_worker_that_dies_before_its_claim_leaves_the_message(self, pair: Pair, other: Pair) -> None:
        pair.enqueue("job")
        pair.receive(1)
        pair.broker.close()
        assert ids(other.work(1, by=OTHER)) == ["job"]

    def test_a_worker_that_dies_before_its_ack_leaves_a_message_that_claims_nothing(
        self, pair: Pair, other: Pair
    ) -> None:
        [ref] = pair.enqueue("job")
        pair.receive(1)
        [claim] = pair.storage.exchange(BY, refs=[ref]).by_ref
        assert claim is not None
        pair.broker.close()
        assert other.claim_all(other.receive(1), OTHER) == [None]
        pair.succeed([claim])
        assert other.quiet()

    def test_the_claims_of_a_dead_worker_are_published_again(self, pair: Pair) -> None:
        pair.enqueue("job")
        [lost] = pair.work(1)
        pair.publish(pair.storage.rescue(10, [BY.server]).enqueued)
        [claim] = pair.work(1, by=OTHER)
        assert (claim.id, claim.epoch, claim.crashes) == ("job", 2, 1)
        assert pair.apply(report(lost, Cause.SUCCEED)).verdict is Verdict.FENCED
        pair.succeed([claim], OTHER)

    def test_many_workers_claim_each_job_once(self, pair: Pair, other: Pair) -> None:
        names = [f"job-{n:03}" for n in range(150)]
        refs = pair.enqueue(*names)
        pair.broker.publish(refs[::3])
        claimed: list[Claim] = []

        def work(side: Pair, by: Claimant) -> Callable[[Barrier], None]:
            def run(barrier: Barrier) -> None:
                barrier.wait()
                end = time.monotonic() + self.patience
                while len(claimed) < len(names) and time.monotonic() < end:
                    deliveries = side.broker.receive(["q"], 7, 0.2)
                    claimed.extend(claim for claim in side.claim_all(deliveries, by) if claim is not None)

            return run

        together([work(pair, BY), work(pair, BY._replace(worker="second")), work(other, OTHER)])
        # A repeated message gives a worker the claim again that it holds.
        assert {claim.id for claim in claimed} == set(names)
        assert all(len(pair.history(name)) == 2 for name in names), "each was claimed once"

    # A server on both

    @pytest.fixture
    def switch(self, make_broker: MakeBroker) -> Switch:
        return Switch(make_broker)

    @pytest.fixture
    def app(self, make_storage: MakeStorage, switch: Switch) -> Iterator[App]:
        app = App(Opens(make_storage), switch)
        yield app
        app.jobs.close()

    def test_a_server_runs_what_was_and_is_enqueued(self, app: App) -> None:
        before = app.jobs.enqueue_many([Ping(n=n) for n in range(20)])
        with app.jobs.running(slots=4):
            app.until_run(before, self.patience)
            after = [app.jobs.enqueue(Ping(n=n)) for n in range(20)]
            app.until_run(after, self.patience)
        assert app.runs == dict.fromkeys(before + after, 1)
        assert app.jobs.counts().total(State.SUCCEEDED) == 40

    def test_a_server_goes_on_while_the_broker_is_away(self, app: App, switch: Switch) -> None:
        with app.jobs.running(slots=4):
            app.until_run([app.jobs.enqueue(Ping())], self.patience)
            switch.off.set()
            started = time.monotonic()
            lonely = [app.jobs.enqueue(Ping(n=n)) for n in range(20)]
            assert time.monotonic() - started < self.patience / 2, "enqueueing does not wait for the broker"
            app.until_run(lonely, self.fallback)
            switch.off.clear()
            app.until_run([app.jobs.enqueue(Ping()) for _ in range(20)], self.patience)
        assert set(app.runs.values()) == {1}
        assert app.jobs.counts().total(State.SUCCEEDED) == 41
