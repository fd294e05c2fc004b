"""Seeing and repairing jobs: get, find, wait, result, requeue, delete, counts, servers."""

import asyncio
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from later import (
    BackgroundJobs,
    Corrupt,
    InvalidName,
    InvalidOption,
    JobNotSucceeded,
    JobQuery,
    JobsBuilder,
    State,
    UnknownJob,
    Verdict,
    WaitTimeout,
    background_job,
)
from later.backends.memory import Memory
from later.core.lifecycle import Cause, Change
from later.core.records import SECOND, Applied, Claimant, ErrorInfo, JobDetails, ServerInfo
from later.runtime.node import describe_server
from later.runtime.ticks import to_datetime
from later.runtime.views import job_view

SECRET = "hunter2"
BY = Claimant("server", "0")


class Mail(BaseModel):
    address: str


@background_job
class Jobs:
    mail: Mail


@pytest.fixture
def jobs() -> Iterator[BackgroundJobs[None, Any]]:
    made = JobsBuilder(None, "app", storage=Memory(), jobs=Jobs).build_client()
    made.storage().register(ServerInfo("server", None, "host", 42, None, ("q",), 8), 60 * SECOND)
    yield made
    made.close()


def claim(jobs: BackgroundJobs[None, Any]) -> str:
    return jobs.storage().exchange(BY, queues=["default"], limit=1).next[0].id


def end(jobs: BackgroundJobs[None, Any], id: str, cause: Cause, **more: Any) -> None:
    epoch = jobs.get(id).epoch
    assert jobs.storage().apply([Change(id, cause, epoch=epoch, server="server", **more)])[0].verdict is Verdict.APPLIED


def succeeded(jobs: BackgroundJobs[None, Any], result: bytes | None = b'{"sent": 1}') -> str:
    id = jobs.enqueue(Mail(address=SECRET))
    assert claim(jobs) == id
    end(jobs, id, Cause.SUCCEED, result=result)
    return id


def test_a_job_with_its_history(jobs: BackgroundJobs[None, Any]) -> None:
    before = datetime.now(UTC)
    id = jobs.enqueue(Mail(address="a"))
    claim(jobs)
    error = ErrorInfo("ValueError", "no", "Traceback")
    end(jobs, id, Cause.RETRY, reason="retried", error=error, delay=SECOND)
    job = jobs.get(id)
    assert [entry.state for entry in job.history] == [State.ENQUEUED, State.PROCESSING, State.SCHEDULED]
    assert before - timedelta(seconds=1) <= job.created_at == job.history[0].at <= job.state_at
    assert job.run_at == job.state_at + timedelta(seconds=1)
    assert (job.history[1].server, job.history[1].worker, job.attempt) == ("server", "0", 1)
    assert job.error == job.history[2].error == error
    assert job.reason == job.history[2].reason == "retried"
    assert job.expires_at is None
    assert job.result is None


def test_a_succeeded_job(jobs: BackgroundJobs[None, Any]) -> None:
    job = jobs.get(succeeded(jobs))
    assert (job.payload, job.result, job.error) == ({"address": SECRET}, {"sent": 1}, None)
    assert job.expires_at == job.state_at + timedelta(days=1)


def test_reprs_hold_no_payload_result_or_error(jobs: BackgroundJobs[None, Any]) -> None:
    id = succeeded(jobs, b'"hunter2"')
    job = jobs.get(id)
    assert repr(job) == f"<Job mail {id}: Succeeded in default, attempt 1>"
    entry = replace(job.history[0], error=ErrorInfo("E", SECRET, SECRET))
    assert SECRET not in repr((entry, jobs.find(), jobs))


def test_stored_data_that_is_no_json(jobs: BackgroundJobs[None, Any]) -> None:
    details = jobs.storage().get([succeeded(jobs)])[0]
    assert details is not None
    view = job_view(JobDetails(details.job._replace(payload=b"{hunter2", result=b"{hunter2"), ()))
    for name in ("payload", "result"):
        with pytest.raises(Corrupt) as caught:
            getattr(view, name)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("at", [0, 1, 1_700_000_000_123_457, 9_007_199_254_740_991])
