"""A process that uses a PostgreSQL storage, for tests that need several, or one to kill. Usage: ... WHAT URL

- insert: one job after the other, for ever; tells each id when `insert` has returned
- race: waits for a line on its input, then migrates and inserts one job
- fork: forks with connections open; tells the ids that both sides have inserted
"""

import os
import sys
from collections.abc import Callable
from itertools import count

from later.backends.postgres import Postgres
from later.core.ports import Storage, StorageOptions
from later.core.records import NewJob

_numbers = count()


def tell(line: str) -> None:
    """Straight to the output: a buffer, or its lock, would be forked with the process."""
    os.write(1, f"{line}\n".encode())


def open_storage(url: str) -> Storage:
    storage = Postgres(url).open_storage(StorageOptions("test"))
    storage.migrate()
    return storage


def insert_one(storage: Storage) -> None:
    job = NewJob(f"{os.getpid()}-{next(_numbers)}", "send_email", "q", b"{}")
    storage.insert([job])
    tell(job.id)


def insert(url: str) -> None:
    storage = open_storage(url)
    while True:
        insert_one(storage)


def race(url: str) -> None:
    tell("ready")
    sys.stdin.readline()
    storage = open_storage(url)
    insert_one(storage)
    storage.close()


def fork(url: str) -> None:
    storage = open_storage(url)
    insert_one(storage)
    storage.wait(["other"], 0.01)
    insert_one(storage)  # leaves an answer to be read
    child = os.fork()
    insert_one(storage)
    storage.wait(["other"], 0.01)
    if child == 0:
        storage.close()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    insert_one(storage)
    storage.close()
    sys.exit(status)


COMMANDS: dict[str, Callable[[str], None]] = {"insert": insert, "race": race, "fork": fork}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](sys.argv[2])
