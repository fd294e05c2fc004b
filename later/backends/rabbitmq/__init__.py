"""Hints through RabbitMQ: durable, shared between hosts, pushed to the workers."""

import ssl
from typing import TYPE_CHECKING

from later.backends.rabbitmq.health import BrokerHealth, Trouble
from later.backends.rabbitmq.names import Names
from later.backends.rabbitmq.target import Target, parse
from later.core.errors import ConfigError
from later.core.ports import BrokerOptions

if TYPE_CHECKING:
    from later.backends.rabbitmq.broker import RabbitBroker

__all__ = ["BrokerHealth", "RabbitMQ", "Trouble"]


class RabbitMQ:
    """A RabbitMQ (3.10 or newer) to carry messages to workers; several apps may share it.

    url: amqp://USER:PASSWORD@HOST[:PORT][/VHOST], amqps:// for TLS (the server's certificate is verified). Options
        after a `?`: ca, cert and key (files, for TLS), quorum=true. Special characters of a password may be
        percent-encoded. Without a login: guest, guest.
    quorum: use quorum queues, which survive the loss of a server of a cluster; they know no priorities. Without it:
        durable classic queues with priorities. A queue keeps the kind that it was created with.

    Queues are `APP:QUEUE`; what is no message of later, or cannot be read, is moved to `APP.dead`. The user needs to
    configure, write and read these.

    Connects at first use, in each process: once to publish and once to receive, because a server that is short of
    memory stops reading connections that publish. Raises ConfigError.
    """

    def __init__(self, url: str, *, quorum: bool = False) -> None:
        self._target: Target = parse(url)
        self._quorum = quorum or self._target.quorum
        self._tls = _context(self._target) if self._target.tls else None

    def __repr__(self) -> str:
        return f"RabbitMQ({self._target.place})"

    def open_broker(self, options: BrokerOptions) -> "RabbitBroker":
        # Here, so that naming a server does not import a driver.
        from later.backends.rabbitmq.broker import RabbitBroker

        Names(options.namespace)
        return RabbitBroker(self._target, self._tls, options.namespace, quorum=self._quorum)


def _context(target: Target) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=target.ca)
        if target.cert is not None:
            context.load_cert_chain(target.cert, target.key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"a certificate file of the RabbitMQ URL (ca, cert, key) cannot be used: {type(error).__name__}"
        ) from None
    return context
