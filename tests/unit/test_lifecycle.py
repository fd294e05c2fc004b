"""The table of causes and the functions that decide by it, over all states, causes and fences."""

from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from later.core.lifecycle import (
    DAY,
    KEEP,
    PUBLISH_WITHIN,
    RULES,
    Attempt,
    Cause,
    Change,
    advance,
    claim,
    claim_of,
    continuation,
    create,
    ref_of,
)
from later.core.records import SECOND, Claimant, ErrorInfo, JobRecord, NewJob, On, Ref, State, Verdict

NOW = 1_000 * SECOND
BY = Claimant("server", "worker")
ERROR = ErrorInfo("ValueError", "wrong", "Traceback ...")

OF_CLAIM = [cause for cause, rule in RULES.items() if rule.of_claim]

CHANGED_BY_NO_MOVE = {"id", "type", "queue", "priority", "payload", "max_crashes", "created_at", "parent", "on"}
CHANGED_BY_CLAIMS_ONLY = {"server", "worker"}


def record(state: State = State.PROCESSING, **values: Any) -> JobRecord:
    """A job that has been claimed once."""
    job = JobRecord(
        id="job",
        type="type",
        queue="q",
        priority=0,
        payload=b"{}",
        state=state,
        epoch=4,
        attempt=2,
        crashes=1,
        max_crashes=3,
        created_at=1,
        state_at=2,
        server=BY.server,
        worker=BY.worker,
        run_at=NOW if state is State.SCHEDULED else None,
        expires_at=NOW if state.ended else None,
    )
    return job._replace(**values)


def change(cause: Cause, epoch: int | None = 4, server: str | None = BY.server) -> Change:
    return Change("job", cause, "because", epoch, server, delay=5, result=b"1", error=ERROR)


micros = st.integers(0, 2**50)
records = st.builds(
    record,
    st.sampled_from(State),
    epoch=st.integers(0, 5),
    attempt=st.integers(1, 5),
    crashes=st.integers(0, 5),
    max_crashes=st.integers(0, 5),
    server=st.sampled_from([None, "server", "other"]),
    cancel_requested=st.booleans(),
    deferred_at=st.none() | micros,
    publish_by=st.none() | micros,
    parent=st.none() | st.just("parent"),
)
changes = st.builds(
    Change,
    st.just("job"),
    st.sampled_from(Cause),
    st.text(max_size=5),
    st.none() | st.integers(0, 5),
    st.sampled_from([None, "server", "other"]),
    delay=micros,
    result=st.none() | st.binary(max_size=3),
    error=st.none() | st.just(ERROR),
    keep=st.none() | micros,
)


@st.composite
def moves(draw: st.DrawFn) -> tuple[JobRecord, Change]:
    """A job, and a change that it takes."""
    wish = draw(changes.filter(lambda wish: wish.cause is not Cause.CLAIM))
    job = draw(records)._replace(state=draw(st.sampled_from(sorted(RULES[wish.cause].sources))))
    return job, wish._replace(epoch=job.epoch, server=job.server)


@given(job=records, wish=changes, now=micros, outbox=st.booleans())
def test_every_change_of_every_job_is_decided(job: JobRecord, wish: Change, now: int, outbox: bool) -> None:
    step = advance(job, wish, now, outbox=outbox)
    assert (step.job is not None) == (
        step.verdict is Verdict.APPLIED or (step.verdict is Verdict.REQUESTED and not job.cancel_requested)
    )
    assert (step.entry is not None) == (step.verdict is Verdict.APPLIED)
    assert advance(job, wish, now, outbox=outbox) == step


@given(move=moves(), now=micros, outbox=st.booleans())
def test_a_move_keeps_what_belongs_to_the_job(move: tuple[JobRecord, Change], now: int, outbox: bool) -> None:
    job, wish = move
    moved = advance(job, wish, now, outbox=outbox).job
    assert moved is not None
    for name in CHANGED_BY_NO_MOVE | CHANGED_BY_CLAIMS_ONLY:
        assert getattr(moved, name) == getattr(job, name)


@given(move=moves(), now=micros, outbox=st.booleans())
def test_what_a_state_has_is_set_in_that_state_only(move: tuple[JobRecord, Change], now: int, outbox: bool) -> None:
    job, wish = move
    step = advance(job, wish, now, outbox=outbox)
    moved = step.job
    assert step.verdict is Verdict.APPLIED
    assert moved is not None
    assert moved.state_at == now
    assert moved.epoch == job.epoch + (moved.state is State.ENQUEUED)
    assert moved.run_at == (now + wish.delay if moved.state is State.SCHEDULED else None)
    assert moved.result == (wish.result if moved.state is State.SUCCEEDED else None)
    assert moved.publish_by == (now + PUBLISH_WITHIN if moved.state is State.ENQUEUED and outbox else None)
    assert (moved.expires_at is not None) == moved.state.ended
    assert not moved.cancel_requested
    assert moved.attempt >= 0
    assert step.entry is not None
    assert (step.entry.state, step.entry.at, step.entry.reason) == (moved.state, now, moved.reason)
    assert step.entry.error == wish.error


