"""The programs of one run: the producer, which is asked, and the workers, which are watched."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

from benchmarks.host import resident_bytes, with_descendants
from benchmarks.installing import ROOT, Place
from benchmarks.systems.system import System

Value: TypeAlias = float | dict[str, float] | None

_POLITE: Final = 30.0
"""Seconds for workers to end after SIGTERM."""

_POLL: Final = 0.005


class SystemFailed(Exception):
    """A system did not do what it should. The text says what, with the end of its log."""


class Context:
    """Where one run takes place: a folder, the environment of its programs and its log."""

    def __init__(self, system: System, place: Place, folder: Path, variables: Mapping[str, str]) -> None:
        self.system = system
        self.folder = folder
        self.log = folder / "log"
        self._place = place
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in {"PYTHONHOME", "PYTHONPATH"}},
            **place.variables,
            **variables,
            **system.variables,
            "PYTHONPATH": str(ROOT),
            "BENCH_FOLDER": str(folder),
        }

    def of(self, system: System) -> "Context":
        """The same for a variant of the system."""
        made = copy(self)
        made.system = system
        return made

    def command(self, parts: Sequence[str], **more: object) -> list[str]:
        values = {
            "python": self._place.python,
            "bin": self._place.programs,
            "peers": ROOT / "benchmarks" / "peers",
            **more,
        }
        return [part.format_map(values) for part in parts]

    def failed(self, what: str) -> SystemFailed:
        lines = self.log.read_text(errors="replace").strip().splitlines()[-4:] if self.log.exists() else []
        return SystemFailed("; ".join([what, *lines])[-500:])


class ProducerProcess:
    """See `benchmarks.producer`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        with context.log.open("ab") as log:
            self._process = subprocess.Popen(
                context.command(context.system.producer),
                cwd=context.folder,
                env=context.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, verb: str, **request: float) -> tuple[float, Value]:
        """The seconds that it took, and what it returned. Raises SystemFailed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"verb": verb, **request}) + "\n")
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise self._context.failed(f"the producer ended at {verb!r}")
        values = json.loads(answer)
        return float(values["seconds"]), values["value"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Workers:
    """The worker processes, each command in a session of its own."""

    def __init__(self, context: Context, processes: int) -> None:
        self._context = context
        system = context.system
        self._processes: list[subprocess.Popen[bytes]] = []
        for number in range(processes if system.copies else 1):
            with context.log.open("ab") as log:
                self._processes.append(
                    subprocess.Popen(
                        context.command(system.worker, processes=processes, number=number),
                        cwd=context.folder,
                        env=context.environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )

    @property
    def pids(self) -> list[int]:
        """Of the commands; what they start are descendants."""
        return [process.pid for process in self._processes]

    def memory(self) -> tuple[int, int]:
        """RSS of the largest process, and of all together, in bytes. Pages that are shared count in each."""
        sizes = [resident_bytes(pid) for pid in with_descendants(self.pids)]
        return max(sizes), sum(sizes)

    def wait_until(self, done: Callable[[], bool], patience: float, what: str) -> None:
        """Raises SystemFailed."""
        deadline = time.monotonic() + patience
        while not done():
            if any(process.poll() is not None for process in self._processes):
                raise self._context.failed(f"a worker ended by itself while waiting for {what}")
            if time.monotonic() > deadline:
                raise self._context.failed(f"{patience:.0f} s were not enough for {what}")
            time.sleep(_POLL)

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + _POLITE
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            finally:
                # Whoever is left of the session.
                _kill_group(process.pid)
                process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def end_tidily() -> None:
    """Let SIGTERM end this program as Ctrl-C does, so that servers and workers end with it."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
