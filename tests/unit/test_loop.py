"""The interpreter of the machines, and the threads for what blocks."""

import threading
import time
from collections.abc import Sequence
from functools import partial

import pytest

from later.runtime.loop import SHARE, Lane, Loop
from tests.support.waiting import DEADLINE, no_threads_left, until


class Machine:
    """Answers each event with the commands that `answers` has for it."""

    def __init__(self, answers: dict[str, list[str]] | None = None, wake_in: float | None = None) -> None:
        self.answers = answers or {}
        self.handled: list[tuple[str, float]] = []
        self.threads: set[int] = set()
        self.wake_at = None if wake_in is None else time.monotonic() + wake_in

    def handle(self, event: str, now: float) -> Sequence[str]:
        self.handled.append((event, now))
        self.threads.add(threading.get_ident())
        self.wake_at = None
        if event == "fault":
            raise ZeroDivisionError
        return self.answers.get(event, [event])

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.handled]


class Running:
    """A loop that ends with the command `exit`."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.executed: list[str] = []
        self.ended = threading.Event()
        self.loop: Loop[str, str] = Loop("later-test", machine, "tick", self.execute, self.ended.set)

    def execute(self, command: str) -> bool:
        self.executed.append(command)
        if command == "bad command":
            raise ZeroDivisionError
        return command != "exit"

    def run(self, *events: str) -> None:
        with no_threads_left():
            for event in events:
                self.loop.post(event)
            self.loop.start()
            assert self.loop.join(DEADLINE)
            assert self.ended.is_set()


def test_events_are_handled_one_by_one_in_the_order_given() -> None:
    running = Running(Machine({"a": ["1", "2"], "b": [], "c": ["3"]}))

    running.run("a", "b", "c", "exit")

    assert running.machine.events == ["a", "b", "c", "exit"]
    assert running.executed == ["1", "2", "3", "exit"]
    assert len(running.machine.threads) == 1
    assert running.loop.error is None


def test_all_commands_of_the_last_event_are_executed() -> None:
    running = Running(Machine({"end": ["1", "exit", "2"]}))

    running.run("end", "too late")

    assert running.executed == ["1", "exit", "2"]
    assert running.loop.unhandled() == ["too late"]


def test_events_after_the_end_are_dropped() -> None:
    running = Running(Machine())
    running.run("exit")

    running.loop.post("too late")

    assert running.machine.events == ["exit"]


def test_the_machine_is_woken_when_it_wants() -> None:
    began = time.monotonic()
    running = Running(Machine({"tick": ["exit"]}, wake_in=0.02))

    running.run()

    ((event, now),) = running.machine.handled
    assert event == "tick"
    assert now >= began + 0.02


def test_the_machine_is_woken_at_once_when_its_time_has_passed() -> None:
    running = Running(Machine({"tick": ["exit"]}, wake_in=-1000))

    running.run()

    assert running.machine.events == ["tick"]


def test_an_event_comes_before_a_tick_that_is_not_due() -> None:
    running = Running(Machine({"a": ["exit"]}, wake_in=1000))

    running.run("a")

    assert running.machine.events == ["a"]


@pytest.mark.parametrize("event", ["fault", "bad command"])
def test_a_defect_ends_the_loop_with_a_word(event: str, caplog: pytest.LogCaptureFixture) -> None:
    running = Running(Machine())

    running.run("a", event, "b")

    assert isinstance(running.loop.error, ZeroDivisionError)
    assert running.machine.events == ["a", event]
    assert "later-test ended on a defect" in caplog.text


def test_join_says_whether_it_has_ended() -> None:
    running = Running(Machine())
    running.loop.start()

    assert not running.loop.join(0)
    running.loop.post("exit")
    assert running.loop.join(DEADLINE)


def test_events_may_come_from_many_threads() -> None:
    running = Running(Machine({str(n): [] for n in range(8)}))

    def post(event: str) -> None:
        for _ in range(500):
            running.loop.post(event)

    threads = [threading.Thread(target=post, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    running.run("exit")

    assert sorted(running.machine.events) == sorted([*(str(n) for n in range(8) for _ in range(500)), "exit"])


def test_who_brings_an_event_handles_a_few_of_the_others_and_leaves_the_rest() -> None:
    class Busy(Machine):
        """Gets ever more from others while the first is handled."""

        def handle(self, event: str, now: float) -> Sequence[str]:
            if event == "mine":
                bringer.start()
                bringer.join()
            return super().handle(event, now)

    def bring() -> None:
        for _ in range(10 * SHARE):
            running.loop.turn("another's")
        running.loop.turn("exit")

    running = Running(Busy())
    bringer = threading.Thread(target=bring)

    running.loop.turn("mine")
    assert running.machine.events == ["mine", *["another's"] * (SHARE - 1)]

    running.run()
    assert len(running.machine.events) == 10 * SHARE + 2


def test_a_lane_runs_calls_in_order_in_one_thread() -> None:
    lane = Lane("later-test-lane")
    ran: list[tuple[int, int]] = []

    def run(n: int) -> None:
        ran.append((n, threading.get_ident()))

    with no_threads_left():
        for n in range(100):
            lane.submit(partial(run, n))
        lane.close()
        assert lane.join(DEADLINE)

    assert [n for n, _ in ran] == list(range(100))
    assert len({thread for _, thread in ran}) == 1


def test_an_unused_lane_has_no_thread() -> None:
    with no_threads_left():
        lane = Lane("later-test-lane")
        lane.close()
        assert lane.join(0)


def test_a_lane_that_is_stuck_is_behind_and_cannot_be_joined() -> None:
    lane, begun, go_on = Lane("later-test-lane"), threading.Event(), threading.Event()
    behind: list[bool] = []

    def stuck() -> None:
        begun.set()
        go_on.wait(DEADLINE)

    lane.submit(stuck)
    assert begun.wait(DEADLINE)
    behind.append(lane.behind)
    lane.submit(lambda: behind.append(lane.behind))
    behind.append(lane.behind)
    assert not lane.join(0)
    go_on.set()
    until(lambda: len(behind) == 3)
    assert behind == [False, True, False]
    lane.close()
    assert lane.join(DEADLINE)


def test_an_event_that_comes_as_the_loop_lies_down_is_handled() -> None:
    class LyingDown(Machine):
        """Gets an event from another thread when all are handled and the lock is still held."""

        @property
        def wake_at(self) -> float | None:
            if not self.handled:
                return 0.0
            if self.events == ["tick"]:
                bringer.start()
                bringer.join()
            return None

        @wake_at.setter
        def wake_at(self, value: float | None) -> None:
            pass

    running = Running(LyingDown())
    bringer = threading.Thread(target=running.loop.turn, args=("exit",))

    running.run()

    assert running.machine.events == ["tick", "exit"]
