"""What a worker process makes of its supervisor's words."""

import multiprocessing
from collections.abc import Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import pytest
from typing_extensions import override

from later.backends.memory.broker import Exchange, MemoryBroker
from later.core.engine.worker import CancelAsked, Leased, StopAsked
from later.core.ports import BrokerTrouble
from later.core.troubles import unpack
from later.runtime.child import _event, _obey, _tell_troubles, receive
from later.runtime.troubles import Troubles
from tests.support.waiting import DEADLINE


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"leased": "a-server"}, Leased("a-server")),
        ({"cancel": [["a", 1], ["b", 2]]}, CancelAsked([("a", 1), ("b", 2)])),
        ({"cancel": []}, CancelAsked([])),
        ({"stop": False}, StopAsked()),
        ({"stop": True}, StopAsked(hurry=True)),
        ({"something": "new"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_messages(message: dict[str, Any], event: object) -> None:
    assert _event(message) == event


@pytest.mark.parametrize("message", [None, b"", b"\xff", b"{", b'{"cancel": 5}', b'{"cancel": [[1]]}'], ids=repr)
def test_a_process_ends_when_its_supervisor_is_gone_or_makes_no_sense(message: bytes | None) -> None:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_listen, args=(theirs,))
    process.start()
    theirs.close()
    ours.send_bytes(b'{"something": "new"}')
    if message is not None:
        ours.send_bytes(message)
    ours.close()

    process.join(DEADLINE)
    assert process.exitcode == 1


def test_troubles_are_told_when_they_have_changed_and_once_more_at_the_end() -> None:
    first, second = (BrokerTrouble("connections lost", times, times) for times in (1, 2))
    broker = Scripted([], [first], [first], [first, second])
    ours, theirs = multiprocessing.Pipe()
    _tell_troubles(theirs, broker, Troubles(broker))  # type: ignore[arg-type]
    theirs.close()

    told: list[object] = []
    with suppress(EOFError):
        while True:
            told.append(receive(ours))
    assert [unpack(message["troubles"]) for message in told] == [(first,), (first, second)]  # type: ignore[index]


def test_troubles_that_nobody_hears() -> None:
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    broker = Scripted([BrokerTrouble("connections lost", 1, 1)])
    _tell_troubles(theirs, broker, Troubles(broker))  # type: ignore[arg-type]


class Scripted(MemoryBroker):
    """A broker that has met more at each look, and a worker that ends before the last one."""

    def __init__(self, *looks: Sequence[BrokerTrouble]) -> None:
        super().__init__(Exchange())
        self._looks = list(looks)

    def join(self, timeout: float) -> bool:
        return len(self._looks) == 1

    @override
    def troubles(self) -> Sequence[BrokerTrouble]:
        return self._looks.pop(0)


def _listen(connection: Any) -> None:
    class Working:
        post = SimpleQueue[object]().put

    _obey(connection, Working())  # type: ignore[arg-type]
