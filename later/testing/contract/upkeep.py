"""What a storage promises about time: what comes due, what is published again, what has been kept long enough."""

from collections.abc import Sequence

import pytest

from later.core.errors import InvalidOption
from later.core.lifecycle import DAY, KEEP, PUBLISH_WITHIN, Cause, Change, ref_of
from later.core.ports import Storage
from later.core.records import SECOND, Inserted, On, Promoted, Ref, State
from later.testing.contract.bench import BY, END_BY, Bench, StorageFixtures, ids, new_job, report


class PromoteContract(StorageFixtures):
    def test_nothing_is_scheduled(self, storage: Storage) -> None:
        assert storage.promote(10) == Promoted((), None)

    def test_a_job_becomes_enqueued_when_its_time_has_come(self, bench: Bench) -> None:
        bench.add(new_job("job", delay=SECOND, priority=2))
        bench.clock.advance(SECOND - 1)
        assert bench.storage.promote(10) == Promoted((), 1)
        now = bench.clock.advance(1)
        assert bench.storage.promote(10) == Promoted((Ref("job", 1, "q", 2),), None)
        job = bench.job("job")
        assert (job.state, job.state_at, job.run_at, job.epoch) == (State.ENQUEUED, now, None, 1)
        assert bench.storage.promote(10) == Promoted((), None)

    def test_the_earliest_come_first_up_to_the_limit(self, bench: Bench) -> None:
        bench.add(
            new_job("late", delay=30),
            new_job("b", delay=20),
            new_job("a", delay=20),
            new_job("first", delay=10),
            new_job("future", delay=100),
        )
        bench.clock.advance(50)
        promoted = bench.storage.promote(2)
        assert (ids(promoted.enqueued), promoted.next_due_in) == (["first", "a"], -30)
        promoted = bench.storage.promote(9)
        assert (ids(promoted.enqueued), promoted.next_due_in) == (["b", "late"], 50)
        bench.serve()
        assert ids(bench.take(limit=9)) == ["first", "a", "b", "late"]

    def test_a_retry_comes_due(self, bench: Bench) -> None:
        bench.move(report(bench.start("job"), Cause.RETRY, delay=SECOND))
        bench.clock.advance(SECOND)
        assert bench.storage.promote(1).enqueued == (Ref("job", 2, "q", 0),)


def _refs(inserted: Sequence[Inserted]) -> list[Ref]:
    return [item.ref for item in inserted if item.ref is not None]


