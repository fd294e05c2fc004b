"""TLS, and the knowledge whether it is really spoken.

A NATS server says in clear whether it wants TLS, and the driver goes on in clear when it does not. So whoever sits on
the line, or a server that was set up wrongly, could have the password for the asking. `WatchedContext` tells whether
there has been a handshake; the session sends nothing secret before.
"""

import ssl
from typing import Any

from typing_extensions import override

from later.core.errors import ConfigError
from later_nats.target import Target


class WatchedContext(ssl.SSLContext):
    """For one connection."""

    used = False

    @override
    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        self.used = True
        return super().wrap_bio(*args, **kwargs)


def context(target: Target) -> WatchedContext:
    """Raises ConfigError when a file cannot be used."""
    made = WatchedContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if target.ca is None:
            made.load_default_certs()
        else:
            made.load_verify_locations(target.ca)
        if target.cert is not None:
            made.load_cert_chain(target.cert, target.key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"a certificate file of the NATS URL (ca, cert, key) cannot be used: {type(error).__name__}"
        ) from None
    return made
