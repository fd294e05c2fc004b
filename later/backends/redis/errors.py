"""What an error of Redis means for the caller."""

import re
import ssl
from typing import Final

from redis import exceptions as driver

from later.core.errors import (
    BackendError,
    ConfigError,
    Corrupt,
    LaterError,
    StorageFull,
    StorageReadOnly,
    Unavailable,
    Unsupported,
)

_LOGIN: Final = (
    driver.AuthenticationError,
    driver.AuthorizationError,
    driver.NoPermissionError,
    driver.AuthenticationWrongNumberOfArgsError,
)
_LOGIN_CODES: Final = frozenset({"WRONGPASS", "NOAUTH", "NOPERM"})
RIGHTS: Final = "~later:* &later:* +@read +@write +@scripting +@pubsub +@connection +info +time +cluster"
"""What a user needs to be allowed, as ACL SETUSER has it."""
_COMMAND: Final = re.compile(r"'([\w|-]{1,40})' (?:sub)?command")
_PASSING: Final = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "NOREPLICAS", "TRYAGAIN", "UNKILLABLE", "MOVED", "ASK"}
)
"""Answers of a server that will be itself again."""

_KEY: Final = re.compile(r"CORRUPT (\S+)")
_CODE: Final = re.compile(r"\b([A-Z]{3,})\b")


def translate(error: Exception, place: str, user: str | None) -> LaterError:
    """The error to raise instead, about the server at `place`, to which `user` logs in. No message holds a value
    that was sent."""
    if isinstance(error, _LOGIN):
        return _refused(str(error), place, user)
    if isinstance(error, driver.OutOfMemoryError):
        return _full(place)
    if isinstance(error, driver.ReadOnlyError):
        return _read_only(place)
    if isinstance(error, driver.InvalidResponse):
        return ConfigError(f"what answers at {place} does not speak the protocol of Redis: check host, port and scheme")
    if isinstance(error, (driver.ConnectionError, driver.TimeoutError, OSError)):
        return _no_connection(error, place)
    if isinstance(error, driver.RedisClusterException):
        return _no_cluster(error, place)
    if isinstance(error, driver.RedisError):
        return _answer(str(error), place, user)
    return BackendError(f"the driver of Redis raised {type(error).__name__} about {place}: a fault for its authors")


def _no_connection(error: Exception, place: str) -> LaterError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return ConfigError(
                f"no TLS connection to Redis at {place} ({cause.reason or type(cause).__name__}): rediss:// needs a "
                "port that speaks TLS and a certificate that is trusted (its CA: ?ca=FILE) for this host name"
            )
        if isinstance(cause, (FileNotFoundError, PermissionError, IsADirectoryError)):
            return ConfigError(
                f"a file for TLS in the URL of Redis at {place} (ca, cert, key) cannot be read: {cause.strerror}"
            )
        if "handshake operation timed out" in str(cause):
            return Unavailable(
                f"no TLS handshake with Redis at {place} in time: try again; if this stays, the port does not speak "
                "TLS: write redis:// instead of rediss://, or name its TLS port"
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, driver.TimeoutError):
        return Unavailable(f"Redis at {place} did not answer in time; try again")
    if isinstance(error, driver.MaxConnectionsError):
        return Unavailable(f"too many connections to Redis at {place}; try again")
    if "invalid literal" in str(error) or "Protocol" in str(error):
        return ConfigError(f"what answers at {place} does not speak the protocol of Redis: check host, port and scheme")
    return Unavailable(f"no connection to Redis at {place} ({_first_line(error)}); is it running? try again")


def _no_cluster(error: Exception, place: str) -> LaterError:
    # The text may hold the arguments of the call.
    if "Cluster mode is not enabled" in str(error):
        return ConfigError(f"Redis at {place} is no cluster: write redis:// instead of redis+cluster://")
    return Unavailable(f"no node of the Redis cluster at {place} can be reached, or none has the key; try again")


def _answer(text: str, place: str, user: str | None) -> LaterError:
    key = _KEY.search(text)
    if key is not None:
        return Corrupt(
            f"the key {key[1]} in Redis at {place} holds something that later did not write: look at it, and delete "
            "it or restore a backup; let nothing else write keys that begin with later:"
        )
    codes = set(_CODE.findall(text))
    if "WRONGTYPE" in codes:
        return Corrupt(
            f"a key that begins with later: in Redis at {place} is of another type than later writes: find it with "
            "TYPE, delete it or restore a backup; let nothing else write such keys"
        )
    if codes & _LOGIN_CODES:
        return _refused(text, place, user)
    if "OOM" in codes:
        return _full(place)
    if "MISCONF" in codes:
        return StorageFull(
            f"Redis at {place} cannot save to its disk and takes no writes: free space on it; nothing was stored"
        )
    if "READONLY" in codes:
        return _read_only(place)
    if codes & _PASSING:
        return Unavailable(f"Redis at {place} is not ready ({', '.join(sorted(codes & _PASSING))}); try again")
    if "DB index" in text:
        return ConfigError(f"Redis at {place} has no database of this number: see `databases` in its configuration")
    if "unknown command" in text:
        return Unsupported(
            f"Redis at {place} does not know a command that later needs: use Redis 6.2 or newer, or Valkey"
        )
    return BackendError(f"Redis at {place} refused a call: {text.splitlines()[0][:120] if text else 'no reason given'}")


def _refused(text: str, place: str, user: str | None) -> LaterError:
    who = f"the user {user}" if user else "the default user"
    if "without any password" in text or "no password is set" in text:
        return ConfigError(
            f"Redis at {place} has no password for {who}, and the URL gives one: leave it out, or set it on the server"
        )
    if "NOAUTH" in text or "Authentication required" in text:
        return ConfigError(
            f"Redis at {place} wants a login and the URL has none: write USER:PASSWORD@, or :PASSWORD@, before the host"
        )
    if "NOPERM" in text or "ermission" in text:
        command = _COMMAND.search(text)
        what = f"run {command[1].upper()}" if command is not None else "touch a key or channel of later's"
        return ConfigError(f"Redis at {place} does not let {who} {what}: ACL SETUSER {user or 'default'} {RIGHTS}")
    return ConfigError(
        f"Redis at {place} refused the login of {who}: check user and password in the URL (ACL LIST on the server)"
    )


def _full(place: str) -> LaterError:
    return StorageFull(
        f"Redis at {place} has reached its maxmemory: raise it, or keep ended jobs for a shorter time; "
        "nothing was stored"
    )


def _read_only(place: str) -> LaterError:
    return StorageReadOnly(
        f"Redis at {place} is a read-only replica: name the primary, or use redis+sentinel://; nothing was stored"
    )


def _first_line(error: Exception) -> str:
    text = str(error).splitlines()
    return text[0][:120] if text else type(error).__name__
