"""Where the time of a job goes, stage by stage: `python -m benchmarks.stages`.

Each stage is run twice. The first time the CPU time of the programs is taken, and how often their threads waited; the
second time strace counts their system calls, which slows them down several times, so that batches may be larger then
than at full speed. Calls for locks (futex) are left out: a thread that is stopped at every call by its tracer keeps
others from the interpreter's lock, which makes most of them. What passes the loopback interface is counted by the
kernel.
"""

import argparse
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.host import CpuMeter, describe, switches, with_descendants
from benchmarks.installing import ROOT, made
from benchmarks.ledger import Ledger
from benchmarks.page import table, write_part
from benchmarks.processes import Context, ProducerProcess, SystemFailed, Workers, end_tidily
from benchmarks.producer import BULK
from benchmarks.stand import stand
from benchmarks.systems import chosen
from benchmarks.systems.system import System
from tests.support.servers import MissingProgramError

_SYSTEMS: Final = "later:redis later:rabbitmq+redis later:postgres later:sqlite"
_PAGE: Final = ROOT / "docs" / "explanation" / "performance.md"
_SYNCS: Final = frozenset({"fsync", "fdatasync"})
_SENDS: Final = frozenset({"sendto", "sendmsg", "write", "writev"})
_LOCKS: Final = frozenset({"futex"})
_LOOPBACK: Final = Path("/sys/class/net/lo/statistics/tx_bytes")
_LINE: Final = re.compile(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", re.MULTILINE)
_PATIENCE: Final = 300.0
_STARTING: Final = 5.0
"""Seconds for traced workers to start, when they have nothing to do."""
_PORTION: Final = 5_000
_WARM: Final = 100


@dataclass(frozen=True)
class Cost:
    """Of one job, in one stage. Times are microseconds of CPU; calls are those to the operating system."""

    client_time: float
    server_time: float
    waits: float
    """Of the client's threads: for a lock, an answer or a timer."""
    client_calls: float
    sends: float
    """Of the client: for a server, round trips and what is told beside them."""
    server_calls: float
    syncs: float
    loopback: float
    """Bytes, the headers of TCP and IP included."""


class Effort(NamedTuple):
    """What a stage took at full speed: seconds of CPU, and how often threads of the client waited."""

    client: float
    server: float
    waits: float

    def times(self, share: float) -> "Effort":
        return Effort(*(value * share for value in self))


class EffortMeter:
    def __init__(self, client: Sequence[int], server: Sequence[int]) -> None:
        self._meters = CpuMeter(client), CpuMeter(server)
        self._client = client
        self._switches = switches(with_descendants(client))

    def effort(self) -> Effort:
        client, server = (meter.seconds() for meter in self._meters)
        return Effort(client, server, max(0, switches(with_descendants(self._client)) - self._switches))


@dataclass(frozen=True)
class Calls:
    """What was counted while something ran."""

    client: Counter[str]
    server: Counter[str]
    loopback: int

    def per_job(self, count: int, effort: "Effort") -> Cost:
        both = self.client + self.server
        return Cost(
            client_time=effort.client / count * 1e6,
            server_time=effort.server / count * 1e6,
            waits=effort.waits / count,
            client_calls=self.client.total() / count,
            sends=sum(self.client[name] for name in _SENDS) / count,
            server_calls=self.server.total() / count,
            syncs=sum(both[name] for name in _SYNCS) / count,
            loopback=self.loopback / count,
        )

    def less(self, other: "Calls") -> "Calls":
        client, server = self.client - other.client, self.server - other.server
        return Calls(client, server, max(0, self.loopback - other.loopback))


class Tracer:
    """Counts the system calls of processes that run, with all their threads, until it is stopped."""

    def __init__(self, pids: Sequence[int], file: Path) -> None:
        self._file = file
        self._strace: subprocess.Popen[str] | None = None
        if not pids:
            return
        targets = [part for pid in pids for part in ("-p", str(pid))]
        self._strace = subprocess.Popen([*_strace(file), *targets], stderr=subprocess.PIPE, text=True)
        assert self._strace.stderr is not None
        attached = 0
        while attached < len(pids):
            line = self._strace.stderr.readline()
            if not line:
                raise SystemFailed("strace could not attach to a program: it needs root, or the right to trace")
            attached += "attached" in line

    def stop(self) -> Counter[str]:
        if self._strace is None:
            return Counter()
        self._strace.send_signal(signal.SIGINT)
        self._strace.communicate()
        return counted(self._file.read_text())


def _strace(file: Path) -> list[str]:
    # -I 2: it ends at a signal also when it has started the program, and tells what it has counted.
    return ["strace", "-I", "2", "-f", "-c", "-o", str(file)]


def counted(summary: str) -> Counter[str]:
    """The calls that a summary of `strace -c` tells of."""
    return Counter({name: int(calls) for calls, name in _LINE.findall(summary) if name not in {"total", *_LOCKS}})


class Session:
    """One backend, with fresh servers."""

    def __init__(self, context: Context, producer: ProducerProcess, ledger: Ledger, backends: Sequence[int]) -> None:
        self._context = context
        self._producer = producer
        self._ledger = ledger
        self._backends = backends
        self._sent = 0
        producer.ask("prepare")
        self._enqueue("one", _WARM)

    def enqueueing(self, verb: str, count: int) -> Cost:
        """While no worker runs."""
        meter = EffortMeter([self._producer.pid], self._backends)
        self._enqueue(verb, count)
        effort = meter.effort()
        return self._traced(lambda: self._enqueue(verb, count)).per_job(count, effort)

    def draining(self, count: int) -> Cost:
        self._enqueue("many", count)
        first, last = self._sent - count * 95 // 100, self._sent - count * 5 // 100
        with Workers(self._context, self._context.system.processes) as workers:
            workers.wait_until(lambda: len(self._ledger) >= first, _PATIENCE, "the first jobs")
            before = len(self._ledger)
            meter = EffortMeter(workers.pids, self._backends)
            workers.wait_until(lambda: len(self._ledger) >= last, _PATIENCE, "the last jobs")
            effort = meter.effort().times(count / (len(self._ledger) - before))
            workers.wait_until(lambda: len(self._ledger) >= self._sent, _PATIENCE, "the last jobs")
        idle = self._traced_drain(0)
        return self._traced_drain(count).less(idle).per_job(count, effort)

    def _enqueue(self, verb: str, count: int) -> None:
        for first in range(0, count, _PORTION):
            self._producer.ask(verb, count=min(_PORTION, count - first))
            if "settle" in self._context.system.verbs:
                self._producer.ask("settle")
        self._sent += count

    def _traced(self, work: Callable[[], object]) -> Calls:
        """What the producer and the servers do meanwhile."""
        client = Tracer([self._producer.pid], self._context.folder / "client")
        server = Tracer(with_descendants(self._backends), self._context.folder / "server")
        before = _loopback()
        work()
        passed = _loopback() - before
        return Calls(client.stop(), server.stop(), passed)

    def _traced_drain(self, count: int) -> Calls:
        """Workers that are traced from their start, so that what they do to start is in it."""
        self._enqueue("many", count)
        file = self._context.folder / "workers"
        system = replace(self._context.system, worker=(*_strace(file), *self._context.system.worker))
        server = Tracer(with_descendants(self._backends), self._context.folder / "server")
        before = _loopback()
        with Workers(self._context.of(system), system.processes) as workers:
            started = time.monotonic()
            workers.wait_until(
                lambda: len(self._ledger) >= self._sent and time.monotonic() > started + _STARTING,
                _PATIENCE,
                "the jobs",
            )
            passed = _loopback() - before
        return Calls(counted(file.read_text()), server.stop(), passed)


def _loopback() -> int:
    return int(_LOOPBACK.read_text())


def measure(system: System, singles: int, many: int) -> dict[str, Cost]:
    """By stage. Raises SystemFailed and MissingProgramError."""
    if shutil.which("strace") is None:
        raise MissingProgramError("strace is not installed: apt-get install strace")
    with stand(system, made(system.environment)) as one:
        session = Session(one.context, one.producer, one.ledger, [server.pid for server in one.servers])
        return {
            "enqueue, one a call": session.enqueueing("one", singles),
            f"enqueue, {BULK} a call": session.enqueueing("many", many),
            "claim, run, report": session.draining(many),
        }


def text(about: str, costs: Mapping[str, Mapping[str, Cost]]) -> str:
    """Markdown."""
    heads = [
        "stage",
        "CPU of the program, µs",
        "CPU of the servers, µs",
        "waits of its threads",
        "its system calls",
        "of these, sends and writes",
        "system calls of the servers",
        "fsyncs",
        "bytes between them",
    ]
    parts = [about]
    for name, stages in costs.items():
        rows = [[stage, *(_figure(value) for value in astuple(cost))] for stage, cost in stages.items()]
        parts += [f"### {name.removeprefix('later:')}", table(heads, rows)]
    return "\n\n".join(parts)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.3f}".rstrip("0").rstrip(".")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("--only", default=_SYSTEMS, metavar="NAMES", help=f"backends ({_SYSTEMS})")
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs in each stage but the first, which has a tenth")
    parser.add_argument("--page", type=Path, default=_PAGE, help="the page to write into")
    options = parser.parse_args()
    end_tidily()
    costs: dict[str, dict[str, Cost]] = {}
    try:
        for system in chosen(options.only):
            costs[system.name] = measure(system, options.jobs // 10, options.jobs)
            for stage, cost in costs[system.name].items():
                print(
                    f"{system.name:<22} {stage:<22} {'  '.join(_figure(value) for value in astuple(cost))}", flush=True
                )
    except (LookupError, SystemFailed, MissingProgramError) as error:
        print(error, file=sys.stderr)
        return 2
    write_part(options.page, "stages", text(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {describe()}.", costs))
    print(f"\nWritten: {options.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
