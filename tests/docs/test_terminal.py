"""The tools of these tests: what the shell keeps from one command to the next, and what counts as the same output."""

from pathlib import Path

import pytest

from tests.docs.terminal import Comparison, Terminal

ONE = "01890000-0000-7000-8000-000000000001"
TWO = "01890000-0000-7000-8000-000000000002"


def test_commands_share_a_shell(tmp_path: Path) -> None:
    with Terminal(tmp_path) as terminal:
        assert terminal.run("export NAME=value; mkdir sub; cd sub") == ([], 0)
        assert terminal.run("echo $NAME; basename $PWD; printf 'no newline'") == (["value", "sub", "no newline"], 0)
        assert terminal.run("false") == ([], 1)
        assert terminal.run("cat") == ([], 0)  # no input


def test_background_jobs_can_be_killed(tmp_path: Path) -> None:
    with Terminal(tmp_path) as terminal:
        assert terminal.run("cat /dev/zero > /dev/null &") == ([], 0)
        assert terminal.run("kill -9 %1") == ([], 0)
        assert terminal.run("wait %1 2> /dev/null")[1] in {128 + 9, 127}  # 127: it has been told of already


@pytest.mark.parametrize(
    ("shown", "seen", "same"),
    [
        (["a   b", ""], ["", "a b"], True),
        (["a"], ["a", "b"], False),
        (["a", "..."], ["a", "b", "c"], True),
        (["...", "c"], ["a", "b", "c"], True),
        (["..."], [], True),
        (["at 2026-01-01 10:00:00 in 3 s"], ["at 2031-11-12 23:00:01 in 0.25 s"], True),
        (["made by ... in time"], ["made by somebody in time"], True),
        ([f"{ONE} then {ONE}"], [f"{TWO} then {TWO}"], True),
        ([f"{ONE} then {ONE}"], [f"{ONE} then {TWO}"], False),
        (["┃ a ┃ b ┃", "├───┼───┤"], ["a b"], True),
    ],
)
def test_what_is_the_same(shown: list[str], seen: list[str], same: bool) -> None:
    assert Comparison().same(shown, seen) is same


def test_ids_are_translated() -> None:
    comparison = Comparison()
    assert comparison.same([ONE], [TWO])
    assert comparison.translate(f"show {ONE}") == f"show {TWO}"
