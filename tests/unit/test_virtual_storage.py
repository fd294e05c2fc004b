"""What `later.testing` offers for tests of apps: jobs that run at once, by a clock that jumps."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel

from later import JobContext, Retry, RetryAfter, Snooze, State, UndeclaredPayload
from later.core.engine.keeper import TICKS
from later.core.lifecycle import Reschedule
from later.testing import VirtualStorage, virtual_storage
from tests.support.jobs import Work, jobs_of, work

__all__ = ["virtual_storage"]

START = datetime(2026, 3, 28, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Other(BaseModel):
    """Not declared."""


def test_delays_retries_and_continuations_come_at_their_times() -> None:
    store = VirtualStorage(START)
    seen: list[tuple[int, datetime]] = []

    async def handle(ctx: JobContext[None], payload: Work) -> None:
        seen.append((payload.n, store.now))
        if payload.n == 1 and ctx.attempt == 1:
            ctx.enqueue_continue(ctx.job_id, Work(n=2))
            raise RetryAfter(HOUR)

    jobs = jobs_of(work(handle), storage=store)
    delayed = jobs.enqueue_delayed(Work(n=3), timedelta(minutes=30))
    first = jobs.enqueue(Work(n=1))
    assert store.run(jobs) == [first]
    assert (jobs.get(first).state, jobs.get(delayed).state) == (State.SCHEDULED, State.SCHEDULED)
    ran = store.run(jobs, 2 * HOUR)
    assert ran[:2] == [delayed, first]
    assert seen == [(1, START), (3, START + HOUR / 2), (1, START + HOUR), (2, START + HOUR)]
    assert store.now == START + 2 * HOUR
    assert jobs.counts().total(State.SUCCEEDED) == 3


def test_recurring_jobs_fire_as_time_passes() -> None:
    store = VirtualStorage(START)
    seen: list[datetime] = []

    def handle(ctx: JobContext[None], payload: Work) -> None:
        assert ctx.recurring is not None
        assert ctx.recurring.due == store.now
        seen.append(store.now)

    jobs = jobs_of(work(handle), storage=store)
    jobs.enqueue_recurring("nightly", Work(), "30 2 * * *", zone="Europe/Berlin")
    assert len(store.run(jobs, timedelta(days=3))) == 3
    assert [at.isoformat() for at in seen] == [
        "2026-03-29T01:00:00+00:00",  # 02:30 does not exist that day: 03:00 in Berlin
        "2026-03-30T00:30:00+00:00",
        "2026-03-31T00:30:00+00:00",
    ]


def test_a_recurring_job_has_its_own_attempts() -> None:
    store = VirtualStorage(START)

    def handle(ctx: JobContext[None], payload: Work) -> None:
        raise ValueError

    jobs = jobs_of(work(handle), storage=store)
    jobs.enqueue_recurring("twice", Work(), every=HOUR, retry=Retry(2, delays=[timedelta(seconds=1)]))
    [first, again] = store.run(jobs, HOUR + timedelta(seconds=2))
    assert first == again
    assert (jobs.get(first).state, jobs.get(first).attempt) == (State.FAILED, 2)


def test_more_recurring_jobs_than_a_server_looks_at_and_as_many_that_cannot_be_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = VirtualStorage(START)
    jobs = jobs_of(work(lambda ctx, payload: None), storage=store)
    jobs.storage().reschedule([Reschedule(f"bad-{n}", 0, 0, b"?") for n in range(TICKS + 20)])
    for n in range(TICKS + 20):
        jobs.enqueue_recurring(f"good-{n}", Work(n=n), every=HOUR)
    assert len(store.run(jobs, HOUR * 2.5)) == 2 * (TICKS + 20)
    told = [record for record in caplog.records if "is due and stays so" in record.getMessage()]
    assert len(told) == TICKS + 20


def test_it_begins_now(virtual_storage: VirtualStorage) -> None:
    assert abs(virtual_storage.now - datetime.now(UTC)) < HOUR


def test_what_was_enqueued_is_told_in_order_whatever_became_of_it(virtual_storage: VirtualStorage) -> None:
    jobs = jobs_of(work(lambda ctx, payload: None), storage=virtual_storage)
    assert virtual_storage.enqueued(jobs, Work) == []
    payloads = [Work(n=n) for n in range(1100)]
    jobs.enqueue_many(payloads[:1000])
    virtual_storage.run(jobs, timedelta(seconds=1))
    for payload in payloads[1000:]:
        jobs.enqueue_delayed(payload, HOUR)
    assert virtual_storage.enqueued(jobs, Work) == payloads


def test_what_cannot_have_been_enqueued(virtual_storage: VirtualStorage) -> None:
    jobs = jobs_of(work(lambda ctx, payload: None), storage=virtual_storage)
    with pytest.raises(UndeclaredPayload, match="Other is not declared"):
        virtual_storage.enqueued(jobs, Other)


def test_jobs_without_end_are_told() -> None:
    def handle(ctx: JobContext[None], payload: Work) -> None:
        raise Snooze(timedelta(0))

    store = VirtualStorage()
    jobs = jobs_of(work(handle), storage=store)
    jobs.enqueue(Work())
    with pytest.raises(RuntimeError, match="50 have run, the last one is work"):
        store.run(jobs, most=50)
