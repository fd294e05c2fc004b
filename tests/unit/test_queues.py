"""Which queues, how many slots and how much grace a server takes."""

from datetime import timedelta
from typing import Any

import pytest

from later.core.errors import ConfigError, InvalidName, InvalidOption
from later.core.registry import JobType, Registry
from later.runtime.queues import check_queues, check_slots
from later.runtime.server import check_grace
from tests.support.jobs import Work


class _Other(Work):
    pass


class _Third(Work):
    pass


REGISTRY = Registry(
    [JobType("a", Work, queue="slow"), JobType("b", _Other, queue="fast"), JobType("c", _Third, queue="slow")]
)


def test_all_queues_of_the_declaration_when_left_out() -> None:
    assert check_queues(None, REGISTRY) == ("slow", "fast")


@pytest.mark.parametrize("queues", [["b", "a"], ("b", "a")])
def test_names_in_strict_order(queues: Any) -> None:
    assert check_queues(queues, REGISTRY) == ("b", "a")


def test_names_with_weights() -> None:
    assert check_queues({"b": 3, "a": 1}, REGISTRY) == {"b": 3, "a": 1}


@pytest.mark.parametrize(
    ("queues", "error"),
    [
        ("a,b", ConfigError),
        ([], ConfigError),
        ({}, ConfigError),
        (["a", "a"], ConfigError),
        (["a b"], InvalidName),
        ([""], InvalidName),
        ([1], InvalidName),
        ({"a": 0}, InvalidOption),
        ({"a": -1}, InvalidOption),
        ({"a": 1.5}, InvalidOption),
        ({"a": True}, InvalidOption),
        ({"a": None}, InvalidOption),
        (5, ConfigError),
    ],
    ids=repr,
)
def test_other_queues_are_refused(queues: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_queues(queues, REGISTRY)


@pytest.mark.parametrize("slots", [1, 10_000])
def test_slots(slots: int) -> None:
    assert check_slots(slots) == slots


@pytest.mark.parametrize("slots", [0, -1, 10_001, True, 1.0, "8", None], ids=repr)
def test_other_slots_are_refused(slots: Any) -> None:
    with pytest.raises(InvalidOption):
        check_slots(slots)


@pytest.mark.parametrize("grace", [timedelta(0), timedelta(days=1)], ids=str)
def test_grace(grace: timedelta) -> None:
    assert check_grace(grace) == grace


@pytest.mark.parametrize("grace", [timedelta(seconds=-1), 25, None], ids=repr)
def test_other_graces_are_refused(grace: Any) -> None:
    with pytest.raises(InvalidOption):
        check_grace(grace)
