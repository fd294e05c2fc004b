"""Jobs on SQLite with hints through RabbitMQ: prompt while it is there, going on while it is not."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from later import BackgroundJobs, JobContext, State
from later.backends.rabbitmq import BrokerHealth, RabbitMQ
from later.backends.rabbitmq.broker import RabbitBroker
from later.backends.sqlite import SQLite
from later.core.ports import BrokerOptions
from tests.support.jobs import Work, jobs_of, work
from tests.support.rabbitmq import RabbitServer
from tests.support.waiting import DEADLINE, no_threads_left, until

pytestmark = pytest.mark.timeout(300)

names = count(1)

FALLEN_BACK = 10.0
"""Seconds within which jobs go on without their broker."""


class Apart:
    """RabbitMQ with a namespace that only one test uses."""

    def __init__(self, url: str) -> None:
        self._backend = RabbitMQ(url)
        self._prefix = f"jobs-{next(names)}-"

    def open_broker(self, options: BrokerOptions) -> RabbitBroker:
        return self._backend.open_broker(replace(options, namespace=self._prefix + options.namespace))


class Ledger:
    """An app whose only job type writes down that it ran."""

    def __init__(self, folder: Path, url: str) -> None:
        self.ran: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.jobs: BackgroundJobs[None, Any] = jobs_of(
            work(self._run), storage=SQLite(folder / "jobs.sqlite3"), broker=Apart(url)
        )

    def _run(self, ctx: JobContext[None], payload: Work) -> None:
        with self._lock:
            self.ran[ctx.job_id] += 1

    def latency(self) -> float:
        """Seconds from enqueue to the run of one job."""
        started = time.monotonic()
        id = self.jobs.enqueue(Work())
        until(lambda: self.ran[id])
        return time.monotonic() - started

    def health(self) -> BrokerHealth:
        broker = self.jobs.broker()
        assert isinstance(broker, RabbitBroker)
        return broker.health()


@pytest.fixture
def ledger(tmp_path: Path, rabbitmq_server: RabbitServer) -> Iterator[Ledger]:
    with no_threads_left():
        ledger = Ledger(tmp_path, rabbitmq_server.url)
        yield ledger
        ledger.jobs.close()


class Load:
    """Enqueues about 50 jobs per second in a thread, until it is stopped."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._stop = threading.Event()
        self.accepted: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.accepted.append(self._ledger.jobs.enqueue(Work()))

    def run_after_now(self) -> Callable[[], bool]:
        """Whether 50 jobs that are enqueued from now on have run."""
        first = len(self.accepted)
        return lambda: (
            all(self._ledger.ran[id] for id in self.accepted[first : first + 50]) and (len(self.accepted) >= first + 50)
        )

    def __enter__(self) -> "Load":  # noqa: PYI034  nobody inherits
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_jobs_run_at_once(ledger: Ledger) -> None:
    with ledger.jobs.running(slots=4):
        ledger.latency()
        latencies = sorted(ledger.latency() for _ in range(30))
    # The storage is looked at every 5 to 10 s only: what comes sooner came through the broker.
    assert latencies[15] < 0.5
    assert latencies[-1] < 5


def test_jobs_that_were_enqueued_before_the_server_started(ledger: Ledger) -> None:
    ids = ledger.jobs.enqueue_many([Work(n=n) for n in range(200)])
    with ledger.jobs.running(slots=4):
        until(lambda: all(ledger.ran[id] for id in ids))
    assert ledger.ran == dict.fromkeys(ids, 1)
    assert ledger.jobs.counts().total(State.SUCCEEDED) == 200


def test_priorities_and_queues_through_the_broker(ledger: Ledger) -> None:
    low = ledger.jobs.enqueue_many([Work(n=n) for n in range(20)], queue="low")
    high = ledger.jobs.enqueue_many([Work(n=n) for n in range(20)], queue="high", priority=9)
    with ledger.jobs.running(slots=1, queues=["high", "low"]):
        until(lambda: len(ledger.ran) == 40)
    assert set(list(ledger.ran)[:20]) == set(high)
    assert set(low) <= set(ledger.ran)


def test_a_broker_that_is_stopped_killed_and_wiped_under_load(ledger: Ledger, rabbitmq_server: RabbitServer) -> None:
    with ledger.jobs.running(slots=4), Load(ledger) as load:
        until(load.run_after_now())
        assert ledger.health().receiving

        rabbitmq_server.stop()
        until(load.run_after_now(), "jobs to go on without a broker", FALLEN_BACK)
        assert not ledger.health().receiving

        rabbitmq_server.start()
        until(lambda: ledger.health().receiving and ledger.health().publishing, "its return to be noticed")
        until(load.run_after_now())

        rabbitmq_server.kill()
        until(load.run_after_now(), "jobs to go on without a broker", FALLEN_BACK)
        rabbitmq_server.wipe()
        rabbitmq_server.start()
        until(lambda: ledger.health().receiving and ledger.health().publishing, "its return to be noticed")
        until(load.run_after_now())
        latencies = sorted(ledger.latency() for _ in range(10))
    ledger.jobs.close()
    with ledger.jobs.running(slots=4):
        until(lambda: set(load.accepted) <= set(ledger.ran), "every accepted job to run", DEADLINE)
    assert set(ledger.ran.values()) == {1}
    assert latencies[5] < 1


def test_jobs_whose_messages_were_lost_run_all_the_same(ledger: Ledger, rabbitmq_server: RabbitServer) -> None:
    ids = ledger.jobs.enqueue_many([Work(n=n) for n in range(100)])
    ledger.jobs.close()  # published and confirmed
    rabbitmq_server.kill()
    rabbitmq_server.wipe()
    rabbitmq_server.start()
    with ledger.jobs.running(slots=4):
        until(lambda: all(ledger.ran[id] for id in ids), "the storage to be looked at", 40)
    assert ledger.ran == dict.fromkeys(ids, 1)


def test_an_app_whose_broker_never_answers(tmp_path: Path) -> None:
    with no_threads_left():
        ledger = Ledger(tmp_path, "amqp://guest:secret@no-such-host.invalid")
        started = time.monotonic()
        id = ledger.jobs.enqueue(Work())
        assert time.monotonic() - started < 2
        with ledger.jobs.running(slots=2):
            until(lambda: ledger.ran[id], "the job to run without a broker", FALLEN_BACK)
        ledger.jobs.close()
