"""What a URL says about where a server is and how to log in."""

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import parse_qsl, unquote

from later.core.errors import ConfigError


class Kind(Enum):
    SINGLE = "one server"
    SENTINEL = "sentinels"
    CLUSTER = "a cluster"


_BASES: Final = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
_KINDS: Final = {"": Kind.SINGLE, "+sentinel": Kind.SENTINEL, "+cluster": Kind.CLUSTER}

SCHEMES: Final = {base + suffix: (kind, tls) for base, tls in _BASES.items() for suffix, kind in _KINDS.items()}

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379

_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([^\[\]:@\s]*))(?::([0-9]{1,5}))?")
_OPTIONS: Final = frozenset({"ca", "cert", "key", "sentinel_user", "sentinel_password"})


@dataclass(frozen=True, slots=True)
class Target:
    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    user: str | None
    password: str | None = field(repr=False)
    db: int
    tls: bool
    group: str = ""
    """What the sentinels call the group of servers."""
    ca: str | None = None
    """PEM files for TLS; None: what the system trusts."""
    cert: str | None = None
    key: str | None = None
    sentinel_user: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    @property
    def place(self) -> str:
        """For messages: where it is, without secrets."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        group = f"/{self.group}" if self.group else ""
        return f"{hosts}{group}/{self.db}" if self.db else hosts + group


def parse(url: str) -> Target:
    """The target that `url` names. The login ends at the last `@`, so that a password may hold any character, as it is
    or percent-encoded.

    Raises ConfigError, which never quotes the URL.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        raise ConfigError(
            "not the URL of a Redis server: write redis://:PASSWORD@HOST:PORT/DB, or rediss, valkey, valkeys, "
            "redis+sentinel or redis+cluster instead of redis"
        )
    if any("\ud800" <= char <= "\udfff" for char in url):  # bytes of an environment variable
        raise ConfigError("the Redis URL is not UTF-8")
    kind, tls = SCHEMES[scheme.lower()]
    login, _, rest = rest.rpartition("@")
    rest, _, query = rest.partition("?")
    hosts, _, path = rest.partition("/")
    user, password = _login(login)
    options = _options(query)
    group, db = _path(kind, path)
    return Target(
        kind=kind,
        hosts=tuple(_host(host, _SENTINEL_PORT if kind is Kind.SENTINEL else _PORT) for host in _hosts(kind, hosts)),
        user=user,
        password=password,
        db=db,
        tls=tls,
        group=group,
        **options,
    )


def _login(login: str) -> tuple[str | None, str | None]:
    user, colon, password = login.partition(":")
    try:
        return unquote(user, errors="strict") or None, (unquote(password, errors="strict") or None) if colon else None
    except UnicodeDecodeError:
        raise ConfigError("the percent-encoding of the login in the Redis URL is not UTF-8") from None


def _hosts(kind: Kind, hosts: str) -> list[str]:
    names = hosts.split(",")
    if kind is Kind.SINGLE and len(names) > 1:
        raise ConfigError("a redis:// URL names one host: use redis+cluster:// or redis+sentinel:// for several")
    return names


def _host(text: str, port: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if match is None:
        raise ConfigError(
            "the Redis URL does not name a host and port: write HOST:PORT, an IPv6 address in [brackets], and put a "
            "login before an @"
        )
    number = int(match[3]) if match[3] else port
    if not 1 <= number <= 65535:
        raise ConfigError(f"the port {number} in the Redis URL is outside 1 to 65535")
    return match[1] or match[2] or "localhost", number


def _path(kind: Kind, path: str) -> tuple[str, int]:
    """The group's name and the number of the database."""
    parts = [unquote(part) for part in path.split("/") if part]
    group = ""
    if kind is Kind.SENTINEL:
        if not parts:
            raise ConfigError("a redis+sentinel:// URL names the group: redis+sentinel://HOST:PORT,HOST:PORT/GROUP")
        group = parts.pop(0)
    if not parts:
        return group, 0
    if len(parts) > 1 or not re.fullmatch(r"[0-9]{1,9}", parts[0], re.ASCII):
        raise ConfigError("the Redis URL ends with something that is no database number: write .../0")
    if kind is Kind.CLUSTER and int(parts[0]):
        raise ConfigError("a Redis cluster has only database 0: leave the number out of the redis+cluster:// URL")
    return group, int(parts[0])


def _options(query: str) -> dict[str, str]:
    found = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(found.keys() - _OPTIONS)
    if unknown:
        raise ConfigError(
            f"the Redis URL has {len(unknown)} unknown option(s) after the ?: known are {', '.join(sorted(_OPTIONS))}"
        )
    return found
