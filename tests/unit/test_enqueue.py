"""Enqueueing: what is stored, what is returned, and which bad input is refused with nothing stored."""

import asyncio
import itertools
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from later import (
    BackgroundJobs,
    Cancel,
    DuplicateJob,
    InvalidName,
    InvalidOption,
    JobContext,
    JobsBuilder,
    Limits,
    NotSerializable,
    On,
    PayloadTooLarge,
    State,
    TooManyJobs,
    Unavailable,
    UndeclaredPayload,
    UnknownParent,
    background_job,
    job_type,
)
from later.backends.memory import Memory
from later.backends.memory.storage import MemoryStorage
from later.core.ports import BrokerOptions
from later.core.records import Claim, Inserted, NewJob
from later.runtime import enqueue, group_commit

SECRET = "hunter2"


class SendEmail(BaseModel):
    address: str


class SendPrettyEmail(SendEmail):
    colour: str = "red"


class CreateAccount(BaseModel):
    id: str
    anything: Any = None


class Undeclared(BaseModel):
    id: str


@background_job
class Jobs:
    send_email: SendEmail
    create_account: CreateAccount = job_type(queue="accounts", priority=5, max_crashes=0)


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def jobs(memory: Memory) -> Iterator[BackgroundJobs[None, Any]]:
    made = JobsBuilder(None, "app", storage=memory, jobs=Jobs, limits=Limits(payload=1024)).build_client()
    yield made
    made.close()


EMAIL = SendEmail(address="a@b.c")


def test_a_job_with_the_options_of_its_type(jobs: BackgroundJobs[None, Any]) -> None:
    id = jobs.enqueue(CreateAccount(id="7"))
    job = jobs.get(id)
    assert UUID(id).version == 7
    assert (job.id, job.type, job.queue, job.priority, job.max_crashes) == (id, "create_account", "accounts", 5, 0)
    assert (job.state, job.payload, job.parent) == (State.ENQUEUED, {"id": "7", "anything": None}, None)


def test_options_of_the_call(jobs: BackgroundJobs[None, Any]) -> None:
    job = jobs.get(jobs.enqueue(CreateAccount(id="7"), id="my-id", queue="other", priority=0))
    assert (job.id, job.queue, job.priority) == ("my-id", "other", 0)


def test_ids_sort_by_time(jobs: BackgroundJobs[None, Any]) -> None:
    ids = [jobs.enqueue(EMAIL) for _ in range(100)]
    assert ids == sorted(ids)


def test_many_in_one_call(jobs: BackgroundJobs[None, Any]) -> None:
    ids = jobs.enqueue_many((CreateAccount(id=str(n)) for n in range(3)), queue="q", priority=2)
    found = [jobs.get(id) for id in ids]
    assert [(job.payload["id"], job.queue, job.priority) for job in found] == [(str(n), "q", 2) for n in range(3)]
    assert jobs.enqueue_many([]) == []


