"""`postgresql://` and `postgres://`; see `target`."""

# Imported for its absence: without the driver the plugin does not load, and the error says what to install.
import psycopg  # noqa: F401  # pyright: ignore[reportUnusedImport]

from later.backends.postgres import Postgres
from later.backends.postgres.target import SCHEMES
from later.core.hookspecs import hookimpl
from later.core.ports import StorageBackend


@hookimpl
def later_storage(url: str) -> StorageBackend | None:
    return Postgres(url) if url.partition("://")[0].lower() in SCHEMES else None
