"""When worker processes are started, told and given up; with processes that are none."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from later.core.engine import keeper
from later.core.engine.worker import Key
from later.core.ports import BrokerTrouble, Storage
from later.core.troubles import of_note
from later.runtime import supervisor
from later.runtime.crew import WorkerProcess
from later.runtime.supervisor import Supervisor
from tests.support.jobs import jobs_of, work
from tests.support.waiting import DEADLINE, no_threads_left, until


class Fake(WorkerProcess):
    """A worker process that dies when the test says, and takes its time to be told to stop."""

    def __init__(self, index: int, name: str) -> None:
        self.index = index
        self.name = name
        self.ready = self.left = self.given_up = False
        self.troubles = ()
        self.told: list[object] = []
        self._started_at = self.started_at = time.monotonic()
        self.dead = False
        self._end, self._ended = os.pipe()
        self._words: dict[str, bool] = {}

    def say(self, *words: str) -> None:
        self._words.update(dict.fromkeys(words, True))
        os.write(self._ended, b"x")

    def die(self, *words: str) -> None:
        self.dead = True
        self.say(*words)

    @property
    def pid(self) -> int:
        return 0

    @property
    def exitcode(self) -> int:
        return 1

    @property
    def alive(self) -> bool:
        return not self.dead

    @property
    def news(self) -> list[Any]:
        return [self._end]

    def read(self) -> None:
        if self._words:
            os.read(self._end, 1)
            self.ready |= "ready" in self._words
            self.left |= "left" in self._words
            self._words.clear()

    def leased(self, server: str) -> None:
        self.told.append(server)

    def cancel(self, claims: Sequence[Key]) -> None:
        self.told.append(claims)

    def stop(self, *, hurry: bool) -> None:
        self.told.append("hurry" if hurry else "stop")

    def kill(self) -> None:
        self.told.append("kill")
        if not self.dead:
            self.die()

    def running(self) -> list[Key]:
        return []

    def clear_away(self) -> None:
        os.close(self._end)
        os.close(self._ended)


class Crew:
    """Runs a supervisor in the main thread, and the test's part in another."""

    def __init__(self) -> None:
        self.started: list[Fake] = []
        self.fail: list[Exception] = []
        self.jobs = jobs_of(work(lambda ctx, payload: None))

    @property
    def storage(self) -> Storage:
        return self.jobs.storage()

    def start(self, index: int, name: str) -> WorkerProcess:
        if self.fail:
            raise self.fail.pop()
        self.started.append(Fake(index, name))
        return self.started[-1]

    def wait_for(self, count: int) -> Fake:
        until(lambda: len(self.started) >= count, f"{count} starts")
        return self.started[count - 1]

    def run(self, part: Callable[[], None], processes: int = 1) -> int:
        """Stops the supervisor when `part` has ended."""
        failures: list[BaseException] = []
        main = threading.get_ident()

        def play() -> None:
            try:
                part()
            except BaseException as error:
                failures.append(error)
            signal.pthread_kill(main, signal.SIGTERM)
            living = [worker for worker in self.started if not worker.dead]
            for worker in living:
                until(lambda worker=worker: {"stop", "hurry"} & set(worker.told))  # type: ignore[misc]
                worker.die("left")

        player = threading.Thread(target=play)
        made = Supervisor(self.jobs, ("default",), processes, 4, 1.0, self.start)
        player.start()
        try:
            return made.run()
        finally:
            player.join(DEADLINE)
            if failures:
                raise failures[0]


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    monkeypatch.setattr(supervisor, "RESTART", (0.1, 0.3))

    def late(_number: int, _frame: object) -> None:
        """For the signal that arrives when the supervisor has just ended by itself."""

    before = signal.signal(signal.SIGTERM, late)
    try:
        with no_threads_left():
            yield Crew()
        assert signal.getsignal(signal.SIGTERM) is late
    finally:
        signal.signal(signal.SIGTERM, before)


def test_processes_are_told_of_the_lease_and_to_stop(crew: Crew) -> None:
    def part() -> None:
        crew.wait_for(2)
        for worker in crew.started:
            worker.say("ready")
            until(lambda worker=worker: worker.told)  # type: ignore[misc]

    assert crew.run(part, processes=2) == 0
    (server,) = {worker.told[0] for worker in crew.started}
    assert [worker.told for worker in crew.started] == [[server, "stop"]] * 2
    assert [worker.name for worker in crew.started] == ["0.1", "1.1"]
    assert crew.storage.servers() == []