class OutboxContract(StorageFixtures):
    def test_without_a_broker_nothing_is_to_be_published(self, bench: Bench) -> None:
        bench.add(new_job("job"))
        bench.clock.advance(DAY)
        assert bench.job("job").publish_by is None
        assert bench.storage.unpublished(10, SECOND) == []

    def test_what_was_neither_confirmed_nor_claimed_is_published_again(self, outbox: Bench) -> None:
        outbox.add(new_job("job", priority=1))
        assert outbox.job("job").publish_by == outbox.clock() + PUBLISH_WITHIN
        outbox.clock.advance(PUBLISH_WITHIN - 1)
        assert outbox.storage.unpublished(10, SECOND) == []
        outbox.clock.advance(1)
        ref = Ref("job", 1, "q", 1)
        assert outbox.storage.unpublished(10, SECOND) == [ref]
        assert outbox.storage.unpublished(10, SECOND) == [], "another server does not publish it too"
        outbox.clock.advance(SECOND)
        assert outbox.storage.unpublished(10, SECOND) == [ref]
        assert len(outbox.history("job")) == 1

    def test_what_was_confirmed_is_not_published_again(self, outbox: Bench) -> None:
        refs = [item.ref for item in outbox.add(new_job("a"), new_job("b"))]
        assert refs[0] is not None
        outbox.storage.published([refs[0], Ref("nobody", 1, "q", 0)])
        assert outbox.job("a").publish_by is None
        outbox.clock.advance(DAY)
        assert ids(outbox.storage.unpublished(10, SECOND)) == ["b"]

    def test_a_confirmation_of_an_earlier_epoch_does_not_count(self, outbox: Bench) -> None:
        outbox.add(new_job("job"))
        outbox.move(Change("job", Cause.DELETE))
        outbox.move(Change("job", Cause.REQUEUE))
        before = outbox.job("job")
        outbox.storage.published([Ref("job", 1, "q", 0)])
        assert outbox.job("job") == before

    def test_a_claimed_job_is_not_published_again(self, outbox: Bench) -> None:
        claim = outbox.start("job")
        assert outbox.job("job").publish_by is None
        outbox.storage.published([Ref("job", 1, "q", 0)])
        outbox.clock.advance(DAY)
        assert outbox.storage.unpublished(10, SECOND) == []
        outbox.move(report(claim, Cause.SUCCEED))
        assert outbox.job("job").publish_by is None

    def test_a_deleted_job_is_not_published_again(self, outbox: Bench) -> None:
        outbox.add(new_job("job"))
        outbox.move(Change("job", Cause.DELETE))
        outbox.clock.advance(DAY)
        assert outbox.storage.unpublished(10, SECOND) == []

    def test_every_way_into_enqueued_leads_through_the_outbox(self, outbox: Bench) -> None:
        outbox.serve()
        outbox.add(*(new_job(job_id) for job_id in ("released", "crashed", "requeued", "parent", "rescued")))
        outbox.add(new_job("child", parent="parent"), new_job("due", delay=1))
        for job_id, cause in [("released", Cause.RELEASE), ("crashed", Cause.CRASH), ("parent", Cause.SUCCEED)]:
            outbox.move(report(outbox.claim(job_id), cause))
        outbox.move(Change("requeued", Cause.DELETE))
        outbox.move(Change("requeued", Cause.REQUEUE))
        outbox.clock.advance(1)
        outbox.storage.promote(1)
        outbox.claim("rescued")
        outbox.storage.rescue(1, [BY.server])
        outbox.clock.advance(PUBLISH_WITHIN)
        refs = outbox.storage.unpublished(10, SECOND)
        assert sorted(ids(refs)) == ["child", "crashed", "due", "released", "requeued", "rescued"]
        assert refs == [ref_of(outbox.job(ref.id)) for ref in refs]

    def test_the_earliest_are_published_first_up_to_the_limit(self, outbox: Bench) -> None:
        outbox.add(new_job("z"))
        outbox.clock.advance(1)
        outbox.add(new_job("b"), new_job("a"))
        outbox.clock.advance(DAY)
        assert ids(outbox.storage.unpublished(2, SECOND)) == ["z", "a"]
        assert ids(outbox.storage.unpublished(2, SECOND)) == ["b"]

    def test_what_the_broker_has_lost_is_published_again(self, outbox: Bench) -> None:
        refs = _refs(outbox.add(new_job("b"), new_job("a")))
        late = outbox.clock.advance(SECOND)
        refs += _refs(outbox.add(new_job("late"), new_job("young", delay=1), new_job("elsewhere", queue="r")))
        outbox.storage.published(refs)
        outbox.clock.advance(SECOND)
        refs += outbox.storage.promote(1).enqueued
        outbox.storage.published(refs[-1:])
        assert outbox.storage.unpublished(10, SECOND) == []
        assert outbox.storage.unpublish(["q", "nothing"], SECOND, 10) is None
        assert outbox.job("late").publish_by == late
        assert outbox.job("elsewhere").publish_by is None
        assert ids(outbox.storage.unpublished(10, SECOND)) == ["a", "b", "late"]

    def test_a_walk_over_what_was_lost_goes_on_where_it_was(self, outbox: Bench) -> None:
        names = ["d", "b", "a", "c", "e"]
        refs: list[Ref] = []
        for name in names:
            refs += _refs(outbox.add(new_job(name)))
            outbox.clock.advance(1 if name in {"d", "c"} else 0)
        outbox.storage.published(refs)
        steps: list[list[str]] = []
        after: str | None = None
        while True:
            after = outbox.storage.unpublish(["q"], 0, 2, after)
            found = outbox.storage.unpublished(10, SECOND)
            outbox.storage.published(found)  # at once: it is not to be found again
            steps.append(ids(found))
            if after is None:
                break
        assert steps == [["d", "a"], ["b", "c"], ["e"]]
        with pytest.raises(InvalidOption):
            outbox.storage.unpublish(["q"], 0, 2, "nonsense")

    def test_only_what_waits_in_the_broker_was_lost(self, outbox: Bench) -> None:
        outbox.add(new_job("waiting"), new_job("ended"), new_job("scheduled", delay=SECOND))
        outbox.end("ended", State.SUCCEEDED)
        outbox.start("running")
        before = [outbox.job(job_id) for job_id in ("waiting", "ended", "scheduled", "running")]
        assert outbox.storage.unpublish(["q"], 0, 10) is None
        assert [outbox.job(job.id) for job in before] == before, "waiting is to be published already"


