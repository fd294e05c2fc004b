"""What is special about the SQLite storage, beyond the contract."""

import os
import re
import resource
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import pytest

from later.backends.sqlite import SQLite, bells, connection, wakeup
from later.backends.sqlite.rows import PAYLOAD_IN_ROW
from later.backends.sqlite.statements import SQL
from later.backends.sqlite.storage import SQLiteStorage
from later.core.lifecycle import Cause, Change
from later.core.ports import Storage, StorageOptions
from later.core.records import SECOND, Claimant, InsertVerdict, JobQuery, NewJob, On, Ref, ServerInfo, State
from tests.support.waiting import until

BY = Claimant("server", "1")
LEASE = 60 * SECOND


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite3"


class Open(Protocol):
    def __call__(self, namespace: str = "test", *, seconds: float = 5, outbox: bool = False) -> Storage: ...


@pytest.fixture
def open_storage(file: Path) -> Iterator[Open]:
    storages: list[Storage] = []

    def open_one(namespace: str = "test", *, seconds: float = 5, outbox: bool = False) -> Storage:
        backend = SQLite(file, timeout=timedelta(seconds=seconds))
        storages.append(backend.open_storage(StorageOptions(namespace, outbox=outbox)))
        storages[-1].migrate()
        return storages[-1]

    yield open_one
    for storage in storages:
        storage.close()


def new_job(job_id: str, payload: bytes = b"{}", queue: str = "default") -> NewJob:
    return NewJob(job_id, "send_email", queue, payload)


def register(storage: Storage) -> None:
    storage.register(ServerInfo(BY.server, None, "host", 1, None), LEASE)


VALUES = {
    "app": 1,
    "now": 1,
    "ids": '["x"]',
    "parents": '["x"]',
    "queues": '["x"]',
    "types": None,
    "states": None,
    "refs": '[["x", 1]]',
    "dead": '["x"]',
    "server": "x",
    "worker": "x",
    "queue": "x",
    "parent": "x",
    "state": "Enqueued",
    "after_at": 1,
    "after_id": "x",
    "name": "x",
    "job": 1,
    "limit": 10,
    "lease_until": 1,
    "until": 1,
    "at": 1,
    "note": "x",
    "after": 1,
    "id": "x",
    "version": 1,
    "next_at": 1,
    "body": b"{}",
}


@pytest.mark.parametrize("name", sorted(name for name in SQL if not name.startswith(("add_", "count_", "register"))))
def test_no_statement_scans_a_table(open_storage: Open, file: Path, name: str) -> None:
    open_storage().close()
    connection = sqlite3.connect(file)
    positional = (1,) * SQL[name].count("?")
    plan = connection.execute(f"EXPLAIN QUERY PLAN {SQL[name]}", positional or VALUES).fetchall()
    connection.close()
    steps = [step for *_, step in plan]
    scans = [step for step in steps if step.startswith("SCAN") and "VIRTUAL TABLE" not in step]
    assert [step for step in scans if step != "SCAN CONSTANT ROW"] == []


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("ready", "later_job_ready"),
        ("has_ready", "later_job_ready"),
        ("last_ticket", "later_job_ready"),
        ("due", "later_job_due"),
        ("next_due", "later_job_due"),
        ("orphaned", "later_job_claimed"),
        ("held", "later_job_claimed"),
        ("unpublished", "later_job_unpublished"),
        ("expired", "later_job_expiry"),
        ("find_in_state", "later_job_listing"),
        ("find_children", "later_job_children"),
    ],
)
def test_hot_statements_read_in_the_order_of_their_index(open_storage: Open, file: Path, name: str, index: str) -> None:
    open_storage().close()
    connection = sqlite3.connect(file)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {SQL[name]}", (1,) * SQL[name].count("?") or VALUES).fetchall()
    connection.close()
    steps = " | ".join(step for *_, step in plan)
    assert f"INDEX {index}" in steps
    # Jobs of one instant may be sorted; the whole result is sorted only where it is small: dead servers, children.
    if name not in {"orphaned", "find_children"}:
        assert "USE TEMP B-TREE FOR ORDER BY" not in steps


