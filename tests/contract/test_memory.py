import pytest

from later.backends.memory import Memory
from later.testing import BrokerContract, MakeBroker, MakeStorage, StorageContract


class TestMemoryStorage(StorageContract):
    scheme = "memory"
    histories = 200

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        return Memory().open_storage


class TestMemoryBroker(BrokerContract):
    scheme = "memory"

    @pytest.fixture
    def make_broker(self) -> MakeBroker:
        return Memory().open_broker
