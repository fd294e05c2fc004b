"""Where one system is measured: fresh servers, a folder, a ledger and a producer."""

import shutil
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import servers
from benchmarks.installing import Place
from benchmarks.ledger import VARIABLE, Ledger
from benchmarks.processes import Context, ProducerProcess
from benchmarks.servers import Server
from benchmarks.systems.system import System


@dataclass(frozen=True)
class Stand:
    context: Context
    producer: ProducerProcess
    ledger: Ledger
    servers: Sequence[Server]


@contextmanager
def stand(system: System, place: Place, **variables: str) -> Generator[Stand]:
    """For the length of the block. `variables`: more for the environment of its programs. Raises SystemFailed,
    MissingProgramError."""
    folder = Path(tempfile.mkdtemp(prefix="later-bench-"))
    try:
        with servers.running(system.needs()) as running:
            ledger = Ledger(folder / "ledger")
            told = {**servers.variables(running), VARIABLE: str(ledger.path), **variables}
            context = Context(system, place, folder, told)
            with ProducerProcess(context) as producer:
                yield Stand(context, producer, ledger, running)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