def test_times_are_exact(at: int) -> None:
    assert (to_datetime(at) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == at


def test_unknown_ids(jobs: BackgroundJobs[None, Any]) -> None:
    for call in (jobs.get, jobs.wait, jobs.result, jobs.requeue, jobs.delete):
        with pytest.raises(UnknownJob, match="there is no job nobody"):
            call("nobody")
    known = jobs.enqueue(Mail(address="a"))
    assert jobs.delete("nobody", known) == [Verdict.UNKNOWN, Verdict.APPLIED]


def test_requeue_and_delete(jobs: BackgroundJobs[None, Any]) -> None:
    done = succeeded(jobs)
    waiting = jobs.enqueue(Mail(address="b"))
    assert jobs.delete(done, waiting) == [Verdict.REFUSED, Verdict.APPLIED]
    assert jobs.get(waiting).reason == "deleted on request"
    assert jobs.requeue(done, waiting) == [Verdict.APPLIED, Verdict.APPLIED]
    assert jobs.get(done).reason == "requeued on request"
    assert jobs.counts().total(State.ENQUEUED) == 2
    assert jobs.requeue() == jobs.delete() == []


def test_many_are_moved_in_transactions_of_bounded_size(
    jobs: BackgroundJobs[None, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = jobs.storage()
    apply, sizes = storage.apply, list[int]()

    def counted(changes: Sequence[Change]) -> list[Applied]:
        sizes.append(len(changes))
        return apply(changes)

    monkeypatch.setattr(storage, "apply", counted)
    ids = jobs.enqueue_many([Mail(address="a")] * 2500)
    assert jobs.delete(*ids, "nobody") == [*[Verdict.APPLIED] * 2500, Verdict.UNKNOWN]
    assert jobs.requeue("nobody", *ids) == [Verdict.UNKNOWN, *[Verdict.APPLIED] * 2500]
    assert sizes == [1000, 1000, 501] * 2
    with pytest.raises(InvalidName):
        jobs.delete(*ids, "no name")
    assert jobs.counts().total(State.ENQUEUED) == 2500


def test_deleting_a_running_job_asks_it_to_stop(jobs: BackgroundJobs[None, Any]) -> None:
    id = jobs.enqueue(Mail(address="a"))
    claim(jobs)
    assert jobs.delete(id) == [Verdict.REQUESTED]
    assert jobs.get(id).cancel_requested


def test_find(jobs: BackgroundJobs[None, Any]) -> None:
    done = succeeded(jobs)
    others = [jobs.enqueue(Mail(address="b"), queue="other") for _ in range(3)]
    page = jobs.find(JobQuery(queues=frozenset({"other"}), limit=2))
    assert [job.id for job in page.jobs] == others[:0:-1]
    rest = jobs.find(JobQuery(queues=frozenset({"other"}), limit=2, after=page.next))
    assert ([job.id for job in rest.jobs], rest.next) == (others[:1], None)
    (found,) = jobs.find(JobQuery(states=frozenset({State.SUCCEEDED}))).jobs
    assert (found.id, found.payload, found.result, found.history) == (done, None, None, ())
    assert len(jobs.find().jobs) == 4


@pytest.mark.parametrize("limit", [0, -1, 1001, True, 2.5, None])
def test_page_sizes(jobs: BackgroundJobs[None, Any], limit: Any) -> None:
    with pytest.raises(InvalidOption, match="limit"):
        jobs.find(JobQuery(limit=limit))


@pytest.mark.parametrize(
    "query",
    [
        JobQuery(parent="\ud800"),
        JobQuery(parent="no name"),
        JobQuery(queues=frozenset(["\ud800"])),
        JobQuery(types=frozenset(["a\0"])),
    ],
)
def test_queries_for_what_is_no_name(jobs: BackgroundJobs[None, Any], query: JobQuery) -> None:
    with pytest.raises(InvalidName):
        jobs.find(query)


def test_a_cursor_that_is_none(jobs: BackgroundJobs[None, Any]) -> None:
    with pytest.raises(InvalidOption):
        jobs.find(JobQuery(after="nonsense"))


def test_servers(jobs: BackgroundJobs[None, Any]) -> None:
    jobs.enqueue(Mail(address="a"))
    claim(jobs)
    (server,) = jobs.servers()
    assert (server.id, server.host, server.pid, server.queues, server.slots) == ("server", "host", 42, ("q",), 8)
    assert server.claims == 1
    assert server.lease_until - server.started_at == timedelta(seconds=60)
    assert not server.gone


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_server_whose_process_ended_is_seen_before_its_lease_ends(jobs: BackgroundJobs[None, Any]) -> None:
    here = describe_server("ended", ("q",), 8)
    jobs.storage().register(replace(here, pid_started="1"), 60 * SECOND)

    assert {server.id for server in jobs.servers() if server.gone} == {"ended"}


def test_wait_returns_an_ended_job_at_once(jobs: BackgroundJobs[None, Any]) -> None:
    id = succeeded(jobs)
    assert jobs.wait(id).state is State.SUCCEEDED
    assert jobs.wait(id, 0).state is State.SUCCEEDED
    assert jobs.result(id, timedelta(0)) == {"sent": 1}


def test_wait_until_another_thread_ends_the_job(jobs: BackgroundJobs[None, Any]) -> None:
    id = jobs.enqueue(Mail(address="a"))
    claim(jobs)
    ender = threading.Timer(0.02, end, (jobs, id, Cause.SUCCEED), {"result": b"5"})
    ender.start()
    assert jobs.result(id, 10) == 5
    ender.join()


@pytest.mark.parametrize("timeout", [0, 0.01, timedelta(milliseconds=10)])
async def test_wait_gives_up(jobs: BackgroundJobs[None, Any], timeout: Any) -> None:  # noqa: ASYNC109
    id = jobs.enqueue(Mail(address="a"))
    with pytest.raises(WaitTimeout, match=f"job {id} did not end within .* it is Enqueued; it goes on regardless"):
        jobs.wait(id, timeout)
    with pytest.raises(TimeoutError):
        await jobs.await_for(id, timeout)


@pytest.mark.parametrize("timeout", [-1, timedelta(seconds=-1), float("nan")])
def test_timeouts_outside_the_range(jobs: BackgroundJobs[None, Any], timeout: Any) -> None:
    with pytest.raises(InvalidOption, match="timeout"):
        jobs.wait("a", timeout)


def test_the_pauses_between_two_looks_grow(jobs: BackgroundJobs[None, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    id = jobs.enqueue(Mail(address="a"))
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr("later.runtime.jobs.time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        jobs.wait(id)
    assert pauses == [0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25]


@pytest.mark.parametrize("cause", [Cause.FAIL, Cause.CANCEL])
async def test_a_result_of_a_job_that_ended_otherwise(jobs: BackgroundJobs[None, Any], cause: Cause) -> None:
    id = jobs.enqueue(Mail(address="a"))
    claim(jobs)
    end(jobs, id, cause)
    with pytest.raises(JobNotSucceeded, match=f"job {id} has no result: it ended (Failed|Deleted)"):
        jobs.result(id)
    with pytest.raises(JobNotSucceeded):
        await jobs.aresult(id)


async def test_awaitable_faces(jobs: BackgroundJobs[None, Any]) -> None:
    id = jobs.enqueue(Mail(address="a"))
    claim(jobs)
    waiter = asyncio.create_task(jobs.aresult(id, 10))
    await asyncio.sleep(0)
    end(jobs, id, Cause.SUCCEED, result=b"5")
    assert await waiter == 5
    assert (await jobs.await_for(id)).id == id
    assert (await jobs.afind()).jobs[0].id == id
    assert (await jobs.acounts()).total(State.SUCCEEDED) == 1
    assert [server.id for server in await jobs.aservers()] == ["server"]
    assert await jobs.arequeue(id) == [Verdict.APPLIED]
    assert await jobs.adelete(id) == [Verdict.APPLIED]


def test_usable_again_after_close(jobs: BackgroundJobs[None, Any]) -> None:
    id = jobs.enqueue(Mail(address="a"))
    jobs.close()
    jobs.close()
    assert jobs.get(id).id == id


def test_a_scheduled_job_gets_another_time(jobs: BackgroundJobs[None, Any]) -> None:
    id = jobs.enqueue_delayed(Mail(address="a"), timedelta(hours=1))
    assert jobs.reschedule(id, delay=timedelta(hours=2)) is Verdict.APPLIED
    job = jobs.get(id)
    assert (job.state, job.run_at) == (State.SCHEDULED, job.state_at + timedelta(hours=2))
    assert job.reason == "rescheduled on request"
    at = datetime.now(UTC) + timedelta(minutes=5)
    assert jobs.reschedule(id, at=at) is Verdict.APPLIED
    run_at = jobs.get(id).run_at
    assert run_at is not None
    assert timedelta(0) <= run_at - at < timedelta(seconds=1)
    assert jobs.reschedule(id, at=at - timedelta(days=1)) is Verdict.APPLIED
    assert [ref.id for ref in jobs.storage().promote(10).enqueued] == [id]
    assert jobs.reschedule(id, delay=timedelta(0)) is Verdict.REFUSED
    with pytest.raises(UnknownJob):
        jobs.reschedule("nobody", delay=timedelta(0))
    for wrong in ({}, {"at": at, "delay": timedelta(0)}, {"delay": timedelta(-1)}, {"at": datetime.now()}):  # noqa: DTZ005
        with pytest.raises(InvalidOption):
            jobs.reschedule(id, **wrong)


async def test_another_time_for_async_code(jobs: BackgroundJobs[None, Any]) -> None:
    id = await jobs.aenqueue_delayed(Mail(address="a"), timedelta(hours=1))
    assert await jobs.areschedule(id, delay=timedelta(0)) is Verdict.APPLIED
