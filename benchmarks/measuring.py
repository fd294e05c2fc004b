"""One run of one system: fresh servers and processes, every figure, and the check that each job ran once."""

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.host import CpuMeter
from benchmarks.installing import Place
from benchmarks.ledger import Ran
from benchmarks.processes import SystemFailed, Workers
from benchmarks.recorded import recorded
from benchmarks.stand import Stand, stand
from benchmarks.systems.system import System
from tests.support.servers import MissingProgramError

_WARM: Final = 50
"""Jobs before anything is timed: connections open, scripts load."""

_SINGLES_SHARE: Final = 4
_SINGLES_MOST: Final = 10_000
"""So many of the backlog's jobs, the N-th part of them, are enqueued one at a time and timed."""

_PORTION: Final = 5_000
"""Jobs that are enqueued before waiting until they are published, where a broker is fed in the background. `later`
keeps 10,000 in memory for its broker."""

_CALLERS: Final = 100
_CONCURRENT: Final = 5_000
"""Callers at the same time, and the jobs of all of them together."""

_START: Final = 60.0
_DRAIN: Final = 300.0
_SETTLE: Final = 1.0
"""Seconds: the most for workers to begin, and to be done; how long they rest before they count as idle."""

_RECORD: Final = 10.0
_RECORD_POLL: Final = 0.2
"""Seconds for the last jobs to be recorded; how often that is looked at."""

_PAUSE: Final = 0.02
_STEADY: Final = 1_000.0
"""Seconds between two jobs of an idle system, on average; jobs a second of a steady load."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    jobs: the most that a backlog has. idle: seconds that idle workers are watched. paced: jobs whose latency is
    measured one at a time. steady: seconds of a steady load.
    """

    jobs: int = 1_000_000
    idle: float = 10.0
    paced: int = 300
    steady: float = 5.0


@dataclass
class Run:
    """What one run found. `failures`: why its figures do not count; empty when all is well. `remarks`: what readers
    should know beside them."""

    system: str
    round: int
    jobs: int
    figures: dict[str, float] = field(default_factory=dict[str, float])
    failures: list[str] = field(default_factory=list[str])
    tenths: list[float] = field(default_factory=list[float])
    remarks: list[str] = field(default_factory=list[str])


def measure(system: System, place: Place, number: int, effort: Effort) -> Run:
    """Never raises for what the system does: see `Run.failures`."""
    run = Run(system.name, number, min(system.jobs, effort.jobs))
    try:
        with stand(system, place) as made:
            _Measurement(run, made, effort).all()
    except (SystemFailed, MissingProgramError) as error:
        run.failures.append(str(error))
    return run


