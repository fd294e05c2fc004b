"""A process that uses a SQLite storage, for tests that need several, or one to kill. Usage: sqlite_process.py WHAT FILE

- insert: one job after the other, for ever; tells each id when `insert` has returned
- work: inserts ten jobs and runs them, for ever; tells each id when its end has been reported
- drain: claims and ends what there is; tells the ids that it got
- race: waits for a line on its input, then migrates and inserts one job
- fork: forks with the file open; tells the ids that both sides have inserted
- busy-fork: forks several times while a thread inserts; tells all ids that were inserted
- raw-fork: forks without Python's hooks; tells the name of the error that the child gets
"""

import ctypes
import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

from later.backends.sqlite import SQLite
from later.core.errors import LaterError
from later.core.lifecycle import Cause, Change
from later.core.ports import Storage, StorageOptions
from later.core.records import SECOND, Claimant, NewJob, ServerInfo

QUEUE = "default"
_numbers = count()


def tell(line: str) -> None:
    """Straight to the output: a buffer, or its lock, would be forked with the process."""
    os.write(1, f"{line}\n".encode())


def open_storage(file: Path) -> Storage:
    storage = SQLite(file).open_storage(StorageOptions("test"))
    storage.migrate()
    return storage


def new_job() -> NewJob:
    return NewJob(f"{os.getpid()}-{next(_numbers)}", "send_email", QUEUE, b"{}")


def insert_one(storage: Storage) -> None:
    job = new_job()
    storage.insert([job])
    tell(job.id)


def claimant(storage: Storage) -> Claimant:
    by = Claimant(f"server-{os.getpid()}", "1")
    storage.register(ServerInfo(by.server, None, "host", os.getpid(), None), 60 * SECOND)
    return by


def insert(file: Path) -> None:
    storage = open_storage(file)
    while True:
        insert_one(storage)


def work(file: Path) -> None:
    storage = open_storage(file)
    by = claimant(storage)
    changes: list[Change] = []
    while True:
        storage.insert([new_job() for _ in range(10)])
        changes = turn(storage, by, changes)


def drain(file: Path) -> None:
    storage = open_storage(file)
    by = claimant(storage)
    changes = turn(storage, by, [])
    while changes:
        changes = turn(storage, by, changes)


def turn(storage: Storage, by: Claimant, changes: list[Change]) -> list[Change]:
    """Report `changes` and print their ids; returns the ends of the jobs that were claimed next."""
    claims = storage.exchange(by, changes, queues=[QUEUE], limit=10).next
    for change in changes:
        tell(change.id)
    return [Change(claim.id, Cause.SUCCEED, epoch=claim.epoch, server=by.server) for claim in claims]


def race(file: Path) -> None:
    tell("ready")
    sys.stdin.readline()
    insert_one(open_storage(file))


def fork(file: Path) -> None:
    storage = open_storage(file)
    insert_one(storage)
    closed, close = os.pipe()
    child = os.fork()
    if child == 0:
        insert_one(storage)
        os.close(close)
        os.read(closed, 1)
        insert_one(storage)
        storage.close()
        os._exit(0)
    insert_one(storage)
    # The last close of a process that knows of no other one takes the log away.
    storage.close()
    sqlite3.connect(file).close()
    os.close(close)
    os.waitpid(child, 0)
    insert_one(storage)


def busy_fork(file: Path) -> None:
    storage = open_storage(file)
    stop = threading.Event()

    def keep_inserting() -> None:
        while not stop.is_set():
            insert_one(storage)

    thread = threading.Thread(target=keep_inserting)
    thread.start()
    children: list[int] = []
    for _ in range(5):
        child = os.fork()
        if child == 0:
            for _ in range(20):
                insert_one(storage)
            os._exit(0)
        children.append(child)
    failures = sum(os.waitpid(child, 0)[1] for child in children)
    stop.set()
    thread.join()
    sys.exit(bool(failures))


def raw_fork(file: Path) -> None:
    storage = open_storage(file)
    insert_one(storage)
    child = int(ctypes.CDLL(None).fork())
    if child == 0:
        try:
            insert_one(storage)
        except LaterError as error:
            tell(type(error).__name__)
        os._exit(0)
    os.waitpid(child, 0)


COMMANDS: dict[str, Callable[[Path], None]] = {
    "insert": insert,
    "work": work,
    "drain": drain,
    "race": race,
    "fork": fork,
    "busy-fork": busy_fork,
    "raw-fork": raw_fork,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](Path(sys.argv[2]))
