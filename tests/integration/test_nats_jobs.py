"""A backend of a third party at work: jobs in Postgres, hints through NATS, and a worker in processes of its own."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nats
import nats.errors
import nats.js.errors
import pytest
from pydantic import BaseModel

from later import BackgroundJobs, JobsBuilder, State, background_job
from tests.support.nats import NatsServer
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(150)

APP = """
import os
from pydantic import BaseModel
from later import JobContext, JobsBuilder, background_job


class Work(BaseModel):
    n: int


@background_job
class Jobs:
    work: Work


def work(ctx: JobContext[None], payload: Work) -> int:
    return payload.n


builder = JobsBuilder(None, os.environ["APP"], os.environ["NATS"], storage=os.environ["POSTGRES"], jobs=Jobs)
jobs = builder.with_handler(Work, work).build()
"""


class Work(BaseModel):
    n: int


@background_job
class Jobs:
    work: Work


@pytest.fixture
def app(postgres_prefix: str) -> str:
    return f"{postgres_prefix}nats"


@pytest.fixture
def jobs(app: str, postgres_url: str, nats_server: NatsServer) -> Iterator[BackgroundJobs[None, Work]]:
    builder = JobsBuilder(None, app, nats_server.url, storage=postgres_url, jobs=Jobs)
    jobs = builder.build_client()
    yield jobs
    jobs.close()


@pytest.fixture
def worker(app: str, postgres_url: str, nats_server: NatsServer, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    (tmp_path / "nats_app.py").write_text(APP)
    environment = os.environ | {"APP": app, "NATS": nats_server.url, "POSTGRES": postgres_url}
    command = [str(Path(sys.executable).with_name("later")), "worker", "nats_app:jobs", "--processes", "1"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log, text=True)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.wait(40)


async def _consumed(url: str, stream: str) -> bool:
    """Whether a worker waits at the stream's queue."""
    try:
        client = await nats.connect(url, allow_reconnect=False)
        try:
            return bool((await client.jetstream().consumer_info(stream, "default")).num_waiting)
        finally:
            await client.close()
    except (nats.errors.Error, nats.js.errors.NotFoundError, OSError):
        return False


def test_jobs_end_succeeded_also_when_nats_is_killed_and_wiped(
    app: str, jobs: BackgroundJobs[None, Work], worker: "subprocess.Popen[str]", nats_server: NatsServer
) -> None:
    enqueued: list[str] = []

    def enqueue(number: int) -> None:
        enqueued.extend(jobs.enqueue_many([Work(n=n) for n in range(number)]))

    def all_succeeded() -> bool:
        assert worker.poll() is None
        return jobs.counts().total(State.SUCCEEDED) == len(enqueued)

    stream = f"LATER-{app.replace('.', '=')}"
    enqueue(100)
    until(all_succeeded, "jobs to be run", 30)
    until(lambda: asyncio.run(_consumed(nats_server.url, stream)), "the worker to wait at NATS")

    enqueue(100)
    nats_server.kill()
    nats_server.wipe()
    enqueue(100)
    until(all_succeeded, "jobs to go on without NATS", 60)

    nats_server.start()
    until(lambda: asyncio.run(_consumed(nats_server.url, stream)), "the worker to come back to NATS", 30)
    enqueue(100)
    until(all_succeeded, "jobs to be run", 30)

    assert all(job is not None and job.attempt == 1 for job in map(jobs.get, enqueued[::40]))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(40) == 0


def test_the_core_knows_nothing_of_it() -> None:
    package = Path(__file__).parents[2] / "later"
    sources = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len(sources) > 50
    assert [path for path in sources if re.search(r"\bnats\b", path.read_text(errors="replace"), re.IGNORECASE)] == []
