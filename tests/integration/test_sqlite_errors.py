"""What a SQLite file in a bad state, or in a bad place, says."""

import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import pytest

from later.backends.sqlite import SQLite, schema
from later.backends.sqlite.storage import SQLiteStorage
from later.core.errors import (
    BackendError,
    ConfigError,
    Corrupt,
    InvalidOption,
    SchemaMismatch,
    StorageFull,
    StorageReadOnly,
    Unavailable,
    Unsupported,
)
from later.core.ports import StorageOptions
from later.core.records import NewJob

NOBODY = 65534


class Open(Protocol):
    def __call__(self, file: Path, seconds: float = 5) -> SQLiteStorage: ...


@pytest.fixture
def open_storage() -> Iterator[Open]:
    storages: list[SQLiteStorage] = []

    def open_one(file: Path, seconds: float = 5) -> SQLiteStorage:
        backend = SQLite(file, timeout=timedelta(seconds=seconds))
        storage = backend.open_storage(StorageOptions("test"))
        assert isinstance(storage, SQLiteStorage)
        storages.append(storage)
        return storage

    yield open_one
    for storage in storages:
        storage.close()


def new_job(job_id: str, payload: bytes = b"{}") -> NewJob:
    return NewJob(job_id, "send_email", "default", payload)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite3"


@contextmanager
def raw(file: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def test_a_newer_schema_is_left_alone(open_storage: Open, file: Path) -> None:
    open_storage(file).migrate()
    with raw(file) as connection:
        connection.execute("INSERT INTO later_migration VALUES (99, 'future', 0)")
    with pytest.raises(SchemaMismatch, match=r"version 99.*up to 1: upgrade later-jobs") as caught:
        open_storage(file).migrate()
    assert str(file) in str(caught.value)


def test_use_before_migrate_says_so(open_storage: Open, file: Path) -> None:
    with pytest.raises(SchemaMismatch, match="migrate"):
        open_storage(file).insert([new_job("1")])


def test_a_failed_migration_leaves_nothing(open_storage: Open, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = schema.all_migrations()
    broken = schema.Migration(2, "broken", "CREATE TABLE later_more (x);\nCREATE nonsense;\n")
    monkeypatch.setattr(schema, "all_migrations", lambda: [*good, broken])
    with pytest.raises(BackendError, match="syntax error"):
        open_storage(file).migrate()
    with raw(file) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == []


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database(open_storage: Open, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(Corrupt, match="restore") as caught:
        open_storage(file).migrate()
    assert str(file) in str(caught.value)
    assert file.read_bytes() == content


def test_a_damaged_page(open_storage: Open, file: Path) -> None:
    storage = open_storage(file)
    storage.migrate()
    storage.insert([new_job(f"{number}", b"x" * 1000) for number in range(1000)])
    storage.close()
    with file.open("r+b") as damaged:
        damaged.seek(4096)
        damaged.write(b"\xff" * (file.stat().st_size - 4096))
    with pytest.raises(Corrupt):
        open_storage(file).get(["999"])


def test_no_room_stores_nothing_and_loses_nothing(open_storage: Open, file: Path) -> None:
    storage = open_storage(file)
    storage.migrate()
    storage.insert([new_job("first")])
    with storage._database.write() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 20}")
    with pytest.raises(StorageFull, match="free space") as caught:
        storage.insert([new_job(f"{number}", b"x" * 1000) for number in range(1000)])
    assert str(file) in str(caught.value)
    assert sum(storage.counts().by_queue["default"].values()) == 1
    # The limit ended with the connection, as it were with a disk that has room again.
    storage.insert([new_job(f"{number}", b"x" * 1000) for number in range(1000)])
    assert sum(storage.counts().by_queue["default"].values()) == 1001


def test_a_lock_held_beyond_the_timeout(open_storage: Open, file: Path) -> None:
    storage = open_storage(file, seconds=0.05)
    storage.migrate()
    with raw(file) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked by another connection") as caught:
            storage.insert([new_job("1")])
        other.execute("ROLLBACK")
    assert str(file) in str(caught.value)
    storage.insert([new_job("1")])


def test_a_missing_folder_and_a_folder_instead_of_a_file(open_storage: Open, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="create the folder"):
        open_storage(tmp_path / "missing" / "jobs.sqlite3").migrate()
    with pytest.raises(ConfigError, match="is a folder"):
        open_storage(tmp_path).migrate()


def test_an_old_sqlite_is_refused(open_storage: Open, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(Unsupported, match=r"needs 3\.37 or newer"):
        open_storage(file).migrate()


def test_options_are_checked() -> None:
    with pytest.raises(InvalidOption, match="synchronous"):
        SQLite("x.db", synchronous="OFF")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="timeout"):
        SQLite("x.db", timeout=timedelta(seconds=-1))
    with pytest.raises(ConfigError, match="memory://"):
        SQLite(":memory:")
    for path in ("", "file:x.db?mode=ro", "x\0.db"):
        with pytest.raises(ConfigError, match="path of a file"):
            SQLite(path)


def test_a_new_file_is_private_and_told_of_once(
    open_storage: Open, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "later")
    for _ in range(2):
        storage = open_storage(file)
        storage.migrate()
    assert caplog.text.count(f"there was no SQLite file {file}") == 1
    assert {stat.S_IMODE(path.stat().st_mode) for path in file.parent.glob("jobs.sqlite3*")} == {0o600}


# Read-only. Permissions do not bind root, so as root these tests act as nobody for a moment, in a folder within
# nobody's reach.


@pytest.fixture
def public_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="later-"))
    folder.chmod(0o755)
    if os.geteuid() == 0 and any(not parent.stat().st_mode & stat.S_IXOTH for parent in folder.parents):
        pytest.skip("the folder for temporary files is closed to other users")
    yield folder
    shutil.rmtree(folder)


@contextmanager
def unprivileged() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_cannot_be_written(open_storage: Open, public_folder: Path) -> None:
    public_folder.chmod(0o555)
    with unprivileged(), pytest.raises(StorageReadOnly, match="let this user write") as caught:
        open_storage(public_folder / "jobs.sqlite3").migrate()
    assert str(public_folder) in str(caught.value)


@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o777, 0o444), (0o555, 0o444), (0o555, 0o666)])
def test_a_file_that_cannot_be_written(
    open_storage: Open, public_folder: Path, folder_mode: int, file_mode: int
) -> None:
    file = public_folder / "jobs.sqlite3"
    storage = open_storage(file)
    storage.migrate()
    storage.insert([new_job("1")])
    storage.close()
    file.chmod(file_mode)
    public_folder.chmod(folder_mode)
    with unprivileged():
        storage = open_storage(file)
        with pytest.raises(StorageReadOnly, match="let this user write") as caught:
            storage.insert([new_job("2")])
        storage.close()
    assert str(file) in str(caught.value)
    assert open_storage(file).counts().by_queue == {"default": {"Enqueued": 1}}
