"""Behind PgBouncer in transaction mode: a server connection is lent for one transaction, and nothing outlives it."""

import subprocess
from collections.abc import Iterator

import psycopg
import pytest

from later.backends.postgres import Postgres
from later.core.ports import StorageOptions
from later.core.records import Claimant, NewJob, ServerInfo
from later.testing import MakeStorage
from later.testing.contract.continuations import ContinuationContract
from later.testing.contract.together import ProcessContract, ThreadContract, WaitContract
from later.testing.contract.upkeep import OutboxContract
from tests.support.postgres import PostgresServer
from tests.support.servers import Apart, end, free_port, program, until


@pytest.fixture(scope="module")
def pooler(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a PgBouncer with two server connections for everybody."""
    path = program("pgbouncer", "pgbouncer")
    port = free_port()
    folder = postgres_server.folder / "pgbouncer"
    folder.mkdir()
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"""
        [databases]
        postgres = host=127.0.0.1 port={postgres_server.port} user=postgres
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = any
        pool_mode = transaction
        default_pool_size = 2
        max_client_conn = 200
        ignore_startup_parameters = extra_float_digits
        """.replace("        ", "")
    )
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([path, str(settings)], stdout=output, stderr=output, user=postgres_server.user)
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def answers() -> bool:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        until(answers, process, log)
        yield f"{url}?pooler=yes&schema=pooled"
    finally:
        end(process)


class TestBehindPooler(ThreadContract, ProcessContract, WaitContract, OutboxContract, ContinuationContract):
    @pytest.fixture
    def make_storage(self, pooler: str, postgres_prefix: str) -> MakeStorage:
        return Apart(Postgres(pooler).open_storage, postgres_prefix)


def test_nothing_is_left_in_the_server_connections(
    pooler: str, postgres_server: PostgresServer, postgres_prefix: str
) -> None:
    storage = Postgres(pooler).open_storage(StorageOptions(postgres_prefix))
    assert not storage.capabilities.push
    storage.migrate()
    by = Claimant("server", "worker")
    storage.register(ServerInfo(by.server, None, "host", 1, None), 1_000_000)
    for n in range(10):
        storage.insert([NewJob(f"job-{n}", "t", "q", b"{}")])
        storage.exchange(by, queues=["q"], limit=1)
        storage.wait(["q"], 0.01)
        storage.get([f"job-{n}"])
    storage.close()
    # Both server connections, one after the other and at once.
    plain = pooler.partition("?")[0]
    with psycopg.connect(plain, prepare_threshold=None) as one, psycopg.connect(plain, prepare_threshold=None) as two:
        for connection in (one, two):
            assert connection.execute("SELECT statement FROM pg_prepared_statements").fetchall() == []
            assert connection.execute("SELECT pg_listening_channels()").fetchall() == []
            settings = "SELECT current_setting('enable_seqscan'), current_setting('search_path')"
            assert connection.execute(settings).fetchone() == ("on", '"$user", public')
