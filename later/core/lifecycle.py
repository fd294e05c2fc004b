"""The life of a job: which cause moves it from which states to which, decided by one pure function.

`RULES` is the table; the documentation's table and diagram are printed from it. `advance` is total: for every record
and every change it says what the record becomes, or why it stays. Storages run it (or an equal statement in their own
language) inside one atomic step, so that every move is a compare-and-set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final, NamedTuple

from later.core.records import (
    SECOND,
    Claim,
    Claimant,
    ErrorInfo,
    HistoryEntry,
    JobRecord,
    Micros,
    NewJob,
    On,
    Ref,
    State,
    Verdict,
)

DAY: Final = 86_400 * SECOND

KEEP: Final[Mapping[State, Micros]] = {State.SUCCEEDED: DAY, State.DELETED: DAY, State.FAILED: 90 * DAY}
"""How long an ended job is kept when the change does not say."""

PUBLISH_WITHIN: Final = 5 * SECOND
"""An Enqueued job that was neither claimed nor confirmed by the broker for so long is published again."""


class Cause(StrEnum):
    """Why a job changes its state."""

    DUE = "due"
    PARENT_ENDED = "parent ended"
    PARENT_MISSED = "parent missed"
    CLAIM = "claim"
    SUCCEED = "succeed"
    RETRY = "retry"
    SNOOZE = "snooze"
    DEFER = "defer"
    FAIL = "fail"
    CANCEL = "cancel"
    RELEASE = "release"
    CRASH = "crash"
    POISON = "poison"
    RESCHEDULE = "reschedule"
    REQUEUE = "requeue"
    DELETE = "delete"
    EXPIRE = "expire"


class Attempt(Enum):
    """What a cause does to the attempt counter."""

    KEEP = "keep"
    COUNT = "one more"
    REFUND = "one less"
    RESET = "back to 0"


@dataclass(frozen=True, slots=True)
class Rule:
    sources: frozenset[State]
    to: State
    meaning: str
    attempt: Attempt = Attempt.KEEP
    crash: bool = False
    """Counts a crash."""
    of_claim: bool = False
    """Only with the claim's own (epoch, server)."""
    yields: bool = False
    """Ends in Deleted instead when the job's cancel was asked for."""


_RUNNING = frozenset({State.PROCESSING})

RULES: Final[Mapping[Cause, Rule]] = {
    Cause.DUE: Rule(frozenset({State.SCHEDULED}), State.ENQUEUED, "its time has come"),
    Cause.PARENT_ENDED: Rule(
        frozenset({State.AWAITING}), State.ENQUEUED, "the parent ended in the state that was waited for"
    ),
    Cause.PARENT_MISSED: Rule(frozenset({State.AWAITING}), State.DELETED, "the parent ended in another state for good"),
    Cause.CLAIM: Rule(frozenset({State.ENQUEUED}), State.PROCESSING, "a worker took it", attempt=Attempt.COUNT),
    Cause.SUCCEED: Rule(_RUNNING, State.SUCCEEDED, "the handler returned", of_claim=True),
    Cause.RETRY: Rule(_RUNNING, State.SCHEDULED, "the handler raised, attempts are left", of_claim=True, yields=True),
    Cause.SNOOZE: Rule(
        _RUNNING,
        State.SCHEDULED,
        "the handler asked to run later; the attempt does not count",
        attempt=Attempt.REFUND,
        of_claim=True,
        yields=True,
    ),
    Cause.DEFER: Rule(
        _RUNNING,
        State.SCHEDULED,
        "this server has no handler for it, another may",
        attempt=Attempt.REFUND,
        of_claim=True,
        yields=True,
    ),
    Cause.FAIL: Rule(_RUNNING, State.FAILED, "the handler raised, no attempt is left", of_claim=True, yields=True),
    Cause.CANCEL: Rule(
        _RUNNING, State.DELETED, "the handler gave up, or stopped when its cancel was asked for", of_claim=True
    ),
    Cause.RELEASE: Rule(
        _RUNNING,
        State.ENQUEUED,
        "given back unstarted or interrupted; the attempt does not count",
        attempt=Attempt.REFUND,
        of_claim=True,
        yields=True,
    ),
    Cause.CRASH: Rule(
        _RUNNING,
        State.ENQUEUED,
        "its worker died; a crash counts, the attempt does not",
        attempt=Attempt.REFUND,
        crash=True,
        of_claim=True,
        yields=True,
    ),
    Cause.POISON: Rule(
        _RUNNING,
        State.FAILED,
        "its worker died once more than the job may survive",
        attempt=Attempt.REFUND,
        crash=True,
        of_claim=True,
        yields=True,
    ),
    Cause.RESCHEDULE: Rule(
        frozenset({State.SCHEDULED}), State.SCHEDULED, "somebody asked for another time; attempts stay as they are"
    ),
    Cause.REQUEUE: Rule(
        frozenset({State.SCHEDULED, State.SUCCEEDED, State.FAILED, State.DELETED}),
        State.ENQUEUED,
        "somebody asked for it; attempts and crashes start anew",
        attempt=Attempt.RESET,
    ),
    Cause.DELETE: Rule(
        frozenset({State.AWAITING, State.SCHEDULED, State.ENQUEUED, State.FAILED}),
        State.DELETED,
        "somebody asked for it",
    ),
    Cause.EXPIRE: Rule(frozenset({State.FAILED}), State.DELETED, "kept for its full time after failing"),
}

