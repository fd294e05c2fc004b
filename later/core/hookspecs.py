"""The hooks of a backend plugin.

A backend is a module (or object) named by an entry point of the group `later.backends`; the entry point's name is the
URL scheme. `later` imports it only when a URL asks for that scheme, or to list what is installed. It implements
`later_storage`, `later_broker` or both; `later_capabilities` is for people who choose.
"""

from collections.abc import Sequence

import pluggy

from later.core.ports import BrokerBackend, BrokerCapabilities, StorageBackend, StorageCapabilities

PROJECT = "later"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def later_storage(url: str) -> StorageBackend | None:
    """The storage that `url` names, not yet opened. Raise ConfigError for a URL that cannot be one of yours; do not
    connect here. Never put the URL into an error message: it may hold a password."""


@hookspec(firstresult=True)
def later_broker(url: str) -> BrokerBackend | None:
    """The broker that `url` names, not yet opened; otherwise as `later_storage`."""


@hookspec(firstresult=True)
def later_capabilities(scheme: str) -> Sequence[StorageCapabilities | BrokerCapabilities] | None:
    """What a storage and a broker behind `scheme` (in lower case) can do when its URL has no options: at most one of
    each. Optional; without connecting. `later backends` shows it; at run time only the opened object is asked."""