REPEATS = {Cause.RESCHEDULE}
"""Made twice, it says twice how long to wait: it leads where it started."""


@given(move=moves(), now=micros, outbox=st.booleans())
def test_a_change_made_twice_moves_once(move: tuple[JobRecord, Change], now: int, outbox: bool) -> None:
    job, wish = move
    moved = advance(job, wish, now, outbox=outbox).job
    assert moved is not None
    again = advance(moved, wish, now + 1, outbox=outbox)
    if wish.cause in REPEATS:
        assert again.job is not None
        assert again.job == moved._replace(state_at=now + 1, run_at=now + 1 + wish.delay)
        return
    assert again.job is None
    # One that enqueued the job is fenced, because the job has another epoch by now.
    fenced = RULES[wish.cause].of_claim and moved.state is State.ENQUEUED
    assert again.verdict is (Verdict.FENCED if fenced else Verdict.REPEATED)


@given(job=records, wish=changes.filter(lambda wish: wish.cause in OF_CLAIM), now=micros, outbox=st.booleans())
def test_the_wrong_fence_never_changes_a_job(job: JobRecord, wish: Change, now: int, outbox: bool) -> None:
    assume((job.epoch, job.server) != (wish.epoch, wish.server))
    assert advance(job, wish, now, outbox=outbox) == (Verdict.FENCED, None, None)


@pytest.mark.parametrize(("state", "cause"), list(product(State, Cause)))
def test_exactly_the_moves_of_the_table_are_made(state: State, cause: Cause) -> None:
    step = advance(record(state), change(cause), NOW, outbox=False)
    rule = RULES[cause]
    if cause is Cause.CLAIM:
        assert step == (Verdict.REFUSED, None, None)
    elif state in rule.sources:
        assert step.verdict is Verdict.APPLIED
        assert step.job is not None
        assert step.job.state is rule.to
    else:
        repeated = state is rule.to or (rule.yields and state is State.DELETED)
        requested = cause is Cause.DELETE and state is State.PROCESSING
        assert step.verdict is (
            Verdict.REPEATED
            if repeated
            else Verdict.REQUESTED
            if requested
            else Verdict.FENCED
            if rule.of_claim
            else Verdict.REFUSED
        )


@pytest.mark.parametrize("cause", Cause)
def test_a_cause_has_a_rule_that_says_what_it_means(cause: Cause) -> None:
    rule = RULES[cause]
    assert rule.sources
    assert (rule.to in rule.sources) == (cause in REPEATS)
    assert rule.meaning
    assert not (rule.yields and not rule.of_claim), "only a running job's cancel is asked for"


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_left_and_entered(state: State) -> None:
    assert any(state in rule.sources for rule in RULES.values())
    assert any(rule.to is state for rule in RULES.values()) or state is State.AWAITING


@pytest.mark.parametrize("cause", [cause for cause, rule in RULES.items() if rule.yields])
def test_a_cancel_that_was_asked_for_wins_over_going_on(cause: Cause) -> None:
    moved = advance(record(cancel_requested=True), change(cause), NOW, outbox=True).job
    assert moved is not None
    assert (moved.state, moved.epoch, moved.expires_at) == (State.DELETED, 4, NOW + DAY)
    assert "because" in moved.reason


@pytest.mark.parametrize("cause", [Cause.SUCCEED, Cause.CANCEL])
def test_a_job_that_came_to_its_end_does_not_yield(cause: Cause) -> None:
    moved = advance(record(cancel_requested=True), change(cause), NOW, outbox=False).job
    assert moved is not None
    assert (moved.state, moved.reason) == (RULES[cause].to, "because")


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause is not Cause.CLAIM])
def test_the_counters(cause: Cause) -> None:
    rule = RULES[cause]
    moved = advance(record(min(rule.sources)), change(cause), NOW, outbox=False).job
    assert moved is not None
    attempt = {Attempt.KEEP: 2, Attempt.COUNT: 3, Attempt.REFUND: 1, Attempt.RESET: 0}[rule.attempt]
    crashes = 0 if rule.attempt is Attempt.RESET else 1 + rule.crash
    assert (moved.attempt, moved.crashes) == (attempt, crashes)


@pytest.mark.parametrize(("crashes", "state"), [(0, State.ENQUEUED), (2, State.ENQUEUED), (3, State.FAILED)])
def test_a_job_survives_as_many_crashes_as_it_may(crashes: int, state: State) -> None:
    moved = advance(record(crashes=crashes, max_crashes=3), change(Cause.CRASH), NOW, outbox=False).job
    assert moved is not None
    assert (moved.state, moved.crashes) == (state, crashes + 1)
    assert ("poison" in moved.reason) == (state is State.FAILED)


