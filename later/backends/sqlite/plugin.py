"""`sqlite:///relative.db`, `sqlite:////absolute.db`, or `sqlite:file.db`."""

from collections.abc import Sequence
from urllib.parse import unquote

from later.backends.sqlite import SQLite
from later.backends.sqlite.storage import SQLiteStorage
from later.core.errors import ConfigError
from later.core.hookspecs import hookimpl
from later.core.ports import StorageBackend, StorageCapabilities

_FORMS = "write sqlite:///relative.db, sqlite:////absolute.db or sqlite:file.db"


@hookimpl
def later_storage(url: str) -> StorageBackend | None:
    scheme, _, rest = url.partition(":")
    if scheme.lower() != "sqlite":
        return None
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        if host or not slash:
            raise ConfigError(f"a SQLite URL names a file, without a host: {_FORMS}")
    if "?" in rest or "#" in rest:
        raise ConfigError(f"a SQLite URL has no options (percent-encode a ? or # of the file's name): {_FORMS}")
    try:
        path = unquote(rest, errors="strict")
    except UnicodeDecodeError:
        raise ConfigError(f"the percent-encoding of the SQLite URL is not UTF-8: {_FORMS}") from None
    if not path:
        raise ConfigError(f"the SQLite URL names no file: {_FORMS}")
    return SQLite(path)


@hookimpl
def later_capabilities(scheme: str) -> Sequence[StorageCapabilities]:  # noqa: ARG001  the same for all
    return [SQLiteStorage.capabilities]
