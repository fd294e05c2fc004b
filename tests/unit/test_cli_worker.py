"""`later worker` and `later dev`: what they make of their arguments."""

import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from later.cli import dev
from later.runtime import supervisor
from later.runtime.target import Target
from tests.support.shop import APP, later_command


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def run(target: Target, **options: Any) -> int:
        calls.append({"target": target, **options})
        return len(calls) - 1

    monkeypatch.setattr(supervisor, "run", run)
    return calls


def test_the_worker_gets_what_was_asked_for(started: list[dict[str, Any]]) -> None:
    later_command("worker", "app:jobs", "--processes", "3", "--slots", "5", "--queues", "a, b", "--grace", "0.5")

    assert started == [
        {
            "target": Target("app", "jobs"),
            "processes": 3,
            "slots": 5,
            "queues": ["a", "b"],
            "grace": timedelta(seconds=0.5),
        }
    ]


def test_the_worker_without_options(started: list[dict[str, Any]]) -> None:
    later_command("worker", app="app:jobs")

    assert started == [
        {"target": Target("app", "jobs"), "processes": 1, "slots": 8, "queues": None, "grace": timedelta(seconds=25)}
    ]


def test_the_exit_code_is_that_of_the_supervisor(started: list[dict[str, Any]]) -> None:
    later_command("worker", "-A", "app:jobs", code=0)
    later_command("worker", "-A", "app:jobs", code=1)


def test_weights(started: list[dict[str, Any]]) -> None:
    later_command("worker", "app", "--queues", "high=3,low=1")

    assert started[0]["queues"] == {"high": 3, "low": 1}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--queues", "a,,b"), "has an empty name"),
        (("--queues", ""), "has an empty name"),
        (("--queues", "a,b,a"), "names a queue twice"),
        (("--queues", "a=3,b"), "give every queue a weight"),
        (("--queues", "a=0"), "give every queue a weight"),
        (("--queues", "a=x"), "give every queue a weight"),
        (("--queues", "a="), "give every queue a weight"),
        (("--processes", "0"), "1<=x<=512"),
        (("--slots", "0"), "1<=x<=1024"),
        (("--grace", "-1"), "x>=0"),
        (("-A", "other"), "Name the app once"),
    ],
)
def test_wrong_options(started: list[dict[str, Any]], options: tuple[str, ...], said: str) -> None:
    assert said in later_command("worker", "app:jobs", *options, code=2).stderr
    assert started == []


@pytest.fixture
def reloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Path, Sequence[str]]]:
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[Path, Sequence[str]]] = []
    monkeypatch.setattr(dev, "reload", lambda root, command: calls.append((root, command)))
    return calls


def test_dev_runs_one_worker_and_watches_where_the_app_is(
    reloaded: list[tuple[Path, Sequence[str]]], tmp_path: Path
) -> None:
    later_command("dev", "app.py:jobs", "--slots", "2", "--queues", "a=3,b=1")

    ((root, command),) = reloaded
    assert root == tmp_path
    assert command[:4] == [sys.executable, "-m", "later.cli.main", "worker"]
    options = dict(zip(command[5::2], command[6::2], strict=True))
    assert command[4] == f"{tmp_path / 'app.py'}:jobs"
    assert options == {"--processes": "1", "--slots": "2", "--grace": "2.0", "--queues": "a=3,b=1"}


def test_dev_of_a_module_watches_the_working_directory(
    reloaded: list[tuple[Path, Sequence[str]]], tmp_path: Path
) -> None:
    later_command("dev", "--queues", "a,b", app="app")

    ((root, command),) = reloaded
    assert (root, command[4], command[-1]) == (tmp_path, "app", "a,b")


@pytest.mark.parametrize(
    ("path", "concerns"),
    [
        ("app.py", True),
        ("shop/tasks.py", True),
        ("pyproject.toml", True),
        (".env", True),
        ("shop.sqlite3", False),
        ("shop.sqlite3-wal", False),
        ("orders.csv", False),
        (".venv/lib/thing.py", False),
        ("venv/lib/thing.py", False),
        (".git/hooks/a.py", False),
        ("shop/__pycache__/tasks.py", False),
        ("node_modules/a/b.py", False),
        (".#app.py", False),
    ],
)
def test_what_dev_restarts_for(path: str, concerns: bool) -> None:
    """Whatever the folders above the app are called."""
    assert dev.concerns(Path("/build/.hidden/env"), f"/build/.hidden/env/{path}") is concerns


def test_signals_have_names() -> None:
    assert dev._signal(signal.SIGKILL) == "SIGKILL"
    assert dev._signal(60) == "signal 60"
