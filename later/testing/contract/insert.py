"""What `Storage.insert` promises."""

import pytest

from later.core.lifecycle import DAY, KEEP, Cause, continuation
from later.core.ports import Storage
from later.core.records import SECOND, HistoryEntry, Inserted, InsertVerdict, JobRecord, On, Ref, State
from later.testing.contract.bench import BY, ERROR, Bench, StorageFixtures, new_job, report

CREATED = InsertVerdict.CREATED
EXISTS = InsertVerdict.EXISTS
CONFLICT = InsertVerdict.CONFLICT
NO_PARENT = InsertVerdict.NO_PARENT

ENDED = [State.SUCCEEDED, State.FAILED, State.DELETED]
OPEN = [State.AWAITING, State.SCHEDULED, State.ENQUEUED, State.PROCESSING]


class InsertContract(StorageFixtures):
    def test_insert_makes_a_job_enqueued(self, bench: Bench) -> None:
        job = new_job("job", type="mail", queue="mails", payload=b'{"a":1}', priority=7, max_crashes=2)
        now = bench.clock()
        assert bench.storage.insert([job]) == [
            Inserted(CREATED, State.ENQUEUED, Ref("job", 1, "mails", 7)),
        ]
        details = bench.details("job")
        assert details.job == JobRecord(
            id="job",
            type="mail",
            queue="mails",
            priority=7,
            payload=b'{"a":1}',
            state=State.ENQUEUED,
            epoch=1,
            attempt=0,
            crashes=0,
            max_crashes=2,
            created_at=now,
            state_at=now,
        )
        assert details.history == (HistoryEntry(State.ENQUEUED, now, "", 0),)
        assert details.children == ()

    def test_insert_of_a_delayed_job_makes_it_scheduled(self, bench: Bench) -> None:
        assert bench.storage.insert([new_job("job", delay=SECOND)]) == [Inserted(CREATED, State.SCHEDULED, None)]
        job = bench.job("job")
        assert (job.state, job.run_at, job.epoch) == (State.SCHEDULED, bench.clock() + SECOND, 0)
        assert [entry.state for entry in bench.history("job")] == [State.SCHEDULED]

    @pytest.mark.parametrize("ahead", [-DAY, 0, 1, DAY])
    def test_insert_schedules_a_job_whose_time_is_in_the_future(self, bench: Bench, ahead: int) -> None:
        bench.add(new_job("job", run_at=bench.clock() + ahead, delay=5))
        job = bench.job("job")
        if ahead > 0:
            assert (job.state, job.run_at) == (State.SCHEDULED, bench.clock() + ahead)
        else:
            assert (job.state, job.run_at) == (State.ENQUEUED, None)

    def test_insert_of_nothing(self, storage: Storage) -> None:
        assert storage.insert([]) == []
        assert storage.counts().by_queue == {}

    def test_insert_answers_in_the_order_of_its_input(self, bench: Bench) -> None:
        bench.add(new_job("old"), new_job("taken"))
        verdicts = bench.storage.insert(
            [
                new_job("orphan", parent="nobody"),
                new_job("old"),
                new_job("a", priority=1),
                new_job("taken", payload=b"[]"),
                new_job("b", delay=1),
            ]
        )
        assert verdicts == [
            Inserted(NO_PARENT, None, None),
            Inserted(EXISTS, State.ENQUEUED, None),
            Inserted(CREATED, State.ENQUEUED, Ref("a", 1, "q", 1)),
            Inserted(CONFLICT, None, None),
            Inserted(CREATED, State.SCHEDULED, None),
        ]
        assert [bench.exists(job_id) for job_id in ("orphan", "a", "b")] == [False, True, True]

    def test_insert_again_is_accepted_and_changes_nothing(self, bench: Bench) -> None:
        job = new_job("job", priority=3)
        bench.add(job)
        before = bench.details("job")
        bench.clock.advance(SECOND)
        assert bench.storage.insert([job]) == [Inserted(EXISTS, State.ENQUEUED, None)]
        assert bench.details("job") == before
        assert bench.storage.counts().by_queue == {"q": {State.ENQUEUED: 1}}

    def test_insert_again_tells_the_state_of_a_job_that_has_moved_on(self, bench: Bench) -> None:
        claim = bench.start("job")
        again = [new_job("job")]
        assert bench.storage.insert(again) == [Inserted(EXISTS, State.PROCESSING, None)]
        bench.move(report(claim, Cause.FAIL, error=ERROR))
        assert bench.storage.insert(again) == [Inserted(EXISTS, State.FAILED, None)]
        assert bench.state("job") is State.FAILED

    def test_insert_of_one_id_twice_in_a_call(self, bench: Bench) -> None:
        job = new_job("job")
        inserted = bench.storage.insert([job, job, new_job("job", type="other")])
        assert [item.verdict for item in inserted] == [CREATED, EXISTS, CONFLICT]
        assert len(bench.history("job")) == 1

    @pytest.mark.parametrize("other", [new_job("job", type="other"), new_job("job", payload=b"{ }")])
    def test_insert_of_another_job_under_a_taken_id_is_a_conflict(self, bench: Bench, other: object) -> None:
        bench.add(new_job("job"))
        before = bench.details("job")
        assert bench.storage.insert([other]) == [Inserted(CONFLICT, None, None)]  # type: ignore[list-item]
        assert bench.details("job") == before

    def test_insert_under_an_unknown_parent_stores_nothing(self, bench: Bench) -> None:
        assert bench.storage.insert([new_job("child", parent="nobody")]) == [Inserted(NO_PARENT, None, None)]
        assert not bench.exists("child")
        assert bench.storage.counts().by_queue == {}

    def test_a_job_is_not_its_own_parent(self, bench: Bench) -> None:
        assert bench.storage.insert([new_job("job", parent="job")]) == [Inserted(NO_PARENT, None, None)]
        assert not bench.exists("job")

    def test_insert_knows_parents_earlier_in_the_call(self, bench: Bench) -> None:
        inserted = bench.storage.insert(
            [
                new_job("early", parent="parent"),
                new_job("parent"),
                new_job("child", parent="parent"),
                new_job("grandchild", parent="child", on=On.FAILED),
            ]
        )
        assert inserted == [
            Inserted(NO_PARENT, None, None),
            Inserted(CREATED, State.ENQUEUED, Ref("parent", 1, "q", 0)),
            Inserted(CREATED, State.AWAITING, None),
            Inserted(CREATED, State.AWAITING, None),
        ]
        assert bench.details("parent").children == ("child",)
        job = bench.job("grandchild")
        assert (job.parent, job.on, job.epoch, job.run_at) == ("child", On.FAILED, 0, None)

    @pytest.mark.parametrize("on", On)
    @pytest.mark.parametrize("state", OPEN)
    def test_insert_under_a_parent_that_has_not_ended_waits(self, bench: Bench, state: State, on: On) -> None:
        bench.bring("parent", state)
        assert bench.storage.insert([new_job("child", parent="parent", on=on)]) == [
            Inserted(CREATED, State.AWAITING, None)
        ]
        assert bench.details("parent").children == ("child",)

    @pytest.mark.parametrize("on", On)
    @pytest.mark.parametrize("state", ENDED)
    def test_insert_under_a_parent_that_has_ended_is_decided_at_once(self, bench: Bench, state: State, on: On) -> None:
        bench.bring("parent", state)
        [inserted] = bench.storage.insert([new_job("child", parent="parent", on=on)])
        job = bench.job("child")
        match continuation(state, on):
            case Cause.PARENT_ENDED:
                assert inserted == Inserted(CREATED, State.ENQUEUED, Ref("child", 1, "q", 0))
            case Cause.PARENT_MISSED:
                assert inserted == Inserted(CREATED, State.DELETED, None)
                assert job.expires_at == bench.clock() + KEEP[State.DELETED]
            case _:
                assert inserted == Inserted(CREATED, State.AWAITING, None)
        assert job.state is inserted.state
        assert [entry.state for entry in bench.history("child")] == [job.state]

    def test_a_delayed_continuation_waits_for_its_parent_only(self, bench: Bench) -> None:
        bench.add(new_job("parent"), new_job("child", parent="parent", delay=DAY))
        assert bench.state("child") is State.AWAITING
        bench.end("parent", State.SUCCEEDED)
        assert bench.state("child") is State.ENQUEUED

    def test_insert_again_does_not_look_for_the_parent(self, bench: Bench) -> None:
        child = new_job("child", parent="parent")
        bench.add(new_job("parent"), child)
        bench.end("parent", State.SUCCEEDED)
        claim = bench.claim("child")
        bench.move(report(claim, Cause.SUCCEED, keep=10 * DAY))
        bench.clock.advance(2 * DAY)
        assert bench.storage.prune(10) == 1
        assert not bench.exists("parent")
        assert bench.storage.insert([child]) == [Inserted(EXISTS, State.SUCCEEDED, None)]

    def test_an_id_is_free_again_once_its_job_is_pruned(self, bench: Bench) -> None:
        bench.add(new_job("job"))
        bench.end("job", State.SUCCEEDED)
        bench.clock.advance(DAY)
        bench.storage.prune(1)
        bench.add(new_job("job", type="other"))
        assert (bench.job("job").epoch, len(bench.history("job"))) == (1, 1)

    @pytest.mark.parametrize(
        "payload",
        [b"", b"\x00\xff\xfe\x80", b"'; drop table jobs; --", bytes(range(256)) * 1024],
        ids=["empty", "not UTF-8", "quotes", "256 KiB"],
    )
    def test_a_payload_is_bytes_that_nobody_reads(self, bench: Bench, payload: bytes) -> None:
        job = new_job("job", payload=payload)
        bench.add(job)
        assert bench.job("job").payload == payload
        assert bench.claim("job", bench.serve()).payload == payload
        assert bench.storage.insert([job])[0].verdict is EXISTS

    def test_insert_of_a_thousand(self, bench: Bench) -> None:
        jobs = [new_job(f"job-{n}") for n in range(1_000)]
        bench.add(*jobs)
        bench.serve(BY)
        assert [claim.id for claim in bench.take(limit=1_000)] == [job.id for job in jobs]
