"""Flame graphs of a worker process that drains a backlog, one per backend: `python -m benchmarks.profiles`.

py-spy looks at the stacks of all threads from outside, some hundred times a second, and counts those that run.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.host import cpu_seconds, with_descendants
from benchmarks.installing import ROOT, InstallError, Pinned, made
from benchmarks.processes import SystemFailed, Workers, end_tidily
from benchmarks.stand import stand
from benchmarks.systems import chosen
from benchmarks.systems.system import System
from tests.support.servers import MissingProgramError

_SYSTEMS: Final = "later:redis later:rabbitmq+redis later:postgres later:sqlite"
_FOLDER: Final = ROOT / "docs" / "explanation" / "profiles"
_PROFILER: Final = Pinned("profiler", ("py-spy",))
_RATE: Final = 250
"""Looks a second."""
_PATIENCE: Final = 300.0
_PORTION: Final = 5_000


def record(system: System, jobs: int, file: Path) -> None:
    """Raises InstallError, SystemFailed, MissingProgramError."""
    spy = made(_PROFILER).programs / "py-spy"
    with stand(system, made(system.environment)) as one:
        one.producer.ask("prepare")
        for _ in range(0, jobs, _PORTION):
            one.producer.ask("many", count=_PORTION)
            if "settle" in system.verbs:
                one.producer.ask("settle")
        with Workers(one.context, system.processes) as workers:
            workers.wait_until(lambda: len(one.ledger) >= jobs // 20, _PATIENCE, "the first jobs")
            # What works, not what watches it.
            busiest = max(with_descendants(workers.pids), key=lambda pid: cpu_seconds([pid]))
            _spy(spy, busiest, file)


def _spy(spy: Path, pid: int, file: Path) -> None:
    options = ["--pid", str(pid), "--rate", str(_RATE), "--duration", "3", "--output", str(file)]
    done = subprocess.run([str(spy), "record", *options], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemFailed(f"py-spy: {done.stderr.strip()[-300:]}")
    # Its title is the command, with the folders of this machine.
    file.write_text(file.read_text().replace(" ".join([str(spy), "record", *options]), f"a worker, {file.stem}"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiles", description=__doc__)
    parser.add_argument("--only", default=_SYSTEMS, metavar="NAMES", help=f"backends ({_SYSTEMS})")
    parser.add_argument("--jobs", type=int, default=100_000, help="the backlog, which must last for three seconds")
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="where the pictures go")
    options = parser.parse_args()
    end_tidily()
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        for system in chosen(options.only):
            file = options.folder / f"{system.group.replace('+', '-')}.svg"
            record(system, options.jobs, file)
            print(f"Written: {file}", flush=True)
    except (LookupError, InstallError, SystemFailed, MissingProgramError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
