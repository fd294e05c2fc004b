"""Creating and upgrading the schema, and how statements find their rows in it."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from later.backends.postgres import Postgres, sets
from later.backends.postgres.connection import Database
from later.backends.postgres.statements import Statements
from later.backends.postgres.target import parse
from later.backends.postgres.wire import Query, Value, Wire
from later.core.errors import ConfigError, SchemaMismatch
from later.core.lifecycle import Cause, Change
from later.core.ports import Storage, StorageOptions
from later.core.records import SECOND, Claimant, JobQuery, NewJob, ServerInfo, State
from tests.support.postgres import PostgresServer

BY = Claimant("server", "worker")


@pytest.fixture
def schema(postgres_server: PostgresServer, postgres_prefix: str) -> Iterator[str]:
    name = postgres_prefix.replace("-", "_").rstrip("_")
    yield name
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE'.encode())


@pytest.fixture
def url(postgres_server: PostgresServer, schema: str) -> str:
    return f"{postgres_server.url}?schema={schema}"


@pytest.fixture
def storage(url: str) -> Iterator[Storage]:
    storage = Postgres(url).open_storage(StorageOptions("schema"))
    yield storage
    storage.close()


@pytest.fixture
def admin(postgres_server: PostgresServer) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        yield admin


@contextmanager
def wire(url: str) -> Iterator[Wire]:
    """A connection as the storage opens them."""
    database = Database(parse(url), pooler=False, timeout=20, limit=1)
    opened = database.open()
    try:
        yield opened
    finally:
        database.shut(opened)


def test_eight_processes_migrate_at_once(url: str, storage: Storage) -> None:
    command = [sys.executable, "-m", "tests.support.postgres_process", "race", url]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    ended = [racer.communicate(timeout=50) for racer in racers]
    assert [(racer.returncode, errors) for racer, (_, errors) in zip(racers, ended, strict=True)] == [(0, "")] * 8


def test_migrating_again_only_reads(
    storage: Storage, schema: str, admin: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    storage.migrate()
    find = f'SELECT version, name, xmin::text FROM "{schema}".migration'.encode()
    before = admin.execute(find).fetchall()
    storage.migrate()
    assert admin.execute(find).fetchall() == before


def test_a_newer_schema_is_refused(storage: Storage, schema: str, admin: "psycopg.Connection[tuple[Any, ...]]") -> None:
    storage.migrate()
    admin.execute(f"INSERT INTO \"{schema}\".migration (version, name) VALUES (999, 'future')".encode())
    with pytest.raises(SchemaMismatch, match="version 999"):
        storage.migrate()


def test_a_schema_made_by_somebody_else_is_used(
    postgres_server: PostgresServer, schema: str, admin: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    """The user needs no right to create schemas."""
    role = f"{schema}_role"
    backend = Postgres(f"{postgres_server.url.replace('postgres@', f'{role}@')}?schema={schema}")
    admin.execute(f'CREATE ROLE "{role}" LOGIN'.encode())
    storage = backend.open_storage(StorageOptions("schema"))
    with pytest.raises(ConfigError, match="AUTHORIZATION"):
        storage.migrate()
    admin.execute(f'CREATE SCHEMA "{schema}" AUTHORIZATION "{role}"'.encode())
    storage.migrate()
    assert storage.insert([NewJob("job", "t", "q", b"{}")])[0].ref is not None
    storage.close()
    admin.execute(f'DROP OWNED BY "{role}" CASCADE'.encode())
    admin.execute(f'DROP ROLE "{role}"'.encode())


def test_an_asynchronous_database_is_asked_to_wait_for_its_disk(postgres_server: PostgresServer) -> None:
    options = "options=-c%20synchronous_commit%3D"
    for given, used in [("off", "on"), ("remote_apply", "remote_apply"), ("on", "on")]:
        with wire(f"{postgres_server.url}?{options}{given}") as opened:
            opened.connection.pgconn.exit_pipeline_mode()
            assert opened.connection.execute("SHOW synchronous_commit").fetchone() == (used,)


def fill(admin: "psycopg.Connection[tuple[Any, ...]]", schema: str, app: int, ended: int) -> None:
    """Jobs that ended long ago, straight into the table."""
    columns = (
        "num, created_at, state_at, expires_at, app, epoch, attempt, crashes, max_crashes, entries, priority, "
        "cancel_requested, has_children, id, type, queue, state, continues_on, server, worker, reason, history, payload"
    )
    admin.execute(
        f"""
        INSERT INTO "{schema}".ended ({columns})
        SELECT -n, n, n, 4102444800000000, {app}, 1, 1, 0, 3, 0, 0, false, false, 'old-' || n, 't', 'q', 'Succeeded',
            'succeeded', 's', 'w', '', '{{}}', '{{}}'
        FROM generate_series(1, {ended}) AS n
        """.encode()
    )
    counted = f"""INSERT INTO "{schema}".tally VALUES ({app}, {ended}, 'q', 'Succeeded')"""
    admin.execute(counted.encode())


def statements_of_work(sql: Statements) -> dict[str, tuple[Any, dict[str, Any]]]:
    """What is done again and again, with values."""
    now = {"now": 1_764_000_000_000_000}
    claim = {**now, **sets.claim_values(BY), "limit": 64, "queue_1": "q", "queue_2": "r"}
    refs = {"ids": '{"job-1"}', "epochs": "{1}"}
    ends, _ = sets.split([Change("job-1", Cause.SUCCEED, epoch=1, server=BY.server)])
    plain = sets.plain([NewJob("new", "t", "q", b"{}")], outbox=True)
    assert ends is not None
    assert plain is not None
    at = {**now, "limit": 10, "again_in": 1, "dead": "{}", "lapsed": "{}", "server": "s", "threshold": 100}
    ids = {"ids": '{"job-1","old-5"}', "parents": '{"job-1","old-5"}', "after": 0}
    seen = {"states": '{"Succeeded"}', "queues": None, "types": None, "after_at": 2**62, "after_id": "", "limit": 50}
    return {
        "claim_next": (sql.claim_next(2), claim),
        "claim_refs": (sql["claim_refs"], {**claim, **refs}),
        "held_refs": (sql["held_refs"], {**claim, **refs}),
        "finish": (sql["finish"], {**now, **ends.values}),
        "insert_plain": (sql["insert_plain"], {**now, **plain.values}),
        **{name: (sql[name], {**at, **ids}) for name in ("fail_on_ended", "lock_job", "lock_ended", "peek", "details")},
        **{name: (sql[name], {**at, **ids}) for name in ("errors", "children", "lock_awaiting", "remove", "expired")},
        **{name: (sql[name], at) for name in ("due", "next_due", "unpublished", "orphaned", "cancels", "held")},
        "confirm": (sql["confirm"], {**at, **refs}),
        "save": (sql["save"], {"rows": '[{"id": "job-1"}]'}),
        "find_in_states": (sql["find_in_states"], seen),
        "find_children": (sql["find_children"], {**seen, "parent": "job-1"}),
    }


def explained(wire: Wire, query: Query, values: Mapping[str, Value]) -> Any:
    answer = wire.send(query._replace(text=b"EXPLAIN (FORMAT JSON) " + query.text), values)
    wire.exchange()
    [(plan,)] = answer.rows
    return plan


def scans(plan: Any) -> Iterator[tuple[Any, Any, Any]]:
    """(table, kind, index condition) of every scan in a plan."""
    if isinstance(plan, list):
        for part in plan:
            yield from scans(part)
    elif isinstance(plan, dict):
        if "Relation Name" in plan and plan["Node Type"] != "ModifyTable":
            yield plan["Relation Name"], plan["Node Type"], plan.get("Index Cond", plan.get("TID Cond", ""))
        for part in plan.values():
            if isinstance(part, list | dict):
                yield from scans(part)


@pytest.mark.parametrize("statistics", ["none", "of empty tables", "of full tables"])
def test_no_statement_reads_what_it_does_not_want(
    storage: Storage, schema: str, admin: "psycopg.Connection[tuple[Any, ...]]", url: str, statistics: str
) -> None:
    """The plans for 100,000 ended and 2,000 waiting jobs find their rows by an index, whatever the planner believes."""
    storage.migrate()
    if statistics == "of empty tables":
        admin.execute(f'VACUUM ANALYZE "{schema}".job, "{schema}".ended'.encode())
    storage.register(ServerInfo(BY.server, None, "h", 1, None), SECOND)
    storage.insert([NewJob(f"job-{n}", "t", "q", b"{}", delay=n % 2) for n in range(2_000)])
    [(app,)] = admin.execute(f'SELECT num FROM "{schema}".app'.encode()).fetchall()
    fill(admin, schema, app, 100_000)
    if statistics == "of full tables":
        admin.execute(f'VACUUM ANALYZE "{schema}".job, "{schema}".ended'.encode())
    with wire(url) as opened:
        for name, (query, values) in statements_of_work(Statements(schema, app)).items():
            plan = explained(opened, query, values)
            for table, kind, condition in scans(plan):
                if table in {"job", "ended", "error"}:
                    shown = f"{name} on {table}: {json.dumps(plan, indent=1)}"
                    assert kind in {"Index Scan", "Index Only Scan", "Tid Scan"}, shown
                    # The first by its order is one row.
                    reads_all = not condition or (condition == f"(app = {app})" and name != "next_due")
                    assert not reads_all, f"reads all: {shown}"


def test_the_past_is_counted_and_found_beside_the_present(
    storage: Storage, schema: str, admin: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    storage.migrate()
    storage.insert([NewJob("job", "t", "q", b"{}")])
    [(app,)] = admin.execute(f'SELECT num FROM "{schema}".app'.encode()).fetchall()
    fill(admin, schema, app, 1_000)
    assert storage.counts().by_queue == {"q": {State.ENQUEUED: 1, State.SUCCEEDED: 1_000}}
    page = storage.find(JobQuery(states=frozenset({State.SUCCEEDED, State.ENQUEUED}), limit=3))
    assert [job.id for job in page.jobs] == ["job", "old-1000", "old-999"]


def test_the_hot_table_does_not_grow_with_what_went_through(
    storage: Storage, schema: str, admin: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    """Ten thousand jobs in batches of a hundred: after a vacuum the tables are as after a thousand."""
    storage.migrate()
    storage.register(ServerInfo(BY.server, None, "h", 1, None), 3_600 * SECOND)

    def go_through(first: int, last: int) -> int:
        for n in range(first, last, 100):
            storage.insert([NewJob(f"job-{m}", "t", "q", b"x" * 200) for m in range(n, n + 100)])
            claims = storage.exchange(BY, queues=["q"], limit=100).next
            storage.apply([Change(c.id, Cause.SUCCEED, epoch=c.epoch, server=BY.server, keep=0) for c in claims])
            if n % 1_000 == 0:
                admin.execute(f'VACUUM "{schema}".job'.encode())
        storage.prune(100_000)
        admin.execute(f'VACUUM "{schema}".job'.encode())
        [(size,)] = admin.execute(f"SELECT pg_total_relation_size('\"{schema}\".job')".encode()).fetchall()
        return int(size)

    small = go_through(0, 1_000)
    assert go_through(1_000, 10_000) <= 2 * small
    [(rows,)] = admin.execute(f'SELECT count(*) FROM "{schema}".tally'.encode()).fetchall()
    storage.promote(1)
    [(left,)] = admin.execute(f'SELECT count(*) FROM "{schema}".tally'.encode()).fetchall()
    assert left < 10 < rows
    assert storage.counts().by_queue == {}