class PruneContract(StorageFixtures):
    @pytest.mark.parametrize("state", [State.SUCCEEDED, State.DELETED])
    def test_a_job_is_removed_when_it_was_kept_long_enough(self, bench: Bench, state: State) -> None:
        bench.add(new_job("job"))
        bench.end("job", state)
        bench.clock.advance(KEEP[state] - 1)
        assert bench.storage.prune(10) == 0
        assert bench.exists("job")
        bench.clock.advance(1)
        assert bench.storage.prune(10) == 1
        assert not bench.exists("job")
        assert bench.storage.counts().by_queue == {}
        assert bench.storage.prune(10) == 0

    def test_a_change_may_say_how_long(self, bench: Bench) -> None:
        bench.move(report(bench.start("short"), Cause.SUCCEED, keep=0))
        bench.move(report(bench.start("long"), Cause.SUCCEED, keep=9 * DAY))
        assert bench.storage.prune(10) == 1
        bench.clock.advance(9 * DAY - 1)
        assert bench.storage.prune(10) == 0
        bench.clock.advance(1)
        assert bench.storage.prune(10) == 1

    def test_a_failed_job_becomes_deleted_and_is_removed_a_day_later(self, bench: Bench) -> None:
        bench.add(new_job("job"), new_job("s", parent="job"), new_job("d", parent="job", on=On.DELETED))
        bench.end("job", State.FAILED)
        assert bench.state("s") is State.AWAITING
        bench.clock.advance(KEEP[State.FAILED])
        assert bench.storage.prune(10) == 1
        job = bench.job("job")
        assert (job.state, job.expires_at) == (State.DELETED, bench.clock() + DAY)
        assert [entry.state for entry in bench.history("job")][-2:] == [State.FAILED, State.DELETED]
        assert bench.state("s") is State.DELETED
        assert bench.state("d") is State.ENQUEUED
        bench.end("d", State.SUCCEEDED)
        assert bench.storage.prune(10) == 0
        bench.clock.advance(DAY)
        assert bench.storage.prune(10) == 3

    @pytest.mark.parametrize("state", END_BY)
    def test_a_parent_is_kept_until_its_children_have_ended(self, bench: Bench, state: State) -> None:
        """The child is told the parent's result, whenever it runs."""
        bench.add(new_job("parent"), new_job("child", parent="parent"), new_job("second", parent="parent"))
        bench.move(report(bench.claim("parent", bench.serve()), Cause.SUCCEED, result=b"1"))
        bench.clock.advance(2 * DAY)
        assert bench.storage.prune(10) == 0
        bench.end("second", State.SUCCEEDED)
        assert bench.storage.prune(10) == 0
        claim = bench.claim("child")
        assert claim.parent_result == b"1"
        bench.move(report(claim, END_BY[state]))
        assert bench.storage.prune(10) == 1
        assert not bench.exists("parent")
        assert bench.exists("child")

    def test_parents_that_are_kept_do_not_use_up_the_limit(self, bench: Bench) -> None:
        bench.add(new_job("parent"), new_job("child", parent="parent"))
        bench.end("parent", State.SUCCEEDED)
        bench.clock.advance(1)
        bench.add(new_job("job"))
        bench.end("job", State.SUCCEEDED)
        bench.clock.advance(DAY)
        assert bench.storage.prune(1) == 1
        assert (bench.exists("parent"), bench.exists("job")) == (True, False)

    def test_a_parent_whose_child_was_requeued_is_kept(self, bench: Bench) -> None:
        bench.add(new_job("parent"), new_job("child", parent="parent"))
        bench.end("parent", State.SUCCEEDED)
        bench.end("child", State.FAILED)
        bench.clock.advance(DAY)
        bench.move(Change("child", Cause.REQUEUE))
        assert bench.storage.prune(10) == 0
        bench.move(Change("child", Cause.DELETE))
        assert bench.storage.prune(10) == 1

    def test_a_child_outlives_its_parent_without_it(self, bench: Bench) -> None:
        bench.add(new_job("parent"), new_job("child", parent="parent"))
        bench.end("parent", State.SUCCEEDED)
        bench.end("child", State.FAILED)
        bench.clock.advance(DAY)
        bench.storage.prune(10)
        assert not bench.exists("parent")
        bench.move(Change("child", Cause.REQUEUE))
        claim = bench.claim("child", bench.serve(BY._replace(server="late")))
        assert (claim.parent, claim.parent_state, claim.parent_result) == ("parent", None, None)

    def test_a_removed_child_is_no_longer_listed(self, bench: Bench) -> None:
        bench.add(new_job("parent"), new_job("a", parent="parent"), new_job("b", parent="parent"))
        bench.move(Change("a", Cause.DELETE))
        bench.clock.advance(DAY)
        assert bench.storage.prune(10) == 1
        assert bench.details("parent").children == ("b",)

    def test_a_requeued_job_is_not_removed(self, bench: Bench) -> None:
        bench.add(new_job("job"))
        bench.end("job", State.SUCCEEDED)
        bench.move(Change("job", Cause.REQUEUE))
        bench.clock.advance(DAY)
        assert bench.storage.prune(10) == 0
        assert bench.state("job") is State.ENQUEUED

    def test_those_that_expired_first_go_first_up_to_the_limit(self, bench: Bench) -> None:
        for job_id in ("z", "b", "a"):
            bench.move(report(bench.start(job_id), Cause.SUCCEED, keep=1 if job_id == "z" else 2))
        bench.clock.advance(5)
        assert bench.storage.prune(2) == 2
        assert [bench.exists(job_id) for job_id in ("z", "a", "b")] == [False, False, True]

    @pytest.mark.parametrize("state", [State.AWAITING, State.SCHEDULED, State.ENQUEUED, State.PROCESSING])
    def test_a_job_that_has_not_ended_is_kept(self, bench: Bench, state: State) -> None:
        bench.bring("job", state)
        bench.clock.advance(1_000 * DAY)
        bench.storage.prune(10)
        assert bench.state("job") is state
