"""`python -m tests.chaos.scheduled`: many jobs that are due at one instant, among many more that are due in a year.

One server works meanwhile. Told is how long the promotion took, whether it held up the claims, and what the server's
memory has grown by. A private database server is started for it.
"""

import argparse
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from later import BackgroundJobs, JobContext, JobsBuilder, background_job
from later.core.records import SECOND, Micros, NewJob, Promoted
from later.runtime.ids import new_id
from tests.chaos.ticks import STORAGES, storage

CHUNK: Final = 1_000
"""Jobs per call that stores them."""


class Due(BaseModel):
    pass


@background_job
class Jobs:
    due: Due


@dataclass
class Watch:
    """What happened when, by the monotonic clock."""

    jobs: int
    starts: list[float] = field(default_factory=list[float])
    promotions: list[tuple[float, float, int]] = field(default_factory=list[tuple[float, float, int]])
    """Begin, end, jobs."""
    done: threading.Event = field(default_factory=threading.Event)

    def started(self) -> None:
        self.starts.append(time.monotonic())
        if len(self.starts) >= self.jobs:
            self.done.set()


def handle(ctx: JobContext[Watch], payload: Due) -> None:
    ctx.app.started()


def build(url: str, watch: Watch) -> BackgroundJobs[Watch, Due]:
    jobs = JobsBuilder(watch, "scheduled", storage=url, jobs=Jobs).with_handler(Due, handle).build()
    stored = jobs.storage()
    promote = stored.promote

    def timed(limit: int) -> Promoted:
        began = time.monotonic()
        promoted = promote(limit)
        if promoted.enqueued:
            watch.promotions.append((began, time.monotonic(), len(promoted.enqueued)))
        return promoted

    setattr(stored, "promote", timed)  # noqa: B010  a method, which a type checker lets nobody replace
    return jobs


def put(jobs: BackgroundJobs[Watch, Due], number: int, run_at: Micros) -> float:
    """Seconds per 1,000 jobs."""
    began = time.monotonic()
    for first in range(0, number, CHUNK):
        some = min(CHUNK, number - first)
        jobs.storage().insert([NewJob(new_id(), "due", "default", b"{}", run_at=run_at) for _ in range(some)])
    return (time.monotonic() - began) / number * 1000 if number else 0.0


def memory() -> float:
    """The most that this process has used, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(watch: Watch, due: float, grown: float) -> str:
    began, ended = watch.promotions[0][0], watch.promotions[-1][1]
    longest = max(end - begin for begin, end, _ in watch.promotions)
    during = [start for start in watch.starts if start <= ended] or watch.starts[:1]
    gap = max((later - earlier for earlier, later in pairwise(during)), default=0.0)
    return (
        f"{sum(number for _, _, number in watch.promotions)} jobs promoted {ended - due:.2f} s after their time, in "
        f"{len(watch.promotions)} calls ({longest * 1000:.0f} ms the longest, {ended - began:.2f} s in all); the first "
        f"started after {watch.starts[0] - due:.2f} s, {len(during)} by the end of the promotion, with "
        f"{gap * 1000:.0f} ms between two starts at most; all after {watch.starts[-1] - due:.2f} s; "
        f"the server took {grown:.0f} MiB"
    )


def run(name: str, number: int, far: int, ahead: float) -> str:
    watch = Watch(number)
    with tempfile.TemporaryDirectory(prefix="later-scheduled-") as folder, storage(name, Path(folder)) as url:
        jobs = build(url, watch)
        cost = put(jobs, far, int(time.time() + 365 * 86400) * SECOND)
        at = int(time.time() + ahead)
        put(jobs, number, at * SECOND)
        due = time.monotonic() + at - time.time()
        if due < time.monotonic():
            raise SystemExit(f"storing {number} jobs took longer than {ahead} s: give a larger --ahead")
        before = memory()
        with jobs.running(slots=8):
            if not watch.done.wait(600):
                raise SystemExit(f"only {len(watch.starts)} of {number} jobs started")
        jobs.close()
        waiting = f"{far} jobs due in a year, {cost * 1000:.0f} ms per 1,000 to store; " if far else ""
        return f"{name}: {waiting}{report(watch, due, memory() - before)}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.scheduled", description=__doc__)
    parser.add_argument("--storage", choices=STORAGES, default="sqlite")
    parser.add_argument("--jobs", type=int, default=10_000, help="due at one instant (default: %(default)s)")
    parser.add_argument("--far", type=int, default=0, help="due in a year (default: %(default)s)")
    parser.add_argument("--ahead", type=float, default=20.0, help="seconds until that instant (default: %(default)s)")
    given = parser.parse_args(arguments)
    sys.stdout.write(run(given.storage, given.jobs, given.far, given.ahead))


if __name__ == "__main__":
    main()