def test_a_process_that_dies_is_replaced_at_once_and_then_ever_later(crew: Crew) -> None:
    def part() -> None:
        for count in range(1, 7):
            worker = crew.wait_for(count)
            worker.say("ready")
            until(lambda worker=worker: worker.told)  # type: ignore[misc]
            if count < 6:
                worker.die()

    assert crew.run(part) == 0
    pauses = [
        after.started_at - before.started_at for before, after in zip(crew.started, crew.started[1:], strict=False)
    ]
    assert pauses[0] < 0.1
    assert [pause >= at_least for pause, at_least in zip(pauses[1:], (0.1, 0.2, 0.3, 0.3), strict=True)] == [True] * 4
    assert [worker.name for worker in crew.started] == [f"0.{n}" for n in range(1, 7)]


def test_a_process_that_has_worked_for_long_is_replaced_at_once(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "YOUNG", 0.0)
    monkeypatch.setattr(supervisor, "RESTART", (1000.0, 1000.0))
    monkeypatch.setattr(Fake, "age", 1.0)

    def part() -> None:
        for count in range(1, 5):
            worker = crew.wait_for(count)
            worker.say("ready")
            until(lambda worker=worker: worker.told)  # type: ignore[misc]
            if count < 4:
                worker.die()

    assert crew.run(part) == 0


def test_when_no_process_has_ever_been_ready_the_server_ends(crew: Crew) -> None:
    def part() -> None:
        crew.wait_for(2)
        crew.started[0].die()
        until(lambda: "hurry" in crew.started[1].told)

    assert crew.run(part, processes=2) == 1
    assert len(crew.started) == 2


def test_a_process_that_cannot_be_started_again_is_tried_later(crew: Crew) -> None:
    def part() -> None:
        worker = crew.wait_for(1)
        worker.say("ready")
        until(lambda: worker.told)
        crew.fail.append(BlockingIOError("no more processes"))
        worker.die()
        until(lambda: crew.wait_for(2).told)

    assert crew.run(part) == 0


def test_a_first_process_that_cannot_be_started_ends_the_server(crew: Crew) -> None:
    crew.fail.append(BlockingIOError("no more processes"))
    made = Supervisor(crew.jobs, ("default",), 1, 4, 1.0, crew.start)

    with pytest.raises(BlockingIOError):
        made.run()
    made._keeping.post(keeper.StopWanted())
    assert made._keeping.join(DEADLINE)


def test_a_lost_lease_kills_the_processes_and_starts_others_under_a_new_server(crew: Crew) -> None:
    def part() -> None:
        first = crew.wait_for(1)
        first.say("ready")
        until(lambda: first.told)
        crew.storage.unregister(str(first.told[0]))
        second = crew.wait_for(2)
        until(lambda: second.told)
        assert first.told[1] == "kill"
        assert first.told[0] != second.told[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeper, "BEAT", 0.05)
        assert crew.run(part) == 0


def test_the_beats_tell_what_the_processes_have_met_those_that_ended_included(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "BEAT", 0.05)

    def told(times: int) -> bool:
        return [of_note(server.note) for server in crew.storage.servers()] == [(BrokerTrouble("lost", times, 1),)]

    def part() -> None:
        for worker in (crew.wait_for(1), crew.wait_for(2)):
            worker.troubles = (BrokerTrouble("lost", 2, 1),)
            worker.say("ready")
        until(lambda: told(4), "the sum of both")
        crew.started[0].die()
        third = crew.wait_for(3)
        third.troubles = (BrokerTrouble("lost", 1, 1),)
        third.say("ready")
        until(lambda: told(5), "the sum of three")

    assert crew.run(part, processes=2) == 0


def test_a_defect_of_the_keeper_ends_the_server(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    def part() -> None:
        worker = crew.wait_for(1)
        worker.say("ready")
        until(lambda: worker.told)

        def faulty(self: object, event: object, now: float) -> object:
            raise ZeroDivisionError

        monkeypatch.setattr(keeper.Keeper, "handle", faulty)
        until(lambda: "hurry" in worker.told)
        worker.die("left")

    with pytest.raises(ZeroDivisionError):
        crew.run(part)
