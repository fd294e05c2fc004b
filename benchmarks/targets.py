"""What `later` means to reach, relative to peers in the same run, and whether it did."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from benchmarks.results import FIGURES, Report
from benchmarks.systems.system import Group


@dataclass(frozen=True)
class Outcome:
    """One line of the table. `met`: None when it was not measured."""

    backend: str
    what: str
    wanted: str
    measured: str
    met: bool | None


class Target(Protocol):
    def outcome(self, report: Report) -> Outcome: ...


@dataclass(frozen=True)
class Ratio:
    """At least `factor` times a figure of another system, or of its own."""

    group: Group
    figure: str
    factor: float
    of: str
    of_figure: str

    def outcome(self, report: Report) -> Outcome:
        own = report.summary(f"later:{self.group}", self.figure)
        other = report.summary(self.of, self.of_figure)
        ratio = own.median / other.median if own and other else None
        base = self.of if self.of_figure == self.figure else f"{self.of}'s {FIGURES[self.of_figure].title}"
        return Outcome(
            self.group,
            FIGURES[self.figure].title,
            f"≥ {self.factor:g} times {base}",
            "not measured" if ratio is None else f"{ratio:.2f}",
            None if ratio is None else ratio >= self.factor,
        )


@dataclass(frozen=True)
class AtMost:
    """A figure that is not to exceed a limit."""

    group: Group
    figure: str
    limit: float

    def outcome(self, report: Report) -> Outcome:
        figure = FIGURES[self.figure]
        own = report.summary(f"later:{self.group}", self.figure)
        return Outcome(
            self.group,
            figure.title,
            f"≤ {self.limit:g}",
            "not measured" if own is None else figure.text(own.median),
            None if own is None else own.median <= self.limit,
        )


@dataclass(frozen=True)
class Lowest:
    """No peer of the group has less of it. Bare loops are no peers."""

    group: Group
    figure: str

    def outcome(self, report: Report) -> Outcome:
        figure = FIGURES[self.figure]
        own = report.summary(f"later:{self.group}", self.figure)
        peers = [
            (found.median, system.name)
            for system in report.systems.values()
            if system.group == self.group and not system.bare and not system.name.startswith("later:")
            if (found := report.summary(system.name, self.figure)) is not None
        ]
        if own is None or not peers:
            return Outcome(self.group, figure.title, "lowest of its class", "not measured", None)
        best, name = min(peers)
        measured = f"{figure.text(own.median)}; {name}: {figure.text(best)}"
        return Outcome(self.group, figure.title, "lowest of its class", measured, own.median <= best)


@dataclass(frozen=True)
class QuickImport:
    """`import later` takes no longer, and loads no driver."""

    milliseconds: float

    def outcome(self, report: Report) -> Outcome:
        found = report.importing
        wanted = f"≤ {self.milliseconds:g} ms, without drivers"
        if found is None:
            return Outcome("all", "import later", wanted, "not measured", None)
        measured = f"{found.milliseconds:.0f} ms, with {', '.join(found.drivers) or 'none'}"
        met = found.milliseconds <= self.milliseconds and not found.drivers
        return Outcome("all", "import later", wanted, measured, met)


def _ratio(group: Group, figure: str, factor: float, of: str, of_figure: str | None = None) -> Ratio:
    return Ratio(group, figure, factor, of, of_figure or figure)


def _for_each() -> Iterator[Target]:
    latencies: dict[Group, tuple[float, float]] = {
        "rabbitmq+redis": (1.5, 2.5),
        "redis": (1, 2),
        "postgres": (2.5, 5),
        "sqlite": (2, 5),
    }
    for group, (p50, p99) in latencies.items():
        yield _ratio(group, "enqueue_threads", 2.5, f"later:{group}", "enqueue")
        yield _ratio(group, "enqueue_coroutines", 2.5, f"later:{group}", "enqueue")
        yield AtMost(group, "latency_p50", p50)
        yield AtMost(group, "latency_p99", p99)
        yield Lowest(group, "latency_p50")
        yield AtMost(group, "steady_p99", 10)
        yield Lowest(group, "cpu")
        yield AtMost(group, "idle_cpu", 1)
        yield AtMost(group, "memory", 50)


TARGETS: Final[tuple[Target, ...]] = (
    _ratio("rabbitmq+redis", "drain", 3, "dramatiq:results"),
    _ratio("rabbitmq+redis", "drain", 7, "celery:rabbitmq"),
    _ratio("rabbitmq+redis", "drain", 0.6, "bare:rabbitmq+redis"),
    _ratio("rabbitmq+redis", "enqueue", 4, "dramatiq:confirms"),
    _ratio("rabbitmq+redis", "bulk", 1.5, "dramatiq:unconfirmed", "enqueue"),
    _ratio("redis", "drain", 1.5, "sidekiq"),
    _ratio("redis", "drain", 1.8, "bullmq"),
    _ratio("redis", "drain", 0.6, "bare:redis"),
    _ratio("redis", "enqueue", 0.8, "sidekiq"),
    _ratio("redis", "bulk", 1.5, "bullmq"),
    _ratio("postgres", "drain", 1.2, "pgqueuer"),
    _ratio("postgres", "drain", 20, "procrastinate"),
    _ratio("postgres", "enqueue", 1, "pgqueuer"),
    _ratio("postgres", "bulk", 1, "pgqueuer"),
    _ratio("sqlite", "drain", 3, "huey:sqlite"),
    _ratio("sqlite", "enqueue", 0.8, "huey:sqlite"),
    _ratio("sqlite", "bulk", 5, "later:sqlite", "enqueue"),
    *_for_each(),
    QuickImport(80),
)
