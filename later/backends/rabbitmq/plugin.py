"""`amqp://` and `amqps://`; see `target`."""

from collections.abc import Sequence

# Imported for its absence: without the driver the plugin does not load, and the error says what to install.
import pika  # noqa: F401  # pyright: ignore[reportUnusedImport]

from later.backends.rabbitmq import RabbitMQ
from later.backends.rabbitmq.broker import capabilities
from later.backends.rabbitmq.target import SCHEMES
from later.core.hookspecs import hookimpl
from later.core.ports import BrokerBackend, BrokerCapabilities


@hookimpl
def later_broker(url: str) -> BrokerBackend | None:
    return RabbitMQ(url) if url.partition("://")[0].lower() in SCHEMES else None


@hookimpl
def later_capabilities(scheme: str) -> Sequence[BrokerCapabilities]:  # noqa: ARG001  the same for all
    return [capabilities(quorum=False)]
