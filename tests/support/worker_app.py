"""The app whose jobs real worker processes run in tests. LATER_TEST_FOLDER has its jobs and its diary."""

import ctypes
import os
import signal
import time
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from later import BackgroundJobs, JobContext, JobsBuilder, Retry, background_job, job_type
from later.backends.memory import Memory
from later.backends.sqlite import SQLite
from later.core.engine import keeper
from later.core.records import SECOND

LEASE = int(os.environ.get("LATER_TEST_LEASE", "0"))
if LEASE:
    # So that tests need not wait for a real lease to run out.
    keeper.LEASE, keeper.BEAT, keeper.MARGIN = LEASE * SECOND, LEASE / 6, LEASE / 15  # type: ignore[misc]


class Act(BaseModel):
    """What the handler is to do."""

    do: str = "note"
    name: str = ""


class Apart(Act):
    """The same in a process of its own."""


class Hurried(Act):
    """The same, with a timeout."""


@background_job
class Jobs:
    act: Act
    apart: Apart = job_type(isolation="process", retry=Retry(3, delays=[timedelta(0)]))
    hurried: Hurried = job_type(
        isolation="process", timeout=timedelta(seconds=0.5), retry=Retry(2, delays=[timedelta(0)])
    )


class Folder:
    """What tests and handlers tell each other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._diary = path / "diary"
        self._diary.touch()

    def note(self, word: str, name: str) -> None:
        with self._diary.open("a") as diary:
            diary.write(f"{word} {name} {os.getpid()}\n")

    def notes(self, word: str, name: str) -> list[int]:
        """The processes that have noted this, in order."""
        whole, _, _ = self._diary.read_text().rpartition("\n")  # a reader may see a part of a write
        lines = [line.split() for line in whole.splitlines()]
        return [int(pid) for words in lines for *said, pid in [words] if said == [word, name]]

    def go(self, name: str) -> None:
        """Let `hold` end."""
        (self.path / f"go-{name}").touch()

    def goes(self, name: str) -> bool:
        return (self.path / f"go-{name}").exists()


def act(ctx: JobContext[Folder], payload: Act) -> object:  # noqa: C901, PLR0912  a case for each thing to do
    """Do what the payload says, and note when it begins and ends."""
    folder, name = ctx.app, payload.name
    folder.note("begins", name)
    match payload.do:
        case "hold":
            while not folder.goes(name):
                ctx.raise_if_cancelled()
                time.sleep(0.01)
        case "ignore":
            while not folder.goes(name):
                time.sleep(0.01)
        case "linger":
            time.sleep(0.3)
        case "exit":
            os._exit(5)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "fork and kill":
            if os.fork() == 0:
                while not folder.goes(name):
                    time.sleep(0.01)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "hold the GIL":
            ctypes.PyDLL("libc.so.6").sleep(4)
        case "enqueue":
            child = ctx.enqueue(Act(name=f"{name}-child"))
            return [child, ctx.enqueue_continue(child, Apart(name=f"{name}-grandchild"))]
        case _:
            pass
    folder.note("ends", name)
    return name


def make_jobs(folder: Path) -> BackgroundJobs[Folder, Act]:
    """The app as it is in `folder`; as another process sees it."""
    builder = JobsBuilder(Folder(folder), "worker-app", storage=SQLite(folder / "jobs.sqlite3"), jobs=Jobs)
    return builder.with_handler(Act, act).with_handler(Apart, act).with_handler(Hurried, act).build()


if "LATER_TEST_FOLDER" in os.environ:
    jobs = make_jobs(Path(os.environ["LATER_TEST_FOLDER"]))
    client = JobsBuilder(None, "client", storage=SQLite("client.sqlite3"), jobs=Jobs).build_client()
    _memory = JobsBuilder(jobs.app, "memory", storage=Memory(), jobs=Jobs)
    in_memory = _memory.with_handler(Act, act).with_handler(Apart, act).with_handler(Hurried, act).build()
