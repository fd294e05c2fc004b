"""What a worker process makes of its supervisor's words."""

import multiprocessing
from queue import SimpleQueue
from typing import Any

import pytest

from later.core.engine.worker import CancelAsked, Leased, StopAsked
from later.runtime.child import _event, _obey
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


def _listen(connection: Any) -> None:
    class Working:
        post = SimpleQueue[object]().put

    _obey(connection, Working())  # type: ignore[arg-type]
