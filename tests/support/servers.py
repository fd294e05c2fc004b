"""Private servers for tests: started on a free port with a directory of their own, and ended by their process ids.

Each pytest process (each worker of xdist) has its own server per kind, from the first test that asks for it to the end.
An environment variable names a server that runs already instead: LATER_TEST_REDIS, LATER_TEST_POSTGRES,
LATER_TEST_AMQP, LATER_TEST_NATS. Tests keep apart by namespaces, so such a server may be shared; what they stored is
removed afterwards.

As root on Debian or Ubuntu a missing server is installed. Elsewhere its tests are skipped, with what to do as the
reason; with LATER_TEST_SERVERS=required, which the gate sets, they fail.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest
import redis

from later.core.ports import Storage, StorageOptions

_PATIENCE: Final = 20.0
"""Seconds for a server to answer after its start."""

_INSTALL_PATIENCE: Final = 300.0


class MissingProgramError(Exception):
    """This machine lacks a program. Skips a test, or fails it (see `tests.support.missing`)."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(
    name: str, package: str, variable: str | None = None, find: Callable[[], Path | None] | None = None
) -> Path:
    """The path of a server's program, by `find` or on the PATH. Installs its Debian package where that is possible.
    `variable`: the one that names a running server instead. Raises MissingProgramError."""
    look = find or (lambda: _on_path(name))
    found = look()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        with (Path(tempfile.gettempdir()) / "later-tests-apt.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if look() is None:
                _install(package)
            found = look()
    if found is None:
        missing = f"needs {name}: install it (Debian, Ubuntu: apt-get install {package}; macOS: brew install "
        missing += f"{package.removesuffix('-server')})"
        missing += f", or set {variable} to the URL of a running one" if variable else ""
        raise MissingProgramError(missing)
    return found


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found else None


def _install(package: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", package]):
        subprocess.run(
            ["apt-get", *arguments], env=environment, check=False, capture_output=True, timeout=_INSTALL_PATIENCE
        )


def tied(number: signal.Signals = signal.SIGKILL) -> list[str]:
    """What stands before a server's command so that it gets this signal when the thread that starts it is gone: a test
    run that was killed leaves no servers behind. Nothing where there is no Linux."""
    setpriv = shutil.which("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", number.name.removeprefix("SIG"), "--"]


def until(answers: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait for a server's first answer."""
    deadline = time.monotonic() + _PATIENCE
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"a server for tests does not start:\n{log.read_text(errors='replace')[-2000:]}", pytrace=False)
        time.sleep(0.005)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def make_certificates(folder: Path) -> None:
    """An authority (ca.pem), and a certificate of it for localhost (server.pem, server.key)."""
    elliptic = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for command in (
        ["req", "-x509", *elliptic, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=tests of later"],
        ["req", *elliptic[:-2], "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"],
        ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30"],
    ):
        signed = ["-extfile", "names", "-out", "server.pem"] if command[0] == "x509" else []
        subprocess.run(["openssl", *command, *signed], cwd=folder, check=True, capture_output=True)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a server politely, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


class RedisServer:
    """One redis-server process at a time, always with the same directory and port."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._program = str(program("redis-server", "redis-server", "LATER_TEST_REDIS"))
        self._folder = folder
        self._options = options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, password: str | None = None) -> "RedisServer":
        """Returns when it answers. `password`: the one that `options` made it ask for."""
        log = self._folder / "redis.log"
        with log.open("ab") as output:
            place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
            durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
            command = [*tied(), self._program, *place, *durable, *self._options]
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        client = redis.Redis(port=self.port, password=password, socket_timeout=1)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
            except redis.RedisError:
                return False

        until(answers, self._process, log)
        client.close()
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """As `kill -9`."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """It stays connected and says nothing, until `stop` or `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
            end(self._process)


@dataclass(frozen=True)
class Apart:
    """Opens storages whose namespaces nobody else has. Picklable, as the contract asks for."""

    open_storage: Callable[[StorageOptions], Storage]
    prefix: str

    def __call__(self, options: StorageOptions) -> Storage:
        return self.open_storage(replace(options, namespace=self.prefix + options.namespace))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The private server of this process."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    """A server that tests share: for namespaces of their own, and nothing that disturbs others."""
    given = os.environ.get("LATER_TEST_REDIS", "")
    if given:
        return given
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


@pytest.fixture
def redis_prefix(redis_url: str) -> Iterator[str]:
    """The beginning of namespaces that only this test uses; their keys are removed after it."""
    prefix = f"test-{uuid.uuid4().hex[:12]}-"
    yield prefix
    client = redis.Redis.from_url(redis_url)
    remove_keys(client, f"later:{{{prefix}*")
    client.close()


def remove_keys(client: "redis.Redis", pattern: str) -> None:
    keys: Sequence[bytes] = list(client.scan_iter(pattern, count=1000))
    for first in range(0, len(keys), 1000):
        client.unlink(*keys[first : first + 1000])
