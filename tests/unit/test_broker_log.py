"""What the log tells of a broker that cannot be used: once, again at growing intervals, and its end."""

import logging
from itertools import pairwise

import pytest

from later import BackendError, Unavailable
from later.runtime.broker_log import AGAIN, BrokerLog, Use

FIRST, LONGEST = AGAIN


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told(clock: Clock, caplog: pytest.LogCaptureFixture) -> BrokerLog:
    caplog.set_level(logging.WARNING, "later")
    return BrokerLog(clock)


def test_an_outage_is_told_once_for_each_use(told: BrokerLog, caplog: pytest.LogCaptureFixture) -> None:
    for reason in ("it refuses connections", "it does not answer"):
        told.failed(Use.TAKE, Unavailable(reason))
        told.failed(Use.GIVE, Unavailable(reason))
    told.worked(Use.TAKE)
    told.worked(Use.TAKE)
    told.worked(Use.GIVE)
    assert caplog.messages == [
        "the broker does not take messages; jobs go on without it until it does: it refuses connections",
        "the broker does not give messages; jobs go on without it until it does: it refuses connections",
        "the broker takes messages again",
        "the broker gives messages again",
    ]


def test_a_fault_of_the_set_up_is_told_once_for_all_uses(told: BrokerLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        told.failed(Use.TAKE, BackendError("wrong password"))
        told.failed(Use.GIVE, BackendError("wrong password"))
    told.worked(Use.TAKE)
    told.worked(Use.GIVE)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "the broker cannot be used, and jobs go on without it, until this is mended: wrong password"),
        ("WARNING", "the broker gives messages again"),
    ]


def test_what_goes_on_is_told_again_at_growing_intervals(
    told: BrokerLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    times: list[float] = []
    while clock.now < 4 * LONGEST:
        told.failed(Use.GIVE, BackendError("wrong password"))
        if caplog.messages:
            times.append(clock.now)
            caplog.clear()
        clock.now += FIRST / 4
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[:3] == [FIRST, 2 * FIRST, 4 * FIRST]
    assert pauses[-1] == LONGEST
    told.worked(Use.GIVE)
    told.failed(Use.GIVE, BackendError("wrong password"))
    assert len(caplog.messages) == 2


def test_another_fault_is_told_at_once(told: BrokerLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        for error in (Unavailable("gone"), BackendError("wrong password"), BackendError("wrong host")):
            told.failed(Use.GIVE, error)
    assert len(caplog.messages) == 3
