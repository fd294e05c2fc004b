"""`nats://` and `nats+tls://`; see `target`."""

from collections.abc import Sequence

# Imported for its absence: without the driver the plugin does not load, and the error says so.
import nats  # noqa: F401  # pyright: ignore[reportUnusedImport]

from later.core.hookspecs import hookimpl
from later.core.ports import BrokerBackend, BrokerCapabilities
from later_nats import Nats
from later_nats.target import SCHEMES


@hookimpl
def later_broker(url: str) -> BrokerBackend | None:
    return Nats(url) if url.partition("://")[0].lower() in SCHEMES else None


@hookimpl
def later_capabilities(scheme: str) -> Sequence[BrokerCapabilities]:
    return [Nats.capabilities]
