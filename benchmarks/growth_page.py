"""The part of the page that tells how cost grows: tables, charts, and whether curves are flat."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.page import CHARTS, render, table, write_part

POINTS: Final = {
    "drain": "drain/s",
    "claim_p99": "claim p99, ms",
    "utilisation": "slots busy, %",
}

_AXES: Final = {
    "backlog": "jobs waiting",
    "finished": "finished jobs kept",
    "scheduled": "scheduled jobs",
    "workers": "worker processes",
    "payload": "bytes of payload",
    "handlers, threads": "ms of a handler",
    "handlers, async": "ms of a handler",
}

_FLAT: Final = ("backlog", "finished", "scheduled")
"""Experiments whose curves are to be flat."""

_TOLERANCE: Final = 0.10
_BUSY_FROM: Final = 10
_BUSY: Final = 95.0
"""From so many milliseconds of a handler on, slots are to be busy for so many percent."""


@dataclass(frozen=True)
class Point:
    """`x`: the size of what grows."""

    experiment: str
    system: str
    x: int
    figures: dict[str, float]

    def line(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_line(cls, line: str) -> "Point":
        return cls(**json.loads(line))


def write(page: Path, about: str, points: Sequence[Point], failures: Sequence[str]) -> None:
    write_part(page, "growth", text(about, points, failures))


def text(about: str, points: Sequence[Point], failures: Sequence[str]) -> str:
    parts = [f"## How cost grows\n\nMeasured {about}."]
    parts += ["\n".join(f"- **FAILED**: {' '.join(failure.split())}" for failure in failures)] if failures else []
    for experiment in _experiments(points):
        parts.append(f"### By {_AXES[experiment]} ({experiment})")
        for figure in _figures(points, experiment):
            parts.append(_table(points, experiment, figure))
            parts.append(f"![{experiment}: {POINTS[figure]}]({CHARTS}/{_file(experiment, figure)})")
    verdicts = [verdict for experiment in _experiments(points) for verdict in _verdicts(points, experiment)]
    if verdicts:
        parts.append(table(["experiment", "backend", "target", "measured", ""], verdicts, text=5))
    return "\n\n".join(parts)


def _experiments(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.experiment for point in points))


def _figures(points: Sequence[Point], experiment: str) -> list[str]:
    found = {figure for point in points if point.experiment == experiment for figure in point.figures}
    return [figure for figure in POINTS if figure in found]


def _lines(points: Sequence[Point], experiment: str, figure: str) -> dict[str, list[tuple[int, float]]]:
    """What was measured of each system, by `x`."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for point in points:
        if point.experiment == experiment and figure in point.figures:
            lines.setdefault(point.system, []).append((point.x, point.figures[figure]))
    return lines


def _table(points: Sequence[Point], experiment: str, figure: str) -> str:
    lines = _lines(points, experiment, figure)
    sizes = sorted({x for line in lines.values() for x, _ in line})
    digits = 0 if figure == "drain" else 2
    rows: list[list[str]] = []
    for system, line in lines.items():
        values = dict(line)
        rows.append([system, *(f"{values[x]:,.{digits}f}" if x in values else "" for x in sizes)])
    return table([f"{POINTS[figure]} by {_AXES[experiment]}", *(f"{x:,}" for x in sizes)], rows)


def _verdicts(points: Sequence[Point], experiment: str) -> list[list[str]]:
    rows: list[list[str]] = []
    if experiment in _FLAT:
        for figure in _figures(points, experiment):
            for system, line in _lines(points, experiment, figure).items():
                change = line[-1][1] / line[0][1] - 1 if line[0][1] else 0.0
                worse = -change if figure == "drain" else change
                measured = f"{change:+.0%} from {line[0][0]:,} to {line[-1][0]:,}"
                target = f"{POINTS[figure]} flat within {_TOLERANCE:.0%}"
                rows.append([experiment, system, target, measured, _met(good=worse <= _TOLERANCE)])
    for system, line in _lines(points, experiment, "utilisation").items():
        long = [busy for milliseconds, busy in line if milliseconds >= _BUSY_FROM]
        if long:
            target = f"slots busy ≥ {_BUSY:g} % from {_BUSY_FROM} ms on"
            rows.append([experiment, system, target, f"{min(long):.1f} %", _met(good=min(long) >= _BUSY)])
    return rows


def _met(*, good: bool) -> str:
    return "met" if good else "**not met**"


def _file(experiment: str, figure: str) -> str:
    return f"growth-{experiment.replace(', ', '-')}-{figure}.svg"


def draw(page: Path, points: Sequence[Point]) -> None:
    charts: list[dict[str, object]] = [
        {
            "file": _file(experiment, figure),
            "title": f"{POINTS[figure]} by {_AXES[experiment]} ({experiment})",
            "kind": "lines",
            "x": _AXES[experiment],
            "y": POINTS[figure],
            "log": experiment != "workers",
            "lines": _lines(points, experiment, figure),
        }
        for experiment in _experiments(points)
        for figure in _figures(points, experiment)
    ]
    render(page, charts)
