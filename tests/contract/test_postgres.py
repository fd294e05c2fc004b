from collections.abc import Iterator

import psycopg
import pytest

from later.backends.postgres import Postgres
from later.testing import Begin, MakeStorage, StorageContract
from tests.support.connections import Users
from tests.support.servers import Apart


class TestPostgres(StorageContract):
    scheme = "postgresql"

    @pytest.fixture
    def make_storage(self, postgres_url: str, postgres_prefix: str) -> MakeStorage:
        return Apart(Postgres(postgres_url).open_storage, postgres_prefix)

    @pytest.fixture
    def begin(self, postgres_url: str) -> Iterator[Begin]:
        with psycopg.connect(postgres_url.partition("?")[0]) as connection:
            yield lambda: Users(connection)
            connection.rollback()