KEEPS_DEFERRAL: Final = frozenset({Cause.DUE, Cause.RELEASE, Cause.CRASH})
"""Changes after which a job still counts as given back for want of a handler (`deferred_at`)."""


class Change(NamedTuple):
    """A wish to move one job. `epoch` and `server` are the fence and are required by the causes of a claim."""

    id: str
    cause: Cause
    reason: str = ""
    epoch: int | None = None
    server: str | None = None
    delay: Micros = 0
    """For causes that end in Scheduled: due this long after the storage's now."""
    result: bytes | None = None
    error: ErrorInfo | None = None
    keep: Micros | None = None
    """How long to keep the job once it has ended; None: `KEEP`."""


@dataclass(frozen=True, slots=True)
class Reschedule:
    """A wish to put, change or remove one schedule, and to make and move jobs in the same step."""

    id: str
    version: int
    """The version that it has now; 0: there is none."""
    next_at: Micros | None
    body: bytes | None
    """None: remove the schedule."""
    jobs: tuple[NewJob, ...] = ()
    moves: tuple[Change, ...] = ()
    """Applied after the jobs are inserted. Of other jobs than `jobs` and those that they continue: no storage needs to
    find again what it has not written yet."""


class Step(NamedTuple):
    """What `advance` decided. `job` is the new record, or None when it stays as it was; `entry` goes to the history
    when the state was entered anew."""

    verdict: Verdict
    job: JobRecord | None = None
    entry: HistoryEntry | None = None


def advance(job: JobRecord, change: Change, now: Micros, *, outbox: bool) -> Step:
    """Decide what `change` makes of `job` at the storage's time `now`.

    `outbox`: a broker is in use, so a job that becomes Enqueued must be published.
    A CRASH beyond what the job may survive becomes POISON. CLAIM is refused: it is not decided here but in `claim`.
    """
    cause, reason = change.cause, change.reason
    if cause is Cause.CLAIM:
        return Step(Verdict.REFUSED)
    if cause is Cause.CRASH and job.crashes + 1 > job.max_crashes:
        cause, reason = Cause.POISON, poison_reason(reason, job.crashes + 1, job.max_crashes)
    rule = RULES[cause]
    to = State.DELETED if rule.yields and job.cancel_requested else rule.to
    if rule.of_claim and not (job.epoch == change.epoch and job.server == change.server):
        return Step(Verdict.FENCED)
    if job.state not in rule.sources:
        if job.state is to or (rule.yields and job.state is State.DELETED):
            return Step(Verdict.REPEATED)
        if rule.of_claim:
            return Step(Verdict.FENCED)
        if cause is Cause.DELETE and job.state is State.PROCESSING:
            return Step(Verdict.REQUESTED, None if job.cancel_requested else job._replace(cancel_requested=True))
        return Step(Verdict.REFUSED)
    if to is not rule.to:
        reason = cancel_reason(reason)
    return _enter(job, to, rule, change, reason, now, outbox=outbox)


def _enter(job: JobRecord, to: State, rule: Rule, change: Change, reason: str, now: Micros, *, outbox: bool) -> Step:
    attempt, crashes = job.attempt, job.crashes + rule.crash
    entry_attempt = attempt
    if rule.attempt is Attempt.REFUND:
        attempt -= 1
    elif rule.attempt is Attempt.RESET:
        attempt = crashes = entry_attempt = 0
    deferred_at = job.deferred_at
    if change.cause is Cause.DEFER:
        deferred_at = now if deferred_at is None else deferred_at
    elif change.cause not in KEEPS_DEFERRAL:
        deferred_at = None
    enqueued = to is State.ENQUEUED
    keep = KEEP.get(to) if change.keep is None or not to.ended else change.keep
    moved = job._replace(
        state=to,
        state_at=now,
        epoch=job.epoch + enqueued,
        attempt=attempt,
        crashes=crashes,
        run_at=now + change.delay if to is State.SCHEDULED else None,
        reason=reason,
        result=change.result if to is State.SUCCEEDED else None,
        cancel_requested=False,
        deferred_at=deferred_at,
        publish_by=now + PUBLISH_WITHIN if enqueued and outbox else None,
        expires_at=None if keep is None else now + keep,
    )
    by_claim = rule.of_claim
    entry = HistoryEntry(
        state=to,
        at=now,
        reason=reason,
        attempt=entry_attempt,
        server=job.server if by_claim else None,
        worker=job.worker if by_claim else None,
        error=change.error,
    )
    return Step(Verdict.APPLIED, moved, entry)