@pytest.mark.parametrize(
    "call",
    [
        lambda storage: storage.promote(10),
        lambda storage: storage.rescue(10, ["unknown"]),
        lambda storage: storage.unpublished(10, SECOND),
        lambda storage: storage.published([Ref("unknown", 1, "default", 0)]),
        lambda storage: storage.prune(10),
        lambda storage: storage.exchange(BY, queues=["empty"], limit=10),
        lambda storage: storage.exchange(BY, refs=[Ref("done", 1, "default", 0)], queues=["empty"], limit=10),
        lambda storage: storage.exchange(Claimant("dead", "1"), queues=["default"], limit=10),
        lambda storage: storage.wait(["empty"], 0),
        lambda storage: storage.find(JobQuery()),
        lambda storage: storage.migrate(),
    ],
)
def test_with_nothing_to_do_no_call_needs_the_write_lock(
    open_storage: Open, file: Path, call: Callable[[Storage], object]
) -> None:
    storage = open_storage(seconds=0, outbox=True)
    register(storage)
    storage.insert([new_job("done"), new_job("ready"), NewJob("later", "t", "default", b"", delay=LEASE)])
    (claim,) = storage.exchange(BY, queues=["default"], limit=1).next
    storage.apply([Change(claim.id, Cause.SUCCEED, epoch=claim.epoch, server=BY.server)])
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    call(storage)
    other.execute("ROLLBACK")
    other.close()


@pytest.mark.parametrize("held", [0.004, 0.008, 0.016, 0.03, 3.0])
def test_who_has_waited_long_for_the_lock_of_another_process_is_not_left_behind(
    open_storage: Open, file: Path, monkeypatch: pytest.MonkeyPatch, held: float
) -> None:
    storage = open_storage()
    other = sqlite3.connect(file, isolation_level=None)
    now = 0.0
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        looks.append(now)
        if now >= held and other.in_transaction:
            other.execute("ROLLBACK")

    clock = SimpleNamespace(monotonic=lambda: now, sleep=sleep)
    monkeypatch.setattr(connection, "time", clock)
    other.execute("BEGIN IMMEDIATE")
    storage.insert([new_job("a")])
    other.close()
    # It came to its turn within a sixteenth of the wait, or a moment, and has not looked all the time.
    assert held <= now < held + max(0.0005, min(held / 16, 0.010))
    assert len(looks) < 100 + held * 200


def test_apps_share_a_file_with_each_other_and_with_foreign_tables(open_storage: Open, file: Path) -> None:
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("CREATE TABLE job (id TEXT)")
    other.execute("INSERT INTO job VALUES ('foreign')")
    names = ["app", "App", "app-2"]
    storages = {name: open_storage(name) for name in names}
    for name, storage in storages.items():
        register(storage)
        assert storage.insert([new_job("same-id", name.encode())])[0].verdict is InsertVerdict.CREATED
    storages["app"].unregister(BY.server)
    for name in ("App", "app-2"):
        storage = storages[name]
        assert [claim.payload for claim in storage.exchange(BY, queues=["default"], limit=10).next] == [name.encode()]
        assert len(storage.servers()) == 1
    assert storages["app"].counts().by_queue == {"default": {State.ENQUEUED: 1}}
    assert storages["App"].counts().by_queue == {"default": {State.PROCESSING: 1}}
    assert storages["app"].find(JobQuery()).jobs[0].state is State.ENQUEUED
    assert other.execute("SELECT * FROM job").fetchall() == [("foreign",)]
    other.close()


