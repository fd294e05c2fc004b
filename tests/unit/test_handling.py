"""Every way in which a run can end, through real handlers and for each kind of them."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any, Never
from unittest import mock

import pytest
from pydantic import BaseModel, field_validator

from later import Cancel, JobContext, Retry, RetryAfter, Snooze
from later.core.codec import Limits
from later.core.engine.worker import Interruption
from later.core.lifecycle import Cause, Change
from later.core.records import Claim, State
from later.core.registry import JobType
from later.runtime.handling import Handling, Stop
from tests.support.jobs import Work, claim_of, jobs_of, work

Context = JobContext[None]
Handler = Callable[[Context, Work], object]
Run = Callable[..., Change]
SECOND = 1_000_000


def _awaits(handler: Handler) -> Callable[..., object]:
    async def run(ctx: Context, payload: Work) -> object:
        await asyncio.sleep(0)
        return handler(ctx, payload)

    return run


@pytest.fixture(params=["def", "async def", "async def on its own loop", "def that returns an awaitable"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a handler once; `def` and `async def`, on a loop and in a thread."""

    def call(handler: Handler, claim: Claim | None = None, stop: Stop | None = None, **options: Any) -> Change:
        limits = options.pop("limits", None)
        claim, stop = claim or claim_of(), stop or Stop()
        if request.param == "def":
            return _handling(work(handler, **options), limits).run(claim, stop, asyncio.run)
        awaits = _awaits(handler)
        if request.param == "def that returns an awaitable":
            job_type = work(lambda ctx, payload: awaits(ctx, payload), **options)  # noqa: PLW0108  no `async def` itself
            return _handling(job_type, limits).run(claim, stop, asyncio.run)
        handling = _handling(work(awaits, **options), limits)
        if request.param == "async def":
            return asyncio.run(handling.arun(claim, stop))
        return handling.run(claim, stop, asyncio.run)

    return call


def _handling(job_type: JobType, limits: Limits | None = None) -> Handling:
    return Handling(jobs_of(job_type, limits=limits), Random(1))


def _raising(error: BaseException) -> Handler:
    def handler(ctx: Context, payload: Work) -> Never:
        raise error

    return handler


def _returning(value: object) -> Handler:
    return lambda ctx, payload: value


def test_what_a_handler_returns_is_the_result(run: Run) -> None:
    change = run(lambda ctx, payload: {"n": payload.n + 1}, claim_of(b'{"n": 1}'), keep_succeeded=timedelta(seconds=7))

    assert change == Change("a-job", Cause.SUCCEED, epoch=1, server="a-server", result=b'{"n":2}', keep=7 * SECOND)


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}], ids=repr)
def test_every_plain_value_is_a_success(run: Run, value: object) -> None:
    assert run(_returning(value)).cause is Cause.SUCCEED


def test_a_handler_sees_its_job(run: Run) -> None:
    seen: list[object] = []

    def handler(ctx: Context, payload: Work) -> None:
        seen.extend([ctx.job_id, ctx.attempt, ctx.epoch, ctx.parent_state, ctx.parent_result, ctx.cancelled])

    run(handler, claim_of(attempt=3, epoch=9, parent="p", parent_state=State.SUCCEEDED, parent_result=b"[1]"))

    assert seen == ["a-job", 3, 9, State.SUCCEEDED, [1], False]


def test_an_exception_is_retried_and_its_error_kept(run: Run) -> None:
    change = run(_raising(ValueError("no luck")), retry=Retry(delays=[timedelta(seconds=3)]))

    assert (change.cause, change.delay, change.epoch, change.server) == (Cause.RETRY, 3 * SECOND, 1, "a-server")
    assert change.reason == "ValueError: no luck"
    assert change.error is not None
    assert change.error.type == "ValueError"
    assert "no luck" in change.error.traceback
    assert "raise error" in change.error.traceback


def test_a_failed_run_is_told_of_in_one_line_of_the_log(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "later")
    retry = Retry(2, [timedelta(seconds=15)])
    run(_raising(ValueError("no\n\x1b[31mluck")), claim_of(attempt=1), retry=retry)
    run(_raising(ValueError("no luck")), claim_of(attempt=2), retry=retry)
    run(_returning(object()))
    run(_returning(1))
    run(_raising(Snooze(timedelta(seconds=1))))

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "job a-job (work) is tried again in 15 s after try 1: ValueError: no  [31mluck"),
        ("ERROR", "job a-job (work) has failed after try 2: ValueError: no luck"),
        ("ERROR", mock.ANY),
    ]
    assert "BadResult" in caplog.text


