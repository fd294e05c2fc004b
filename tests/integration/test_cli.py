"""The `later` command as a user runs it: real processes, a real file of jobs."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.support.shop import APP

LATER = (sys.executable, "-m", "later.cli.main")

ENQUEUE = "import shop_app; print(shop_app.jobs.enqueue(shop_app.SendEmail(address='a@b.c')))"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop_app.py").write_text(APP)
    return tmp_path


def later(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LATER, *arguments],
        cwd=folder,
        env={**os.environ, "LATER_APP": "shop_app:jobs", "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def enqueue(folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", ENQUEUE], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_reader_that_has_seen_enough_is_no_error(folder: Path) -> None:
    for _ in range(3):
        enqueue(folder)
    command = f"'{sys.executable}' -m later.cli.main jobs list --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "LATER_APP": "shop_app:jobs"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.stderr == ""
    assert done.stdout[1:].strip() == "0"


class Running:
    """A command that goes on, whose lines can be waited for."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*LATER, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.output = ""
        self._news = threading.Condition()
        self._seen = 0
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,))
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            with self._news:
                self.output += line
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def until(self, pattern: str) -> None:
        """Wait for output that matches, after what was waited for before."""

        def found() -> bool:
            match = re.compile(pattern).search(self.output, self._seen)
            self._seen = match.end() if match else self._seen
            return match is not None

        with self._news:
            assert self._news.wait_for(found, timeout=30), self.output

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def clean_up(self) -> None:
        if self.process.poll() is None:
            # `later dev` ends its worker on SIGTERM, so SIGKILL, which would leave it behind, comes last.
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(*arguments: str) -> Running:
        running.append(Running(folder, *arguments))
        return running[-1]

    yield start
    for each in running:
        each.clean_up()


def wait_for(folder: Path, job: str) -> str:
    """The state that the job ends in."""
    program = f"import shop_app; print(shop_app.jobs.wait({job!r}, 30).state)"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_worker_runs_jobs_until_it_is_told_to_stop(folder: Path, start: Callable[..., Running]) -> None:
    job = enqueue(folder)
    worker = start("worker", "shop_app.py", "--slots", "2")

    assert wait_for(folder, job) == "Succeeded"
    (server,) = json.loads(later(folder, "status", "--json").stdout)["servers"]
    assert (server["alive"], server["pid"], server["slots"]) == (True, worker.process.pid, 2)
    assert json.loads(later(folder, "jobs", "show", job, "--json").stdout)["result"] == {"to": "a@b.c"}
    assert worker.end(signal.SIGTERM) == 0
    assert "Traceback" not in worker.output
    assert json.loads(later(folder, "status", "--json").stdout)["servers"] == []


def test_a_worker_of_an_app_that_does_not_start(folder: Path) -> None:
    (folder / "shop_app.py").write_text("import json\n\njson.nothing\n")

    done = later(folder, "worker")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: shop_app cannot be imported: ")
    assert "shop_app.py:3: AttributeError: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_dev_restarts_for_changes_and_waits_for_a_repair(folder: Path, start: Callable[..., Running]) -> None:
    dev = start("dev", "shop_app.py")
    dev.until("watching ")
    assert wait_for(folder, enqueue(folder)) == "Succeeded"

    (folder / "shop_app.py").write_text(APP + "\nx = (\n")
    dev.until("shop_app.py changed: restarting")
    dev.until(r"shop_app\.py:\d+: SyntaxError: '\(' was never closed")
    dev.until("the worker ended with code 1; waiting for a change")

    (folder / "shop_app.py").write_text(APP.replace('{"to": payload.address}', '{"to": "somebody else"}'))
    dev.until("shop_app.py changed: restarting")
    job = enqueue(folder)
    assert wait_for(folder, job) == "Succeeded"
    assert json.loads(later(folder, "jobs", "show", job, "--json").stdout)["result"] == {"to": "somebody else"}

    assert dev.end(signal.SIGINT) == 0
    dev.until("stopping")
    assert "Traceback" not in dev.output
    assert json.loads(later(folder, "status", "--json").stdout)["servers"] == []


def test_dev_ends_its_worker_when_it_is_terminated(folder: Path, start: Callable[..., Running]) -> None:
    dev = start("dev", "shop_app.py")
    assert wait_for(folder, enqueue(folder)) == "Succeeded"

    assert dev.end(signal.SIGTERM) == 0
    assert json.loads(later(folder, "status", "--json").stdout)["servers"] == []


def test_a_reader_that_leaves_early_is_no_error(folder: Path) -> None:
    for _ in range(3):
        enqueue(folder)

    command = " ".join([*LATER, "jobs", "list", "-A", "shop_app.py"])
    done = subprocess.run(
        ["sh", "-c", f"{command} | head -n 0"], cwd=folder, capture_output=True, text=True, check=True, timeout=30
    )

    assert done.stderr == ""


def test_characters_that_the_terminal_lacks(folder: Path) -> None:
    (folder / "shop_app.py").write_text(APP.replace("payload.address}", "'日本'}"))
    job = enqueue(folder)
    subprocess.run(
        [sys.executable, "-c", f"import shop_app\nwith shop_app.jobs.running(): shop_app.jobs.wait({job!r}, 30)"],
        cwd=folder,
        check=True,
    )

    done = later(folder, "jobs", "show", job, PYTHONIOENCODING="ascii")

    assert r'"to": "\u65e5\u672c"' in done.stdout
    assert done.returncode == 0
