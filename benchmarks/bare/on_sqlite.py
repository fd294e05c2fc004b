"""On SQLite: finish and the next claim, row by row, in one transaction with synchronous=FULL."""

import os
import sqlite3
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.bare.job import drain, encode
from benchmarks.producer import Payload, Producer

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS job (
    num INTEGER PRIMARY KEY, id TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'E', epoch INTEGER NOT NULL DEFAULT 1,
    server TEXT, attempt INTEGER NOT NULL DEFAULT 0, payload BLOB NOT NULL, result BLOB, created_at REAL,
    claimed_at REAL, finished_at REAL
);
CREATE INDEX IF NOT EXISTS next ON job (num) WHERE state = 'E';
"""

_FINISH: Final = (
    "UPDATE job SET state = 'S', result = 'null', finished_at = ? WHERE num = ? AND state = 'P' AND server = ?"
)
_NEXT: Final = "SELECT num, payload FROM job WHERE state = 'E' ORDER BY num LIMIT ?"
_CLAIM: Final = "UPDATE job SET state = 'P', server = ?, attempt = attempt + 1, claimed_at = ? WHERE num = ?"


class Store:
    def __init__(self) -> None:
        path = Path(os.environ["BENCH_FOLDER"]) / "bare.sqlite3"
        self._database = sqlite3.connect(path, timeout=10, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._server = uuid.uuid4().hex[:12]

    def prepare(self) -> None:
        self._database.executescript(_SCHEMA)

    def insert(self, jobs: Sequence[Payload]) -> None:
        now = time.time()
        rows = [(uuid.uuid4().hex, encode(**job), now) for job in jobs]
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany("INSERT INTO job (id, payload, created_at) VALUES (?, ?, ?)", rows)
        self._database.execute("COMMIT")

    def step(self, finished: Sequence[int], take: int) -> list[tuple[int, bytes]]:
        now = time.time()
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany(_FINISH, [(now, num, self._server) for num in finished])
        found: list[tuple[int, bytes]] = self._database.execute(_NEXT, (take,)).fetchall()
        self._database.executemany(_CLAIM, [(self._server, now, num) for num, _ in found])
        self._database.execute("COMMIT")
        return found


def work() -> None:
    store = Store()
    drain(store.step)


def produce() -> None:
    store = Store()
    Producer(send=lambda one: store.insert([one]), send_many=store.insert, prepare=store.prepare).serve()


if __name__ == "__main__":
    work() if sys.argv[1] == "work" else produce()
