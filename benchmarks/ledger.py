"""What handlers report: one record a job, in a file that all worker processes append to.

Each record is one small write to a file opened O_APPEND, so that any number of processes and threads, in any language,
report with little effort, and whoever watches only asks for the size of the file. Standard library only: it is imported
in the environments of peers too.
"""

import os
import struct
import time
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

VARIABLE: Final = "BENCH_LEDGER"
"""The environment variable that names the file."""

_RECORD: Final = struct.Struct("<qdd")
"""The job's number; when it was enqueued; when its handler began (both in seconds since 1970)."""


class Ran(NamedTuple):
    """One start of a handler."""

    number: int
    sent: float
    at: float


def report(number: int, sent: float) -> None:
    """What every handler does, and all it does."""
    os.write(_file(), _RECORD.pack(number, sent, time.time()))


@cache
def _file() -> int:
    return os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


class Ledger:
    """The file as the one who measures sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def __len__(self) -> int:
        return self.path.stat().st_size // _RECORD.size

    def read(self, first: int = 0) -> list[Ran]:
        """The records from the one numbered `first` on, in the order in which they were written."""
        with self.path.open("rb") as file:
            file.seek(first * _RECORD.size)
            whole = file.read()
        return [Ran._make(values) for values in _RECORD.iter_unpack(whole[: len(whole) // _RECORD.size * _RECORD.size])]
