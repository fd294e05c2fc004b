"""What was measured: kept as JSON lines, summed up as medians and ranges."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

from benchmarks.host import describe
from benchmarks.installing import ROOT, Place
from benchmarks.measuring import Run
from benchmarks.systems import SYSTEMS
from benchmarks.systems.system import System


@dataclass(frozen=True)
class Figure:
    """One that is measured: what it is called, and how it is written."""

    title: str
    digits: int = 0

    def text(self, value: float) -> str:
        return f"{value:,.{self.digits}f}"


FIGURES: Final = {
    "enqueue": Figure("enqueue/s"),
    "enqueue_published": Figure("enqueue/s until published"),
    "enqueue_threads": Figure("enqueue/s, 100 threads"),
    "enqueue_threads_published": Figure("enqueue/s, 100 threads, until published"),
    "enqueue_coroutines": Figure("enqueue/s, 100 coroutines"),
    "enqueue_coroutines_published": Figure("enqueue/s, 100 coroutines, until published"),
    "bulk": Figure("bulk enqueue/s"),
    "bulk_published": Figure("bulk enqueue/s until published"),
    "drain": Figure("drain/s"),
    "worker_cpu": Figure("CPU of workers, µs a job"),
    "server_cpu": Figure("CPU of servers, µs a job"),
    "cpu": Figure("CPU, µs a job"),
    "memory": Figure("RSS of a worker process, MiB"),
    "memory_together": Figure("RSS of all, MiB"),
    "idle_cpu": Figure("idle CPU, % of a core", 2),
    "idle_requests": Figure("idle requests a minute"),
    "latency_p50": Figure("latency p50, ms", 2),
    "latency_p99": Figure("latency p99, ms", 2),
    "steady_rate": Figure("jobs/s of the steady load"),
    "steady_p50": Figure("latency p50 at 1,000 jobs/s, ms", 2),
    "steady_p99": Figure("latency p99 at 1,000 jobs/s, ms", 2),
}

DRIVERS: Final = ("redis", "psycopg", "pika")


@dataclass(frozen=True)
class Summary:
    """One figure of one system over its rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Importing:
    """`import later` in a fresh interpreter: how long it takes, and which drivers it loads."""

    milliseconds: float
    drivers: list[str]


@dataclass
class Report:
    """machine: what the page tells of it, by title. absent: systems that could not be installed, with the reason."""

    machine: dict[str, str]
    systems: dict[str, System]
    runs: list[Run]
    absent: dict[str, str]
    importing: Importing | None = None

    def save(self, path: Path) -> None:
        """Begin a file; `add` goes on with it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        head: dict[str, object] = {"machine": self.machine, "systems": list(self.systems), "absent": self.absent}
        head["importing"] = asdict(self.importing) if self.importing else None
        path.write_text(json.dumps(head) + "\n")

    def add(self, run: Run, path: Path) -> None:
        self.runs.append(run)
        with path.open("a") as file:
            file.write(json.dumps(asdict(run)) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Report":
        head, *runs = (json.loads(line) for line in path.read_text().splitlines())
        known = {system.name: system for system in SYSTEMS}
        systems = {name: known[name] for name in head["systems"] if name in known}
        importing = Importing(**head["importing"]) if head["importing"] else None
        return cls(head["machine"], systems, [Run(**run) for run in runs], head["absent"], importing)

    def runs_of(self, system: str) -> list[Run]:
        return [run for run in self.runs if run.system == system]

    def summary(self, system: str, figure: str) -> Summary | None:
        """Over the rounds whose figures count; None when there is none."""
        values = [run.figures[figure] for run in self.runs_of(system) if not run.failures and figure in run.figures]
        return Summary.of(values) if values else None


def machine(places: Mapping[str, Place], versions: Mapping[str, str]) -> dict[str, str]:
    """The machine and the versions of all that takes part. `versions`: those of the servers."""
    own = {name: metadata.version(name) for name in ("pydantic", *DRIVERS)}
    return {
        "Measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "Machine": describe(),
        "Python": platform.python_version(),
        "later": _commit(),
        "Its packages": _listed(own),
        "Servers": _listed(versions),
        "Peers": "; ".join(dict.fromkeys(_listed(place.versions) for place in places.values() if place.versions)),
        "Load before": f"{os.getloadavg()[0]:.1f}",
    }


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _commit() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    return told.stdout.strip() or metadata.version("later-jobs")


def import_later() -> Importing:
    """The median of several interpreters."""
    program = (
        "import sys, time; begun = time.perf_counter(); import later; took = time.perf_counter() - begun; "
        f"print(took * 1e3, *(name for name in {DRIVERS} if name in sys.modules))"
    )
    times: list[float] = []
    loaded: set[str] = set()
    for _ in range(11):
        told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        took, *drivers = told.split()
        times.append(float(took))
        loaded |= set(drivers)
    return Importing(statistics.median(times), sorted(loaded))
