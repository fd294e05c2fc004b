"""Flame graphs of a worker process that drains a backlog, one per backend: `python -m benchmarks.profiles`.

py-spy looks at the stacks of all threads from outside, some hundred times a second, and counts those that run.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks import servers
from benchmarks.host import cpu_seconds, with_descendants
from benchmarks.installing import ROOT, InstallError, Pinned, made
from benchmarks.ledger import VARIABLE, Ledger
from benchmarks.processes import Context, ProducerProcess, SystemFailed, Workers, end_tidily
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
    folder = Path(tempfile.mkdtemp(prefix="later-profile-"))
    try:
        with servers.running(system.needs()) as running:
            ledger = Ledger(folder / "ledger")
            variables = {**servers.variables(running), VARIABLE: str(ledger.path)}
            context = Context(system, made(system.environment), folder, variables)
            with ProducerProcess(context) as producer:
                producer.ask("prepare")
                for _ in range(0, jobs, _PORTION):
                    producer.ask("many", count=_PORTION)
                    if "settle" in system.verbs:
                        producer.ask("settle")
                with Workers(context, system.processes) as workers:
                    workers.wait_until(lambda: len(ledger) >= jobs // 20, _PATIENCE, "the first jobs")
                    # What works, not what watches it.
                    busiest = max(with_descendants(workers.pids), key=lambda pid: cpu_seconds([pid]))
                    _spy(spy, busiest, file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
