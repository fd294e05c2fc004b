"""What Linux tells of processes and of the machine. CPU times are exact to the microsecond, not to the clock tick."""

import os
import platform
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_CLOCK_OF_ALL_THREADS: Final = 2
"""CPUCLOCK_SCHED of Linux: see clock_getcpuclockid(3), which Python does not offer."""


def with_descendants(roots: Iterable[int]) -> list[int]:
    """The process ids of `roots` and of all that descends from them."""
    children: dict[int, list[int]] = {}
    for pid in _running():
        parent = _parent(pid)
        if parent is not None:
            children.setdefault(parent, []).append(pid)
    found: list[int] = []
    todo = list(roots)
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def _running() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]


def _parent(pid: int) -> int | None:
    try:
        # The name of the program, in parentheses, may hold anything.
        return int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that these processes have used, their ended threads included."""
    total = 0.0
    for pid in pids:
        try:
            total += time.clock_gettime((~pid << 3) | _CLOCK_OF_ALL_THREADS)
        except OSError:
            continue  # it has ended
    return total


def switches(pids: Iterable[int]) -> int:
    """How often threads of these processes, as far as they still live, have waited: for a lock, an answer, a timer."""
    found = 0
    for pid in pids:
        for status in _PROC.glob(f"{pid}/task/*/status"):
            try:
                text = status.read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            found += int(text.partition("\nvoluntary_ctxt_switches:")[2].split(maxsplit=1)[0])
    return found


def resident_bytes(pid: int) -> int:
    """RSS; 0 when the process has ended."""
    try:
        pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


class CpuMeter:
    """The CPU time of process trees, from its making on. Processes that start later are counted too."""

    def __init__(self, roots: Sequence[int]) -> None:
        self._roots = roots
        self._started = cpu_seconds(with_descendants(roots))

    def seconds(self) -> float:
        return max(0.0, cpu_seconds(with_descendants(self._roots)) - self._started)


def describe() -> str:
    """The machine, in one line."""
    model = "unknown processor"
    for line in (_PROC / "cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model"}:
            model = value.strip()
            break
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (
        f"{os.cpu_count()} cores ({model}), {pages / 2**30:.0f} GiB, "
        f"{platform.system()} {platform.release()}, {platform.machine()}"
    )
