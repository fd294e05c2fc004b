"""`redis://`, `rediss://`, `valkey://`, `valkeys://`, and `redis+sentinel://` and the like; see `target`."""

from collections.abc import Sequence

# Imported for its absence: without the driver the plugin does not load, and the error says what to install.
import redis  # noqa: F401  # pyright: ignore[reportUnusedImport]

from later.backends.redis import Redis
from later.backends.redis.storage import RedisStorage
from later.backends.redis.target import SCHEMES
from later.core.hookspecs import hookimpl
from later.core.ports import StorageBackend, StorageCapabilities


@hookimpl
def later_storage(url: str) -> StorageBackend | None:
    return Redis(url) if url.partition("://")[0].lower() in SCHEMES else None


@hookimpl
def later_capabilities(scheme: str) -> Sequence[StorageCapabilities]:  # noqa: ARG001  the same for all
    return [RedisStorage.capabilities]
