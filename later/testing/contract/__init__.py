"""The contract suites: what the docstrings of `later.core.ports` say, in tests."""

from later.testing.contract.bench import Begin, MakeStorage, UserTransaction
from later.testing.contract.broker import BrokerContract, MakeBroker
from later.testing.contract.pair import PairContract
from later.testing.contract.storage import StorageContract

__all__ = ["Begin", "BrokerContract", "MakeBroker", "MakeStorage", "PairContract", "StorageContract", "UserTransaction"]
