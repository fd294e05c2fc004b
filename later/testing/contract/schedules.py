"""What a storage promises about schedules: each change of one happens once, with all that it makes."""

from collections.abc import Callable
from threading import Barrier

import pytest

from later.core.lifecycle import Cause, Change, Reschedule
from later.core.ports import Storage, StorageOptions
from later.core.records import (
    SECOND,
    Due,
    InsertVerdict,
    Micros,
    On,
    Ref,
    RescheduleVerdict,
    ScheduleRecord,
    State,
    Verdict,
)
from later.testing.clock import VirtualClock
from later.testing.contract.bench import Bench, MakeStorage, StorageFixtures, new_job
from later.testing.contract.together import together

STALE = RescheduleVerdict.STALE
APPLIED = RescheduleVerdict.APPLIED
BODY = b'{"cron": "* * * * *", "text": "\xc3\xa4 \x00\xff"}'


def put(schedule_id: str, version: int = 0, next_at: Micros | None = None, body: bytes = BODY) -> Reschedule:
    return Reschedule(schedule_id, version, next_at, body)


def verdict(storage: Storage, change: Reschedule) -> RescheduleVerdict:
    [done] = storage.reschedule([change])
    return done.verdict


class ScheduleContract(StorageFixtures):
    def test_there_is_none_at_first(self, bench: Bench) -> None:
        assert bench.storage.schedules() == []
        assert bench.storage.schedules(["nightly"]) == [None]
        assert bench.storage.due(10) == Due(bench.clock(), (), None)

    def test_it_is_stored_as_it_was_given(self, bench: Bench) -> None:
        at = bench.clock() + SECOND
        assert verdict(bench.storage, put("nightly", next_at=at)) is APPLIED
        assert bench.storage.schedules(["nightly"]) == [ScheduleRecord("nightly", 1, at, BODY)]

    def test_all_are_listed_by_id_and_some_in_the_order_asked_for(self, bench: Bench) -> None:
        bench.storage.reschedule([put(name) for name in ("b", "Z", "a", "a-1", "a.1")])
        names = [schedule.id for schedule in bench.storage.schedules() if schedule is not None]
        assert names == ["Z", "a", "a-1", "a.1", "b"]
        asked = bench.storage.schedules(["b", "nobody", "Z", "b"])
        assert [schedule and schedule.id for schedule in asked] == ["b", None, "Z", "b"]

    def test_every_change_raises_the_version(self, bench: Bench) -> None:
        bench.storage.reschedule([put("nightly")])
        assert verdict(bench.storage, put("nightly", 1, body=b"other")) is APPLIED
        assert bench.storage.schedules() == [ScheduleRecord("nightly", 2, None, b"other")]

    @pytest.mark.parametrize("version", [0, 1, 3])
    @pytest.mark.parametrize("body", [b"other", None])
    def test_a_change_of_another_version_is_stale(self, bench: Bench, version: int, body: bytes | None) -> None:
        bench.storage.reschedule([put("nightly"), put("nightly", 1)])
        bench.add(new_job("old"))
        stale = Reschedule("nightly", version, 7, body, (new_job("job"),), (Change("old", Cause.DELETE),))
        [done] = bench.storage.reschedule([stale])
        assert (done.verdict, done.inserted, done.applied) == (STALE, (), ())
        assert bench.storage.schedules() == [ScheduleRecord("nightly", 2, None, BODY)]
        assert not bench.exists("job")
        assert bench.state("old") is State.ENQUEUED

    def test_a_change_of_one_that_is_not_there_is_stale(self, bench: Bench) -> None:
        assert verdict(bench.storage, put("nightly", 1)) is STALE
        assert bench.storage.schedules() == []

    def test_it_is_removed_and_made_again(self, bench: Bench) -> None:
        bench.storage.reschedule([put("nightly", next_at=1)])
        assert verdict(bench.storage, Reschedule("nightly", 1, None, None)) is APPLIED
        assert bench.storage.schedules() == []
        assert bench.storage.due(10).schedules == ()
        assert verdict(bench.storage, put("nightly")) is APPLIED
        assert bench.storage.schedules() == [ScheduleRecord("nightly", 1, None, BODY)]

    def test_changes_of_one_call_see_each_other(self, bench: Bench) -> None:
        done = bench.storage.reschedule(
            [
                put("a"),
                put("a"),
                put("b", 4),
                put("a", 1, 5),
                Reschedule("a", 2, None, None),
                put("a"),
                Reschedule("c", 0, None, None),
            ]
        )
        assert [item.verdict for item in done] == [APPLIED, STALE, STALE, APPLIED, APPLIED, APPLIED, APPLIED]
        assert bench.storage.schedules() == [ScheduleRecord("a", 1, None, BODY)]

    def test_no_change_at_all(self, bench: Bench) -> None:
        assert bench.storage.reschedule([]) == []

    def test_due_ones_come_by_time_and_id_up_to_the_limit(self, bench: Bench) -> None:
        now = bench.clock()
        times = {"late": -1, "b": -2, "a": -2, "now": 0, "soon": 3, "later": 9}
        bench.storage.reschedule([put(name, next_at=now + off) for name, off in times.items()] + [put("never")])
        due = bench.storage.due(10)
        assert [schedule.id for schedule in due.schedules] == ["a", "b", "late", "now"]
        assert (due.now, due.next_due_in) == (now, 3)
        due = bench.storage.due(3)
        assert [schedule.id for schedule in due.schedules] == ["a", "b", "late"]
        assert due.next_due_in == 0
        assert bench.storage.due(0).next_due_in == -2
        bench.clock.advance(3)
        due = bench.storage.due(10)
        assert [schedule.id for schedule in due.schedules] == ["a", "b", "late", "now", "soon"]
        assert due.next_due_in == 6

    def test_looking_changes_nothing(self, bench: Bench) -> None:
        bench.storage.reschedule([put("nightly", next_at=bench.clock())])
        assert bench.storage.due(10) == bench.storage.due(10)

    def test_its_jobs_are_inserted_with_the_change(self, outbox: Bench) -> None:
        jobs = (new_job("a", priority=3), new_job("b", delay=SECOND), new_job("c", parent="a", on=On.FINISHED))
        [done] = outbox.storage.reschedule([Reschedule("nightly", 0, 5, BODY, jobs)])
        assert [item.verdict for item in done.inserted] == [InsertVerdict.CREATED] * 3
        assert [item.state for item in done.inserted] == [State.ENQUEUED, State.SCHEDULED, State.AWAITING]
        assert done.inserted[0].ref == Ref("a", 1, "q", 3)
        assert outbox.job("a").publish_by is not None
        assert outbox.details("a").children == ("c",)
        assert outbox.storage.counts().total(State.ENQUEUED) == 1

    def test_its_jobs_are_inserted_as_any_other(self, bench: Bench) -> None:
        bench.add(new_job("same"), new_job("other", payload=b"1"))
        jobs = (new_job("same", parent="nobody"), new_job("other", payload=b"2"), new_job("new"))
        [done] = bench.storage.reschedule([Reschedule("nightly", 0, 5, BODY, jobs)])
        assert done.verdict is APPLIED
        assert [item.verdict for item in done.inserted] == [
            InsertVerdict.EXISTS,
            InsertVerdict.CONFLICT,
            InsertVerdict.CREATED,
        ]

    @pytest.mark.parametrize("version", [0, 1])
    def test_a_change_with_a_job_whose_parent_is_gone_is_stale(self, bench: Bench, version: int) -> None:
        if version:
            bench.storage.reschedule([put("nightly")])
        before = bench.storage.schedules()
        bench.add(new_job("old"))
        jobs = (new_job("new"), new_job("child", parent="new"), new_job("orphan", parent="nobody"))
        moves = (Change("old", Cause.DELETE),)
        [done, following] = bench.storage.reschedule(
            [Reschedule("nightly", version, 5, BODY, jobs, moves), put("nightly", version, body=b"other")]
        )
        assert (done.verdict, done.inserted, done.applied) == (STALE, (), ())
        assert following.verdict is APPLIED
        assert bench.storage.schedules() != before
        assert not bench.exists("new")
        assert bench.state("old") is State.ENQUEUED

    def test_a_parent_must_stand_before_its_child(self, bench: Bench) -> None:
        jobs = (new_job("child", parent="new"), new_job("new"))
        assert verdict(bench.storage, Reschedule("nightly", 0, 5, BODY, jobs)) is STALE
        assert verdict(bench.storage, Reschedule("nightly", 0, 5, BODY, jobs[::-1])) is APPLIED
        assert bench.state("child") is State.AWAITING

    def test_its_moves_are_applied_after_its_jobs(self, bench: Bench) -> None:
        bench.add(new_job("old"), new_job("child", parent="old", on=On.DELETED))
        running = bench.start("running")
        moves = (
            Change("old", Cause.DELETE, "because"),
            Change("running", Cause.DELETE),
            Change("nobody", Cause.DELETE),
            Change("new", Cause.DELETE),
        )
        [done] = bench.storage.reschedule([Reschedule("nightly", 0, 5, BODY, (new_job("new"),), moves)])
        verdicts = [Verdict.APPLIED, Verdict.REQUESTED, Verdict.UNKNOWN, Verdict.APPLIED]
        assert [item.verdict for item in done.applied] == verdicts
        assert [ref.id for ref in done.applied[0].enqueued] == ["child"]
        assert bench.job("old").reason == "because"
        assert bench.state("new") is State.DELETED
        assert bench.job(running.id).cancel_requested

    def test_a_move_with_many_children(self, bench: Bench) -> None:
        children = [new_job(f"child-{n}", parent="old", on=On.DELETED) for n in range(2500)]
        bench.add(new_job("old"), *children)
        moves = (Change("old", Cause.DELETE),)
        [done] = bench.storage.reschedule([Reschedule("nightly", 0, 5, BODY, (), moves)])
        told = [ref.id for ref in done.applied[0].enqueued] + bench.go_on()
        assert told == [new.id for new in children]

    def test_a_waiting_worker_learns_of_its_jobs(self, make_storage: MakeStorage, clock: VirtualClock) -> None:
        storage = make_storage(StorageOptions("contract", clock=clock))
        storage.migrate()

        def wait(barrier: Barrier) -> bool:
            barrier.wait()
            return storage.wait(["q"], 20)

        def make(barrier: Barrier) -> bool:
            barrier.wait()
            return bool(storage.reschedule([Reschedule("nightly", 0, 5, BODY, (new_job("job"),))]))

        assert together([wait, make]) == [True, True]
        storage.close()

    def test_schedules_of_other_namespaces_are_not_seen(self, make_storage: MakeStorage, bench: Bench) -> None:
        other = make_storage(StorageOptions("other", clock=bench.clock))
        other.migrate()
        other.reschedule([put("nightly", next_at=0)])
        assert bench.storage.schedules() == []
        assert bench.storage.due(10).schedules == ()
        other.close()

    def test_one_of_many_makes_the_jobs_of_a_version(self, bench: Bench) -> None:
        """Servers that find the same schedule due, each with a job id of its own so that a second one would show."""
        rounds, racers = 25, 4

        def tick(racer: int) -> Callable[[Barrier], int]:
            def run(barrier: Barrier) -> int:
                won = 0
                for number in range(rounds):
                    barrier.wait()
                    change = Reschedule("nightly", number, number, BODY, (new_job(f"{number}-{racer}"),))
                    won += verdict(bench.storage, change) is APPLIED
                return won

            return run

        assert sum(together([tick(racer) for racer in range(racers)])) == rounds
        assert bench.storage.counts().total(State.ENQUEUED) == rounds
        [schedule] = bench.storage.schedules()
        assert schedule is not None
        assert schedule.version == rounds
