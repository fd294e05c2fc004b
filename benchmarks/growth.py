"""How the cost of a job grows with what there is besides it: `python -m benchmarks.growth --help`.

A window of jobs is drained by two worker processes and timed, again and again, while one thing grows: the backlog, the
finished jobs that are kept, the scheduled ones, the number of workers, the payload, the time that handlers take.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.growth_page import POINTS, Point, draw, write
from benchmarks.host import describe
from benchmarks.installing import FOLDER, ROOT, made
from benchmarks.ledger import Ledger
from benchmarks.measuring import steady_rate
from benchmarks.processes import Context, ProducerProcess, SystemFailed, Workers, end_tidily
from benchmarks.producer import SIZE
from benchmarks.stand import stand
from benchmarks.systems import chosen
from benchmarks.systems.system import System
from tests.support.servers import MissingProgramError

_SYSTEMS: Final = "later:redis later:rabbitmq+redis later:postgres later:sqlite"
_WINDOW: Final = 20_000
"""Jobs that are drained to measure a rate; not less than the second, however small the scale."""
_WINDOW_LEAST: Final = 200
_REPEATS: Final = 3
"""Windows at each size of what should not matter; the median counts."""
_PORTION: Final = 5_000
_RUN: Final = 20_000
"""So many of the finished jobs have run; the rest are copies, where the storage is a database."""
_CLAIMS: Final = 500
_CLAIMS_LEAST: Final = 50
"""Claims that are timed."""
_PATIENCE: Final = 1_800.0
_SLOTS: Final = 8
"""Of each worker process, as `later worker` has it by default."""
_NAPPING: Final = 4.0
"""Seconds that handlers of one length are watched."""

_BYTES_AT_ONCE: Final = 200_000_000
"""The most that the payloads of one window hold together."""


@dataclass(frozen=True)
class Scale:
    """1 is the real thing."""

    factor: float

    def of(self, *sizes: int) -> list[int]:
        """Each of these once, though several may be the same when the scale is small."""
        return list(dict.fromkeys(max(100, int(size * self.factor)) for size in sizes))

    @property
    def window(self) -> int:
        return max(_WINDOW_LEAST, int(_WINDOW * self.factor))

    @property
    def claims(self) -> int:
        return max(_CLAIMS_LEAST, int(_CLAIMS * self.factor))


class Session:
    """One backend with fresh servers, a producer, and what was enqueued and ran so far."""

    def __init__(self, context: Context, producer: ProducerProcess, ledger: Ledger) -> None:
        self._context = context
        self._producer = producer
        self._ledger = ledger
        self._sent = 0
        self._copied = 0
        producer.ask("prepare")

    def fill(self, count: int, verb: str = "many", **request: float) -> None:
        for first in range(0, count, _PORTION):
            self._producer.ask(verb, count=min(_PORTION, count - first), **request)
            if "settle" in self._context.system.verbs:
                self._producer.ask("settle")
        self._sent += count

    @property
    def waiting(self) -> int:
        """Jobs that have not run."""
        return self._sent - len(self._ledger)

    def schedule(self, count: int) -> None:
        """Jobs for tomorrow."""
        self._producer.ask("scheduled", count=count)

    def finish(self, count: int) -> None:
        """So many finished jobs more."""
        run = count if "redis" in self._context.system.name else min(count, _RUN)
        self.fill(run)
        self.drain(run)
        if count > run:
            self._producer.ask("copies", count=count - run)
            self._copied += count - run

    def claims(self, count: int) -> float:
        """The 99th percentile of so many claims, in milliseconds."""
        _, value = self._producer.ask("claims", count=count)
        assert isinstance(value, dict)
        return value["p99"]

    def drain(self, window: int, processes: int = 2, *, rest: bool = True) -> float:
        """Jobs a second over `window` jobs. `rest`: run all others too, and check that each ran once."""
        before = len(self._ledger)
        with Workers(self._context, processes) as workers:
            wanted = before + window
            workers.wait_until(lambda: len(self._ledger) >= wanted, _PATIENCE, f"{window} jobs")
            times = sorted(ran.at for ran in self._ledger.read(before)[:window])
            if rest:
                workers.wait_until(lambda: len(self._ledger) >= self._sent, _PATIENCE, "the rest")
        if rest:
            self._check()
        return steady_rate(times)

    def cost(self, scale: Scale) -> dict[str, float]:
        """The figures of a point: so many jobs are claimed and drained as they come."""
        self.fill(scale.claims)
        p99 = self.claims(scale.claims)
        rates: list[float] = []
        for _ in range(_REPEATS):
            self.fill(scale.window)
            rates.append(self.drain(scale.window))
        return {"drain": statistics.median(rates), "claim_p99": p99}

    def _check(self) -> None:
        _, recorded = self._producer.ask("succeeded")
        ran = len(self._ledger)
        if ran != self._sent or recorded != self._sent + self._copied:
            raise self._context.failed(f"{self._sent} jobs, {ran} runs, {recorded} recorded as Succeeded")


@contextmanager
def session(system: System, **variables: str) -> Generator[Session]:
    """Raises SystemFailed, MissingProgramError."""
    with stand(system, made(system.environment), **variables) as one:
        yield Session(one.context, one.producer, one.ledger)


def backlog(system: System, scale: Scale) -> Iterator[Point]:
    """Jobs that wait while the window is drained."""
    for size in scale.of(1_000, 10_000, 100_000, 1_000_000):
        with session(system) as one:
            one.fill(size + scale.claims)
            p99 = one.claims(scale.claims)
            rates: list[float] = []
            for _ in range(_REPEATS):
                one.fill(size + scale.window - one.waiting)
                rates.append(one.drain(scale.window, rest=False))
        yield Point("backlog", system.name, size, {"drain": statistics.median(rates), "claim_p99": p99})


def finished(system: System, scale: Scale) -> Iterator[Point]:
    """Finished jobs that are kept. Redis, which keeps them in memory, gets a tenth."""
    largest = 1_000_000 if "redis" in system.name else 10_000_000
    with session(system) as one:
        one.fill(scale.window)
        one.drain(scale.window)
        total = 0
        for size in (0, *scale.of(largest // 100, largest // 10, largest)):
            if size > total:
                one.finish(size - total)
                total = size
            yield Point("finished", system.name, total, one.cost(scale))
            total += _REPEATS * scale.window + scale.claims


def scheduled(system: System, scale: Scale) -> Iterator[Point]:
    """Jobs that wait for their time."""
    with session(system) as one:
        one.fill(scale.window)
        one.drain(scale.window)
        total = 0
        for size in (0, *scale.of(10_000, 100_000, 1_000_000)):
            if size > total:
                one.schedule(size - total)
                total = size
            yield Point("scheduled", system.name, size, one.cost(scale))


def workers(system: System, scale: Scale) -> Iterator[Point]:
    """Worker processes."""
    with session(system) as one:
        for processes in (1, 2):
            one.fill(scale.window)
            yield Point("workers", system.name, processes, {"drain": one.drain(scale.window, processes)})


def payload(system: System, scale: Scale) -> Iterator[Point]:
    """Bytes of a payload's body."""
    for size in (200, 1_000, 10_000, 100_000):
        window = min(scale.window, _BYTES_AT_ONCE // size)
        with session(system, **{SIZE: str(size)}) as one:
            one.fill(window)
            yield Point("payload", system.name, size, {"drain": one.drain(window)})


def handlers(system: System, scale: Scale) -> Iterator[Point]:
    """Milliseconds that a handler takes, and how busy the slots are."""
    slots = _SLOTS * system.processes
    seconds = max(0.5, _NAPPING * min(1.0, scale.factor))
    for verb in ("naps", "async_naps"):
        with session(system) as one:
            for milliseconds in (0, 1, 10, 100):
                nap = milliseconds / 1e3
                window = min(scale.window, max(slots * 4, int(slots / nap * seconds))) if nap else scale.window
                one.fill(window, verb, seconds=nap)
                rate = one.drain(window)
                figures = {"drain": rate, "utilisation": rate * nap / slots * 100}
                yield Point(
                    f"handlers, {'async' if verb == 'async_naps' else 'threads'}", system.name, milliseconds, figures
                )


_EXPERIMENTS: Final[dict[str, Callable[[System, Scale], Iterator[Point]]]] = {
    "backlog": backlog,
    "finished": finished,
    "scheduled": scheduled,
    "workers": workers,
    "payload": payload,
    "handlers": handlers,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--only", default=_SYSTEMS, metavar="NAMES", help=f"backends ({_SYSTEMS})")
    parser.add_argument("--experiments", nargs="+", choices=_EXPERIMENTS, default=list(_EXPERIMENTS))
    parser.add_argument("--scale", type=float, default=1.0, help="0.001 takes minutes; 1, the real thing, hours")
    parser.add_argument("--page", type=Path, help="the page to write; else docs/benchmarks.md, or .bench for a part")
    parser.add_argument(
        "--from-results", type=Path, nargs="+", metavar="FILE", help="measure nothing, write the page of these files"
    )
    options = parser.parse_args()
    end_tidily()
    try:
        systems = chosen(options.only)
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    begun, failures = datetime.now(UTC), list[str]()
    if options.from_results is None:
        points, failures = measure(systems, options.experiments, Scale(options.scale))
    else:
        points = [Point.of_line(line) for file in options.from_results for line in file.read_text().splitlines()]
        begun = datetime.fromtimestamp(min(file.stat().st_mtime for file in options.from_results), UTC)
    whole = options.scale >= 1 and options.only == _SYSTEMS and options.experiments == list(_EXPERIMENTS)
    page = options.page or (ROOT / "docs" if whole else FOLDER) / "benchmarks.md"
    about = f"{begun:%Y-%m-%d %H:%M} UTC, {describe()}, scale {options.scale:g}"
    write(page, about, points, failures)
    draw(page, points)
    print(f"\nWritten: {page}")
    return 1 if failures else 0


def measure(systems: Sequence[System], experiments: Sequence[str], scale: Scale) -> tuple[list[Point], list[str]]:
    """What was found, and what failed."""
    points: list[Point] = []
    failures: list[str] = []
    results = FOLDER / "results" / f"growth-{datetime.now(UTC):%Y%m%dT%H%M%S}.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    for name in experiments:
        for system in systems:
            try:
                for point in _EXPERIMENTS[name](system, scale):
                    points.append(point)
                    with results.open("a") as file:
                        file.write(point.line() + "\n")
                    figures = "  ".join(f"{POINTS[key]} {value:,.2f}" for key, value in point.figures.items())
                    print(f"{point.experiment:<18} {system.name:<22} {point.x:>10,}  {figures}", flush=True)
            except (SystemFailed, MissingProgramError) as error:
                failures.append(f"{name}, {system.name}: {error}")
                print(f"FAILED: {failures[-1]}", file=sys.stderr)
    return points, failures


if __name__ == "__main__":
    sys.exit(main())
