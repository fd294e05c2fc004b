import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from later.backends.sqlite import SQLite
from later.testing import Begin, MakeStorage, StorageContract
from tests.support.connections import Users


class TestSQLite(StorageContract):
    scheme = "sqlite"

    @pytest.fixture
    def make_storage(self, tmp_path: Path) -> MakeStorage:
        return SQLite(tmp_path / "jobs.sqlite3").open_storage

    @pytest.fixture
    def begin(self, tmp_path: Path) -> Iterator[Begin]:
        with closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as connection:
            yield lambda: Users(connection)
