"""Storage and broker in this process's memory. Nothing survives the process, and no other process sees it."""

from threading import Lock

from later.backends.memory.broker import Exchange, MemoryBroker
from later.backends.memory.storage import MemoryStorage, Namespace
from later.core.ports import BrokerOptions, StorageOptions

__all__ = ["Memory"]


class Memory:
    """A store of its own, to pass as `storage`, `broker` or both; it lives as long as this object.

    What is opened from one object with the same namespace shares its jobs and messages. `memory://NAME` is
    one such object per process and name.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._namespaces: dict[str, Namespace] = {}
        self._exchanges: dict[str, Exchange] = {}

    def open_storage(self, options: StorageOptions) -> MemoryStorage:
        with self._lock:
            namespace = self._namespaces.setdefault(options.namespace, Namespace())
        return MemoryStorage(namespace, options)

    def open_broker(self, options: BrokerOptions) -> MemoryBroker:
        with self._lock:
            exchange = self._exchanges.setdefault(options.namespace, Exchange())
        return MemoryBroker(exchange)
