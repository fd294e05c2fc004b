"""A private PostgreSQL for tests, as `tests.support.servers` has them.

LATER_TEST_POSTGRES names one that runs already: tests keep apart by a schema of their own, which is dropped afterwards,
so that server may be shared.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg
import pytest

from tests.support.servers import end, free_port, program, tied, until

_USER: Final = "postgres"
"""PostgreSQL does not run as root; the Debian package makes this user for it."""

_QUICK: Final = {
    "fsync": "on",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "log_lock_waits": "on",
    "unix_socket_directories": "",
}


def _binaries() -> Path:
    """The folder of initdb and postgres, which Debian keeps off the PATH."""
    return program("postgres", "postgresql", "LATER_TEST_POSTGRES", _find_binaries)


def _find_binaries() -> Path | None:
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    folders = sorted(debian, key=lambda folder: int(folder.parent.name.partition(".")[0]), reverse=True)
    on_path = shutil.which("initdb")
    if on_path is not None:
        folders.append(Path(on_path).resolve().parent)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


class PostgresServer:
    """One server at a time, always with the same data and port. Anybody of this machine may log in as `postgres`, with
    any password; see `only` for another rule."""

    def __init__(self, **settings: str) -> None:
        self._binaries = _binaries()
        self._settings = _QUICK | settings
        self.folder = Path(tempfile.mkdtemp(prefix="later-postgres-"))
        root = os.geteuid() == 0
        self.user = _USER if root else None
        """Whom to run programs as that refuse to run as root."""
        if root:
            shutil.chown(self.folder, _USER, _USER)
        self.data = self.folder / "data"
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None
        self._initialise(
            "initdb", "-D", str(self.data), "-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--locale=C"
        )

    def _initialise(self, program: str, *arguments: str) -> None:
        made = self._run(program, *arguments)
        made.wait()
        if made.returncode:
            pytest.fail(f"{program} for tests fails:\n{self._log.read_text(errors='replace')[-2000:]}", pytrace=False)

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _run(self, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [*tied(signal.SIGQUIT), str(self._binaries / program), *arguments]
        with self._log.open("ab") as output:
            return subprocess.Popen(
                command, stdout=output, stderr=output, cwd=self.folder, user=self.user, group=self.user, extra_groups=()
            )

    def only(self, *rules: str) -> None:
        """Who may log in, in the words of pg_hba.conf; in force after the next start."""
        (self.data / "pg_hba.conf").write_text("\n".join(rules) + "\n")

    def start(self) -> "PostgresServer":
        """Returns when it answers."""
        settings = [f"-c{name}={value}" for name, value in self._settings.items()]
        self._process = self._run("postgres", "-D", str(self.data), "-p", str(self.port), "-h", "127.0.0.1", *settings)
        until(self._answers, self._process, self._log)
        return self

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            return "authentication" in str(error) or "pg_hba" in str(error)
        return True

    @property
    def pid(self) -> int:
        """Of the first of its processes."""
        assert self._process is not None
        return self._process.pid

    def restart(self) -> None:
        """Immediately: every connection is cut, and what had not reached the disk is gone."""
        self.kill()
        self.start()

    def kill(self) -> None:
        """As when the machine dies."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            end(self._process)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The private server of this process."""
    server = PostgresServer()
    yield server.start()
    server.stop()


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database that tests share: in this schema, with namespaces of their own, and nothing that disturbs others."""
    given = os.environ.get("LATER_TEST_POSTGRES", "")
    base = given or request.getfixturevalue("postgres_server").url
    schema = f"later_test_{uuid.uuid4().hex[:12]}"
    yield f"{base}{'&' if '?' in base else '?'}schema={schema}"
    if given:
        with psycopg.connect(base, autocommit=True) as connection:
            connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE'.encode())


@pytest.fixture
def postgres_prefix() -> str:
    """The beginning of namespaces that only this test uses."""
    return f"test-{time.time_ns():x}-{uuid.uuid4().hex[:6]}-"
