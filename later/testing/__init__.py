"""For tests of apps: `VirtualStorage`, which runs jobs by a clock that jumps, and the fixture `virtual_storage`.

For authors of backends: the contract that every backend passes, the model that it is compared with, and a clock.

    from later.testing import StorageContract

    class TestMyStorage(StorageContract):
        @pytest.fixture
        def make_storage(self, tmp_path):
            return MyBackend(tmp_path / "jobs.db").open_storage

Needs pytest and hypothesis. No part of `later` that runs in production imports this package.
"""

import pytest

# Before the import: pytest rewrites the assertions of modules that are not loaded yet, and a contract that fails
# ought to say what it compared.
pytest.register_assert_rewrite("later.testing.contract", "later.testing.machine")

from later.testing.clock import VirtualClock  # noqa: E402
from later.testing.contract import (  # noqa: E402
    Begin,
    BrokerContract,
    MakeBroker,
    MakeStorage,
    PairContract,
    StorageContract,
    UserTransaction,
)
from later.testing.machine import StorageMachine, check_against_model  # noqa: E402
from later.testing.model import Model, ModelStorage, ModelTransaction  # noqa: E402
from later.testing.running import VirtualStorage, virtual_storage  # noqa: E402

__all__ = [
    "Begin",
    "BrokerContract",
    "MakeBroker",
    "MakeStorage",
    "Model",
    "ModelStorage",
    "ModelTransaction",
    "PairContract",
    "StorageContract",
    "StorageMachine",
    "UserTransaction",
    "VirtualClock",
    "VirtualStorage",
    "check_against_model",
    "virtual_storage",
]