@pytest.mark.parametrize("size", [0, PAYLOAD_IN_ROW, PAYLOAD_IN_ROW + 1, 256 * 1024])
def test_payloads_of_every_size_come_back(open_storage: Open, file: Path, size: int) -> None:
    storage = open_storage()
    register(storage)
    payload = bytes(range(256)) * (size // 256 + 1)
    payload = payload[:size]
    storage.insert([new_job("1", payload)])
    assert storage.insert([new_job("1", payload)])[0].verdict is InsertVerdict.EXISTS
    assert storage.insert([new_job("1", payload + b"!")])[0].verdict is InsertVerdict.CONFLICT
    (claim,) = storage.exchange(BY, queues=["default"], limit=1).next
    assert claim.payload == payload
    change = Change("1", Cause.SUCCEED, epoch=claim.epoch, server=BY.server, keep=0)
    # The released child is claimed by the call that releases it, with its payload.
    storage.insert([NewJob("2", "send_email", "default", payload, parent="1")])
    exchanged = storage.exchange(BY, [change], queues=["default"], limit=1)
    assert [child.payload for child in exchanged.next] == [payload]
    (details,) = storage.get(["1"])
    assert details is not None
    assert details.job.payload == payload
    storage.apply([Change("2", Cause.SUCCEED, epoch=1, server=BY.server, keep=0)])
    assert storage.prune(10) == 2
    other = sqlite3.connect(file)
    tables = ("later_job", "later_payload", "later_history")
    assert [other.execute(f"SELECT count(*) FROM {table}").fetchone() for table in tables] == [(0,)] * 3
    other.close()


def test_wait_sees_what_another_process_enqueues(open_storage: Open) -> None:
    waiting, other = open_storage(), open_storage()
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(waiting.wait(["default"], 30)))
    thread.start()
    other.insert([new_job("elsewhere", queue="another")])
    other.insert([new_job("here")])
    thread.join()
    assert results == [True]
    assert not waiting.wait(["empty"], 0.05)


def test_history_text_that_is_not_unicode_is_stored(open_storage: Open) -> None:
    storage = open_storage()
    storage.insert([new_job("1")])
    storage.apply([Change("1", Cause.DELETE, reason="lone \ud800 surrogate")])
    (details,) = storage.get(["1"])
    assert details is not None
    assert details.job.reason == details.history[-1].reason == "lone ? surrogate"


def test_the_schema_knows_the_states_of_the_lifecycle(open_storage: Open, file: Path) -> None:
    open_storage().close()
    other = sqlite3.connect(file)
    (schema,) = other.execute("SELECT sql FROM sqlite_schema WHERE name = 'later_job'").fetchone()
    other.close()
    assert set(re.findall(r"WHEN '(\w+)'", schema)) == set(State)
    assert set(re.findall(r"continues_on = '(\w+)'", schema)) == set(On)


@pytest.mark.parametrize(
    "wrong",
    [
        "state = 'Waiting'",
        "state = 'Processing', ticket = NULL",
        "run_at = 1",
        "ticket = NULL",
        "expires_at = 1",
        "result = x'00'",
        "cancel_requested = 1",
        "epoch = 0",
        "epoch = -1",
        "priority = 10",
        "attempt = 'many'",
    ],
)
def test_a_row_that_no_state_allows_is_refused(open_storage: Open, file: Path, wrong: str) -> None:
    storage = open_storage()
    storage.insert([new_job("1")])
    other = sqlite3.connect(file)
    with pytest.raises(sqlite3.IntegrityError):
        other.execute(f"UPDATE later_job SET {wrong}")
    other.close()


def test_only_claims_that_may_be_made_again_are_not_synced(open_storage: Open) -> None:
    storage = open_storage()
    assert isinstance(storage, SQLiteStorage)
    register(storage)
    level = "FULL"
    synced: list[str] = []
    """How each commit was."""

    def trace(statement: str) -> None:
        nonlocal level
        if statement.startswith("PRAGMA synchronous = "):
            level = statement.rsplit(" ", 1)[1]
        if statement == "COMMIT":
            synced.append(level)

    def claim() -> list[Change]:
        claims = storage.exchange(BY, queues=["default"], limit=2).next
        return [Change(found.id, Cause.SUCCEED, epoch=found.epoch, server=BY.server) for found in claims]

    storage.insert([new_job("1"), new_job("2"), new_job("3"), new_job("4")._replace(max_crashes=0)])
    with storage._database.write() as connection:
        connection.set_trace_callback(trace)
    synced.clear()

    ended = claim()
    assert synced == ["NORMAL"]
    storage.exchange(BY, ended)
    assert synced == ["NORMAL", "FULL"]
    assert [change.id for change in claim()] == ["3", "4"]
    assert synced == ["NORMAL", "FULL", "FULL"]
    ref = storage.insert([new_job("5")])[0].ref
    assert ref is not None
    storage.exchange(BY, refs=[ref])
    assert synced[3:] == ["FULL", "NORMAL"]
    ref = storage.insert([new_job("6")._replace(max_crashes=0)])[0].ref
    assert ref is not None
    storage.exchange(BY, refs=[ref])
    assert synced[5:] == ["FULL", "FULL"]
    assert [held.id for held in storage.claims(BY.server)] == ["3", "4", "5", "6"]