def test_the_last_attempt_fails(run: Run) -> None:
    change = run(_raising(ValueError("no")), claim_of(attempt=3), retry=Retry(3), keep_failed=timedelta(seconds=2))

    assert (change.cause, change.keep) == (Cause.FAIL, 2 * SECOND)
    assert change.error is not None


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError()], ids=repr)
def test_no_exception_escapes(run: Run, error: BaseException) -> None:
    change = run(_raising(error))

    assert change.cause is Cause.RETRY
    assert change.error is not None
    assert change.error.type == type(error).__name__


@pytest.mark.parametrize("raised", [True, False], ids=["raised", "returned"])
@pytest.mark.parametrize(
    ("outcome", "cause", "delay", "reason"),
    [
        (Cancel("no such user"), Cause.CANCEL, 0, "cancelled by its handler: no such user"),
        (Cancel(), Cause.CANCEL, 0, "cancelled by its handler"),
        (Snooze(timedelta(seconds=5), "too early"), Cause.SNOOZE, 5, "snoozed: too early"),
        (Snooze(timedelta(0)), Cause.SNOOZE, 0, "snoozed"),
        (RetryAfter(timedelta(seconds=6), "busy"), Cause.RETRY, 6, "retry asked for: busy"),
    ],
    ids=["cancel", "cancel without a reason", "snooze", "snooze without a reason", "retry"],
)
def test_an_outcome_means_the_same_raised_and_returned(
    run: Run, outcome: Exception, cause: Cause, delay: int, reason: str, *, raised: bool
) -> None:
    change = run(_raising(outcome) if raised else _returning(outcome), keep_deleted=timedelta(seconds=1))

    assert (change.cause, change.delay, change.reason) == (cause, delay * SECOND, reason)
    assert change.keep == (SECOND if cause is Cause.CANCEL else None)


@pytest.mark.parametrize("raised", [True, False], ids=["raised", "returned"])
def test_a_retry_asked_for_in_the_last_attempt_fails(run: Run, *, raised: bool) -> None:
    outcome = RetryAfter(timedelta(seconds=6))

    change = run(_raising(outcome) if raised else _returning(outcome), claim_of(attempt=2), retry=Retry(2))

    assert change.cause is Cause.FAIL


def test_a_snooze_in_the_last_attempt_is_no_failure(run: Run) -> None:
    change = run(_raising(Snooze(timedelta(seconds=1))), claim_of(attempt=2), retry=Retry(2))

    assert change.cause is Cause.SNOOZE


@pytest.mark.parametrize(
    ("why", "cause"),
    [
        (Interruption.CANCEL, Cause.CANCEL),
        (Interruption.STOP, Cause.RELEASE),
        (Interruption.LOST, Cause.RELEASE),
    ],
    ids=str,
)
def test_cancelled_error_after_an_interruption_is_an_interruption(run: Run, why: Interruption, cause: Cause) -> None:
    stop = Stop()
    stop.why = why

    assert run(_raising(asyncio.CancelledError()), stop=stop).cause is cause


def test_cancelled_error_without_an_interruption_is_a_failure(run: Run) -> None:
    change = run(_raising(asyncio.CancelledError()))

    assert change.cause is Cause.RETRY
    assert change.error is not None
    assert change.error.type == "asyncio.exceptions.CancelledError"


def test_a_handler_that_stops_when_asked_gives_its_job_up(run: Run) -> None:
    stop = Stop()
    stop.why = Interruption.CANCEL

    assert run(lambda ctx, payload: ctx.raise_if_cancelled(), stop=stop).cause is Cause.CANCEL


@pytest.mark.parametrize("why", [Interruption.STOP, Interruption.LOST], ids=str)
def test_a_handler_that_stops_because_its_server_stops_does_not_lose_its_job(run: Run, why: Interruption) -> None:
    stop = Stop()
    stop.why = why

    assert run(lambda ctx, payload: ctx.raise_if_cancelled(), stop=stop).cause is Cause.RELEASE


def test_a_handler_that_finishes_in_spite_of_an_interruption_has_succeeded(run: Run) -> None:
    stop = Stop()
    stop.why = Interruption.CANCEL

    assert run(_returning("done"), stop=stop).cause is Cause.SUCCEED


@pytest.mark.parametrize("payload", [b'{"n": "many"}', b"{", b"", b"[]", b"null", b"\xff"], ids=repr)
def test_a_bad_payload_fails_at_once_without_its_values(run: Run, payload: bytes) -> None:
    change = run(_returning(None), claim_of(payload), keep_failed=timedelta(seconds=2))

    assert (change.cause, change.keep) == (Cause.FAIL, 2 * SECOND)
    assert change.reason.startswith("later.core.errors.BadPayload: ")
    assert "many" not in change.reason