def test_too_many_are_refused_together(jobs: BackgroundJobs[None, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enqueue, "MANY", 3)
    endless = itertools.repeat(EMAIL)
    with pytest.raises(TooManyJobs, match="more than 3 payloads"):
        jobs.enqueue_many(endless)
    with pytest.raises(TooManyJobs):
        asyncio.run(jobs.aenqueue_many([EMAIL] * 4))
    assert jobs.counts().by_queue == {}
    assert len(jobs.enqueue_many([EMAIL] * 3)) == 3


def test_many_are_refused_together(jobs: BackgroundJobs[None, Any]) -> None:
    with pytest.raises(UndeclaredPayload):
        jobs.enqueue_many([EMAIL, Undeclared(id="7"), EMAIL])
    assert jobs.counts().by_queue == {}


@pytest.mark.parametrize("on", [*On, *map(str, On)])
def test_continuations(jobs: BackgroundJobs[None, Any], on: Any) -> None:
    parent = jobs.enqueue(EMAIL)
    child = jobs.get(jobs.enqueue_continue(parent, CreateAccount(id="7"), on=on, id="child", queue="q", priority=1))
    assert (child.state, child.parent, child.on) == (State.AWAITING, parent, On(on))
    assert (child.id, child.queue, child.priority) == ("child", "q", 1)
    assert jobs.get(parent).children == ("child",)


def test_delays(jobs: BackgroundJobs[None, Any]) -> None:
    job = jobs.get(jobs.enqueue_delayed(EMAIL, timedelta(hours=1), id="a", queue="q", priority=1))
    assert (job.state, job.queue, job.priority) == (State.SCHEDULED, "q", 1)
    assert job.run_at == job.created_at + timedelta(hours=1)
    assert jobs.get(jobs.enqueue_delayed(EMAIL, timedelta(0))).state is State.ENQUEUED


def test_delays_until(jobs: BackgroundJobs[None, Any]) -> None:
    at = datetime.now(timezone(timedelta(hours=2))) + timedelta(days=1)
    job = jobs.get(jobs.enqueue_delayed_at(EMAIL, at, id="a", queue="q", priority=1))
    assert (job.state, job.run_at, job.queue, job.priority) == (State.SCHEDULED, at, "q", 1)


@pytest.mark.parametrize("at", [datetime(2000, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)])
def test_a_past_time_means_now(jobs: BackgroundJobs[None, Any], at: datetime) -> None:
    assert jobs.get(jobs.enqueue_delayed_at(EMAIL, at)).state is State.ENQUEUED


async def test_awaitable_faces_do_the_same(jobs: BackgroundJobs[None, Any]) -> None:
    parent = await jobs.aenqueue(EMAIL, id="a", queue="q", priority=1)
    assert (await jobs.aget(parent)).queue == "q"
    assert len(await jobs.aenqueue_many([EMAIL, EMAIL], queue="many")) == 2
    assert await jobs.aenqueue_many([]) == []
    child = await jobs.aenqueue_continue(parent, EMAIL, on="failed", id="b")
    delayed = await jobs.aenqueue_delayed(EMAIL, timedelta(hours=1), id="c")
    at = datetime.now(UTC) + timedelta(hours=1)
    until = await jobs.aenqueue_delayed_at(EMAIL, at, id="d")
    states = [(await jobs.aget(id)).state for id in (child, delayed, until)]
    assert states == [State.AWAITING, State.SCHEDULED, State.SCHEDULED]
    with pytest.raises(UndeclaredPayload):
        await jobs.aenqueue(Undeclared(id="7"))
    with pytest.raises(DuplicateJob):
        await jobs.aenqueue(SendEmail(address="other"), id="a")


async def test_a_thousand_coroutines(jobs: BackgroundJobs[None, Any]) -> None:
    ids = await asyncio.gather(*(jobs.aenqueue(EMAIL) for _ in range(1000)))
    assert len(set(ids)) == 1000
    assert jobs.counts().total(State.ENQUEUED) == 1000


def test_many_threads(jobs: BackgroundJobs[None, Any]) -> None:
    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(lambda _: jobs.enqueue(EMAIL), range(500)))
    assert len(set(ids)) == 500
    assert jobs.counts().total(State.ENQUEUED) == 500


def test_the_same_call_again_stores_nothing_new(jobs: BackgroundJobs[None, Any]) -> None:
    assert jobs.enqueue(EMAIL, id="a") == jobs.enqueue(EMAIL, id="a") == "a"
    assert jobs.counts().total(State.ENQUEUED) == 1


def test_an_id_that_is_taken(jobs: BackgroundJobs[None, Any]) -> None:
    jobs.enqueue(EMAIL, id="a")
    for other in (SendEmail(address=SECRET), CreateAccount(id=SECRET)):
        with pytest.raises(DuplicateJob, match="the id a is taken") as caught:
            jobs.enqueue(other, id="a")
        assert SECRET not in str(caught.value)


def test_an_unknown_parent(jobs: BackgroundJobs[None, Any]) -> None:
    with pytest.raises(UnknownParent, match="there is no job nobody to continue"):
        jobs.enqueue_continue("nobody", EMAIL)
    assert jobs.counts().by_queue == {}


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (Undeclared(id=SECRET), "Undeclared is not declared as a payload of a job type: declared are CreateAccount, S"),
        (SendPrettyEmail(address=SECRET), "only its base class SendEmail is, and send_email would run without"),
        (SendEmail, "SendEmail is a class: enqueue an instance"),
        ({"address": SECRET}, "dict is not declared"),
        (SECRET, "str is not declared"),
        (None, "NoneType is not declared"),
    ],
)
def test_a_payload_that_is_not_declared(jobs: BackgroundJobs[None, Any], payload: Any, message: str) -> None:
    with pytest.raises(UndeclaredPayload, match=message) as caught:
        jobs.enqueue(payload)
    assert SECRET not in str(caught.value)


def test_a_payload_that_is_too_large(jobs: BackgroundJobs[None, Any]) -> None:
    with pytest.raises(PayloadTooLarge):
        jobs.enqueue(SendEmail(address="x" * 1024))
    assert jobs.counts().by_queue == {}


