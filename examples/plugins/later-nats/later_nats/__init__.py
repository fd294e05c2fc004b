"""NATS JetStream as a broker for `later`."""

from typing import TYPE_CHECKING

from later.core.ports import BrokerCapabilities, BrokerOptions
from later_nats.target import Target, parse
from later_nats.tls import context

if TYPE_CHECKING:
    from later_nats.broker import NatsBroker

__all__ = ["Nats"]


class Nats:
    """NATS servers (2.9 or newer, with JetStream) to carry messages to workers; several apps may share them.

    url: nats://USER:PASSWORD@HOST[:PORT], or TOKEN@ instead of a user; nats+tls:// for TLS (the server's certificate
        is verified, and no password is sent before). Several servers of one cluster: HOST:PORT,HOST:PORT. Options after
        a `?`: ca, cert and key (files, for TLS), replicas (1, 3 or 5: on how many servers of the cluster a message is
        kept, when the stream is created). Special characters of a password may be percent-encoded.

    The messages of an app are in a stream of its own, which is created at first use; see the README.

    Connects at first use, in each process, with one thread of its own. Raises ConfigError.
    """

    capabilities = BrokerCapabilities(durable=True, shared=True, priority=False)

    def __init__(self, url: str) -> None:
        self._target: Target = parse(url)
        if self._target.tls:
            context(self._target)  # so that a file that cannot be read is told here

    def __repr__(self) -> str:
        return f"Nats({self._target.place})"

    def open_broker(self, options: BrokerOptions) -> "NatsBroker":
        # Here, so that naming a server does not import a driver.
        from later_nats.broker import NatsBroker

        return NatsBroker(self._target, options.namespace, self.capabilities)
