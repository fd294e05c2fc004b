"""What an error of PostgreSQL, or of its driver, means for the caller."""

import re
from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import errors as driver

from later.core.errors import (
    BackendError,
    ConfigError,
    Corrupt,
    LaterError,
    SchemaMismatch,
    StorageFull,
    StorageReadOnly,
    Unavailable,
    Unsupported,
)

REPEATABLE: Final = (
    driver.DeadlockDetected,
    driver.SerializationFailure,
    # Somebody else inserted a job under an id that had been free; `fail_on_twins` in sql/jobs.sql.
    driver.UniqueViolation,
    driver.DivisionByZero,
)
"""The transaction was rolled back for the sake of another one: the same again may succeed."""

# A refused connection has no code, only the server's text. In a language other than English it falls through to
# Unavailable, with that text.
_LOGIN: Final = (
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "authentication failed",
)
_TLS: Final = ("SSL", "certificate")
_OPTION: Final = re.compile(
    r"invalid \w+ value|invalid value for parameter|parameter \S+ requires a|unrecognized configuration parameter"
    r"|cannot be changed|FATAL: +-.* requires a value|invalid command-line argument"
    r"|invalid port number|definition of service|service file|GSSAPI encryption required"
)
_PROTOCOL: Final = ("received invalid response", "expected authentication request", "unsupported frontend protocol")


_REFUSED: Final = "refused the login: check user and password in the URL, and pg_hba.conf of the server"
_NO_DATABASE: Final = "has no such database: create it (createdb), or name another one"

_READ_ONLY: Final = (
    "is read-only (a standby, or set so): name the primary, or put target_session_attrs=read-write into the URL with "
    "all hosts; nothing was stored"
)
_NO_TABLES: Final = (
    "lacks tables of later, or has others than this version made: call migrate() before the first use, and look that "
    "every process names the same database and schema"
)
_NOT_ALLOWED: Final = (
    "does not let this user do so: allow it to create a schema (GRANT CREATE ON DATABASE), or create the schema for it "
    "(CREATE SCHEMA later AUTHORIZATION user)"
)
_LATE: Final = (
    "did not answer in time (a lock that another transaction keeps, or a busy server): try again, raise the timeout of "
    "Postgres(...), or look for a program that keeps a transaction open"
)

_MEANINGS: Final[Sequence[tuple[tuple[str, ...], type[LaterError], str]]] = (
    (("25006",), StorageReadOnly, _READ_ONLY),
    (("53100",), StorageFull, "has no room left: free space on its disk; nothing was stored"),
    (("42P01", "42703", "42883", "42704", "3F000"), SchemaMismatch, _NO_TABLES),
    (("42501",), ConfigError, _NOT_ALLOWED),
    (("28",), ConfigError, _REFUSED),
    (("3D000",), ConfigError, _NO_DATABASE),
    (("57014", "55P03"), Unavailable, _LATE),
    (("40",), Unavailable, "let other transactions go first time and again; try again"),
    (("08", "53", "57", "58", "25P03", "25P04"), Unavailable, "is not ready ({name}); try again"),
    (("XX",), Corrupt, "reports damage ({name}): see its log, and restore a backup"),
)
"""What an error means, by the beginning of its code, the first that fits."""


def translate(error: psycopg.Error, place: str, secrets: Sequence[str] = ()) -> LaterError:
    """The error to raise instead, about the database at `place`. Its message never holds a value of a statement."""
    code = error.sqlstate or ""
    if not code:
        return _without_code(error, place, secrets)
    for codes, meaning, text in _MEANINGS:
        if code.startswith(codes):
            return meaning(f"PostgreSQL at {place} {text.format(name=type(error).__name__)}")
    return BackendError(f"PostgreSQL at {place} refused a statement ({code}, {type(error).__name__})")


def _without_code(error: psycopg.Error, place: str, secrets: Sequence[str]) -> LaterError:
    text = masked(str(error), secrets)
    if isinstance(error, driver.ConnectionTimeout):
        return Unavailable(f"no connection to PostgreSQL at {place} in time; is it running and reachable? try again")
    if isinstance(error, psycopg.NotSupportedError):
        return Unsupported(
            "the libpq of this machine is older than 14 and cannot send several statements at once: "
            'pip install "later-jobs[postgres]", which brings a newer one'
        )
    if isinstance(error, psycopg.ProgrammingError) or _OPTION.search(text):
        return ConfigError(
            f"an option in the URL of PostgreSQL at {place} is none, or has no such value: {_line(text)}"
        )
    if not isinstance(error, psycopg.OperationalError):
        return BackendError(f"the driver of PostgreSQL raised {type(error).__name__} about {place}")
    if any(part in text for part in _LOGIN) or ("role" in text and "does not exist" in text):
        return ConfigError(f"PostgreSQL at {place} {_REFUSED}")
    if ("database" in text and "does not exist" in text) or "no such database" in text:
        return ConfigError(f"PostgreSQL at {place} {_NO_DATABASE}")
    if any(part in text for part in _TLS) and "connection" in text and "closed unexpectedly" not in text:
        return ConfigError(
            f"no TLS connection to PostgreSQL at {place} ({_line(text)}): sslmode in the URL must fit the "
            "server, and its certificate be trusted (sslrootcert=FILE) for this host name"
        )
    if any(part in text for part in _PROTOCOL):
        return ConfigError(f"what answers at {place} does not speak the protocol of PostgreSQL: check host and port")
    return Unavailable(f"no connection to PostgreSQL at {place} ({_line(text)}); is it running? try again")


def masked(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[0].removeprefix("connection failed: ")[:160] if lines else "no reason given"
