import pytest

from later.backends.postgres import Postgres
from later.testing import MakeStorage, StorageContract
from tests.support.servers import Apart


class TestPostgres(StorageContract):
    @pytest.fixture
    def make_storage(self, postgres_url: str, postgres_prefix: str) -> MakeStorage:
        return Apart(Postgres(postgres_url).open_storage, postgres_prefix)
