"""Measure `later` beside its peers: `make bench`, or `python -m benchmarks --help`."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks import servers
from benchmarks.installing import FOLDER, ROOT, InstallError, Place, made
from benchmarks.measuring import Effort, Run, measure
from benchmarks.page import draw, write
from benchmarks.processes import end_tidily
from benchmarks.results import FIGURES, Report, import_later, machine
from benchmarks.systems import SYSTEMS, chosen
from benchmarks.systems.system import System

_SHOWN: Final = ("enqueue", "bulk", "drain", "cpu", "idle_cpu", "latency_p50", "latency_p99")


def main() -> int:
    options = _options()
    end_tidily()
    if options.from_results is not None:
        report = Report.load(options.from_results)
    else:
        try:
            report = _measure(chosen(options.only), options.rounds, _effort(options))
        except LookupError as error:
            print(error.args[0], file=sys.stderr)
            return 2
    whole = {run.system for run in report.runs} | set(report.absent) >= {system.name for system in SYSTEMS}
    page = options.page or (ROOT / "docs" if whole else FOLDER) / "benchmarks.md"
    write(page, report)
    draw(page, report)
    print(f"\nWritten: {page}")
    failed = [run for run in report.runs if run.failures]
    for run in failed:
        print(f"FAILED: {run.system}, round {run.round}: {'; '.join(run.failures)}", file=sys.stderr)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", metavar="NAMES", help="systems, such as 'later:redis sidekiq'; else all")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each system (3)")
    parser.add_argument("--jobs", type=int, default=Effort.jobs, help="the most jobs in a run; else as each can")
    parser.add_argument("--idle", type=float, default=Effort.idle, metavar="SECONDS", help="how long to watch idling")
    parser.add_argument("--page", type=Path, help="the page to write; else docs/benchmarks.md, or .bench for a part")
    parser.add_argument("--from-results", type=Path, metavar="FILE", help="measure nothing, write the page of FILE")
    return parser.parse_args()


def _effort(options: argparse.Namespace) -> Effort:
    return Effort(jobs=options.jobs, idle=options.idle)


def _measure(systems: list[System], rounds: int, effort: Effort) -> Report:
    versions, missing = servers.look(sorted({kind for system in systems for kind in system.needs()}))
    places: dict[str, Place] = {}
    absent: dict[str, str] = {}
    for system in systems:
        reasons = [missing[kind] for kind in system.needs() if kind in missing]
        try:
            if not reasons:
                places[system.name] = made(system.environment)
        except InstallError as error:
            reasons.append(str(error))
        if reasons:
            absent[system.name] = "; ".join(reasons)
            print(f"{system.name} is left out: {absent[system.name]}", file=sys.stderr)
    report = Report(machine(places, versions), {system.name: system for system in systems}, [], absent, import_later())
    results = FOLDER / "results" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.jsonl"
    report.save(results)
    for number in range(1, rounds + 1):
        for system in systems:
            if system.name in places:
                run = measure(system, places[system.name], number, effort)
                report.add(run, results)
                print(_line(run, rounds), flush=True)
    return report


def _line(run: Run, rounds: int) -> str:
    figures = "  ".join(f"{name} {FIGURES[name].text(run.figures[name])}" for name in _SHOWN if name in run.figures)
    failed = f"  FAILED: {'; '.join(run.failures)}" if run.failures else ""
    return f"[{run.round}/{rounds}] {run.system:<22} {figures}{failed}"


if __name__ == "__main__":
    sys.exit(main())