# --- waking other processes


def waiting(storage: Storage, queue: str = "default") -> tuple[threading.Thread, list[bool]]:
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(storage.wait([queue], 30)))
    thread.start()
    return thread, answers


def bells_of(file: Path) -> list[Path]:
    folder = Path(f"{file}-wake")
    return list(folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("processes", ["the same", "another"])
def test_who_waits_is_woken_and_does_not_look(
    open_storage: Open, file: Path, monkeypatch: pytest.MonkeyPatch, processes: str
) -> None:
    monkeypatch.setattr(wakeup, "_POLL", 20)
    storage = open_storage()
    other = open_storage() if processes == "another" else storage
    thread, answers = waiting(storage)
    until(lambda: bells_of(file))

    other.insert([new_job("1")])

    thread.join(10)
    assert answers == [True]
    assert bells_of(file) == []


def test_a_bell_of_a_process_that_was_killed_is_taken_down(open_storage: Open, file: Path) -> None:
    folder = Path(f"{file}-wake")
    folder.mkdir()
    gone = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with bells._address(folder / ("0" * 32)) as address:
        gone.bind(address)
    gone.close()
    storage = open_storage()

    storage.insert([new_job("1")])

    assert list(folder.iterdir()) == []


def test_the_folder_goes_with_the_last_who_waits(open_storage: Open, file: Path) -> None:
    storage, other = open_storage(), open_storage()
    thread, answers = waiting(storage)
    until(lambda: bells_of(file))
    other.close()
    assert len(bells_of(file)) == 1

    storage.close()

    thread.join(10)
    assert answers == [True]
    storage.close()
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name]


def test_where_nobody_can_ring_it_looks(open_storage: Open, file: Path) -> None:
    Path(f"{file}-wake").touch()  # no folder
    storage, other = open_storage(), open_storage()
    thread, answers = waiting(storage)
    other.insert([new_job("1")])
    thread.join(10)
    assert answers == [True]


@pytest.mark.parametrize("length", [20, 90, 110, 220])
def test_paths_of_any_length_have_bells(tmp_path: Path, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "_POLL", 20)
    monkeypatch.setattr(wakeup, "_POLL_ALONE", 20)
    file = tmp_path / ("f" * (length - 5))
    storages = [SQLite(file).open_storage(StorageOptions("test")) for _ in range(2)]
    storages[0].migrate()
    thread, answers = waiting(storages[0])
    until(lambda: bells_of(file))
    storages[1].insert([new_job("1")])
    thread.join(10)
    assert answers == [True]
    for storage in storages:
        storage.close()


@pytest.mark.parametrize("how", ["a link", "a folder"])
def test_what_others_have_put_in_its_place_is_left_alone(
    open_storage: Open, file: Path, tmp_path: Path, how: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    if how == "a link":
        elsewhere.mkdir()
        Path(f"{file}-wake").symlink_to(elsewhere)
    else:
        elsewhere = Path(f"{file}-wake")
        elsewhere.mkdir()
    names = {"precious.txt", "f" * 32}
    for name in names:
        (elsewhere / name).touch()
    storage = open_storage()
    storage.insert([new_job("1")])
    assert storage.wait(["default"], 0)
    assert not storage.wait(["another"], 0.01)
    storage.close()
    assert {path.name for path in elsewhere.iterdir()} == names


def test_it_waits_in_a_process_with_many_open_files(open_storage: Open) -> None:
    storage = open_storage()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2_000), hard))
    many = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_200)]
    try:
        assert not storage.wait(["default"], 0.01)
    finally:
        for each in many:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
