"""Every way in which a run can end means one change of its job."""

from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from later.core.engine.judge import (
    DEFER,
    DEFER_FOR,
    REASON_LIMIT,
    Died,
    End,
    Interrupted,
    Policy,
    Raised,
    Refused,
    Returned,
    Unserved,
    judge,
)
from later.core.errors import InvalidOption
from later.core.lifecycle import Cause, Change
from later.core.outcomes import Cancel, RetryAfter, Snooze
from later.core.records import SECOND, Claim, ErrorInfo, Micros
from later.core.retry import Retry

INFO = ErrorInfo("Boom", "it broke", "traceback")
POLICY = Policy(
    Retry(attempts=3, delays=[timedelta(seconds=7)], never_on=(KeyError,)),
    keep_succeeded=1,
    keep_failed=2,
    keep_deleted=3,
)
MINUTE = timedelta(minutes=1)


def judged(end: End, *, attempt: int = 1, deferred_for: Micros | None = None) -> Change:
    claim = Claim("job", 4, "work", "q", 0, b"{}", attempt, 0, "server", deferred_for=deferred_for)
    return judge(claim, POLICY, end, Random(1))


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (Returned(b"1"), Cause.SUCCEED),
        (Interrupted(cancelled=True), Cause.CANCEL),
        (Interrupted(cancelled=False), Cause.RELEASE),
        (Died("killed by signal 9"), Cause.CRASH),
        (Raised(ValueError(), INFO), Cause.RETRY),
        (Raised(KeyError(), INFO), Cause.FAIL),
        (Raised(RetryAfter(MINUTE), INFO), Cause.RETRY),
        (Raised(Snooze(MINUTE), INFO), Cause.SNOOZE),
        (Raised(Cancel("enough"), INFO), Cause.CANCEL),
        (Unserved(INFO), Cause.DEFER),
        (Refused(INFO), Cause.FAIL),
    ],
)
def test_each_end_has_its_cause_and_the_fence_of_its_claim(end: End, cause: Cause) -> None:
    change = judged(end)
    assert (change.id, change.cause, change.epoch, change.server) == ("job", cause, 4, "server")


def test_the_result_goes_with_the_success() -> None:
    assert judged(Returned(b"42")).result == b"42"


def test_each_end_is_kept_as_the_policy_says() -> None:
    assert judged(Returned(None)).keep == 1
    assert judged(Refused(INFO)).keep == 2
    assert judged(Interrupted(cancelled=True)).keep == 3
    assert judged(Raised(Cancel(), INFO)).keep == 3


@pytest.mark.parametrize("make", [RetryAfter, Snooze, lambda delay: Retry(delays=[delay])])
@pytest.mark.parametrize("delay", [None, 5, "1 s"])
def test_a_delay_that_is_no_timedelta(make: Callable[[Any], object], delay: object) -> None:
    with pytest.raises(InvalidOption, match=r"is not a timedelta: write timedelta\(seconds=\.\.\.\)"):
        make(delay)


@pytest.mark.parametrize("error", [ValueError(), RetryAfter(MINUTE)])
def test_the_last_attempt_fails(error: Exception) -> None:
    assert judged(Raised(error, INFO), attempt=2).cause is Cause.RETRY
    last = judged(Raised(error, INFO), attempt=3)
    assert (last.cause, last.error, last.delay) == (Cause.FAIL, INFO, 0)


def test_an_interrupted_run_is_not_repeated_where_once_is_the_most() -> None:
    claim = Claim("job", 4, "work", "q", 0, b"{}", 1, 0, "server")
    policy = Policy(Retry.none(), at_most_once=True)
    assert judge(claim, policy, Interrupted(cancelled=False), Random(1)).cause is Cause.CRASH
    assert judge(claim, policy, Interrupted(cancelled=True), Random(1)).cause is Cause.CANCEL


def test_snoozing_is_no_attempt() -> None:
    assert judged(Raised(Snooze(MINUTE), INFO), attempt=3).cause is Cause.SNOOZE


@pytest.mark.parametrize(
    ("end", "delay"),
    [
        (Raised(ValueError(), INFO), timedelta(seconds=7)),
        (Raised(RetryAfter(MINUTE), INFO), MINUTE),
        (Raised(Snooze(MINUTE), INFO), MINUTE),
        (Unserved(INFO), DEFER),
    ],
)
def test_what_runs_again_waits_as_long_as_it_was_told(end: End, delay: timedelta) -> None:
    assert judged(end).delay == delay // timedelta(microseconds=1)


def test_an_error_is_recorded_when_it_counts() -> None:
    assert judged(Raised(ValueError(), INFO)).error == INFO
    assert judged(Raised(Snooze(MINUTE), INFO)).error is None


def test_a_job_that_nobody_serves_fails_in_the_end() -> None:
    limit = DEFER_FOR // timedelta(microseconds=1)
    assert judged(Unserved(INFO), deferred_for=limit - SECOND).cause is Cause.DEFER
    last = judged(Unserved(INFO), deferred_for=limit)
    assert (last.cause, last.error) == (Cause.FAIL, INFO)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (Returned(None), ""),
        (Raised(ValueError(), INFO), "Boom: it broke"),
        (Raised(Snooze(MINUTE), INFO), "snoozed"),
        (Raised(Snooze(MINUTE, "not yet"), INFO), "snoozed: not yet"),
        (Raised(RetryAfter(MINUTE, "busy"), INFO), "retry asked for: busy"),
        (Raised(Cancel("enough"), INFO), "cancelled by its handler: enough"),
        (Died("killed by signal 9"), "killed by signal 9"),
    ],
)
def test_the_reason_tells_a_person_why(end: End, reason: str) -> None:
    assert judged(end).reason == reason


def test_a_reason_is_short() -> None:
    long = ErrorInfo("Boom", "x" * 10_000, "")
    assert len(judged(Raised(ValueError(), long)).reason) == REASON_LIMIT


def test_a_delay_that_no_storage_can_hold_is_cut() -> None:
    class Endless(Retry):
        def next_delay(self, error: BaseException, attempt: int, random: Random) -> timedelta:
            return timedelta.max

    claim = Claim("job", 4, "work", "q", 0, b"{}", 1, 0, "server")
    change = judge(claim, Policy(Endless()), Raised(ValueError(), INFO), Random(1))

    assert change.delay == timedelta(days=365) // timedelta(microseconds=1)
