"""What a URL says about where the servers are and how to log in."""

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

from later.core.errors import ConfigError

SCHEMES: Final = {"nats": False, "nats+tls": True}
"""By scheme, whether it speaks TLS."""

PORT: Final = 4222

_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@/\s,]+))(?::([0-9]{1,5}))?")
_FILES: Final = frozenset({"ca", "cert", "key"})
_REPLICAS: Final = frozenset({"1", "3", "5"})


@dataclass(frozen=True, slots=True)
class Target:
    servers: tuple[str, ...]
    """HOST:PORT of each."""
    tls: bool
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca: str | None = None
    """PEM files for TLS; None: what the system trusts."""
    cert: str | None = None
    key: str | None = None
    replicas: int = 1

    @property
    def place(self) -> str:
        """For messages: where it is, without secrets."""
        return ", ".join(self.servers)

    @property
    def address(self) -> str:
        """Its URL, the secrets left out."""
        login = "" if self.token is None else "***@"
        if self.user is not None:
            login = f"{quote(self.user, safe='')}:***@"
        return f"{'nats+tls' if self.tls else 'nats'}://{login}{','.join(self.servers)}"


def parse(url: str) -> Target:
    """The target that `url` names. The login ends at the last `@`, so that a password may hold any character, as it is
    or percent-encoded.

    Raises ConfigError, which never quotes the URL.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        raise ConfigError("not the URL of a NATS server: write nats://USER:PASSWORD@HOST:PORT, or nats+tls for TLS")
    if any("\ud800" <= char <= "\udfff" for char in url):  # bytes of an environment variable
        raise ConfigError("the NATS URL is not UTF-8")
    tls = SCHEMES[scheme.lower()]
    login, at, rest = rest.rpartition("@")
    rest, _, query = rest.partition("?")
    hosts, _, path = rest.partition("/")
    if path:
        raise ConfigError("the NATS URL has a path after the host: a NATS server has none; write options after a ?")
    user, password, token = _login(login) if at else (None, None, None)
    servers = tuple(_server(host) for host in (hosts or "localhost").split(","))
    options = _options(query)
    replicas = options.pop("replicas", "1")
    if replicas not in _REPLICAS:
        raise ConfigError("the option replicas of the NATS URL is not 1, 3 or 5")
    if options and not tls:
        raise ConfigError(f"the option {min(options)} of the NATS URL is for TLS: write nats+tls:// instead of nats://")
    if "key" in options and "cert" not in options:
        raise ConfigError("the NATS URL names a key without its certificate: add cert=FILE")
    return Target(servers, tls, user, password, token, replicas=int(replicas), **options)


def _login(login: str) -> tuple[str | None, str | None, str | None]:
    user, colon, password = login.partition(":")
    if not user or (colon and not password):
        raise ConfigError("the NATS URL has an @ but neither USER:PASSWORD nor TOKEN before it")
    if not colon:
        return None, None, _decoded(user)
    return _decoded(user), _decoded(password), None


def _server(text: str) -> str:
    match = _HOST.fullmatch(text)
    if match is None:
        raise ConfigError(
            "the NATS URL does not name a host and port: write HOST:PORT (several with commas between them), an IPv6 "
            "address in [brackets], and put a login before an @"
        )
    port = int(match[3]) if match[3] else PORT
    if not 1 <= port <= 65535:
        raise ConfigError(f"the port {port} in the NATS URL is outside 1 to 65535")
    return f"[{match[1]}]:{port}" if match[1] else f"{match[2]}:{port}"


def _options(query: str) -> dict[str, str]:
    found = dict(parse_qsl(query, keep_blank_values=True))
    unknown = found.keys() - _FILES - {"replicas"}
    if unknown:
        raise ConfigError(
            f"the NATS URL has {len(unknown)} unknown option(s) after the ?: known are ca, cert, key, replicas"
        )
    return found


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeError:
        raise ConfigError("the percent-encoding of the login in the NATS URL is not UTF-8") from None
