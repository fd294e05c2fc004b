"""What a URL says about where a RabbitMQ is and how to log in."""

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

from later.core.errors import ConfigError

SCHEMES: Final = {"amqp": False, "amqps": True}
"""By scheme, whether it speaks TLS."""

_PORTS: Final = {False: 5672, True: 5671}

_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([^\[\]:@/\s]*))(?::([0-9]{1,5}))?")
_OPTIONS: Final = frozenset({"ca", "cert", "key", "quorum"})
_LONGEST: Final = 255
"""Bytes of a virtual host's name: AMQP writes its length in one byte."""


@dataclass(frozen=True, slots=True)
class Target:
    host: str
    port: int
    vhost: str
    user: str
    password: str = field(repr=False)
    tls: bool
    ca: str | None = None
    """PEM files for TLS; None: what the system trusts."""
    cert: str | None = None
    key: str | None = None
    quorum: bool = False

    @property
    def address(self) -> str:
        """Its URL, the password left out."""
        vhost = "" if self.vhost == "/" else f"/{quote(self.vhost, safe='')}"
        return f"{'amqps' if self.tls else 'amqp'}://{quote(self.user, safe='')}:***@{self.server}{vhost}"

    @property
    def place(self) -> str:
        """For messages: where it is, without secrets."""
        return self.server + ("" if self.vhost == "/" else f" virtual host {self.vhost}")

    @property
    def server(self) -> str:
        """Its host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse(url: str) -> Target:
    """The target that `url` names: `amqp://USER:PASSWORD@HOST:PORT/VHOST`. The login ends at the last `@`, so that a
    password may hold any character, as it is or percent-encoded. Without a virtual host, with or without the last
    slash, it is RabbitMQ's default, which is named `/` (`%2F` in a URL).

    Raises ConfigError, which never quotes the URL.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        raise ConfigError("not the URL of a RabbitMQ: write amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps for TLS")
    tls = SCHEMES[scheme.lower()]
    login, at, rest = rest.rpartition("@")
    user, password = _login(login) if at else ("guest", "guest")
    rest, _, query = rest.partition("?")
    place, _, vhost = rest.partition("/")
    host, port = _host(place, _PORTS[tls])
    options = _options(query)
    quorum = options.pop("quorum", "false").lower()
    if quorum not in {"true", "false"}:
        raise ConfigError("the option quorum of the RabbitMQ URL is neither true nor false")
    if options and not tls:
        raise ConfigError(
            f"the option {min(options)} of the RabbitMQ URL is for TLS: write amqps:// instead of amqp://"
        )
    return Target(host, port, _vhost(vhost), user, password, tls, quorum=quorum == "true", **options)


def _login(login: str) -> tuple[str, str]:
    user, colon, password = login.partition(":")
    if not colon or not user or not password:
        raise ConfigError("the RabbitMQ URL has an @ but not USER:PASSWORD before it")
    return _decoded("login", user), _decoded("login", password)


def _host(text: str, port: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if match is None:
        raise ConfigError(
            "the RabbitMQ URL does not name a host and port: write HOST:PORT, an IPv6 address in [brackets], and put a "
            "login before an @"
        )
    number = int(match[3]) if match[3] else port
    if not 1 <= number <= 65535:
        raise ConfigError(f"the port {number} in the RabbitMQ URL is outside 1 to 65535")
    return match[1] or match[2] or "localhost", number


def _vhost(text: str) -> str:
    if "/" in text or "#" in text:
        raise ConfigError(
            "the virtual host in the RabbitMQ URL holds a / or #: write %2F or %23 (the default virtual host needs no "
            "name)"
        )
    vhost = _decoded("virtual host", text) or "/"
    if len(vhost.encode()) > _LONGEST:
        raise ConfigError(f"the virtual host in the RabbitMQ URL is longer than {_LONGEST} bytes")
    return vhost


def _options(query: str) -> dict[str, str]:
    found = dict(parse_qsl(query, keep_blank_values=True))
    unknown = found.keys() - _OPTIONS
    if unknown:
        known = ", ".join(sorted(_OPTIONS))
        raise ConfigError(f"the RabbitMQ URL has {len(unknown)} unknown option(s) after the ?: known are {known}")
    return found


def _decoded(what: str, text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
        decoded.encode()
    except UnicodeError:
        raise ConfigError(f"the percent-encoding of the {what} in the RabbitMQ URL is not UTF-8") from None
    if "\0" in decoded:
        raise ConfigError(f"the {what} in the RabbitMQ URL holds a zero byte")
    return decoded
