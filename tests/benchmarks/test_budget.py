"""What one job may cost in Python, so that a regression shows without a clock.

A budget is what was measured with CPython 3.11, of the supported versions the one that needs most, and some air. Who
makes a path cheaper lowers its budget in the same commit; who must raise one says why in the commit.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydantic import BaseModel

from benchmarks.counting import bytecodes, told
from later import JobContext, JobsBuilder, background_job
from later.backends.memory import Memory
from later.backends.memory.storage import MemoryStorage, Namespace
from later.backends.redis import rows
from later.backends.sqlite import SQLite
from later.core.engine.worker import (
    Command,
    Exchange,
    ExchangeDone,
    Leased,
    Run,
    RunEnded,
    Worker,
    WorkerSettings,
)
from later.core.lifecycle import Cause, Change
from later.core.ports import StorageOptions
from later.core.records import (
    SECOND,
    Applied,
    Claim,
    Claimant,
    Exchanged,
    Inserted,
    InsertVerdict,
    NewJob,
    Ref,
    ServerInfo,
    State,
    Verdict,
)
from later.runtime.handling import Handling, Stop
from later.runtime.jobs import BackgroundJobs

MANY = 500
BY = Claimant("s1", "w")


class SendEmail(BaseModel):
    address: str
    body: str
    sent: float


@background_job
class Jobs:
    send_email: SendEmail


class Accepting(MemoryStorage):
    """Takes every job and does nothing with it."""

    def insert(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        return [
            Inserted(InsertVerdict.CREATED, State.ENQUEUED, Ref(job.id, 1, job.queue, job.priority)) for job in jobs
        ]


class AcceptingBackend(Memory):
    def open_storage(self, options: StorageOptions) -> MemoryStorage:
        return Accepting(Namespace(), options)


def handler(ctx: JobContext[None], payload: SendEmail) -> None:
    pass


def payload() -> SendEmail:
    return SendEmail(address="someone@example.com", body="x" * 200, sent=1.0)


BODY = payload().model_dump_json().encode()


def claim(number: int = 1) -> Claim:
    return Claim(f"01a20e38-4a67-756c-bd59-{number:012d}", 1, "send_email", "default", 0, BODY, 1, 0, BY.server)


@pytest.fixture
def jobs() -> Iterator[BackgroundJobs[None, Any]]:
    built = JobsBuilder(None, "budget", storage=AcceptingBackend()).with_send_email_handler(handler).build()
    built.enqueue(payload())  # opens and caches
    yield built
    built.close()


def spend(budget: float, items: int, call: Callable[[], object]) -> None:
    counts = bytecodes(call)
    assert counts.total() / items <= budget, "\n" + told(counts, items)


def test_enqueueing_one_job(jobs: BackgroundJobs[None, Any]) -> None:
    one = payload()
    spend(870, 1, lambda: jobs.enqueue(one))


def test_enqueueing_many_jobs(jobs: BackgroundJobs[None, Any]) -> None:
    many = [payload()] * MANY
    spend(360, MANY, lambda: jobs.enqueue_many(many))


def test_decoding_running_and_judging(jobs: BackgroundJobs[None, Any]) -> None:
    handling, stop = Handling(jobs, Random(1)), Stop()
    handling.run(claim(), stop, asyncio.run)
    spend(320, 1, lambda: handling.run(claim(), stop, asyncio.run))


def test_the_machine_of_a_worker() -> None:
    """With a storage that answers after 32 of 64 runs have ended, as under load."""
    machine = Worker(WorkerSettings(("default",), 8, 5.0), BY.worker, Random(1))
    applied = Applied(Verdict.APPLIED, State.SUCCEEDED, ())
    claims = iter([claim(number) for number in range(MANY)])
    running: list[Claim] = []
    asked: list[Exchange] = []

    def take(commands: Sequence[Command]) -> None:
        running.extend(command.claim for command in commands if isinstance(command, Run))
        asked.extend(command for command in commands if isinstance(command, Exchange))

    def answer() -> None:
        exchange = asked.pop()
        found = tuple(each for _, each in zip(range(exchange.limit), claims, strict=False))
        take(machine.handle(ExchangeDone(Exchanged((applied,) * len(exchange.changes), (), found)), 1.0))

    def work() -> None:
        take(machine.handle(Leased(BY.server), 1.0))
        ended = 0
        while running or asked:
            if asked and (not running or ended % 32 == 0):
                answer()
            if running:
                done = running.pop(0)
                ended += 1
                change = Change(done.id, Cause.SUCCEED, epoch=done.epoch, server=done.server)
                take(machine.handle(RunEnded(change, 1e-5), 1.0))
        assert ended == MANY

    spend(490, MANY, work)


def test_what_redis_is_told_of_a_job() -> None:
    change = Change(claim().id, Cause.SUCCEED, epoch=1, server=BY.server)
    spend(60, 1, lambda: rows.write_change(change))


def test_a_turn_of_a_worker_on_sqlite(tmp_path: Path) -> None:
    storage = SQLite(tmp_path / "jobs.sqlite3").open_storage(StorageOptions("budget"))
    storage.migrate()
    storage.register(ServerInfo(BY.server, None, "host", 1, None), 1000 * SECOND)
    storage.insert([NewJob(claim(number).id, "send_email", "default", BODY) for number in range(300)])
    first = storage.exchange(BY, queues=["default"], limit=64).next

    def turn() -> None:
        nonlocal first
        changes = [Change(each.id, Cause.SUCCEED, epoch=each.epoch, server=each.server) for each in first]
        first = storage.exchange(BY, changes, queues=["default"], limit=64).next

    turn()
    spend(1700, 64, turn)
    assert len(first) == 64
    storage.close()
