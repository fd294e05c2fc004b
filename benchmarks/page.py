"""The page of results: Markdown between markers, so that what stands around it stays."""

import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.installing import ROOT, InstallError, Pinned, made
from benchmarks.results import FIGURES, Report
from benchmarks.systems.system import System
from benchmarks.targets import TARGETS

PARTS: Final = ("results", "growth")
"""What the page has, each between markers of its own."""

CHARTS: Final = "benchmarks"
"""The folder of the charts, beside the page."""

_NEW: Final = """\
# Benchmarks

How fast `later` is, side by side with other systems and with bare loops: the round trips of the protocol with no system
around them, which no system can beat. Every system runs the same job, a no-op with a body of 200 bytes, in two worker
processes; runs of all systems alternate, in fresh processes with fresh servers. Only ratios within one run mean
something: machines differ, and drift.

Again, on Linux, from a checkout:

```console skip="takes an hour"
$ make bench                                # all systems
$ make bench ONLY="later:redis sidekiq"     # some; the page goes to .bench/benchmarks.md
$ make bench ROUNDS=5 JOBS=100000           # more rounds, and at most so many jobs in one
$ .venv/bin/python -m benchmarks.growth     # how cost grows
```

It installs what it measures under `.bench` (and, as root on Debian, the servers, Node.js and Sidekiq). The raw results
are in `.bench/results`, one JSON object a line.

<!-- measured: results -->
<!-- end -->

<!-- measured: growth -->
<!-- end -->
"""

_GROUPS: Final = ("redis", "rabbitmq+redis", "postgres", "rabbitmq+postgres", "sqlite")

_COLUMNS: Final = (
    "enqueue",
    "bulk",
    "drain",
    "worker_cpu",
    "server_cpu",
    "memory",
    "idle_cpu",
    "idle_requests",
    "latency_p50",
    "latency_p99",
)

_OWN_COLUMNS: Final = (
    "enqueue",
    "enqueue_threads",
    "enqueue_coroutines",
    "enqueue_published",
    "bulk_published",
    "steady_rate",
    "steady_p50",
    "steady_p99",
)

_CHARTED: Final = ("drain", "enqueue", "bulk", "cpu", "latency_p50", "latency_p99")


def put(text: str, part: str, content: str) -> str:
    """`text` with `content` between the markers of `part`. Raises ValueError when it has none."""
    pattern = re.compile(rf"(<!-- measured: {re.escape(part)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(
            f"the page has no place for {part!r}: a line <!-- measured: {part} -->, and <!-- end --> after"
        )
    return pattern.sub(lambda found: f"{found[1]}{content.strip()}\n{found[2]}", text)


def write_part(page: Path, part: str, content: str) -> None:
    """Write one part of the page, which is made when it does not exist."""
    text = page.read_text() if page.exists() else _NEW
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(put(text, part, content))


def write(page: Path, report: Report) -> None:
    write_part(page, "results", results(report))


def results(report: Report) -> str:
    sections = [_about(report), _targets(report)]
    sections += [_group(report, group) for group in _GROUPS if _members(report, group)]
    sections.append(_more(report))
    return "\n\n".join(section for section in sections if section)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> str:
    """Markdown. The first `text` columns are text, the others numbers."""
    lines = [_row(heads), _row([*["---"] * text, *["---:"] * (len(heads) - text)])]
    return "\n".join([*lines, *(_row(row) for row in rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _about(report: Report) -> str:
    lines = [f"- {title}: {text}" for title, text in report.machine.items() if text]
    lines += [f"- Not measured: {name} ({_flat(reason)})" for name, reason in report.absent.items()]
    for run in report.runs:
        lines += [f"- **FAILED**: {run.system}, round {run.round}: {_flat(failure)}" for failure in run.failures]
        lines += [f"- {run.system}, round {run.round}: {_flat(remark)}" for remark in run.remarks]
    return "\n".join(["## Conditions", "", *lines])


def _flat(text: str) -> str:
    return " ".join(text.split())


def _targets(report: Report) -> str:
    rows: list[list[str]] = []
    for target in TARGETS:
        outcome = target.outcome(report)
        if outcome.backend != "all" and f"later:{outcome.backend}" not in report.systems:
            continue
        met = "" if outcome.met is None else "met" if outcome.met else "**not met**"
        rows.append([outcome.backend, outcome.what, outcome.wanted, outcome.measured, met])
    if not rows:
        return ""
    return "## Targets\n\n" + table(["backend", "figure", "target", "measured", ""], rows, text=5)


def _members(report: Report, group: str) -> list[System]:
    return [system for system in report.systems.values() if system.group == group]


def _group(report: Report, group: str) -> str:
    members = _members(report, group)
    rows = [
        [
            f"{system.name} ({system.processes})",
            system.guarantees,
            *(_cell(report, system, name) for name in _COLUMNS),
            _range(report, system, "drain"),
            f"{max((run.jobs for run in report.runs_of(system.name)), default=0):,}",
        ]
        for system in members
    ]
    heads = ["system (worker processes)", "what it guarantees, and what not"]
    heads += [*(FIGURES[name].title for name in _COLUMNS), "range of drain/s", "jobs"]
    charts = "\n".join(f"![{group}: {title}]({CHARTS}/{file})" for file, title in _pictures(group))
    return f"## {group}\n\n{table(heads, rows, text=2)}\n\n{charts}"


def _cell(report: Report, system: System, figure: str) -> str:
    runs = report.runs_of(system.name)
    if runs and all(run.failures for run in runs):
        return "FAILED"
    found = report.summary(system.name, figure)
    return FIGURES[figure].text(found.median) if found else ""


def _range(report: Report, system: System, figure: str) -> str:
    found = report.summary(system.name, figure)
    return f"{FIGURES[figure].text(found.low)} to {FIGURES[figure].text(found.high)}" if found else ""


def _more(report: Report) -> str:
    own = [system for system in report.systems.values() if system.name.startswith("later:")]
    if not own:
        return ""
    rows = [[system.name, *(_cell(report, system, name) for name in _OWN_COLUMNS)] for system in own]
    return "## More of later\n\n" + table(["backend", *(FIGURES[name].title for name in _OWN_COLUMNS)], rows)


def _pictures(group: str) -> list[tuple[str, str]]:
    """The files of the charts, and what they show."""
    return [(f"{group.replace('+', '-')}-{figure}.svg", FIGURES[figure].title) for figure in _CHARTED]


def draw(page: Path, report: Report) -> None:
    """The charts of the page, as SVG, by matplotlib in an environment of its own."""
    bars: list[dict[str, object]] = []
    for group in _GROUPS:
        for (file, title), figure in zip(_pictures(group), _CHARTED, strict=True):
            summaries = {system.name: report.summary(system.name, figure) for system in _members(report, group)}
            found = {name: asdict(summary) for name, summary in summaries.items() if summary}
            bars.append({"file": file, "title": f"{group}: {title}", "kind": "bars", "bars": found})
    render(page, [chart for chart in bars if chart["bars"]])


def render(page: Path, charts: Sequence[dict[str, object]]) -> None:
    """Have `benchmarks.charts` draw them."""
    try:
        place = made(Pinned("charts", ("matplotlib",)))
    except InstallError as error:
        print(f"No charts: {error}")
        return
    request = {"folder": str(page.parent / CHARTS), "charts": charts}
    (page.parent / CHARTS).mkdir(exist_ok=True)
    subprocess.run(
        [str(place.python), str(ROOT / "benchmarks" / "charts.py")],
        input=json.dumps(request),
        text=True,
        check=True,
    )