def test_a_type_without_a_handler_here_is_deferred() -> None:
    change = _handling(work(_returning(None))).run(claim_of(type="other"), Stop(), asyncio.run)

    assert (change.cause, change.delay) == (Cause.DEFER, 15 * SECOND)
    assert "no handler for job type other" in change.reason


def test_a_type_without_a_handler_anywhere_fails_in_the_end() -> None:
    handling = _handling(work(_returning(None)))

    change = handling.run(claim_of(type="other", deferred_for=3600 * SECOND), Stop(), asyncio.run)

    assert change.cause is Cause.FAIL
    assert change.error is not None
    assert change.error.type == "later.core.errors.UnknownType"


class _BadText(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class _ExitsInText(Exception):
    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize(
    "error",
    [_BadText(), _ExitsInText(), ValueError("x" * 10_000_000), ValueError("\ud800\0"), RuntimeError(object())],
    ids=["__str__ raises", "__str__ exits", "10 MB", "not text", "no text"],
)
def test_an_exception_is_recorded_whatever_its_text_does(run: Run, error: Exception) -> None:
    change = run(_raising(error))

    assert change.cause is Cause.RETRY
    _assert_storable(change)


@pytest.mark.parametrize("reason", ["\ud800\0", "x" * 10_000_000, 5, _BadText()], ids=["bad", "long", "int", "raises"])
@pytest.mark.parametrize("kind", [Cancel, Snooze, RetryAfter])
def test_the_reason_of_an_outcome_is_recorded_whatever_it_is(run: Run, kind: type[Any], reason: object) -> None:
    outcome = Cancel(reason) if kind is Cancel else kind(timedelta(0), reason)  # type: ignore[arg-type]

    change = run(_raising(outcome))

    assert change.cause in {Cause.CANCEL, Cause.SNOOZE, Cause.RETRY, Cause.FAIL}
    _assert_storable(change)


def test_a_traceback_begins_in_the_handler(run: Run) -> None:
    def handler(ctx: Context, payload: Work) -> None:
        raise ValueError

    error = run(handler).error

    assert error is not None
    assert "test_handling.py" in error.traceback
    assert "later/runtime" not in error.traceback


def _assert_storable(change: Change) -> None:
    texts = [change.reason]
    if change.error is not None:
        texts += [change.error.type, change.error.message, change.error.traceback]
    for text in texts:
        assert len(text.encode()) <= 32 * 1024
        assert "\0" not in text


@pytest.mark.parametrize("delay", [timedelta(days=400_000), timedelta.max], ids=str)
def test_a_delay_that_no_storage_holds_is_a_failed_run(run: Run, delay: timedelta) -> None:
    change = run(lambda ctx, payload: Snooze(delay))

    assert change.cause is Cause.RETRY
    assert change.error is not None
    assert change.error.type == "later.core.errors.InvalidOption"


@pytest.mark.parametrize(
    "value",
    [object(), float("nan"), {"x": [object()]}, b"\xff", "\ud800", _returning],
    ids=["object", "NaN", "object within", "no text", "half a character", "function"],
)
def test_a_result_that_cannot_be_stored_fails(run: Run, value: object) -> None:
    change = run(_returning(value))

    assert change.cause is Cause.FAIL
    assert change.error is not None
    assert change.error.type == "later.core.errors.BadResult"
    assert change.result is None


def test_a_result_that_is_too_large_fails(run: Run) -> None:
    limits = Limits(result=1024)

    assert run(_returning("x" * 1022), limits=limits).cause is Cause.SUCCEED
    assert run(_returning("x" * 1023), limits=limits).cause is Cause.FAIL


def test_no_exception_escapes_from_a_validator() -> None:
    class Exits(BaseModel):
        @field_validator("*", mode="before")
        @classmethod
        def leave(cls, value: object) -> object:
            raise SystemExit

        n: int = 0

    job_type = JobType("work", Exits, handler=_returning(None))

    change = _handling(job_type).run(claim_of(b'{"n": 1}'), Stop(), asyncio.run)

    assert change.cause is Cause.RETRY
    assert change.error is not None
    assert change.error.type == "SystemExit"


def test_no_exception_escapes_from_the_serializer_of_a_result(run: Run) -> None:
    class Exits(dict[str, int]):
        def items(self) -> Never:
            raise SystemExit

    assert run(_returning(Exits(n=1))).cause in {Cause.SUCCEED, Cause.FAIL, Cause.RETRY}


def test_a_faulty_retry_policy_fails_no_worker(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    retry = Retry(never_on=("not a class",))  # type: ignore[arg-type]

    change = run(_raising(ValueError("no luck")), retry=retry)

    assert change.cause is Cause.FAIL
    assert change.error is not None
    assert "no luck" in change.error.traceback
    assert "retry policy" in caplog.text
