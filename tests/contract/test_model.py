import pytest

from later.testing import Begin, MakeStorage, Model, ModelTransaction, StorageContract


class TestModel(StorageContract):
    """The model is held to its own contract; that it agrees with itself shows that it is deterministic."""

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        return Model().open_storage

    @pytest.fixture
    def begin(self) -> Begin:
        return ModelTransaction
