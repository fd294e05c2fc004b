"""What `Storage.insert_within` promises."""

import time

import pytest

from later.core.errors import Unsupported, UnusableConnection
from later.core.lifecycle import PUBLISH_WITHIN, Cause, Change, continuation
from later.core.ports import Storage
from later.core.records import SECOND, Inserted, InsertVerdict, On, Ref, State
from later.testing.contract.bench import BY, Begin, Bench, StorageFixtures, UserTransaction, ids, new_job
from later.testing.contract.together import PATIENCE, waiting

CREATED = InsertVerdict.CREATED
ENDED = [State.SUCCEEDED, State.FAILED, State.DELETED]


class WithinContract(StorageFixtures):
    """Only for storages with the capability `transactional`; others have to say that they have not got it."""

    @pytest.fixture
    def transaction(self, storage: Storage, request: pytest.FixtureRequest) -> UserTransaction:
        if not storage.capabilities.transactional:
            pytest.skip("not transactional")
        begin: Begin = request.getfixturevalue("begin")
        return begin()

    def test_without_the_capability_a_connection_is_refused(self, bench: Bench) -> None:
        if not bench.storage.capabilities.transactional:
            with pytest.raises(Unsupported, match="SQLite or Postgres"):
                bench.storage.insert_within(object(), [new_job("job")])
        else:
            with pytest.raises(UnusableConnection, match="object"):
                bench.storage.insert_within(object(), [new_job("job")])
        assert not bench.exists("job")

    def test_a_job_is_there_when_the_transaction_commits(self, bench: Bench, transaction: UserTransaction) -> None:
        job = new_job("job", priority=7, payload=b"\x00\xff" * 40_000)
        joined = bench.storage.insert_within(transaction.connection, [job])
        assert joined == ((Inserted(CREATED, State.ENQUEUED, Ref("job", 1, "q", 7)),), False)
        assert not bench.exists("job")
        assert bench.storage.counts().by_queue == {}
        transaction.commit()
        details = bench.details("job")
        assert (details.job.state, details.job.payload, details.job.epoch) == (State.ENQUEUED, job.payload, 1)
        assert [entry.state for entry in details.history] == [State.ENQUEUED]
        assert bench.storage.counts().by_queue == {"q": {State.ENQUEUED: 1}}
        bench.serve()
        assert ids(bench.take()) == ["job"]

    def test_a_job_is_gone_when_the_transaction_is_rolled_back(
        self, bench: Bench, transaction: UserTransaction
    ) -> None:
        bench.storage.insert_within(transaction.connection, [new_job("job"), new_job("child", parent="job")])
        transaction.rollback()
        assert (bench.exists("job"), bench.exists("child")) == (False, False)
        assert bench.storage.counts().by_queue == {}
        bench.add(new_job("job", type="other"))

    def test_a_transaction_answers_in_the_order_of_the_input(self, bench: Bench, transaction: UserTransaction) -> None:
        bench.add(new_job("old"), new_job("taken"))
        jobs = [
            new_job("orphan", parent="nobody"),
            new_job("old"),
            new_job("a", priority=1),
            new_job("a", priority=1),
            new_job("taken", payload=b"[]"),
            new_job("later", delay=1),
            new_job("child", parent="a"),
        ]
        assert bench.storage.insert_within(transaction.connection, jobs).inserted == (
            Inserted(InsertVerdict.NO_PARENT, None, None),
            Inserted(InsertVerdict.EXISTS, State.ENQUEUED, None),
            Inserted(CREATED, State.ENQUEUED, Ref("a", 1, "q", 1)),
            Inserted(InsertVerdict.EXISTS, State.ENQUEUED, None),
            Inserted(InsertVerdict.CONFLICT, None, None),
            Inserted(CREATED, State.SCHEDULED, None),
            Inserted(CREATED, State.AWAITING, None),
        )
        # The transaction knows what it has stored itself.
        again = bench.storage.insert_within(transaction.connection, [jobs[2], new_job("a", payload=b"[]")]).inserted
        assert again == (
            Inserted(InsertVerdict.EXISTS, State.ENQUEUED, None),
            Inserted(InsertVerdict.CONFLICT, None, None),
        )
        transaction.commit()
        assert [bench.exists(job_id) for job_id in ("orphan", "a", "later", "child")] == [False, True, True, True]
        assert bench.storage.counts().by_queue == {
            "q": {State.ENQUEUED: 3, State.SCHEDULED: 1, State.AWAITING: 1},
        }

    def test_a_transaction_stores_nothing_when_it_is_given_nothing(
        self, bench: Bench, transaction: UserTransaction
    ) -> None:
        assert bench.storage.insert_within(transaction.connection, []) == ((), False)
        transaction.commit()
        assert bench.storage.counts().by_queue == {}

    def test_an_id_of_a_job_that_has_ended_is_taken_in_a_transaction(
        self, bench: Bench, transaction: UserTransaction
    ) -> None:
        bench.bring("job", State.SUCCEEDED)
        jobs = [new_job("job"), new_job("job", type="other")]
        assert bench.storage.insert_within(transaction.connection, jobs).inserted == (
            Inserted(InsertVerdict.EXISTS, State.SUCCEEDED, None),
            Inserted(InsertVerdict.CONFLICT, None, None),
        )
        transaction.commit()
        assert bench.state("job") is State.SUCCEEDED
        assert bench.storage.counts().by_queue == {"q": {State.SUCCEEDED: 1}}

    def test_a_family_of_one_transaction(self, bench: Bench, transaction: UserTransaction) -> None:
        bench.storage.insert_within(transaction.connection, [new_job("parent")])
        bench.storage.insert_within(transaction.connection, [new_job("child", parent="parent")])
        bench.storage.insert_within(transaction.connection, [new_job("grandchild", parent="child")])
        transaction.commit()
        bench.serve()
        for job_id in ("parent", "child", "grandchild"):
            bench.storage.promote(10)
            assert bench.state(job_id) is State.ENQUEUED
            bench.end(job_id, State.SUCCEEDED)

    @pytest.mark.parametrize("on", On)
    @pytest.mark.parametrize("state", ENDED)
    def test_a_transaction_under_a_parent_that_has_ended(
        self, bench: Bench, transaction: UserTransaction, state: State, on: On
    ) -> None:
        bench.bring("parent", state)
        bench.storage.insert_within(transaction.connection, [new_job("child", parent="parent", on=on)])
        transaction.commit()
        promoted = bench.storage.promote(10).enqueued
        match continuation(state, on):
            case Cause.PARENT_ENDED:
                assert bench.state("child") is State.ENQUEUED
                assert promoted in {(), (Ref("child", 1, "q", 0),)}
            case Cause.PARENT_MISSED:
                assert bench.state("child") is State.DELETED
            case _:
                assert bench.state("child") is State.AWAITING
        assert bench.storage.promote(10).enqueued == ()
        assert bench.details("parent").children == ("child",)

    def test_a_continuation_is_looked_at_again_when_its_parent_failed_and_succeeds(
        self, bench: Bench, transaction: UserTransaction
    ) -> None:
        bench.bring("parent", State.FAILED)
        bench.storage.insert_within(transaction.connection, [new_job("child", parent="parent")])
        transaction.commit()
        bench.storage.promote(10)
        bench.move(Change("parent", Cause.REQUEUE))
        assert bench.state("child") is State.AWAITING
        bench.end("parent", State.SUCCEEDED)
        assert bench.state("child") is State.ENQUEUED

    def test_a_delayed_job_of_a_transaction(self, bench: Bench, transaction: UserTransaction) -> None:
        due = bench.clock() + SECOND
        bench.storage.insert_within(transaction.connection, [new_job("a", delay=SECOND), new_job("b", run_at=due)])
        transaction.commit()
        assert (bench.job("a").run_at, bench.job("b").run_at) == (due, due)
        bench.clock.advance(SECOND)
        assert ids(bench.storage.promote(10).enqueued) == ["a", "b"]

    def test_the_jobs_of_a_transaction_are_published_in_the_end(
        self, outbox: Bench, request: pytest.FixtureRequest
    ) -> None:
        if not outbox.storage.capabilities.transactional:
            pytest.skip("not transactional")
        transaction: UserTransaction = request.getfixturevalue("begin")()
        outbox.storage.insert_within(transaction.connection, [new_job("job"), new_job("child", parent="job")])
        outbox.clock.advance(PUBLISH_WITHIN)
        assert outbox.storage.unpublished(10, SECOND) == []
        transaction.commit()
        outbox.clock.advance(PUBLISH_WITHIN)
        outbox.storage.promote(10)
        assert outbox.storage.unpublished(10, SECOND) == [Ref("job", 1, "q", 0)]

    def test_a_commit_of_the_user_ends_a_wait(self, bench: Bench, transaction: UserTransaction) -> None:
        with waiting(bench.storage, "q") as (thread, answers):
            bench.storage.insert_within(transaction.connection, [new_job("job")])
            started = time.monotonic()
            transaction.commit()
            thread.join(PATIENCE)
        assert answers == [True]
        if bench.storage.capabilities.push:
            assert time.monotonic() - started < PATIENCE / 3

    async def test_a_connection_that_is_not_async_serves_async_code_too(
        self, bench: Bench, transaction: UserTransaction
    ) -> None:
        joined = await bench.storage.ainsert_within(transaction.connection, [new_job("job")])
        assert [item.verdict for item in joined.inserted] == [CREATED]
        transaction.rollback()
        assert not bench.exists("job")
        await bench.storage.ainsert_within(transaction.connection, [new_job("job")])
        transaction.commit()
        bench.serve(BY)
        assert ids(bench.take()) == ["job"]
