"""Redis and PostgreSQL over TLS, with an authority of one's own: what is trusted works, all else is told at once."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from later.backends.postgres import Postgres
from later.backends.redis import Redis
from later.core.errors import ConfigError, Unavailable
from later.core.ports import StorageBackend, StorageOptions
from later.core.records import NewJob
from tests.support.postgres import PostgresServer
from tests.support.servers import RedisServer, free_port, make_certificates

SOON = 5.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the servers."""
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of an authority that has signed nothing here."""
    folder = tmp_path_factory.mktemp("stranger")
    make_certificates(folder)
    return folder / "ca.pem"


@pytest.fixture(scope="module")
def redis_port(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    files = {"cert-file": "server.pem", "key-file": "server.key", "ca-cert-file": "ca.pem"}
    options = [part for name, file in files.items() for part in (f"--tls-{name}", str(certificates / file))]
    server = RedisServer(
        tmp_path_factory.mktemp("redis"), "--tls-port", str(port), "--tls-auth-clients", "no", *options,
        "--bind", "127.0.0.1", "127.0.0.2",
    ).start()  # fmt: skip
    yield port
    server.stop()


@pytest.fixture(scope="module")
def postgres_port(certificates: Path) -> Iterator[int]:
    server = PostgresServer(ssl="on")
    for file, name in (("server.pem", "server.crt"), ("server.key", "server.key")):
        copy = server.data / name
        shutil.copy(certificates / file, copy)
        if server.user is not None:
            shutil.chown(copy, server.user, server.user)
        copy.chmod(0o600)
    server.only("hostssl all all all trust")
    yield server.start().port
    server.stop()


def works(backend: StorageBackend) -> None:
    storage = backend.open_storage(StorageOptions("tls"))
    try:
        storage.migrate()
        assert not storage.wait(["q"], 0.01)
        assert storage.insert([NewJob("job", "type", "q", b"{}")])[0].ref is not None
        assert storage.wait(["q"], SOON)
    finally:
        storage.close()


def refused(backend: StorageBackend, says: str, kind: type[Exception] | tuple[type[Exception], ...]) -> None:
    storage = backend.open_storage(StorageOptions("tls"))
    started = time.monotonic()
    with pytest.raises(kind, match=says) as caught:
        storage.migrate()
    assert time.monotonic() - started < SOON
    assert "secret" not in str(caught.value)
    storage.close()


def test_redis_with_its_authority(redis_port: int, certificates: Path) -> None:
    works(Redis(f"rediss://localhost:{redis_port}?ca={certificates / 'ca.pem'}"))


def test_redis_with_another_authority(redis_port: int, stranger: Path) -> None:
    refused(Redis(f"rediss://:secret@localhost:{redis_port}?ca={stranger}"), "certificate that is trusted", ConfigError)


def test_redis_with_the_authorities_of_the_system(redis_port: int) -> None:
    refused(Redis(f"rediss://:secret@localhost:{redis_port}"), "certificate that is trusted", ConfigError)


def test_redis_under_another_name(redis_port: int, certificates: Path) -> None:
    backend = Redis(f"rediss://:secret@127.0.0.2:{redis_port}?ca={certificates / 'ca.pem'}")
    refused(backend, "for this host name", ConfigError)


def test_redis_without_tls_to_its_port(redis_port: int) -> None:
    refused(Redis(f"redis://:secret@localhost:{redis_port}"), f"localhost:{redis_port}", (ConfigError, Unavailable))


def test_redis_with_tls_to_a_port_without(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    storage = Redis(f"rediss://:secret@localhost:{server.port}").open_storage(StorageOptions("tls"))
    with pytest.raises(Unavailable, match="does not speak TLS: write redis://") as caught:
        storage.migrate()
    assert "secret" not in str(caught.value)
    storage.close()
    server.stop()


def postgres(port: int, options: str, host: str = "localhost") -> Postgres:
    return Postgres(f"postgresql://postgres:secret@{host}:{port}/postgres?hostaddr=127.0.0.1&{options}")


def test_postgres_with_its_authority(postgres_port: int, certificates: Path) -> None:
    works(postgres(postgres_port, f"sslmode=verify-full&sslrootcert={certificates / 'ca.pem'}"))


def test_postgres_with_another_authority(postgres_port: int, stranger: Path) -> None:
    refused(postgres(postgres_port, f"sslmode=verify-full&sslrootcert={stranger}"), "no TLS connection", ConfigError)


def test_postgres_with_an_authority_that_is_not_there(postgres_port: int) -> None:
    options = "sslmode=verify-full&sslrootcert=/nowhere.pem"
    refused(postgres(postgres_port, options), "no TLS connection", ConfigError)


def test_postgres_under_another_name(postgres_port: int, certificates: Path) -> None:
    options = f"sslmode=verify-full&sslrootcert={certificates / 'ca.pem'}"
    refused(postgres(postgres_port, options, "elsewhere.invalid"), "for this host name", ConfigError)


def test_postgres_without_tls(postgres_port: int) -> None:
    refused(postgres(postgres_port, "sslmode=disable"), "pg_hba.conf", ConfigError)
