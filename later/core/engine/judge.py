"""What a handler's end means for its job. Total: every way in which a run can end has a branch here."""

from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final, TypeAlias

from later.core.codec import storable
from later.core.lifecycle import Cause, Change
from later.core.outcomes import Cancel, RetryAfter, Snooze
from later.core.records import Claim, ErrorInfo, Micros
from later.core.retry import LONGEST, Retry

DEFER: Final = timedelta(seconds=15)
"""How soon a job whose type no handler serves here is offered again."""
DEFER_FOR: Final = timedelta(hours=1)
"""How long such a job is passed around, as in a rolling deploy, before it fails."""
INTERRUPTED: Final = "interrupted: the server stops"
REASON_LIMIT: Final = 200
"""Bytes of a reason; the whole error is in the history."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the job's type says about its end."""

    retry: Retry
    at_most_once: bool = False
    """A run that was interrupted is not run again."""
    keep_succeeded: Micros | None = None
    keep_failed: Micros | None = None
    keep_deleted: Micros | None = None


@dataclass(frozen=True, slots=True)
class Returned:
    result: bytes | None


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler raised, or returned, `error`. `info` is the error as data, already bounded."""

    error: BaseException
    info: ErrorInfo


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The handler stopped because it was asked to: its cancel was asked for, or the server stops."""

    cancelled: bool


@dataclass(frozen=True, slots=True)
class Died:
    """The process that ran the handler alone died without a report."""

    how: str


@dataclass(frozen=True, slots=True)
class Unserved:
    """No handler is registered here under the job's type, or no process for it starts; another server may have it."""

    info: ErrorInfo


@dataclass(frozen=True, slots=True)
class Refused:
    """Running again cannot help: the stored payload does not validate, or the result cannot be stored."""

    info: ErrorInfo


End: TypeAlias = Returned | Raised | Interrupted | Died | Unserved | Refused


def judge(claim: Claim, policy: Policy, end: End, random: Random) -> Change:
    """The change that `end` makes of the claimed job."""
    match end:
        case Returned(result):
            return _change(claim, Cause.SUCCEED, result=result, keep=policy.keep_succeeded)
        case Interrupted(cancelled):
            if cancelled:
                return _change(claim, Cause.CANCEL, "cancelled on request", keep=policy.keep_deleted)
            cause = Cause.CRASH if policy.at_most_once else Cause.RELEASE
            return _change(claim, cause, INTERRUPTED)
        case Died(how):
            return _change(claim, Cause.CRASH, how)
        case Raised(Cancel() as outcome, _):
            reason = _short("cancelled by its handler", outcome.reason)
            return _change(claim, Cause.CANCEL, reason, keep=policy.keep_deleted)
        case Raised(Snooze() as outcome, _):
            return _change(claim, Cause.SNOOZE, _short("snoozed", outcome.reason), delay=outcome.delay)
        case Raised(error, info):
            return _raised(claim, policy, error, info, random)
        case Unserved(info):
            if (claim.deferred_for or 0) < DEFER_FOR // timedelta(microseconds=1):
                return _change(claim, Cause.DEFER, _short(info.type, info.message), delay=DEFER)
            return _failed(claim, policy, info)
        case Refused(info):
            return _failed(claim, policy, info)


def _raised(claim: Claim, policy: Policy, error: BaseException, info: ErrorInfo, random: Random) -> Change:
    if isinstance(error, RetryAfter):
        last = claim.attempt >= policy.retry.attempts
        delay, reason = None if last else error.delay, _short("retry asked for", error.reason)
    else:
        delay, reason = policy.retry.next_delay(error, claim.attempt, random), _short(info.type, info.message)
    if delay is None:
        return _failed(claim, policy, info)
    return _change(claim, Cause.RETRY, reason, error=info, delay=delay)


def _failed(claim: Claim, policy: Policy, info: ErrorInfo) -> Change:
    reason = _short(info.type, info.message)
    return _change(claim, Cause.FAIL, reason, error=info, keep=policy.keep_failed)


def _change(
    claim: Claim,
    cause: Cause,
    reason: str = "",
    *,
    delay: timedelta | None = None,
    result: bytes | None = None,
    error: ErrorInfo | None = None,
    keep: Micros | None = None,
) -> Change:
    return Change(
        claim.id,
        cause,
        reason,
        epoch=claim.epoch,
        server=claim.server,
        # A policy is the user's code: what no storage can hold would keep every report of its worker from arriving.
        delay=0 if delay is None else min(max(delay, timedelta(0)), LONGEST) // timedelta(microseconds=1),
        result=result,
        error=error,
        keep=keep,
    )


def _short(what: str, more: str) -> str:
    return storable(f"{what}: {more}" if more else what, REASON_LIMIT)
