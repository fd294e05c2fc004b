"""`memory://NAME`: one store per process and name; the name may be left out."""

from collections.abc import Sequence
from threading import Lock

from later.backends.memory import Memory
from later.backends.memory.broker import MemoryBroker
from later.backends.memory.storage import MemoryStorage
from later.core.errors import ConfigError, InvalidName
from later.core.hookspecs import hookimpl
from later.core.names import check_name
from later.core.ports import BrokerBackend, BrokerCapabilities, StorageBackend, StorageCapabilities

_lock = Lock()
_stores: dict[str, Memory] = {}


def _store(url: str) -> Memory | None:
    scheme, separator, name = url.partition("://")
    if scheme.lower() != "memory" or not separator:
        return None
    name = name.removesuffix("/")
    try:
        check_name("store", name or "default")
    except InvalidName:
        # Without the name: what somebody pasted here may be another kind of URL, with a password.
        raise ConfigError("a memory URL is memory:// or memory://NAME (A-Z a-z 0-9 _ . -)") from None
    with _lock:
        return _stores.setdefault(name, Memory())


@hookimpl
def later_storage(url: str) -> StorageBackend | None:
    return _store(url)


@hookimpl
def later_broker(url: str) -> BrokerBackend | None:
    return _store(url)


@hookimpl
def later_capabilities(scheme: str) -> Sequence[StorageCapabilities | BrokerCapabilities]:  # noqa: ARG001  the same for all
    return [MemoryStorage.capabilities, MemoryBroker.capabilities]
