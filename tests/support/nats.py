"""A private NATS server for tests, as `tests.support.servers` has them: one for each pytest process.

LATER_TEST_NATS names one that runs already, with JetStream, for the tests that do not disturb it: each uses app names
of its own, and deletes their streams afterwards.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import nats
import pytest

from later.core.ports import Broker, BrokerBackend, BrokerOptions
from tests.support.servers import end, free_port, listening, program, tied, until


class NatsServer:
    """One nats-server at a time, always with the same folder and port."""

    def __init__(self, folder: Path, configuration: str = "", *, jetstream: bool = True) -> None:
        self._program = str(program("nats-server", "nats-server", "LATER_TEST_NATS"))
        self._folder = folder
        self._jetstream = jetstream
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "nats.conf").write_text(configuration)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> "NatsServer":
        """Returns when it answers; nothing when it runs."""
        if self.running:
            return self
        log = self._folder / "nats.log"
        command = [
            *tied(),
            self._program,
            "-c",
            str(self._folder / "nats.conf"),
            "-a",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        if self._jetstream:
            command += ["-js", "-sd", str(self._folder / "store")]
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        until(lambda: listening(self.port), self._process, log)
        return self

    def kill(self) -> None:
        """As `kill -9`."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It stays connected and says nothing. Only for a server that no other test uses."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)  # a busy server goes on for a moment
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Forget everything; only while it does not run."""
        assert not self.running
        shutil.rmtree(self._folder / "store", ignore_errors=True)

    def stop(self) -> None:
        """Politely."""
        if self._process is not None:
            end(self._process)


@pytest.fixture(scope="session")
def nats_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    yield server
    server.stop()


@pytest.fixture
def nats_server(nats_process: NatsServer) -> NatsServer:
    """The private server of this process, which a test may stop, kill and wipe."""
    return nats_process.start()


@pytest.fixture
def nats_url(request: pytest.FixtureRequest) -> str:
    """A server for tests that disturb nobody."""
    given = os.environ.get("LATER_TEST_NATS", "")
    if given:
        return given
    server: NatsServer = request.getfixturevalue("nats_server")
    return server.url


@pytest.fixture
def nats_prefix(nats_url: str) -> Iterator[str]:
    """The beginning of app names that only this test uses; their streams are deleted after it."""
    prefix = f"test-{uuid.uuid4().hex[:12]}-"
    yield prefix
    asyncio.run(_delete_streams(nats_url, prefix))


async def _delete_streams(url: str, prefix: str) -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    for info in await stream.streams_info():
        if info.config.name is not None and info.config.name.partition("-")[2].startswith(prefix):
            await stream.delete_stream(info.config.name)
    await client.close()


@dataclass(frozen=True)
class ApartBackend:
    """Opens brokers whose namespaces nobody else has."""

    backend: BrokerBackend
    prefix: str

    def open_broker(self, options: BrokerOptions) -> Broker:
        return self.backend.open_broker(replace(options, namespace=self.prefix + options.namespace))
