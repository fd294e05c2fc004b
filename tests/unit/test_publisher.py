"""The publisher: nothing that a broker does delays or fails the caller, and memory and exit are bounded."""

import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import pytest

from later import BackendError, Unavailable
from later.backends.memory import Memory
from later.core.ports import BrokerOptions, Storage, StorageOptions
from later.core.records import Ref
from later.runtime import publisher as module
from later.runtime.broker_log import BrokerLog
from later.runtime.publisher import BATCH, WAITING_MOST, Publisher


def refs(*numbers: int) -> list[Ref]:
    return [Ref(f"j{number}", 1, "q", 0) for number in numbers]


class FakeBackends:
    """A broker that does what the test says, and a storage that notes what was confirmed."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.published: list[list[Ref]] = []
        self.confirmed: list[Ref] = []
        self.confirm_error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.changed = threading.Condition()

    def broker(self) -> "FakeBackends":
        return self

    def storage(self) -> "FakeBackends":
        return self

    def publish(self, batch: Sequence[Ref]) -> None:
        with self.changed:
            self.published.append(list(batch))
            self.changed.notify_all()
        assert self.gate.wait(10)
        if self.errors:
            raise self.errors.pop(0)

    def confirm(self, batch: Sequence[Ref]) -> None:
        with self.changed:
            self.confirmed.extend(batch)
            self.changed.notify_all()
        if self.confirm_error:
            raise self.confirm_error

    def until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 10)


class _Storage:
    def __init__(self, backends: FakeBackends) -> None:
        self.published = backends.confirm


@pytest.fixture
def backends() -> FakeBackends:
    return FakeBackends()


@pytest.fixture
def publisher(backends: FakeBackends, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setattr(module, "CONFIRM_EVERY", 0.0)
    made = Publisher(lambda: _Storage(backends), backends.broker, BrokerLog())  # type: ignore[arg-type,return-value]
    yield made
    backends.gate.set()
    made.close(0.1)


def test_refs_are_published_in_order_and_confirmed(publisher: Publisher, backends: FakeBackends) -> None:
    publisher.publish(refs(1, 2))
    publisher.publish(refs(3))
    backends.until(lambda: len(backends.confirmed) == 3)
    assert backends.confirmed == [*chain(*backends.published)] == refs(1, 2, 3)


def test_refs_that_arrive_meanwhile_go_in_batches(publisher: Publisher, backends: FakeBackends) -> None:
    backends.gate.clear()
    publisher.publish(refs(0))
    backends.until(lambda: len(backends.published) == 1)
    for number in range(1, 2 * BATCH + 1):
        publisher.publish(refs(number))
    backends.gate.set()
    backends.until(lambda: len(backends.confirmed) == 2 * BATCH + 1)
    assert [len(batch) for batch in backends.published] == [1, BATCH, BATCH]


def test_a_slow_broker_does_not_delay_the_caller_nor_fill_the_memory(
    publisher: Publisher, backends: FakeBackends
) -> None:
    backends.gate.clear()
    publisher.publish(refs(-1))
    backends.until(lambda: len(backends.published) == 1)
    began = time.monotonic()
    for start in range(0, 2 * WAITING_MOST, 1000):
        publisher.publish(refs(*range(start, start + 1000)))
    assert time.monotonic() - began < 5
    assert len(publisher._waiting) == WAITING_MOST
    publisher.publish(refs(-2))
    assert len(publisher._waiting) == WAITING_MOST
    backends.gate.set()
    backends.until(lambda: len(backends.confirmed) == WAITING_MOST + 1)
    assert backends.confirmed == refs(-1, *range(WAITING_MOST))


def test_an_absent_broker_is_tried_again_with_the_same_refs(
    publisher: Publisher, backends: FakeBackends, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST", 0.001)
    backends.errors = [Unavailable("connection refused"), Unavailable("connection refused")]
    with caplog.at_level(logging.WARNING, "later"):
        publisher.publish(refs(1))
        backends.until(lambda: bool(backends.confirmed))
    assert backends.published == [refs(1)] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "the broker does not take messages; jobs go on without it until it does: connection refused",
        "the broker takes messages again",
    ]


def test_a_broker_that_is_set_up_wrongly_is_told_once_with_what_to_do(
    publisher: Publisher, backends: FakeBackends, caplog: pytest.LogCaptureFixture
) -> None:
    backends.errors = [BackendError("it refused the login: check it") for _ in range(3)]
    with caplog.at_level(logging.WARNING, "later"):
        for number in range(1, 5):
            publisher.publish(refs(number))
            backends.until(lambda number=number: len(backends.published) == number)  # type: ignore[misc]
        backends.until(lambda: bool(backends.confirmed))
    assert backends.confirmed == refs(4)
    assert [record.getMessage() for record in caplog.records] == [
        "the broker cannot be used, and jobs go on without it, until this is mended: it refused the login: check it",
        "the broker takes messages again",
    ]


def test_what_a_broker_refuses_does_not_stop_the_rest(
    publisher: Publisher, backends: FakeBackends, caplog: pytest.LogCaptureFixture
) -> None:
    backends.errors = [ZeroDivisionError("amqp://user:hunter2@host")]
    with caplog.at_level(logging.WARNING, "later"):
        publisher.publish(refs(1))
        backends.until(lambda: len(backends.published) == 1)
        publisher.publish(refs(2))
        backends.until(lambda: bool(backends.confirmed))
    assert backends.confirmed == refs(2)
    assert "ZeroDivisionError" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_storage_that_does_not_confirm_does_not_stop_the_rest(publisher: Publisher, backends: FakeBackends) -> None:
    backends.confirm_error = Unavailable("x")
    publisher.publish(refs(1))
    backends.until(lambda: len(backends.confirmed) == 1)
    publisher.publish(refs(2))
    backends.until(lambda: len(backends.confirmed) == 2)
    assert len(backends.published) == 2


def test_confirmations_are_collected(
    publisher: Publisher, backends: FakeBackends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONFIRM_EVERY", 60.0)
    for number in range(3):
        publisher.publish(refs(number))
        backends.until(lambda number=number: len(backends.published) == number + 1)  # type: ignore[misc]
    assert backends.confirmed == []
    publisher.close(10)
    assert backends.confirmed == refs(0, 1, 2)
    publisher.publish(refs(3))
    backends.until(lambda: len(backends.published) == 4)
    assert len(backends.confirmed) == 3
    publisher.publish(refs(*range(BATCH)))
    backends.until(lambda: len(backends.confirmed) == 4 + BATCH)


def test_close_waits_for_what_is_under_way(publisher: Publisher, backends: FakeBackends) -> None:
    publisher.publish(refs(1, 2))
    publisher.close(10)
    assert backends.confirmed == refs(1, 2)
    assert publisher._thread is None


def test_close_is_bounded(publisher: Publisher, backends: FakeBackends) -> None:
    backends.gate.clear()
    publisher.publish(refs(1))
    began = time.monotonic()
    publisher.close(0.05)
    assert 0.05 <= time.monotonic() - began < 1


def test_close_ends_the_wait_for_an_absent_broker(
    publisher: Publisher, backends: FakeBackends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST", 60.0)
    backends.errors = [Unavailable("x")]
    publisher.publish(refs(1))
    backends.until(lambda: len(backends.published) == 1)
    thread = publisher._thread
    publisher.close(0.05)
    assert thread is not None
    thread.join(10)
    assert not thread.is_alive()


def test_it_starts_again_after_close(publisher: Publisher, backends: FakeBackends) -> None:
    publisher.publish(refs(1))
    publisher.close(10)
    publisher.publish(refs(2))
    backends.until(lambda: len(backends.confirmed) == 2)


def test_closing_what_never_began(publisher: Publisher) -> None:
    publisher.close()
    assert publisher._thread is None


def test_without_a_thread_to_be_had_refs_are_left_to_the_upkeep(
    publisher: Publisher, backends: FakeBackends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        publisher.publish(refs(1))
    publisher.publish(refs(2))
    backends.until(lambda: bool(backends.confirmed))
    assert backends.confirmed == refs(2)


def test_with_real_backends() -> None:
    memory = Memory()
    storage: Storage = memory.open_storage(StorageOptions("app", outbox=True))
    broker = memory.open_broker(BrokerOptions("app"))
    made = Publisher(lambda: storage, lambda: broker, BrokerLog())
    made.publish(refs(1))
    made.close(10)
    assert [delivery.ref for delivery in broker.receive(["q"], 10, 0)] == refs(1)


def test_a_script_that_ends_at_once_has_published() -> None:
    script = """
        import threading, time
        from later.runtime.broker_log import BrokerLog
        from later.runtime.publisher import Publisher
        from later.core.records import Ref
        class Slow:
            def publish(self, refs):
                time.sleep(0.2)
                print("published", len(refs), flush=True)
            published = publish
        slow = Slow()
        Publisher(lambda: slow, lambda: slow, BrokerLog()).publish([Ref("a", 1, "q", 0)])
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["published 1", "published 1"]
    assert ran.stderr == ""


def test_a_script_whose_broker_is_gone_ends_soon() -> None:
    script = """
        from later import Unavailable
        from later.runtime.broker_log import BrokerLog
        from later.runtime.publisher import Publisher
        from later.core.records import Ref
        class Gone:
            def publish(self, refs):
                raise Unavailable("gone")
        Publisher(Gone, Gone, BrokerLog()).publish([Ref("a", 1, "q", 0)])
    """
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=30, capture_output=True)
    assert time.monotonic() - began < 10