@pytest.mark.parametrize("state", [state for state in State if state.ended])
def test_an_ended_job_is_kept_for_as_long_as_the_change_says(state: State) -> None:
    cause = {State.SUCCEEDED: Cause.SUCCEED, State.FAILED: Cause.FAIL, State.DELETED: Cause.CANCEL}[state]
    for keep, expected in [(None, KEEP[state]), (0, 0), (7, 7)]:
        moved = advance(record(), change(cause)._replace(keep=keep), NOW, outbox=False).job
        assert moved is not None
        assert moved.expires_at == NOW + expected


def test_time_without_a_handler_is_counted_from_the_first_deferral() -> None:
    job = advance(record(), change(Cause.DEFER), NOW, outbox=False).job
    assert job is not None
    assert job.deferred_at == NOW
    for cause, state in [
        (Cause.DUE, State.SCHEDULED),
        (Cause.RELEASE, State.PROCESSING),
        (Cause.CRASH, State.PROCESSING),
    ]:
        job = advance(job._replace(state=state), change(cause, job.epoch), NOW + 1, outbox=False).job
        assert job is not None
        assert job.deferred_at == NOW
    again = advance(job._replace(state=State.PROCESSING), change(Cause.DEFER, job.epoch), NOW + 9, outbox=False).job
    assert again is not None
    assert again.deferred_at == NOW
    assert claim_of(again, None, NOW + 30).deferred_for == 30
    retried = advance(job._replace(state=State.PROCESSING), change(Cause.RETRY, job.epoch), NOW, outbox=False).job
    assert retried is not None
    assert retried.deferred_at is None


@given(job=records, epoch=st.integers(0, 5), server=st.sampled_from(["server", "other"]), now=micros)
def test_a_claim_is_given_to_one_worker(job: JobRecord, epoch: int, server: str, now: int) -> None:
    by = Claimant(server, "worker")
    step = claim(job, epoch, by, now)
    if job.epoch == epoch and job.state is State.ENQUEUED:
        assert step.verdict is Verdict.APPLIED
        claimed = step.job
        assert claimed is not None
        assert (claimed.state, claimed.epoch, claimed.attempt) == (State.PROCESSING, epoch, job.attempt + 1)
        assert (claimed.server, claimed.worker, claimed.publish_by) == (*by, None)
        untouched = set(JobRecord._fields) - {
            "state",
            "state_at",
            "attempt",
            "server",
            "worker",
            "reason",
            "publish_by",
        }
        assert all(getattr(claimed, name) == getattr(job, name) for name in untouched)
        assert claim(claimed, epoch, by, now + 1) == (Verdict.REPEATED, claimed, None)
        for stranger in (Claimant(server, "another"), Claimant("another", "worker")):
            assert claim(claimed, epoch, stranger, now) == (Verdict.FENCED, None, None)
    elif job.epoch == epoch and job.state is State.PROCESSING and job.server == server:
        assert step == (Verdict.REPEATED, job, None)
    else:
        assert step == (Verdict.FENCED, None, None)


@pytest.mark.parametrize("on", On)
@pytest.mark.parametrize("state", State)
def test_what_the_end_of_a_parent_means(state: State, on: On) -> None:
    cause = continuation(state, on)
    if not state.ended:
        assert cause is None
    elif on is On.FINISHED or on.capitalize() == state:
        assert cause is Cause.PARENT_ENDED
    elif state is State.FAILED:
        assert cause is None, "it may be requeued and succeed after all"
    else:
        assert cause is Cause.PARENT_MISSED


@given(
    delay=st.integers(0, DAY),
    ahead=st.none() | st.integers(-DAY, DAY),
    parent_state=st.none() | st.sampled_from(State),
    on=st.sampled_from(On),
    outbox=st.booleans(),
)
def test_how_a_job_begins(delay: int, ahead: int | None, parent_state: State | None, on: On, outbox: bool) -> None:
    new = NewJob(
        id="job",
        type="type",
        queue="q",
        payload=b"{}",
        priority=3,
        delay=delay,
        run_at=None if ahead is None else NOW + ahead,
        parent=None if parent_state is None else "parent",
        on=on,
    )
    job, entry = create(new, parent_state, NOW, outbox=outbox)
    wait = delay if ahead is None else ahead
    if parent_state is None:
        assert job.state is (State.SCHEDULED if wait > 0 else State.ENQUEUED)
    else:
        cause = continuation(parent_state, on)
        assert job.state is (State.AWAITING if cause is None else RULES[cause].to)
    assert job.epoch == (job.state is State.ENQUEUED)
    assert job.run_at == (NOW + wait if job.state is State.SCHEDULED else None)
    assert (job.publish_by is not None) == (outbox and job.state is State.ENQUEUED)
    assert (job.expires_at is not None) == job.state.ended
    assert (entry.state, entry.at, entry.reason) == (job.state, NOW, job.reason)
    assert ref_of(job) == Ref("job", job.epoch, "q", 3)
