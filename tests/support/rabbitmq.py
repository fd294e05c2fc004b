"""A private RabbitMQ for tests, as `tests.support.servers` has them: one for each pytest process.

LATER_TEST_AMQP names a server that runs already, for the tests that do not disturb it.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pika
import pytest

from later.backends.rabbitmq.session import Session
from later.core.ports import Broker, BrokerOptions
from tests.support.servers import free_port, listening, make_certificates, program, tied

_PATIENCE: Final = 150.0
"""Seconds for the server to accept connections after its start, and for rabbitmqctl. They take 3 and 2 on an idle
machine, and more than 45 on one with ten times as much to do."""

TIMEOUT: Final = 300
"""Seconds that a test with a server gets at least, for the start of that is a part of it."""

_DEBIAN: Final = Path("/usr/lib/rabbitmq/bin")
"""Where the programs are that do not insist on being root."""

_CONFIG: Final = """
loopback_users = none
disk_free_limit.absolute = 1MB
log.file.level = warning
listeners.tcp.default = 127.0.0.1:{port}
listeners.ssl.default = 127.0.0.1:{tls_port}
ssl_options.cacertfile = {folder}/ca.pem
ssl_options.certfile = {folder}/server.pem
ssl_options.keyfile = {folder}/server.key
"""


class RabbitServer:
    """One RabbitMQ node at a time, always with the same folder and ports, and an Erlang port mapper of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        """environment: variables for the server."""
        found = program("rabbitmq-server", "rabbitmq-server", "LATER_TEST_AMQP")
        self._program = _DEBIAN / "rabbitmq-server" if (_DEBIAN / "rabbitmq-server").exists() else found
        self._control = self._program.with_name("rabbitmqctl")
        self._folder = folder
        self._user = "rabbitmq" if os.geteuid() == 0 else None
        self.port = free_port()
        self.tls_port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}"
        self.ca = folder / "ca.pem"
        self._epmd: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._answered = False
        """Since it was started: one that a test did not wait for to the end runs, and is of no use yet."""
        self._environment = self._prepare(free_port(), free_port()) | environment

    def _prepare(self, epmd_port: int, distribution_port: int) -> dict[str, str]:
        folder = self._folder
        (folder / "rabbitmq.conf").write_text(_CONFIG.format(folder=folder, port=self.port, tls_port=self.tls_port))
        (folder / "plugins").write_text("[].")
        make_certificates(folder)
        if self._user is not None:
            user = pwd.getpwnam(self._user)
            for path in (folder, *folder.iterdir()):
                os.chown(path, user.pw_uid, user.pw_gid)
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"later{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            # Fewer schedulers start faster, and spin less beside the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> "RabbitServer":
        """Returns when it answers; nothing when it runs."""
        if self.running:
            if not self._answered:
                self._wait_for_answer()
            return self
        if self._epmd is None:
            # Ours, so that the node does not start one that outlives it.
            self._epmd = self._spawn([*tied(), "epmd", "-port", self._environment["ERL_EPMD_PORT"]])
            _wait(lambda: listening(int(self._environment["ERL_EPMD_PORT"])), self._epmd, self._log)
        (self._folder / "pid").unlink(missing_ok=True)
        self._answered = False
        self._process = self._spawn([*tied(signal.SIGTERM), str(self._program)])
        self._wait_for_answer()
        return self

    def _wait_for_answer(self) -> None:
        assert self._process is not None
        _wait(self._answers, self._process, self._log)
        self._answered = True

    @property
    def version(self) -> tuple[int, ...]:
        """The first two numbers. While it runs."""
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        told = str(connection._impl.server_properties["version"])
        connection.close()
        return tuple(int(number) for number in told.split(".")[:2])

    @property
    def _log(self) -> Path:
        return self._folder / "output.log"

    def _answers(self) -> bool:
        if not listening(self.port):
            return False
        try:
            pika.BlockingConnection(pika.URLParameters(self.url)).close()
        except (pika.exceptions.AMQPError, OSError):
            return False
        return True

    def _spawn(self, command: list[str]) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
            )

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl, which takes a second or two."""
        return subprocess.run(
            [self._control, *arguments],
            cwd=self._folder,
            env=self._environment,
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            capture_output=True,
            text=True,
            check=True,
            timeout=_PATIENCE,
        ).stdout

    @property
    def pid(self) -> int:
        """Of the Erlang machine itself, not of the script that started it."""
        return int((self._folder / "pid").read_text())

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """As `kill -9`."""
        assert self._process is not None
        self.signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Politely."""
        if self.running:
            assert self._process is not None
            self.signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def wipe(self) -> None:
        """Forget everything; only while it does not run."""
        assert not self.running
        shutil.rmtree(self._folder / "mnesia")

    def end(self) -> None:
        if self.running:
            self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()


def _wait(answers: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"RabbitMQ does not start:\n{log.read_text(errors='replace')[-3000:]}", pytrace=False)
        time.sleep(0.05)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests with a server the time for its start, where they do not name one themselves."""
    for item in items:
        names: list[str] = getattr(item, "fixturenames", [])
        if {"rabbitmq_process", "rabbitmq_url"} & set(names) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT))


@contextmanager
def private_server(**environment: str) -> Iterator[RabbitServer]:
    """One that nobody else uses, not started yet."""
    # Not one of pytest's folders: every pytest that starts closes those to the user that RabbitMQ runs as.
    folder = Path(tempfile.mkdtemp(prefix="later-rabbitmq-"))
    server = RabbitServer(folder, **environment)
    try:
        yield server
    finally:
        server.end()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def rabbitmq_process() -> Iterator[RabbitServer]:
    with private_server() as server:
        yield server


@pytest.fixture
def rabbitmq_server(rabbitmq_process: RabbitServer) -> RabbitServer:
    """The private server of this process, which a test may stop, kill and wipe."""
    return rabbitmq_process.start()


@pytest.fixture
def rabbitmq_url(request: pytest.FixtureRequest) -> str:
    """A server for tests that disturb nobody: for namespaces of their own."""
    given = os.environ.get("LATER_TEST_AMQP", "")
    if given:
        return given
    server: RabbitServer = request.getfixturevalue("rabbitmq_server")
    return server.url


@pytest.fixture
def rabbitmq_prefix(rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The beginning of namespaces that only this test uses; the queues that it declares are deleted after it."""
    declared: set[str] = set()
    arguments = Session._arguments

    def remember(session: Session, name: str) -> dict[str, object]:
        declared.add(name)
        return arguments(session, name)

    monkeypatch.setattr(Session, "_arguments", remember)
    yield f"test-{uuid.uuid4().hex[:12]}-"
    try:
        connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_url))
    except pika.exceptions.AMQPError:
        return  # the test stopped the server, and whoever starts it may find the queues
    channel = connection.channel()
    for name in declared:
        channel.queue_delete(name)
    connection.close()


@dataclass(frozen=True)
class ApartBrokers:
    """Opens brokers whose namespaces nobody else has."""

    open_broker: Callable[[BrokerOptions], Broker]
    prefix: str

    def __call__(self, options: BrokerOptions) -> Broker:
        return self.open_broker(replace(options, namespace=self.prefix + options.namespace))