def test_a_payload_that_does_not_serialise(jobs: BackgroundJobs[None, Any]) -> None:
    with pytest.raises(NotSerializable, match="field anything"):
        jobs.enqueue(CreateAccount(id="7", anything=object()))


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 101, "é", "a\n", 7])
def test_names_outside_the_rule(jobs: BackgroundJobs[None, Any], name: Any) -> None:
    for call in (
        lambda: jobs.enqueue(EMAIL, id=name),
        lambda: jobs.enqueue(EMAIL, queue=name),
        lambda: jobs.enqueue_many([EMAIL], queue=name),
        lambda: jobs.enqueue_continue(name, EMAIL),
        lambda: jobs.get(name),
        lambda: jobs.requeue("a", name),
        lambda: jobs.delete(name),
        lambda: jobs.wait(name, 0),
    ):
        with pytest.raises(InvalidName):
            call()
    assert jobs.counts().by_queue == {}


@pytest.mark.parametrize("priority", [-1, 10, 1.0, True, "5"])
def test_priorities_outside_the_range(jobs: BackgroundJobs[None, Any], priority: Any) -> None:
    with pytest.raises(InvalidOption, match=r"from 0 \(last\) to 9 \(first\)"):
        jobs.enqueue(EMAIL, priority=priority)


@pytest.mark.parametrize(
    "delay", [timedelta(microseconds=-1), timedelta.min, timedelta.max, timedelta(days=40_000), 5, None]
)
def test_delays_outside_the_range(jobs: BackgroundJobs[None, Any], delay: Any) -> None:
    with pytest.raises(InvalidOption, match="delay"):
        jobs.enqueue_delayed(EMAIL, delay)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (datetime(2030, 1, 1), "has no time zone"),  # noqa: DTZ001
        (datetime.max, "has no time zone"),  # noqa: DTZ901
        (datetime.max.replace(tzinfo=UTC), "more than 100 years"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))), "more than 100 years"),
        (datetime.min.replace(tzinfo=UTC) + timedelta(days=1_000_000), "more than 100 years"),
        (timedelta(hours=1), "not a datetime"),
        ("2030-01-01", "not a datetime"),
        (None, "not a datetime"),
    ],
)
def test_times_that_cannot_be(jobs: BackgroundJobs[None, Any], at: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        jobs.enqueue_delayed_at(EMAIL, at)


def test_the_earliest_time_in_the_farthest_east(jobs: BackgroundJobs[None, Any]) -> None:
    at = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
    assert jobs.get(jobs.enqueue_delayed_at(EMAIL, at)).state is State.ENQUEUED


@pytest.mark.parametrize("on", ["Succeeded", "done", "", None, 1])
def test_an_unknown_end_of_a_parent(jobs: BackgroundJobs[None, Any], on: Any) -> None:
    parent = jobs.enqueue(EMAIL)
    with pytest.raises(InvalidOption, match="'succeeded', 'failed', 'deleted', 'finished'"):
        jobs.enqueue_continue(parent, EMAIL, on=on)


def test_with_a_broker_refs_are_published(memory: Memory) -> None:
    jobs = JobsBuilder(None, "app", memory, storage=memory, jobs=Jobs).build_client()
    id = jobs.enqueue(EMAIL)
    jobs.close()
    broker = memory.open_broker(BrokerOptions("app"))
    assert [delivery.ref.id for delivery in broker.receive(["default"], 10, 0)] == [id]
    jobs.delete(id)
    jobs.requeue(id)
    jobs.close()
    assert [delivery.ref.id for delivery in broker.receive(["default"], 10, 0)] == [id]


def context(jobs: BackgroundJobs[Any, Any], **given: Any) -> JobContext[Any]:
    claim = Claim(
        id="j",
        epoch=4,
        type="send_email",
        queue="q",
        priority=0,
        payload=b'"hunter2"',
        attempt=2,
        crashes=0,
        server="s",
    )
    return JobContext(jobs, claim._replace(**given), threading.Event())


def test_what_a_context_tells(jobs: BackgroundJobs[None, Any]) -> None:
    ctx = context(jobs, parent="p", parent_state=State.SUCCEEDED, parent_result=b'{"x": 1}')
    assert (ctx.app, ctx.job_id, ctx.idempotency_key, ctx.type) == (None, "j", "j", "send_email")
    assert (ctx.queue, ctx.attempt, ctx.epoch) == ("q", 2, 4)
    assert (ctx.parent, ctx.parent_state, ctx.parent_result) == ("p", State.SUCCEEDED, {"x": 1})
    assert context(jobs).parent_result is None
    assert repr(ctx) == "<JobContext send_email j in q, attempt 2>"


def test_a_context_that_is_cancelled(jobs: BackgroundJobs[None, Any]) -> None:
    flag = threading.Event()
    ctx = JobContext(jobs, context(jobs)._claim, flag)
    before = ctx.cancelled
    ctx.raise_if_cancelled()
    flag.set()
    assert (before, ctx.cancelled) == (False, True)
    with pytest.raises(Cancel):
        ctx.raise_if_cancelled()


async def test_a_context_enqueues(jobs: BackgroundJobs[None, Any]) -> None:
    ctx = context(jobs)
    first = ctx.enqueue(EMAIL)
    assert jobs.get(ctx.enqueue_continue(first, EMAIL)).parent == first
    assert jobs.get(await ctx.aenqueue(EMAIL)).state is State.ENQUEUED


def test_each_process_opens_its_own_connections_after_a_fork(tmp_path: Path) -> None:
    script = """
        import os, sys, warnings
        warnings.simplefilter("ignore")
        from pydantic import BaseModel
        from later import *
        class Mail(BaseModel):
            n: int
        @background_job
        class Jobs:
            mail: Mail
        jobs = JobsBuilder(None, "app", "memory://", storage="sqlite:///jobs.sqlite3").build_client()
        before = [jobs.enqueue(Mail(n=1))]
        storage = jobs.storage()
        child = os.fork()
        ids = [jobs.enqueue(Mail(n=n)) for n in range(20)]
        assert (jobs.storage() is storage) == bool(child)
        if not child:
            jobs.close()
            os._exit(0 if len(set(ids)) == 20 else 1)
        assert os.waitpid(child, 0)[1] == 0
        jobs.close()
        print(jobs.counts().total(State.ENQUEUED))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == ("41\n", "", 0)


def test_migration_that_fails_is_tried_again(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = iter([Unavailable("not now"), None])

    def migrate(_self: MemoryStorage) -> None:
        error = next(outcomes)
        if error:
            raise error

    monkeypatch.setattr(MemoryStorage, "migrate", migrate)
    jobs = JobsBuilder(None, "app", storage=memory, jobs=Jobs).build_client()
    with pytest.raises(Unavailable):
        jobs.counts()
    assert jobs.counts().by_queue == {}
    assert jobs.storage() is jobs.storage()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_enqueue_without_an_answer_can_be_repeated_with_its_ids(
    jobs: BackgroundJobs[None, Any], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    insert = MemoryStorage.insert
    monkeypatch.setattr(group_commit, "RETRY_LONGEST", 0.01)

    def lose_the_reply(self: MemoryStorage, new: Sequence[NewJob]) -> list[Inserted]:
        insert(self, new)
        raise Unavailable("the reply was lost")

    jobs.counts()
    monkeypatch.setattr(MemoryStorage, "insert", lose_the_reply)
    commit = jobs._connections.get().commit
    monkeypatch.setattr(commit, "_deadline", 0.05)

    def enqueue_one() -> str:
        return jobs.enqueue(EMAIL) if kind == "sync" else asyncio.run(jobs.aenqueue(EMAIL))

    with pytest.raises(Unavailable) as caught:
        enqueue_one()
    monkeypatch.undo()
    [id] = caught.value.ids

    assert jobs.enqueue(EMAIL, id=id) == id
    assert len(jobs.find().jobs) == 1


def test_new_jobs_carry_no_payload_in_errors(jobs: BackgroundJobs[None, Any]) -> None:
    new: NewJob = jobs.intake.new(EMAIL)
    assert new.payload == b'{"address":"a@b.c"}'
    assert SECRET not in repr(jobs)
    assert repr(jobs) == "<BackgroundJobs client app: send_email, create_account>"


def test_a_parent_that_is_no_id_is_not_taken_for_no_parent(jobs: BackgroundJobs[None, Any]) -> None:
    with pytest.raises(InvalidName, match="parent id None"):
        jobs.enqueue_continue(None, EMAIL)  # type: ignore[arg-type]

    assert jobs.counts().total(State.ENQUEUED) == 0


def test_one_payload_is_not_taken_for_many(jobs: BackgroundJobs[None, Any]) -> None:
    with pytest.raises(UndeclaredPayload, match="give a list"):
        jobs.enqueue_many(EMAIL)
