"""Jobs in one SQLite file: the embedded default. Many processes of one host may use it at once."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from later.core.errors import ConfigError, InvalidOption
from later.core.ports import Storage, StorageOptions

Synchronous: TypeAlias = Literal["FULL", "NORMAL", "EXTRA"]


class SQLite:
    """A SQLite file to keep jobs in; several apps may share it, and it may be a database with other tables.

    path: a relative one counts from the working directory of this moment. A missing file is created for its owner only
        (mode 0600, less the umask); create it before, or change its mode, to share it with other users. Never on a
        network share: SQLite's locks do not hold there.
    synchronous: FULL loses nothing when the machine dies; NORMAL may lose the last commits then (not when processes
        die) and is faster; EXTRA syncs the folder as well.
    timeout: how long a call waits for the turn to write before it raises Unavailable.

    Opens nothing: that happens in each process at its first use. The file is switched to write-ahead logging and gets
    tables whose names begin with `later_`.

    Raises ConfigError, InvalidOption.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "FULL",
        timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        name = os.fspath(path)
        if name == ":memory:":
            raise ConfigError(
                'a ":memory:" database of SQLite cannot be shared between threads: use memory:// or Memory() instead'
            )
        if not name or "\0" in name or name.startswith("file:"):
            raise ConfigError("SQLite needs the path of a file")
        if synchronous not in get_args(Synchronous):
            raise InvalidOption(f"synchronous {synchronous!r} is none of {', '.join(get_args(Synchronous))}")
        if not timedelta(0) <= timeout <= timedelta(hours=1):
            raise InvalidOption(f"timeout {timeout!r} is outside 0 to 1 hour")
        self.path = Path(name).absolute()
        self._synchronous = synchronous
        self._timeout = timeout

    def open_storage(self, options: StorageOptions) -> Storage:
        # Here, so that naming a file does not import a driver.
        from later.backends.sqlite.connection import Database
        from later.backends.sqlite.storage import SQLiteStorage

        if not options.create and not os.path.exists(self.path):  # noqa: PTH110  Path.exists raises where it may not look
            raise ConfigError(
                f"there is no SQLite file {self.path}: go to the folder that the app runs in, or name the file by its "
                "full path; the first enqueue, or a worker, creates it"
            )
        database = Database(self.path, self._synchronous, self._timeout.total_seconds())
        return SQLiteStorage(database, options)
