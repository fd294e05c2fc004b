"""`later worker` as an init system sees it: real processes, signals, and deaths of all kinds."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from later import BackgroundJobs, State, Verdict
from tests.support.waiting import DEADLINE, until
from tests.support.worker_app import Act, Apart, Folder, Hurried, make_jobs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ROOT = Path(__file__).parents[2]
APP = "tests.support.worker_app:jobs"
QUICKLY = 12.0
"""Seconds. Well before the lease of 15 s has run out, though the machine be slow."""


class Server:
    """A `later worker` in a session of its own."""

    def __init__(self, folder: Path, log: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        self.log_path = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "later.cli.main", "worker", *(arguments or (APP,))],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "LATER_TEST_FOLDER": str(folder), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def ends(self, seconds: float = DEADLINE) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(seconds)

    def pids(self) -> list[int]:
        """All its processes that live."""
        return [pid for pid, _, _, session in _processes() if session == self.pid]

    def workers(self) -> list[int]:
        """Its worker processes."""
        return self._spawned_by(self.pid)

    def isolated(self) -> list[int]:
        """The processes of isolated handlers."""
        return [pid for worker in self.workers() for pid in self._spawned_by(worker)]

    def kill_all(self) -> None:
        """Kill the whole tree at once."""
        for pid in self.pids():
            os.kill(pid, signal.SIGSTOP)  # so that none sees another die
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        self.process.wait(DEADLINE)

    def clear_away(self) -> None:
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        until(lambda: not self.pids())

    def _spawned_by(self, parent: int) -> list[int]:
        return [pid for pid, command, ppid, _ in _processes() if ppid == parent and "spawn_main" in command]


def _processes() -> Iterator[tuple[int, str, int, int]]:
    """Pid, command line, parent and session of all that live."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            state, parent, _, session, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_text()
        except OSError:
            continue
        if state not in {"Z", "X"}:
            yield int(entry.name), command, int(parent), int(session)


Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers, of which nothing is left after the test."""
    servers: list[Server] = []

    def start(*arguments: str, **environment: str) -> Server:
        log = tmp_path / f"log-{len(servers)}"
        servers.append(Server(tmp_path, log, arguments, environment))
        return servers[-1]

    yield start
    for server in servers:
        server.clear_away()
        sys.stdout.write(server.log)  # pytest shows it when the test fails


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[BackgroundJobs[Folder, Act]]:
    jobs = make_jobs(tmp_path)
    yield jobs
    jobs.close()


App = BackgroundJobs[Folder, Act]


def _begun(jobs: App, name: str, times: int = 1) -> list[int]:
    """The processes that began the job of this name, when they are so many."""
    until(lambda: len(jobs.app.notes("begins", name)) >= times, f"{name} to begin {times} times")
    return jobs.app.notes("begins", name)


def _succeeded(jobs: App, *ids: str) -> None:
    assert [jobs.wait(id, DEADLINE).state for id in ids] == [State.SUCCEEDED] * len(ids)


# --- working


def test_processes_and_slots_run_everything_once(serve: Serve, jobs: App) -> None:
    server = serve(APP, "--processes", "2", "--slots", "4")
    together = [jobs.enqueue(Act(do="hold", name=f"h{n}")) for n in range(8)]
    pids = {pid for n in range(8) for pid in _begun(jobs, f"h{n}")}
    assert pids == set(server.workers())
    assert len(pids) == 2
    for n in range(8):
        jobs.app.go(f"h{n}")
    ids = jobs.enqueue_many([Act(name=f"n{n}") for n in range(300)])

    _succeeded(jobs, *together, *ids)
    assert all(len(jobs.app.notes("ends", f"n{n}")) == 1 for n in range(300))
    (listed,) = jobs.servers()
    assert (listed.pid, listed.slots) == (server.pid, 8)


def test_handlers_enqueue_for_other_processes(serve: Serve, jobs: App) -> None:
    serve(APP, "--processes", "2")
    child, grandchild = jobs.result(jobs.enqueue(Act(do="enqueue", name="a")), DEADLINE)

    assert jobs.result(child, DEADLINE) == "a-child"
    assert jobs.result(grandchild, DEADLINE) == "a-grandchild"


def test_a_handler_that_holds_the_gil_does_not_lose_the_lease(serve: Serve, jobs: App) -> None:
    serve(APP, LATER_TEST_LEASE="2")
    serve(APP, LATER_TEST_LEASE="2")  # would rescue
    job = jobs.wait(jobs.enqueue(Act(do="hold the GIL", name="a")), DEADLINE)

    assert (job.state, job.attempt, job.crashes, job.epoch) == (State.SUCCEEDED, 1, 0, 1)


# --- stopping


@pytest.mark.parametrize("to", ["the process", "the group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(serve: Serve, jobs: App, number: int, to: str) -> None:
    server = serve(APP, "--processes", "2", "--slots", "1")
    ids = [jobs.enqueue(Act(do="hold", name="a")), jobs.enqueue(Apart(do="hold", name="b"))]
    _begun(jobs, "a")
    _begun(jobs, "b")
    # Far more than could run before the signal has reached the processes that run them.
    jobs.enqueue_many([Act(do="linger", name="c") for _ in range(60)])
    if to == "the group":
        os.killpg(server.pid, number)
    else:
        server.signal(number)
    until(lambda: "stopping" in server.log)
    jobs.app.go("a")
    jobs.app.go("b")

    assert server.ends() == 0
    _succeeded(jobs, *ids)
    assert jobs.counts().total(State.ENQUEUED) > 30
    assert jobs.counts().total(State.PROCESSING) == 0
    assert jobs.servers() == []
    until(lambda: not server.pids())
    assert "Traceback" not in server.log


@pytest.mark.parametrize("do", ["hold", "ignore"])
def test_a_second_signal_hurries(serve: Serve, jobs: App, do: str) -> None:
    server = serve(APP)
    ids = [jobs.enqueue(Act(do=do, name="a")), jobs.enqueue(Apart(do="ignore", name="b"))]
    _begun(jobs, "a")
    _begun(jobs, "b")
    server.signal(signal.SIGTERM)
    until(lambda: "stopping" in server.log)
    began = time.monotonic()

    def signalled() -> bool:
        # Again, since one that follows the first at once is taken for the same wish.
        if server.process.poll() is None:
            server.signal(signal.SIGTERM)
        return "stopping now" in server.log

    until(signalled)
    assert server.ends() == 0
    assert time.monotonic() - began < 4
    for id in ids:
        job = jobs.get(id)
        assert (job.state, job.attempt, job.crashes) == (State.ENQUEUED, 0, 0)
        assert job.reason == "interrupted: the server stops"
    assert jobs.servers() == []
    until(lambda: not server.pids())


def test_a_signal_sent_twice_at_once_does_not_hurry(serve: Serve, jobs: App) -> None:
    server = serve(APP)
    id = jobs.enqueue(Act(do="hold", name="a"))
    _begun(jobs, "a")
    server.signal(signal.SIGTERM)
    server.signal(signal.SIGTERM)
    until(lambda: "stopping" in server.log)
    jobs.app.go("a")

    assert server.ends() == 0
    assert "stopping now" not in server.log
    assert jobs.get(id).state is State.SUCCEEDED


def test_the_grace_ends(serve: Serve, jobs: App) -> None:
    server = serve(APP, "--grace", "0.2")
    id = jobs.enqueue(Act(do="ignore", name="a"))
    _begun(jobs, "a")
    server.signal(signal.SIGTERM)

    assert server.ends() == 0
    job = jobs.get(id)
    assert (job.state, job.attempt, job.crashes) == (State.ENQUEUED, 0, 0)


def test_a_process_that_cannot_listen_is_killed(serve: Serve, jobs: App) -> None:
    server = serve(APP, "--grace", "0")
    id = jobs.enqueue(Act(do="hold", name="a"))
    (worker,) = _begun(jobs, "a")
    os.kill(worker, signal.SIGSTOP)
    server.signal(signal.SIGTERM)

    assert server.ends() == 0
    assert "is killed" in server.log
    job = jobs.get(id)
    assert (job.state, job.crashes) == (State.ENQUEUED, 1)
    assert jobs.servers() == []


# --- deleting what runs


def test_an_isolated_job_that_is_deleted_is_killed(serve: Serve, jobs: App) -> None:
    server = serve(APP, LATER_TEST_LEASE="2")
    id = jobs.enqueue(Apart(do="ignore", name="a"))
    (pid,) = _begun(jobs, "a")
    assert pid in server.isolated()
    assert jobs.delete(id) == [Verdict.REQUESTED]

    assert jobs.wait(id, DEADLINE).state is State.DELETED
    assert pid not in server.isolated()


# --- isolated handlers


def test_an_isolated_handler_that_takes_too_long_is_retried_and_fails(serve: Serve, jobs: App) -> None:
    serve(APP)
    job = jobs.wait(jobs.enqueue(Hurried(do="ignore", name="a")), DEADLINE)

    assert (job.state, job.attempt, job.crashes) == (State.FAILED, 2, 0)
    assert job.error is not None
    assert job.error.type == "later.core.errors.HandlerTimeout"


@pytest.mark.parametrize("do", ["exit", "kill", "segfault"])
def test_an_isolated_handler_that_dies_harms_nobody_else(serve: Serve, jobs: App, do: str) -> None:
    server = serve(APP, "--slots", "2")
    innocent = jobs.enqueue(Act(do="hold", name="innocent"))
    (worker,) = _begun(jobs, "innocent")
    job = jobs.wait(jobs.enqueue(Apart(do=do, name="guilty")), DEADLINE)
    jobs.app.go("innocent")

    assert (job.state, job.crashes, job.reason[:6]) == (State.FAILED, 4, "poison")
    _succeeded(jobs, innocent)
    assert jobs.get(innocent).crashes == 0
    assert server.workers() == [worker]


# --- dying


@pytest.mark.parametrize("kind", [Act, Apart])
def test_what_a_dead_process_forked_does_not_hide_its_death(
    serve: Serve, jobs: App, kind: type[Act] | type[Apart]
) -> None:
    serve(APP, "--slots", "2")
    try:
        job = jobs.wait(jobs.enqueue(kind(do="fork and kill", name="guilty")), DEADLINE)
    finally:
        jobs.app.go("guilty")  # the forked ones hold the pipes of the dead one until now

    assert (job.state, job.crashes, job.reason[:6]) == (State.FAILED, 4, "poison")


def test_a_worker_that_dies_is_replaced_and_only_what_had_started_counts_a_crash(serve: Serve, jobs: App) -> None:
    server = serve(APP, "--slots", "2")
    _succeeded(jobs, *jobs.enqueue_many([Act(name="quick")] * 200))  # so that it claims ahead
    held = jobs.enqueue_many([Act(do="hold", name="a"), Act(do="hold", name="b")])
    behind = jobs.enqueue_many([Act(name="behind")] * 30)
    (worker,) = set(_begun(jobs, "a") + _begun(jobs, "b"))
    os.kill(worker, signal.SIGKILL)
    killed = time.monotonic()
    _begun(jobs, "a", 2)
    _begun(jobs, "b", 2)
    assert time.monotonic() - killed < QUICKLY
    jobs.app.go("a")
    jobs.app.go("b")

    _succeeded(jobs, *held, *behind)
    assert [jobs.get(id).crashes for id in held] == [1, 1]
    assert {jobs.get(id).crashes for id in behind} == {0}
    assert "died with exit code -9 while 2 jobs ran" in server.log
    assert worker not in server.workers()


def test_a_poisonous_job_fails_and_its_neighbours_do_not(serve: Serve, jobs: App) -> None:
    serve(APP, "--slots", "4")
    innocent = jobs.enqueue_many([Act(do="linger", name="innocent")] * 7)
    guilty = jobs.enqueue(Act(do="kill", name="guilty"))
    innocent += jobs.enqueue_many([Act(do="linger", name="innocent")] * 8)

    job = jobs.wait(guilty, DEADLINE)
    assert (job.state, job.crashes) == (State.FAILED, 4)
    assert job.reason.startswith("poison")
    _succeeded(jobs, *innocent)
    assert max(jobs.get(id).crashes for id in innocent) <= 1


@pytest.mark.parametrize("kind", [Act, Apart])
def test_when_the_supervisor_dies_its_processes_die_at_once(serve: Serve, jobs: App, kind: type[Act]) -> None:
    server = serve(APP, "--processes", "2")
    jobs.enqueue(kind(do="hold the GIL", name="a"))
    _begun(jobs, "a")
    assert len(server.workers()) == 2
    server.signal(signal.SIGKILL)
    server.ends()

    until(lambda: not server.pids(), seconds=3)


def test_a_server_killed_whole_is_rescued_by_the_next_one_well_before_its_lease_ends(serve: Serve, jobs: App) -> None:
    first = serve(APP, "--processes", "2")
    ids = [jobs.enqueue(Act(do="hold", name="a")), jobs.enqueue(Apart(do="hold", name="b"))]
    _begun(jobs, "a")
    _begun(jobs, "b")
    first.kill_all()
    killed = time.monotonic()
    serve(APP)
    _begun(jobs, "a", 2)
    _begun(jobs, "b", 2)
    assert time.monotonic() - killed < QUICKLY
    jobs.app.go("a")
    jobs.app.go("b")

    _succeeded(jobs, *ids)
    assert [jobs.get(id).crashes for id in ids] == [1, 1]
    assert len(jobs.servers()) == 1


def test_a_server_that_sleeps_through_its_lease_loses_no_job_and_goes_on(serve: Serve, jobs: App) -> None:
    first = serve(APP, LATER_TEST_LEASE="2")
    id = jobs.enqueue(Act(do="hold", name="a"))
    (late,) = _begun(jobs, "a")
    second = serve(APP, LATER_TEST_LEASE="2")
    until(lambda: len(jobs.servers()) == 2)
    first.signal(signal.SIGSTOP)
    assert _begun(jobs, "a", 2)[1] in second.pids()
    rescued = jobs.get(id)
    assert rescued.crashes == 1
    jobs.app.go("a")  # the worker of the first does not sleep: it reports too, and too late
    _succeeded(jobs, id)
    until(lambda: sorted(jobs.app.notes("ends", "a")) == sorted(jobs.app.notes("begins", "a")))
    first.signal(signal.SIGCONT)
    until(lambda: "lease is lost" in first.log)
    until(lambda: len(jobs.servers()) == 2)

    job = jobs.get(id)
    assert (job.state, job.epoch, job.server) == (State.SUCCEEDED, 2, rescued.server)
    until(lambda: first.workers() and late not in first.workers())
    second.signal(signal.SIGTERM)
    assert second.ends() == 0
    _succeeded(jobs, jobs.enqueue(Act(name="b")))
    first.signal(signal.SIGTERM)
    assert first.ends() == 0


# --- not starting


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("no_such_module:jobs", "there is no module no_such_module"),
        ("tests.support.worker_app:nothing", "has no nothing"),
        ("tests.support.worker_app:client", "only enqueues"),
        ("tests.support.worker_app:in_memory", "lives in one process"),
        ("broken.py", "broken.py:1: ZeroDivisionError"),
    ],
)
def test_an_app_that_cannot_run_is_refused_in_one_line(serve: Serve, tmp_path: Path, app: str, says: str) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    server = serve(app)

    assert server.ends() == 1
    assert says in server.log
    assert len(server.log.splitlines()) == 1, server.log


def test_a_server_whose_processes_cannot_start_ends(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "shy.py").write_text(
        "import multiprocessing\n"
        "from tests.support.worker_app import *\n"
        "if multiprocessing.parent_process(): raise RuntimeError('not here')\n"
    )
    server = serve("shy:jobs", "--processes", "2")

    assert server.ends() == 1
    assert "cannot start: shy cannot be imported" in server.log
    assert "Traceback" not in server.log


# --- in a script

SCRIPT = """
from datetime import timedelta
from pydantic import BaseModel
from later import JobsBuilder, background_job, job_type

class Add(BaseModel):
    n: int

@background_job
class Jobs:
    add: Add = job_type(isolation="process", timeout=timedelta(seconds=30))

def add(ctx, payload):
    return [payload.n + 1, __name__]

jobs = JobsBuilder(None, "script").with_add_handler(add).build()

if __name__ == "__main__":
    with jobs.running():
        print(jobs.result(jobs.enqueue(Add(n=1)), 30))
"""


def test_a_plain_script_may_isolate_its_handlers(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[2, '__mp_main__']\n"
