"""Several processes on one SQLite file: killed, racing, forked."""

import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from later.backends.sqlite import SQLite
from later.core.ports import Storage, StorageOptions
from later.core.records import NewJob, State

PROGRAM = Path(__file__).parents[1] / "support" / "sqlite_process.py"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite3"


def start(what: str, file: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, PROGRAM, what, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def run(what: str, file: Path) -> list[str]:
    """The lines that the process printed; it must end well."""
    return subprocess.run(
        [sys.executable, PROGRAM, what, file], stdout=subprocess.PIPE, text=True, timeout=50, check=True
    ).stdout.split()


def open_storage(file: Path) -> Storage:
    storage = SQLite(file).open_storage(StorageOptions("test"))
    storage.migrate()
    return storage


def is_intact(file: Path) -> bool:
    connection = sqlite3.connect(file)
    try:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


def states(file: Path, ids: list[str]) -> set[State | None]:
    storage = open_storage(file)
    found = {details.job.state if details else None for details in storage.get(ids)}
    storage.close()
    return found


@pytest.mark.parametrize(("what", "state"), [("insert", State.ENQUEUED), ("work", State.SUCCEEDED)])
@pytest.mark.parametrize("round_", range(2))
def test_what_a_killed_process_had_been_told_is_stored(file: Path, what: str, state: State, round_: int) -> None:
    with start(what, file) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(random.randint(1, 300))]
        process.kill()
        lines += process.stdout.readlines()
    told = [line.strip() for line in lines if line.endswith("\n")]
    assert told
    assert states(file, told) == {state}
    assert is_intact(file)


def test_processes_share_the_jobs_without_taking_one_twice(file: Path) -> None:
    ids = [f"job-{number}" for number in range(400)]
    storage = open_storage(file)
    storage.insert([NewJob(job_id, "send_email", "default", b"{}") for job_id in ids])
    storage.close()
    processes = [start("drain", file) for _ in range(3)]
    taken = [process.communicate(timeout=50)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(job_id for got in taken for job_id in got) == sorted(ids)
    assert states(file, ids) == {State.SUCCEEDED}


def test_eight_processes_may_create_the_file_at_once(file: Path) -> None:
    processes = [start("race", file) for _ in range(8)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ids = [process.communicate(timeout=50)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert states(file, ids) == {State.ENQUEUED}
    assert is_intact(file)


def test_both_sides_of_a_fork_go_on_and_lose_nothing(file: Path) -> None:
    ids = run("fork", file)
    assert len(ids) == 5
    assert states(file, ids) == {State.ENQUEUED}
    assert is_intact(file)


def test_a_fork_may_come_while_a_thread_writes(file: Path) -> None:
    ids = run("busy-fork", file)
    assert len(ids) > 5 * 20
    assert states(file, ids) == {State.ENQUEUED}
    assert is_intact(file)


def test_a_child_that_inherited_open_connections_is_refused(file: Path) -> None:
    job_id, error = run("raw-fork", file)
    assert error == "ConfigError"
    assert states(file, [job_id]) == {State.ENQUEUED}