def create(new: NewJob, parent_state: State | None, now: Micros, *, outbox: bool) -> tuple[JobRecord, HistoryEntry]:
    """The record that `new` starts as. `parent_state` is the state of its parent, None when it has none."""
    run_at = new.run_at if new.run_at is not None else now + new.delay if new.delay > 0 else None
    state, reason = State.ENQUEUED, ""
    if parent_state is not None:
        cause = continuation(parent_state, new.on)
        state = State.AWAITING if cause is None else RULES[cause].to
        reason = parent_reason(new.parent, parent_state) if cause else awaiting_reason(new.parent, new.on)
    elif run_at is not None and run_at > now:
        state = State.SCHEDULED
    enqueued = state is State.ENQUEUED
    job = JobRecord(
        id=new.id,
        type=new.type,
        queue=new.queue,
        priority=new.priority,
        payload=new.payload,
        state=state,
        epoch=1 if enqueued else 0,
        attempt=0,
        crashes=0,
        max_crashes=new.max_crashes,
        created_at=now,
        state_at=now,
        run_at=run_at if state is State.SCHEDULED else None,
        parent=new.parent,
        on=new.on,
        reason=reason,
        publish_by=now + PUBLISH_WITHIN if enqueued and outbox else None,
        expires_at=now + KEEP[state] if state.ended else None,
    )
    return job, HistoryEntry(state=state, at=now, reason=reason, attempt=0)


def claim(job: JobRecord, epoch: int, by: Claimant, now: Micros) -> Step:
    """Decide whether `by`, a server whose lease holds, gets the claim `epoch` of `job`.

    REPEATED: this very worker holds it already (the reply to its first call was lost). FENCED: it does not get it.
    """
    if job.epoch != epoch:
        return Step(Verdict.FENCED)
    if job.state is State.PROCESSING and (job.server, job.worker) == by:
        return Step(Verdict.REPEATED, job)
    if job.state is not State.ENQUEUED:
        return Step(Verdict.FENCED)
    claimed = job._replace(
        state=State.PROCESSING,
        state_at=now,
        attempt=job.attempt + 1,
        server=by.server,
        worker=by.worker,
        reason="",
        publish_by=None,
    )
    entry = HistoryEntry(State.PROCESSING, now, "", claimed.attempt, by.server, by.worker)
    return Step(Verdict.APPLIED, claimed, entry)


def claim_of(job: JobRecord, parent: JobRecord | None, now: Micros) -> Claim:
    """What the worker is told about a job that it has claimed."""
    return Claim(
        id=job.id,
        epoch=job.epoch,
        type=job.type,
        queue=job.queue,
        priority=job.priority,
        payload=job.payload,
        attempt=job.attempt,
        crashes=job.crashes,
        server=job.server or "",
        deferred_for=None if job.deferred_at is None else now - job.deferred_at,
        parent=job.parent,
        parent_state=parent.state if parent else None,
        parent_result=parent.result if parent else None,
    )


def continuation(parent: State, on: On) -> Cause | None:
    """What the state of a parent means for a continuation that waits for `on`. None: it goes on waiting.

    A Failed parent can be requeued and succeed after all, so it does not end the wait for success or deletion;
    Succeeded and Deleted end every wait.
    """
    if not parent.ended:
        return None
    if on is On.FINISHED or on == parent.lower():
        return Cause.PARENT_ENDED
    return None if parent is State.FAILED else Cause.PARENT_MISSED


def parent_reason(parent: str | None, state: State) -> str:
    """The reason that a continuation records when its parent's end decides about it."""
    return f"parent {parent} ended {state}"


def awaiting_reason(parent: str | None, on: str) -> str:
    """The reason that a continuation records while it waits."""
    return f"continuation of {parent} on {on}"


def crash_reason(server: str | None) -> str:
    """The reason that a job records when its claim is taken from a dead server."""
    return f"server {server} died"


def poison_reason(reason: str, crashes: object, survived: object) -> str:
    """The reason that a job records which crashed once more than it may survive; `reason` is the crash's own."""
    return f"poison: {reason} (crash {crashes}, {survived} survived)"


def cancel_reason(reason: str) -> str:
    """The reason that a job records whose run ended, for `reason`, after its cancel was asked for."""
    return f"cancelled on request ({reason})" if reason else "cancelled on request"


def ref_of(job: JobRecord) -> Ref:
    return Ref(job.id, job.epoch, job.queue, job.priority)
