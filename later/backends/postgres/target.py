"""What a URL says about where a server is and how to log in."""

import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from later.core.errors import ConfigError

SCHEMES: Final = frozenset({"postgres", "postgresql"})

_FORMS: Final = "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with options after a `?`"
_ESCAPE: Final = "percent-encode a / or ? of the password (%2F, %3F)"
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|(?:[\w.~-]|%[0-9A-Fa-f]{2})*)(?::([0-9]{1,5}))?")
_SECRETS: Final = ("password", "sslpassword")


@dataclass(frozen=True, slots=True)
class Target:
    options: dict[str, str] = field(repr=False)
    """Parameters of libpq; they may hold a password."""
    place: str
    """For messages: where it is, without secrets."""
    schema: str | None = None
    pooler: bool = False

    @property
    def secrets(self) -> list[str]:
        return [self.options[name] for name in _SECRETS if self.options.get(name)]


def parse(url: str) -> Target:
    """The target that `url` names.

    The login ends at the last `@` before the database, so a password may hold `@`, `#` and `%` as they are (and, like
    any character, percent-encoded; `/` and `?` only so). Not left to libpq, which stops at the first `@` and repeats
    parts of a password that it cannot read. Raises ConfigError, whose message repeats nothing of the URL.
    """
    scheme, separator, rest = url.partition("://")
    if not url:
        raise ConfigError(f"the PostgreSQL URL is empty (an environment variable that is not set?): {_FORMS}")
    if scheme.lower() not in SCHEMES or not separator:
        raise ConfigError(f"this is no PostgreSQL URL: {_FORMS}")
    if "\0" in url:
        raise ConfigError(f"the PostgreSQL URL holds a NUL character: {_FORMS}")
    if any("\ud800" <= char <= "\udfff" for char in url):  # bytes of an environment variable
        raise ConfigError(f"the PostgreSQL URL is not UTF-8: {_FORMS}")
    end = min((found for mark in "/?" if (found := rest.find(mark)) >= 0), default=len(rest))
    login, at, hosts = rest[:end].rpartition("@")
    path, _, query = rest[end:].partition("?")
    options = dict(_query(query))
    user, colon, password = login.partition(":")
    if at and user:
        options["user"] = _decoded(user)
    if colon and password:
        options["password"] = _decoded(password)
    if "@" in path or "/" in path[1:]:
        raise ConfigError(f"the PostgreSQL URL names no database that can be: {_FORMS}; {_ESCAPE}")
    if len(path) > 1:
        options["dbname"] = _decoded(path[1:])
    if hosts:
        options["host"], options["port"] = _hosts(hosts)
    schema = options.pop("schema", None)
    pooler = options.pop("pooler", "no")
    if pooler not in {"yes", "no"}:
        raise ConfigError("the option pooler of the PostgreSQL URL is yes or no")
    return Target({name: value for name, value in options.items() if value}, _place(options), schema, pooler == "yes")


def _hosts(hosts: str) -> tuple[str, str]:
    found = [_HOST.fullmatch(host) for host in hosts.split(",")]
    matches = [match for match in found if match is not None and 1 <= int(match[2] or 1) <= 65535]
    if len(matches) < len(found):
        raise ConfigError(
            f"the PostgreSQL URL names no host and port that can be: {_FORMS}; {_ESCAPE}, and put an IPv6 address into "
            "brackets"
        )
    ports = [match[2] or "" for match in matches]
    return ",".join(_decoded(match[1].strip("[]")) for match in matches), ",".join(ports) if any(ports) else ""


# Below, errors are raised outside `except`: the error of the library, which repeats the text, would be their context.


def _query(query: str) -> list[tuple[str, str]]:
    with suppress(ValueError):
        return parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    raise ConfigError(f"the options of the PostgreSQL URL are not name=value&name=value: {_FORMS}")


def _decoded(text: str) -> str:
    with suppress(UnicodeDecodeError):
        return unquote(text, errors="strict")
    raise ConfigError(f"the percent-encoding of the PostgreSQL URL is not UTF-8: {_FORMS}")


def _place(options: dict[str, str]) -> str:
    hosts = options.get("host", "").split(",")
    ports = options.get("port", "").split(",")
    shown = [
        (f"[{host}]" if ":" in host else host or "the default host") + (f":{port}" if port else "")
        for host, port in zip(hosts, ports if len(ports) == len(hosts) else ports * len(hosts), strict=False)
    ]
    return ",".join(shown) + (f"/{options['dbname']}" if options.get("dbname") else "")
