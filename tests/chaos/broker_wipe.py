"""`python -m tests.chaos.broker_wipe`: jobs under load while their broker is stopped, wiped and started again.

Producers enqueue, workers in processes of their own run, and each run is written to a ledger that is only ever
appended to. At the end every job whose enqueue was accepted has to be Succeeded, once by its history, and to stand in
the ledger. One that stands there more than once has to have a reason in its history: it was interrupted, or its claim
was lost.

Private servers are started for it. Ends with status 0 only when all that holds.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Final

from later import BackendError, BackgroundJobs, State
from tests.support.ledger import Ledger, Note, Worker, make_jobs
from tests.support.postgres import PostgresServer
from tests.support.rabbitmq import RabbitServer
from tests.support.servers import RedisServer

STORAGES: Final = ("redis", "postgres", "sqlite")
DOWN: Final = 3.0
"""Seconds for which the broker is away, beside those that it takes to stop and start."""
DRAIN: Final = 120.0
"""Seconds for the workers to finish after the last enqueue."""


@dataclass(frozen=True)
class Options:
    storage: str = "redis"
    seconds: float = 60.0
    """For which producers enqueue."""
    producers: int = 4
    rate: float = 50.0
    """Jobs per second that each producer tries to enqueue."""
    work: float = 0.1
    """Seconds that a job takes. The usual load is more than the workers can do, so that the broker has some to lose."""
    processes: int = 2
    """Of workers, with 8 slots each."""
    wipes: int = 2


@dataclass
class Outcome:
    """What has come of it."""

    options: Options
    accepted: list[str] = field(default_factory=list[str])
    refused: Counter[str] = field(default_factory=Counter[str])
    """Enqueues that raised, by the error."""
    slowest: float = 0.0
    """Seconds that the slowest enqueue took."""
    outages: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """From when to when the broker was away, in seconds after the start."""
    wiped: list[int] = field(default_factory=list[int])
    """How many messages waited in the broker before each outage."""
    drained: float = 0.0
    """Seconds from the last enqueue until everything had ended."""
    runs: Counter[str] = field(default_factory=Counter[str])
    longest_gap: float = 0.0
    """Seconds between two runs, while jobs were enqueued."""
    states: Counter[State] = field(default_factory=Counter[State])
    """Of the accepted jobs."""
    missing: list[str] = field(default_factory=list[str])
    """Accepted, and not in the storage."""
    not_once: list[str] = field(default_factory=list[str])
    """Accepted, and not exactly once Succeeded."""
    unexplained: list[str] = field(default_factory=list[str])
    """Ran more than once, and the history does not say why."""
    reasons: Counter[str] = field(default_factory=Counter[str])
    """Why jobs ran more than once."""

    @property
    def not_run(self) -> list[str]:
        return [job_id for job_id in self.accepted if not self.runs[job_id]]

    @property
    def repeated(self) -> list[str]:
        return [job_id for job_id, times in self.runs.items() if times > 1]

    @property
    def sound(self) -> bool:
        return bool(self.accepted) and not (self.missing or self.not_once or self.not_run or self.unexplained)

    def table(self) -> list[tuple[str, str]]:
        options = self.options
        away = ", ".join(f"{began:.1f} to {ended:.1f} s" for began, ended in self.outages)
        return [
            ("storage", options.storage),
            ("load", f"{options.producers} producers x {options.rate:g} jobs/s for {options.seconds:g} s"),
            ("work", f"{options.work:g} s per job, in {options.processes} processes of 8 slots"),
            ("broker stopped, wiped, started", away or "never"),
            ("messages that were wiped", ", ".join(map(str, self.wiped)) or "none"),
            ("jobs accepted", str(len(self.accepted))),
            ("enqueues refused", _counts(self.refused)),
            ("slowest enqueue", f"{self.slowest:.2f} s"),
            ("longest pause between runs", f"{self.longest_gap:.2f} s"),
            ("all ended after the last enqueue", f"{self.drained:.1f} s"),
            ("accepted jobs by state", _counts(self.states)),
            ("accepted, not in the storage", str(len(self.missing))),
            ("not Succeeded exactly once", str(len(self.not_once))),
            ("runs in the ledger", str(self.runs.total())),
            ("accepted, not in the ledger", str(len(self.not_run))),
            ("ran more than once", str(len(self.repeated))),
            ("  because", _counts(self.reasons)),
            ("  unexplained", str(len(self.unexplained))),
            ("verdict", "sound" if self.sound else "BROKEN"),
        ]


def _counts(counter: Counter[str] | Counter[State]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counter.most_common()) or "none"


class Producers:
    """Threads that enqueue at a steady rate until they are stopped."""

    def __init__(self, jobs: BackgroundJobs[Ledger, Note], outcome: Outcome) -> None:
        self._jobs = jobs
        self._outcome = outcome
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(outcome.options.producers)]

    def _run(self) -> None:
        pause = 1 / self._outcome.options.rate
        due = time.monotonic() + random.uniform(0, pause)
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += pause
            began = time.monotonic()
            job_id, error = "", ""
            try:
                job_id = self._jobs.enqueue(Note(seconds=self._outcome.options.work))
            except BackendError as refusal:
                error = type(refusal).__name__
            with self._lock:
                self._outcome.slowest = max(self._outcome.slowest, time.monotonic() - began)
                if job_id:
                    self._outcome.accepted.append(job_id)
                else:
                    self._outcome.refused[error] += 1

    def __enter__(self) -> "Producers":  # noqa: PYI034  nobody inherits
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def run(options: Options, server: RabbitServer, storage: str, folder: Path) -> Outcome:
    """One run on these servers; the broker is running before and after it."""
    outcome = Outcome(options)
    name = f"chaos-{uuid.uuid4().hex[:8]}"
    jobs = make_jobs(folder, storage, server.url, name)
    worker = Worker(folder, storage, server.url, name, "--processes", str(options.processes))
    try:
        began = time.monotonic()
        with Producers(jobs, outcome):
            for number in range(options.wipes):
                _sleep_until(began + options.seconds * (number + 0.5) / (options.wipes + 0.5))
                outcome.wiped.append(_depth(jobs))
                _wipe(server, began, outcome, kill=bool(number % 2))
            _sleep_until(began + options.seconds)
        last = time.monotonic()
        accepted = set(outcome.accepted)
        while accepted - jobs.app.runs().keys() or _unended(jobs):
            if time.monotonic() > last + DRAIN:
                break
            time.sleep(0.2)
        outcome.drained = time.monotonic() - last
        worker.stop()
        _judge(jobs, outcome)
    finally:
        worker.kill()
        jobs.close()
    return outcome


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _wipe(server: RabbitServer, began: float, outcome: Outcome, *, kill: bool) -> None:
    away = time.monotonic() - began
    if kill:
        server.kill()
    else:
        server.stop()
    server.wipe()
    time.sleep(DOWN)
    server.start()
    outcome.outages.append((away, time.monotonic() - began))


def _depth(jobs: BackgroundJobs[Ledger, Note]) -> int:
    broker = jobs.broker()
    assert broker is not None
    return broker.depth(["default"])["default"]


def _unended(jobs: BackgroundJobs[Ledger, Note]) -> int:
    counts = jobs.counts()
    return sum(counts.total(state) for state in State if not state.ended)


def _judge(jobs: BackgroundJobs[Ledger, Note], outcome: Outcome) -> None:
    entries = jobs.app.entries()
    outcome.runs.update(entry.id for entry in entries)
    ends = sorted(entry.at for entry in entries)
    outcome.longest_gap = max((after - before for before, after in pairwise(ends)), default=0.0)
    for part in _parts(outcome.accepted, 200):
        for job_id, details in zip(part, jobs.storage().get(part), strict=True):
            if details is None:
                outcome.missing.append(job_id)
                continue
            outcome.states[details.job.state] += 1
            if [entry.state for entry in details.history].count(State.SUCCEEDED) != 1:
                outcome.not_once.append(job_id)
            if outcome.runs[job_id] > 1:
                # Every claim but the last one ended in some other way, which left its reason.
                why = [entry.reason for entry in details.history[1:] if entry.state is State.ENQUEUED]
                outcome.reasons.update(why)
                if not why:
                    outcome.unexplained.append(job_id)


def _parts(ids: Sequence[str], size: int) -> Iterator[list[str]]:
    rest = iter(ids)
    while part := list(islice(rest, size)):
        yield part


@contextmanager
def _storage(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a private storage."""
    if kind == "redis":
        redis = RedisServer(folder).start()
        try:
            yield redis.url
        finally:
            redis.stop()
    elif kind == "postgres":
        postgres = PostgresServer().start()
        try:
            yield postgres.url
        finally:
            postgres.stop()
    else:
        yield f"sqlite:///{folder / 'jobs.sqlite3'}"


def main(arguments: Sequence[str]) -> int:
    usual = Options()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", choices=STORAGES, action="append", help="may be repeated; redis and postgres")
    parser.add_argument("--seconds", type=float, default=usual.seconds)
    parser.add_argument("--producers", type=int, default=usual.producers)
    parser.add_argument("--rate", type=float, default=usual.rate, help="jobs per second of each producer")
    parser.add_argument("--work", type=float, default=usual.work, help="seconds that a job takes")
    parser.add_argument("--processes", type=int, default=usual.processes, help="worker processes")
    parser.add_argument("--wipes", type=int, default=usual.wipes)
    given = vars(parser.parse_args(arguments))
    sound = True
    for kind in given.pop("storage") or ["redis", "postgres"]:
        with ExitStack() as stack:
            rabbit_folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="later-rabbitmq-")))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="later-chaos-")))
            server = RabbitServer(rabbit_folder)
            stack.callback(server.end)
            url = stack.enter_context(_storage(kind, folder))
            outcome = run(Options(storage=kind, **given), server.start(), url, folder)
        sound &= outcome.sound
        width = max(len(name) for name, _ in outcome.table())
        sys.stdout.write("\n".join(f"{name:<{width}}  {value}" for name, value in outcome.table()) + "\n\n")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
