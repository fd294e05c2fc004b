"""The job of the benchmarks in `later`, and its producer: `python -m benchmarks.later_app`.

Its settings are the defaults. Workers are `later worker benchmarks.later_app:jobs`.
"""

import asyncio
import os
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from benchmarks.copies import copy_on_postgres, copy_on_sqlite
from benchmarks.ledger import report
from benchmarks.producer import Producer, Verb, payload
from later import JobContext, JobsBuilder, State, background_job
from later.backends.sqlite import SQLite
from later.core.lifecycle import Cause, Change
from later.core.records import SECOND, Claimant, NewJob, ServerInfo
from later.runtime.ids import new_id

DAY: Final = 24 * 3600 * SECOND


class Noop(BaseModel):
    number: int
    sent: float
    body: str


class Nap(BaseModel):
    """Takes as long as it says; in a thread."""

    number: int
    sent: float
    body: str
    seconds: float


class AsyncNap(BaseModel):
    """The same on the event loop."""

    number: int
    sent: float
    body: str
    seconds: float


@background_job
class Jobs:
    noop: Noop
    nap: Nap
    async_nap: AsyncNap


def noop(_ctx: JobContext[None], job: Noop) -> None:
    report(job.number, job.sent)


def nap(_ctx: JobContext[None], job: Nap) -> None:
    report(job.number, job.sent)
    time.sleep(job.seconds)


async def async_nap(_ctx: JobContext[None], job: AsyncNap) -> None:
    report(job.number, job.sent)
    await asyncio.sleep(job.seconds)


_storage = os.environ.get("BENCH_POSTGRES") or os.environ.get("BENCH_REDIS")
_file: Final = Path(os.environ.get("BENCH_FOLDER", ".")) / "bench.sqlite3"

jobs = (
    JobsBuilder(
        None,
        "bench",
        os.environ.get("BENCH_AMQP") or None,
        storage=_storage or SQLite(_file),
    )
    .with_noop_handler(noop)
    .with_nap_handler(nap)
    .with_async_nap_handler(async_nap)
    .build()
)


def settle(_request: Mapping[str, float]) -> None:
    """Wait until everything is published, and connect again."""
    jobs.close()
    jobs.counts()
    jobs.broker()


def threads(request: Mapping[str, float]) -> None:
    """`callers` threads that enqueue at the same time, one job a call."""
    callers, each = _shares(request)

    def calls(_caller: int) -> None:
        for _ in range(each):
            jobs.enqueue(Noop(**payload()))

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(calls, range(callers)))


def coroutines(request: Mapping[str, float]) -> None:
    """The same with coroutines of one event loop."""
    callers, each = _shares(request)

    async def calls() -> None:
        for _ in range(each):
            await jobs.aenqueue(Noop(**payload()))

    async def together() -> None:
        await asyncio.gather(*(calls() for _ in range(callers)))

    asyncio.run(together())


def _shares(request: Mapping[str, float]) -> tuple[int, int]:
    callers = int(request["callers"])
    return callers, int(request["count"]) // callers


def succeeded(_request: Mapping[str, float]) -> int:
    """What the storage itself counts."""
    return jobs.counts().total(State.SUCCEEDED)


def claims(request: Mapping[str, float]) -> dict[str, float]:
    """Run `count` jobs here, as a worker does that takes one at a time; tells milliseconds of a claim, each of which
    reports the job before as well."""
    storage = jobs.storage()
    claimant = Claimant(uuid.uuid4().hex, "probe")
    storage.register(ServerInfo(claimant.server, None, "probe", os.getpid(), None), 3600 * SECOND)
    done: list[Change] = []
    times: list[float] = []
    for _ in range(int(request["count"])):
        started = time.perf_counter()
        exchanged = storage.exchange(claimant, done, queues=["default"], limit=1)
        times.append((time.perf_counter() - started) * 1e3)
        [claim] = exchanged.next
        job = Noop.model_validate_json(claim.payload)
        report(job.number, job.sent)
        done = [Change(claim.id, Cause.SUCCEED, "", claim.epoch, claimant.server, result=b"null")]
    storage.apply(done)
    storage.unregister(claimant.server)
    times.sort()
    return {"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}


def naps(request: Mapping[str, float], kind: type[Nap] | type[AsyncNap]) -> None:
    """Jobs that take `seconds`."""
    jobs.enqueue_many([kind(**payload(), seconds=request["seconds"]) for _ in range(int(request["count"]))])


def scheduled(request: Mapping[str, float]) -> None:
    """`count` jobs for tomorrow, 500 a call. Their number is that of no job which is counted."""
    body = Noop(number=-1, sent=0.0, body="").model_dump_json().encode()
    storage, left = jobs.storage(), int(request["count"])
    while left > 0:
        portion = min(left, 500)
        storage.insert([NewJob(new_id(), "noop", "default", body, delay=DAY) for _ in range(portion)])
        left -= portion


def copies(request: Mapping[str, float]) -> None:
    """`count` finished jobs more, on Postgres and SQLite."""
    url = os.environ.get("BENCH_POSTGRES")
    if url:
        copy_on_postgres(url, int(request["count"]))
    else:
        copy_on_sqlite(_file, int(request["count"]))


_MORE: Final[dict[str, Verb]] = {
    "settle": settle,
    "threads": threads,
    "coroutines": coroutines,
    "claims": claims,
    "succeeded": succeeded,
    "naps": partial(naps, kind=Nap),
    "async_naps": partial(naps, kind=AsyncNap),
    "scheduled": scheduled,
    "copies": copies,
}

if __name__ == "__main__":
    Producer(
        send=lambda one: jobs.enqueue(Noop(**one)),
        send_many=lambda many: jobs.enqueue_many([Noop(**one) for one in many]),
        prepare=jobs.counts,
        more=_MORE,
    ).serve()
