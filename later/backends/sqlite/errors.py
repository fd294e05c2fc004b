"""What an error of SQLite means for the caller."""

import os
import sqlite3
from pathlib import Path
from typing import Final

from later.core.errors import (
    BackendError,
    ConfigError,
    Corrupt,
    LaterError,
    SchemaMismatch,
    StorageFull,
    StorageReadOnly,
    Unavailable,
)

_TO_WRITE: Final = "let this user write both the file and its folder (SQLite keeps -wal and -shm files beside it)"


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without the details of its upper bits; 0 for an error of the Python module itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def translate(error: sqlite3.Error, path: Path) -> LaterError:
    """The error to raise instead. Its message names the file and never holds a value of a statement."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    match primary_code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Unavailable(
                f"the SQLite file {path} stayed locked by another connection: try again, raise the timeout of "
                "SQLite(...), or look for a program that keeps a transaction open on it"
            )
        case sqlite3.SQLITE_FULL:
            return StorageFull(
                f"no room is left for the SQLite file {path}: free space on its disk; nothing was stored"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return StorageReadOnly(f"the SQLite file {path} cannot be written: {_TO_WRITE}")
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return Corrupt(
                f"the file {path} is not an intact SQLite database ({error}): name another file, or restore this one "
                "from a backup (for what is left of it: sqlite3 FILE .recover)"
            )
        case sqlite3.SQLITE_CANTOPEN:
            return _cannot_open(path)
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_INTERRUPT | sqlite3.SQLITE_NOMEM | sqlite3.SQLITE_PROTOCOL:
            return Unavailable(f"the SQLite file {path} cannot be used at the moment ({name}: {error}); try again")
        case sqlite3.SQLITE_ERROR if "no such table" in str(error) or "no such column" in str(error):
            return SchemaMismatch(
                f"the SQLite file {path} lacks tables of later ({error}): call migrate() before the first use, and do "
                "not replace the file while a program uses it"
            )
        case _:
            return BackendError(f"SQLite refused a statement on {path} ({name}: {error})")


def check_place(path: Path) -> None:
    """Raise ConfigError where no database file can be, whoever asks."""
    if not path.parent.is_dir():
        raise ConfigError(
            f"the SQLite file {path} cannot be there: create the folder {path.parent}, or name another file"
        )
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name a file in it for SQLite")


def _cannot_open(path: Path) -> LaterError:
    try:
        check_place(path)
    except ConfigError as error:
        return error
    if not _writable(path.parent) or (path.exists() and not _writable(path)):
        return StorageReadOnly(f"the SQLite file {path} cannot be written: {_TO_WRITE}")
    return Unavailable(f"the SQLite file {path} cannot be opened: too many open files? try again")


def _writable(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids)
