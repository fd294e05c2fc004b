from pathlib import Path

import pytest

from later.backends.sqlite import SQLite
from later.testing import MakeStorage, StorageContract


class TestSQLite(StorageContract):
    @pytest.fixture
    def make_storage(self, tmp_path: Path) -> MakeStorage:
        return SQLite(tmp_path / "jobs.sqlite3").open_storage
