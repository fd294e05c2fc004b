"""`python -m tests.chaos.ticks`: many servers, one recurring job each second, and servers that are killed at random.

At the end each second has to have made exactly one job. Private servers are started for it. Ends with status 0 only
when that holds.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Final

from later import BackgroundJobs, JobQuery, State
from tests.support.postgres import PostgresServer
from tests.support.servers import RedisServer
from tests.support.tick_server import Beat, make_jobs

STORAGES: Final = ("redis", "postgres", "sqlite")
SECOND: Final = timedelta(seconds=1)
SETTLE: Final = 30.0
"""Seconds for the last jobs to be made and to end."""


@dataclass(frozen=True)
class Options:
    storage: str = "redis"
    servers: int = 10
    seconds: int = 120
    pause: float = 2.0
    """Seconds between two kills, on average."""


@dataclass(frozen=True)
class Outcome:
    kills: int
    seconds: int
    """From the first time to the last one."""
    jobs: int
    double: int
    """Seconds with more than one job."""
    missing: int
    """Seconds without one."""
    unended: int
    latest: float
    """Seconds by which the latest job was made after its time, ..."""
    latest_of: float
    """... and from the first time to that one. At first the servers are still starting."""
    usual: float
    """The median of these seconds."""

    @property
    def right(self) -> bool:
        return self.jobs > 0 and not (self.double or self.missing or self.unended)


def run(options: Options) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="later-ticks-") as folder, storage(options.storage, Path(folder)) as url:
        jobs = make_jobs(url)
        jobs.enqueue_recurring("beat", Beat(), every=SECOND, misfire="all")
        kills = disturb(url, options)
        jobs.recurring.pause("beat")
        with jobs.running(slots=4):
            ends = time.monotonic() + SETTLE
            while unended(jobs) and time.monotonic() < ends:
                time.sleep(0.1)
        outcome = judge(jobs, kills)
        jobs.close()
        return outcome


def disturb(url: str, options: Options) -> int:
    """Run servers, kill one and start another again and again; how often."""
    start = [sys.executable, "-m", "tests.support.tick_server", url]
    servers = [subprocess.Popen(start) for _ in range(options.servers)]
    chance, kills = random.Random(0), 0
    try:
        ends = time.monotonic() + options.seconds
        while time.monotonic() < ends:
            time.sleep(chance.expovariate(1 / options.pause))
            which = chance.randrange(len(servers))
            servers[which].kill()
            servers[which].wait()
            servers[which] = subprocess.Popen(start)
            kills += 1
        return kills
    finally:
        for server in servers:
            server.kill()
            server.wait()


def unended(jobs: BackgroundJobs[None, Beat]) -> int:
    counts = jobs.counts()
    return sum(counts.total(state) for state in State if not state.ended)


def judge(jobs: BackgroundJobs[None, Beat], kills: int) -> Outcome:
    ids: list[str] = []
    page = jobs.find(query := JobQuery(limit=1000))
    ids += [job.id for job in page.jobs]
    while page.next is not None:
        page = jobs.find(JobQuery(limit=query.limit, after=page.next))
        ids += [job.id for job in page.jobs]
    made: Counter[datetime] = Counter()
    late: dict[datetime, float] = {}
    for job_id in ids:
        job = jobs.get(job_id)
        assert job.recurring is not None
        made[job.recurring.due] += 1
        late[job.recurring.due] = (job.created_at - job.recurring.due).total_seconds()
    latest = max(late, key=lambda due: late[due])
    seconds = (max(made) - min(made)) // SECOND + 1 if made else 0
    return Outcome(
        kills,
        seconds,
        jobs=made.total(),
        double=sum(number > 1 for number in made.values()),
        missing=seconds - len(made),
        unended=unended(jobs),
        latest=late[latest],
        latest_of=(latest - min(made)).total_seconds(),
        usual=median(late.values()),
    )


@contextmanager
def storage(name: str, folder: Path) -> Iterator[str]:
    if name == "sqlite":
        yield f"sqlite:///{folder / 'ticks.sqlite3'}"
        return
    server = RedisServer(folder) if name == "redis" else PostgresServer()
    try:
        yield server.start().url
    finally:
        server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", choices=STORAGES, default=Options.storage)
    parser.add_argument("--servers", type=int, default=Options.servers)
    parser.add_argument("--seconds", type=int, default=Options.seconds)
    parser.add_argument("--pause", type=float, default=Options.pause)
    given = parser.parse_args()
    options = Options(given.storage, given.servers, given.seconds, given.pause)
    outcome = run(options)
    sys.stdout.write(
        f"{options.servers} servers on {options.storage}, {outcome.kills} killed: {outcome.seconds} seconds made "
        f"{outcome.jobs} jobs; {outcome.double} made more than one, {outcome.missing} none; "
        f"{outcome.unended} jobs did not end; half were made within {outcome.usual:.2f} s of their time, the latest "
        f"{outcome.latest:.2f} s after it (second {outcome.latest_of:.0f})\n"
    )
    return 0 if outcome.right else 1


if __name__ == "__main__":
    sys.exit(main())
