"""An app whose only job writes down that it ran, and the processes that run it.

LEDGER_FOLDER, LEDGER_STORAGE, LEDGER_BROKER and LEDGER_NAME tell a worker process what the app is put together from.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import BaseModel

from later import BackgroundJobs, JobContext, JobsBuilder, Retry, background_job, job_type

ROOT: Final = Path(__file__).parents[2]
APP: Final = "tests.support.ledger:jobs"


class Note(BaseModel):
    """Note the job's id, after some work."""

    seconds: float = 0.0


class Aside(Note):
    """The same, in a queue of its own."""


@background_job
class Jobs:
    note: Note = job_type(retry=Retry(10, delays=[timedelta(seconds=1)]))
    aside: Aside = job_type(queue="aside")


class Entry(NamedTuple):
    id: str
    attempt: int
    pid: int
    at: float
    """When the handler ended, by the clock of the machine."""


class Ledger:
    """A file that is only ever appended to, a line in one write, so that processes do not mix theirs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def write(self, job_id: str, attempt: int) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(file, f"{job_id} {attempt} {os.getpid()} {time.time():.6f}\n".encode())
        finally:
            os.close(file)

    def entries(self) -> list[Entry]:
        # A reader may see a part of a write that is under way.
        whole, _, _ = self._path.read_text().rpartition("\n")
        lines = [line.split() for line in whole.splitlines()]
        return [Entry(job_id, int(attempt), int(pid), float(at)) for job_id, attempt, pid, at in lines]

    def runs(self) -> Counter[str]:
        """How often each job ran."""
        return Counter(entry.id for entry in self.entries())


def note(ctx: JobContext[Ledger], payload: Note) -> None:
    if payload.seconds:
        time.sleep(payload.seconds)
    ctx.app.write(ctx.job_id, ctx.attempt)


def make_jobs(folder: Path, storage: str, broker: str, name: str) -> BackgroundJobs[Ledger, Note]:
    builder = JobsBuilder(Ledger(folder / "ledger"), name, broker, storage=storage, jobs=Jobs)
    return builder.with_handler(Note, note).with_handler(Aside, note).build()


def environment(folder: Path, storage: str, broker: str, name: str) -> dict[str, str]:
    """For a process that is to find this app as `APP`."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "LEDGER_FOLDER": str(folder),
        "LEDGER_STORAGE": storage,
        "LEDGER_BROKER": broker,
        "LEDGER_NAME": name,
    }


class Worker:
    """A `later worker` in a process group of its own."""

    def __init__(self, folder: Path, storage: str, broker: str, name: str, *arguments: str) -> None:
        self.log = folder / "worker.log"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "later.cli.main", "worker", APP, *arguments],
                cwd=folder,
                env=environment(folder, storage, broker, name),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def stop(self, seconds: float = 40.0) -> int:
        """By SIGTERM, after which it finishes what it runs; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def kill(self) -> None:
        """All of its processes; nothing when it has ended."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


if "LEDGER_FOLDER" in os.environ:
    jobs = make_jobs(
        Path(os.environ["LEDGER_FOLDER"]),
        os.environ["LEDGER_STORAGE"],
        os.environ["LEDGER_BROKER"],
        os.environ["LEDGER_NAME"],
    )
