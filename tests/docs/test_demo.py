"""The demo, as `make demo` runs it and with its workers killed in the middle."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT
from tests.support.servers import MissingProgramError


def demo(data: Path, *options: str, backend: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "demo" / "run.py"), "--data", str(data), *options]
    environment = {**os.environ, "BACKEND": backend or ""}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=90, check=False, encoding="utf-8"
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("options", [(), ("--kill",)], ids=["plain", "kill"])
@pytest.mark.parametrize("backend", ["sqlite", "redis", "postgres", "rabbitmq+redis", "rabbitmq+postgres"])
def test_every_mail_arrives(tmp_path: Path, backend: str, options: tuple[str, ...]) -> None:
    done = demo(tmp_path, *options, backend=backend)
    if done.returncode == 3:
        raise MissingProgramError(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Every mail arrived", done.stdout)
    assert done.stdout.count("Refused line") == 3
    assert ("kill -9" in done.stdout) == bool(options)


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    done = demo(tmp_path, backend="mars")
    assert (done.returncode, done.stdout) == (2, "")
    assert "BACKEND=mars" in done.stderr


def test_a_foreign_directory_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    done = demo(tmp_path)
    assert done.returncode == 1
    assert "not empty" in done.stderr
    assert (tmp_path / "precious").exists()