class _Measurement:
    def __init__(self, run: Run, made: Stand, effort: Effort) -> None:
        self._run = run
        self._context = made.context
        self._system = made.context.system
        self._producer = made.producer
        self._ledger = made.ledger
        self._servers = made.servers
        self._effort = effort
        self._sent = 0

    def all(self) -> None:
        self._producer.ask("prepare")
        self._enqueue("one", min(_WARM, self._run.jobs))
        self._enqueueing()
        with Workers(self._context, self._system.processes) as workers:
            self._drain(workers)
            if not self._system.bare:
                self._rest(workers)
                self._latency(workers, "latency", "paced", self._effort.paced, pause=_PAUSE)
                if "steady" in self._system.verbs:
                    count = int(self._effort.steady * _STEADY)
                    seconds = self._latency(workers, "steady", "steady", count, rate=_STEADY)
                    self._run.figures["steady_rate"] = count / seconds
            self._last_words()
        self._check()

    def _last_words(self) -> None:
        """Wait until all is recorded, so that no worker is stopped between a job and its report. Some systems record
        their counts only when they stop, so it is no failure if that takes longer."""
        deadline = time.monotonic() + _RECORD
        while self._recorded() != self._sent and time.monotonic() < deadline:
            time.sleep(_RECORD_POLL)

    def _recorded(self) -> object:
        """How many jobs are recorded as done; all of them, where nothing tells."""
        if "succeeded" in self._system.verbs:
            return self._producer.ask("succeeded")[1]
        if self._system.recorded:
            return recorded(self._system.recorded, self._servers)
        return self._sent

    def _enqueue(self, verb: str, count: int, **request: float) -> float:
        """The seconds that it took."""
        seconds, _ = self._producer.ask(verb, count=count, **request)
        self._sent += count
        return seconds

    def _rate(self, figure: str, verb: str, count: int, **request: float) -> None:
        """Enqueue in portions, so that what happens in the background keeps up."""
        if count <= 0:
            return
        seconds = settled = 0.0
        for first in range(0, count, _PORTION):
            seconds += self._enqueue(verb, min(_PORTION, count - first), **request)
            if "settle" in self._system.verbs:
                settled += self._producer.ask("settle")[0]
        self._run.figures[figure] = count / seconds
        if settled:
            self._run.figures[f"{figure}_published"] = count / (seconds + settled)

    def _enqueueing(self) -> None:
        jobs = self._run.jobs
        singles = min(jobs // _SINGLES_SHARE, _SINGLES_MOST) if self._system.bulk else jobs - self._sent
        self._rate("enqueue", "one", singles)
        for verb in ("threads", "coroutines"):
            if verb in self._system.verbs:
                count = min(_CONCURRENT, jobs // _SINGLES_SHARE) // _CALLERS * _CALLERS
                self._rate(f"enqueue_{verb}", verb, count, callers=_CALLERS)
        if self._system.bulk:
            self._rate("bulk", "many", jobs - self._sent)

    def _drain(self, workers: Workers) -> None:
        jobs, ledger = self._sent, self._ledger
        first, last = jobs * 5 // 100, jobs * 95 // 100
        workers.wait_until(lambda: len(ledger) >= max(1, first), _START, "the first jobs")
        before = len(ledger)
        meters = CpuMeter(workers.pids), CpuMeter([server.pid for server in self._servers])
        workers.wait_until(lambda: len(ledger) >= last, _DRAIN, f"{jobs} jobs")
        between = len(ledger) - before
        worker_cpu, server_cpu = (meter.seconds() for meter in meters)
        largest, together = workers.memory()
        workers.wait_until(lambda: len(ledger) >= jobs, _DRAIN, f"the last of {jobs} jobs")
        times = sorted(ran.at for ran in ledger.read())
        self._run.figures["drain"] = steady_rate(times)
        self._run.tenths = _tenths(times)
        if between > 0:
            self._run.figures["worker_cpu"] = worker_cpu / between * 1e6
            self._run.figures["server_cpu"] = server_cpu / between * 1e6
            self._run.figures["cpu"] = (worker_cpu + server_cpu) / between * 1e6
        self._run.figures["memory"] = largest / 2**20
        self._run.figures["memory_together"] = together / 2**20

    def _rest(self, workers: Workers) -> None:
        time.sleep(_SETTLE)
        counters = [server.requests for server in self._servers if server.requests is not None]
        before = [requests() for requests in counters]
        meter, started = CpuMeter([*workers.pids, *(server.pid for server in self._servers)]), time.monotonic()
        time.sleep(self._effort.idle)
        used, seconds = meter.seconds(), time.monotonic() - started
        self._run.figures["idle_cpu"] = used / seconds * 100
        if counters:
            requests = sum(count() - earlier for count, earlier in zip(counters, before, strict=True))
            self._run.figures["idle_requests"] = max(0, requests) / seconds * 60

    def _latency(self, workers: Workers, figure: str, verb: str, count: int, **request: float) -> float:
        """The seconds in which they were enqueued."""
        before = len(self._ledger)
        seconds = self._enqueue(verb, count, **request)
        workers.wait_until(lambda: len(self._ledger) >= before + count, _START, f"{count} single jobs")
        waits = sorted(_milliseconds(ran) for ran in self._ledger.read(before))
        self._run.figures[f"{figure}_p50"] = statistics.median(waits)
        self._run.figures[f"{figure}_p99"] = waits[min(len(waits) - 1, len(waits) * 99 // 100)]
        return seconds

    def _check(self) -> None:
        """Each accepted job ran once, and is recorded."""
        runs = Counter(ran.number for ran in self._ledger.read())
        missing = sum(1 for number in range(self._sent) if number not in runs)
        again = sum(times - 1 for times in runs.values())
        self._run.jobs = self._sent
        if missing:
            self._run.failures.append(f"{missing} of {self._sent} jobs never ran")
        if again:
            told = self._run.remarks if self._system.repeats else self._run.failures
            told.append(f"{again} of {self._sent} jobs ran again")
        done = self._recorded()
        if done != self._sent:
            self._run.failures.append(f"{done} of {self._sent} jobs are recorded as done")


def steady_rate(times: Sequence[float]) -> float:
    """Jobs a second between 5 % and 95 % of a drain, whose sorted times these are."""
    first, last = len(times) * 5 // 100, len(times) * 95 // 100 - 1
    return (last - first) / max(1e-6, times[last] - times[first])


def _milliseconds(ran: Ran) -> float:
    return (ran.at - ran.sent) * 1e3


def _tenths(times: Sequence[float]) -> list[float]:
    """Jobs a second in each tenth of a drain."""
    size = len(times) // 10
    if size < 2:
        return []
    return [round(size / max(1e-6, times[(tenth + 1) * size - 1] - times[tenth * size])) for tenth in range(10)]
