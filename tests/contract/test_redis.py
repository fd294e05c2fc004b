import pytest

from later.backends.redis import Redis
from later.testing import MakeStorage, StorageContract
from tests.support.servers import Apart


class TestRedis(StorageContract):
    scheme = "redis"

    @pytest.fixture
    def make_storage(self, redis_url: str, redis_prefix: str) -> MakeStorage:
        return Apart(Redis(redis_url).open_storage, redis_prefix)
