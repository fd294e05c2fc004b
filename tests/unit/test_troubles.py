"""The troubles of a server's processes: summed, packed, read back."""

import json

import pytest
from typing_extensions import override

from later.backends.memory.broker import Exchange, MemoryBroker
from later.core.notes import NOTE_LIMIT, check_note
from later.core.ports import BrokerTrouble
from later.core.troubles import LONGEST, of_note, pack, to_note, total, unpack
from later.runtime.troubles import Troubles

LOST = BrokerTrouble("connections lost", 2, 20)
BLOCKED = BrokerTrouble("times blocked", 1, 30)


def test_the_sum_by_kind_latest_first() -> None:
    parts = [[LOST], [], [BLOCKED, BrokerTrouble("connections lost", 5, 40)], [LOST]]
    assert total(parts) == (BrokerTrouble("connections lost", 9, 40), BLOCKED)
    assert total([]) == ()


def test_a_note_is_read_as_it_was_written() -> None:
    odd = BrokerTrouble('\u20ac "\0\ud83d', 1, 0)
    assert of_note(to_note([BLOCKED, LOST, odd])) == (BLOCKED, LOST, odd)
    assert to_note([]) == ""
    check_note(to_note([odd]))


@pytest.mark.parametrize("letter", ["x", "\u20ac", "\U0001f600", "\0"])
def test_a_note_has_room_for_the_latest(letter: str) -> None:
    troubles = [BrokerTrouble(f"{n} {letter * 10 * LONGEST}", n, 1000 - n) for n in range(1, 100)]
    note = to_note(troubles)
    assert NOTE_LIMIT / 2 < len(note) <= NOTE_LIMIT
    kept = of_note(note)
    assert [trouble.times for trouble in kept] == list(range(1, len(kept) + 1))
    assert all(len(trouble.what) == LONGEST for trouble in kept)


@pytest.mark.parametrize(
    "packed",
    [
        None,
        {},
        "text",
        [None, 1, "text", [], ["a"], ["a", 1], ["a", 1, 1, 1], [1, 1, 1], ["a", "1", 1], ["a", 1, None], ["a", 1.5, 1]],
        [["a", 0, 1], ["a", -1, 1], ["a", 1, -1], ["a", 1, 10**30], ["a", 10**30, 1]],
    ],
    ids=str,
)
def test_what_another_version_has_written_is_left_out(packed: object) -> None:
    assert unpack(packed) == ()
    assert of_note(json.dumps({"troubles": packed})) == ()
    if isinstance(packed, list):
        assert unpack([*packed, *pack([LOST])]) == (LOST,)


@pytest.mark.parametrize("note", ["", "{", "[]", "1", "null", "{}", "[" * 4000, "free text"])
def test_a_note_that_is_not_ours(note: str) -> None:
    assert of_note(note) == ()


class Troubled(MemoryBroker):
    def __init__(self, *found: BrokerTrouble, error: Exception | None = None) -> None:
        super().__init__(Exchange())
        self.found = found
        self.error = error

    @override
    def troubles(self) -> tuple[BrokerTrouble, ...]:
        if self.error is not None:
            raise self.error
        return self.found


def test_all_processes_of_a_server_those_that_ended_included() -> None:
    troubles = Troubles(Troubled(LOST))
    for _ in range(2):
        troubles.heard("0.1", [LOST])
        troubles.heard("1.1", [BLOCKED])
    assert of_note(troubles.note()) == total([[LOST], [LOST], [BLOCKED]])
    troubles.ended("0.1")
    troubles.ended("nobody")
    troubles.heard("0.2", [BLOCKED])
    assert of_note(troubles.note()) == total([[LOST], [LOST], [BLOCKED], [BLOCKED]])


def test_without_a_broker_or_with_a_faulty_one() -> None:
    assert Troubles(None).note() == ""
    troubles = Troubles(Troubled(error=RuntimeError("a defect")))
    troubles.heard("0.1", [LOST])
    assert of_note(troubles.note()) == (LOST,)
