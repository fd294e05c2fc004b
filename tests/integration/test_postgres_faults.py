"""A PostgreSQL server, or a connection to it, that dies; transactions that get in each other's way; forks."""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest

from later.backends.postgres import Postgres
from later.backends.postgres.connection import Database
from later.backends.postgres.target import parse
from later.backends.postgres.wire import Answer, Query, Wire
from later.core.errors import Unavailable
from later.core.lifecycle import Cause, Change
from later.core.ports import Storage, StorageOptions
from later.core.records import SECOND, Claimant, InsertVerdict, JobQuery, NewJob, Ref, ServerInfo, State, Verdict
from tests.support.postgres import PostgresServer
from tests.support.waiting import later_threads, no_threads_left, until

BY = Claimant("server", "worker")
HOUR = 3_600 * SECOND


def new_job(job_id: str, parent: str | None = None) -> NewJob:
    return NewJob(job_id, "send_email", "q", b"{}", parent=parent)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One to be mistreated."""
    server = PostgresServer()
    yield server.start()
    server.stop()


@pytest.fixture
def storage(server: PostgresServer, postgres_prefix: str) -> Iterator[Storage]:
    storage = Postgres(server.url).open_storage(StorageOptions(postgres_prefix))
    storage.migrate()
    storage.register(ServerInfo(BY.server, None, "host", 1, None), HOUR)
    yield storage
    storage.close()


@contextmanager
def administrator(server: PostgresServer) -> Iterator["psycopg.Connection[tuple[object]]"]:
    with psycopg.connect(server.url, autocommit=True) as admin:
        yield admin


def cut(server: PostgresServer) -> None:
    """End every connection of `later`, whatever it is doing."""
    with administrator(server) as admin:
        found = admin.execute(
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'later'"
        ).fetchall()
        ended = [pid for pid, *_ in found]
        look = "SELECT FROM pg_stat_activity WHERE pid = ANY(%s)"
        until(lambda: not admin.execute(look, [ended]).fetchall(), "the connections to end")


def persistently(call: Callable[[], object]) -> None:
    """As the runtime does: what may be repeated is repeated."""

    def attempt() -> bool:
        try:
            call()
        except Unavailable:
            return False
        return True

    until(attempt, "the storage to be available again")


def test_an_idle_connection_that_was_cut_is_not_noticed(server: PostgresServer, storage: Storage) -> None:
    for n in range(6):
        storage.insert([new_job(f"job-{n}")])
        if n % 2:  # the second insert of a connection leaves the answer to its notification for the next call
            cut(server)
    assert storage.counts().total(State.ENQUEUED) == 6


ONE = Query(b"SELECT 1")
LOCK = Query(b"SELECT pg_advisory_xact_lock(1764)")
DIVISION = Query(b"SELECT 1 / $1::integer", ("by",))
DEFERRED = Query(b"INSERT INTO public.deferred VALUES ($1::integer)", ("by",))
"""Fails at the commit when it is repeated."""


@pytest.fixture
def wire(server: PostgresServer) -> Iterator[Wire]:
    """It has prepared the statements above."""
    database = Database(parse(server.url), pooler=False, timeout=20, limit=1)
    with administrator(server) as admin:
        admin.execute("CREATE TABLE public.deferred (number integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
    wire = database.open()
    try:
        for query in (ONE, LOCK, DIVISION, DEFERRED):
            wire.send(query, {"by": 0 if query is DEFERRED else 1})
        wire.exchange()
        yield wire
    finally:
        database.shut(wire)
        with administrator(server) as admin:
            admin.execute("DROP TABLE public.deferred")


def send_unawaited(wire: Wire, query: Query) -> Answer:
    """Exchanges `ONE`, and `query` behind it."""
    answer = wire.send(ONE, {})
    wire.divide()
    wire.no_more_awaited()
    wire.send(query, {"by": 0})
    wire.exchange()
    return answer


def test_what_is_not_awaited_is_read_before_the_next_batch(server: PostgresServer, wire: Wire) -> None:
    with administrator(server) as admin:
        admin.execute("SELECT pg_advisory_lock(1764)")
        assert send_unawaited(wire, LOCK).rows == [(1,)]
        assert wire.idle
        assert not wire.in_transaction
    assert wire.alive(time.monotonic() + 20)
    assert wire.idle
    again = wire.send(ONE, {})
    wire.exchange()
    assert again.rows == [(1,)]


def test_a_connection_whose_answer_does_not_come_is_given_up(server: PostgresServer, wire: Wire) -> None:
    with administrator(server) as admin:
        admin.execute("SELECT pg_advisory_lock(1764)")
        send_unawaited(wire, LOCK)
        assert not wire.alive(time.monotonic())


@pytest.mark.parametrize("query", [DIVISION, DEFERRED])
def test_a_failure_of_what_is_not_awaited_is_not_told(wire: Wire, query: Query) -> None:
    for _ in range(2):
        assert send_unawaited(wire, query).rows == [(1,)]
        assert wire.alive(time.monotonic() + 20)
        assert wire.idle


def test_what_could_not_be_prepared_is_told_all_the_same(wire: Wire) -> None:
    for _ in range(2):
        with pytest.raises(psycopg.errors.UndefinedTable):
            send_unawaited(wire, Query(b"SELECT FROM nowhere"))
        assert wire.idle


@pytest.mark.parametrize(
    ("query", "error"), [(DIVISION, psycopg.errors.DivisionByZero), (DEFERRED, psycopg.errors.UniqueViolation)]
)
@pytest.mark.parametrize("more", [False, True])
def test_a_failure_of_what_is_awaited_is_told(
    wire: Wire, query: Query, error: type[psycopg.Error], *, more: bool
) -> None:
    wire.send(query, {"by": 0})
    if more:
        wire.divide()
        wire.no_more_awaited()
        wire.send(ONE, {})
    with pytest.raises(error):
        wire.exchange()
    assert wire.idle
    after = wire.send(ONE, {})
    wire.exchange()
    assert after.rows == [(1,)]


def test_a_server_that_ends_a_connection_at_its_commit(server: PostgresServer, storage: Storage) -> None:
    """Then the statements have been answered, and nothing is stored."""
    storage.insert([new_job("job-0")])
    with administrator(server) as admin:
        admin.execute(
            """
            CREATE FUNCTION kill() RETURNS trigger LANGUAGE plpgsql
                AS $$BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10); RETURN NULL; END$$;
            CREATE CONSTRAINT TRIGGER kill AFTER INSERT OR DELETE OR UPDATE ON later.job DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION kill()
            """
        )
        try:
            with pytest.raises(Unavailable):
                storage.insert([new_job("job-1")])
            with pytest.raises(Unavailable):
                storage.exchange(BY, queues=["q"], limit=1)
        finally:
            admin.execute("DROP FUNCTION kill CASCADE")
    assert storage.get(["job-1"]) == [None]
    assert [claim.id for claim in storage.exchange(BY, queues=["q"], limit=2).next] == ["job-0"]


def test_new_jobs_beside_some_whose_ids_are_taken(storage: Storage) -> None:
    storage.insert([new_job("ended")])
    [claim] = storage.exchange(BY, queues=["q"], limit=1).next
    storage.apply([Change(claim.id, Cause.SUCCEED, epoch=claim.epoch, server=BY.server)])
    storage.insert([new_job("waiting")])
    inserted = storage.insert([new_job("new"), new_job("ended"), new_job("waiting"), new_job("another")])
    created = InsertVerdict.CREATED
    assert [each.verdict is created for each in inserted] == [True, False, False, True]
    assert storage.counts().total(State.ENQUEUED) == 3


def test_a_connection_that_is_cut_before_the_last_answer(server: PostgresServer, wire: Wire) -> None:
    with administrator(server) as admin:
        admin.execute("SELECT pg_advisory_lock(1764)")
        send_unawaited(wire, LOCK)
        cut(server)
    assert not wire.alive(time.monotonic() + 20)


@pytest.mark.parametrize("how", ["cut", "restart"])
def test_nothing_is_lost_and_nothing_is_done_twice(server: PostgresServer, storage: Storage, how: str) -> None:
    """Connections die in every phase of a call; each call is repeated until it is answered."""
    total = 400
    stop = threading.Event()
    produced: list[int] = []
    claimed: Counter[str] = Counter()

    def produce() -> None:
        for n in range(total):
            persistently(lambda n=n: storage.insert([new_job(f"job-{n}")]))  # type: ignore[misc]
            produced.append(n)

    def turn(by: Claimant) -> bool:
        """Claim and run; whether there was something."""
        taken: list[Change] = []

        def claim() -> None:
            claims = storage.exchange(by, queues=["q"], limit=7).next
            taken.extend(Change(c.id, Cause.SUCCEED, epoch=c.epoch, server=by.server) for c in claims)

        persistently(claim)
        claimed.update(change.id for change in taken)
        persistently(lambda: storage.apply(taken))
        return bool(taken)

    def work(worker: str) -> None:
        by = Claimant(BY.server, worker)
        while turn(by) or not stop.is_set():
            pass

    threads = [threading.Thread(target=produce), *(threading.Thread(target=work, args=(f"w{n}",)) for n in range(2))]
    for thread in threads:
        thread.start()
    while threads[0].is_alive():
        if how == "cut":
            cut(server)
        else:
            server.restart()
        enough = len(produced) + 40
        until(lambda: len(produced) >= enough or not threads[0].is_alive())  # noqa: B023
    stop.set()
    for thread in threads[1:]:
        thread.join()

    # Claims whose answer was lost: the server releases what it does not run.
    lost = storage.claims(BY.server)
    storage.apply([Change(held.id, Cause.RELEASE, epoch=held.epoch, server=BY.server) for held in lost])
    counts = storage.counts()
    assert counts.total(State.SUCCEEDED) == total - len(lost)
    assert counts.total(State.ENQUEUED) == len(lost)
    assert set(claimed.values()) == {1}
    assert len(claimed) + len(lost) == total
    found = storage.find(JobQuery(states=frozenset({State.SUCCEEDED}), limit=1000)).jobs
    assert len(found) == counts.total(State.SUCCEEDED), "the tally and the table agree"


def test_a_repeated_call_after_a_lost_reply(server: PostgresServer, storage: Storage) -> None:
    """Every call that commits may have its reply cut off."""
    jobs = [new_job("parent"), new_job("child", "parent"), new_job("single")]
    assert {item.verdict for item in storage.insert(jobs)} == {InsertVerdict.CREATED}
    assert {item.verdict for item in storage.insert(jobs)} == {InsertVerdict.EXISTS}
    refs = [Ref("parent", 1, "q", 0), Ref("single", 1, "q", 0)]
    assert storage.exchange(BY, refs=refs).by_ref == storage.exchange(BY, refs=refs).by_ref
    ends = [Change(ref.id, Cause.SUCCEED, epoch=1, server=BY.server) for ref in refs]
    assert [item.verdict for item in storage.apply(ends)] == [Verdict.APPLIED] * 2
    assert [item.verdict for item in storage.apply(ends)] == [Verdict.REPEATED] * 2


def test_what_an_insert_has_promised_survives_the_server(server: PostgresServer) -> None:
    """The process is killed, then the server as if its machine died."""
    command = [sys.executable, "-m", "tests.support.postgres_process", "insert", server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(50)]
        server.kill()
        process.kill()
        told += process.stdout.read().split()
    server.start()
    storage = Postgres(server.url).open_storage(StorageOptions("test"))
    assert None not in storage.get(told)
    storage.close()


def test_calls_that_lock_in_opposite_orders(server: PostgresServer, storage: Storage) -> None:
    """Parents whose ids come after those of their children, ended and deleted at once: the locks cross. PostgreSQL ends
    one of the two; it is run again, and nobody hears of it."""
    rounds = 12
    for n in range(rounds):
        storage.insert([new_job(f"{n}-z"), *(new_job(f"{n}-{letter}", f"{n}-z") for letter in "abc")])
    with administrator(server) as admin:
        admin.execute("ALTER SYSTEM SET deadlock_timeout = '10ms'")
        admin.execute("SELECT pg_reload_conf()")
    barrier = threading.Barrier(2)
    failures: list[Exception] = []

    def run(changes: Callable[[int], list[Change]]) -> None:
        for n in range(rounds):
            barrier.wait(20)
            try:
                storage.apply(changes(n))
            except Exception as error:
                failures.append(error)

    def end(n: int) -> list[Change]:
        return [Change(f"{n}-z", Cause.DELETE)]

    def delete(n: int) -> list[Change]:
        return [Change(f"{n}-{letter}", Cause.DELETE) for letter in "abcz"]

    threads = [threading.Thread(target=run, args=(changes,)) for changes in (end, delete)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert storage.counts().by_queue["q"] == {State.DELETED: 4 * rounds}


def test_a_deadlock_with_a_stranger_is_run_again(server: PostgresServer, storage: Storage) -> None:
    storage.insert([new_job("a"), new_job("b")])
    with administrator(server) as admin:
        admin.execute("BEGIN")
        admin.execute("SELECT FROM later.job WHERE id = 'b' FOR UPDATE")
        answers: list[Verdict] = []
        changes = [Change("a", Cause.DELETE), Change("b", Cause.DELETE)]
        thread = threading.Thread(target=lambda: answers.extend(item.verdict for item in storage.apply(changes)))
        thread.start()
        with administrator(server) as other:
            until(lambda: other.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall(), "it to wait for b")
        # Closes the circle; one of the two is told so.
        with suppress(psycopg.errors.DeadlockDetected):
            admin.execute("SELECT FROM later.job WHERE id = 'a' FOR UPDATE")
        admin.execute("ROLLBACK")
        thread.join()
    assert answers == [Verdict.APPLIED] * 2


def test_waiting_goes_on_after_the_listening_connection_was_cut(server: PostgresServer, storage: Storage) -> None:
    other = Postgres(server.url).open_storage(StorageOptions(storage._namespace))  # type: ignore[attr-defined]
    for n in range(3):
        answers: list[bool] = []

        def wait(answers: list[bool] = answers) -> None:
            persistently(lambda: answers.append(storage.wait(["q"], 20)))

        thread = threading.Thread(target=wait)
        thread.start()
        until(later_threads)
        cut(server)
        started = time.monotonic()
        persistently(lambda n=n: other.insert([new_job(f"job-{n}")]))  # type: ignore[misc]
        thread.join()
        assert answers == [True]
        assert time.monotonic() - started < 5
        storage.exchange(BY, queues=["q"], limit=5)
    other.close()


def test_closing_leaves_no_thread_and_no_connection(server: PostgresServer, postgres_prefix: str) -> None:
    def connections() -> int:
        with administrator(server) as admin:
            found = admin.execute("SELECT FROM pg_stat_activity WHERE application_name = 'later'").fetchall()
        return len(found)

    until(lambda: connections() == 0, "connections of the tests before to end")
    with no_threads_left():
        storage = Postgres(server.url).open_storage(StorageOptions(postgres_prefix))
        storage.migrate()
        for _ in range(2):
            storage.insert([new_job("job")])
            storage.wait(["nothing"], 0.05)
            assert connections() > 0
            storage.close()
            until(lambda: connections() == 0, "connections to end")


def test_both_sides_of_a_fork_go_on(server: PostgresServer) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.support.postgres_process", "fork", server.url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    told = ended.stdout.split()
    assert len(set(told)) == 5
    storage = Postgres(server.url).open_storage(StorageOptions("test"))
    assert None not in storage.get(told)
    storage.close()


def test_a_server_without_work_writes_nothing(server: PostgresServer, storage: Storage) -> None:
    storage.insert([NewJob("later", "t", "q", b"{}", delay=HOUR)])

    with administrator(server) as admin:
        [(before,)] = admin.execute("SELECT pg_current_xact_id()").fetchall()
        for _ in range(3):
            storage.promote(100)
            storage.rescue(100)
            storage.unpublished(100, SECOND)
            storage.published([Ref("later", 1, "q", 0)])
            storage.prune(100)
            storage.exchange(BY, queues=["q", "r"], limit=10)
            storage.wait(["q"], 0)
            storage.counts()
            storage.find(JobQuery())
            storage.get(["later"])
            storage.servers()
        [(after,)] = admin.execute("SELECT pg_current_xact_id()").fetchall()
    assert int(str(after)) == int(str(before)) + 1, "no transaction but the two of this test got a number"
