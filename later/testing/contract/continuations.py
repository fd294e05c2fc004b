"""What `Storage.apply` promises about the continuations of a job that ends."""

import pytest

from later.core.lifecycle import KEEP, Cause, Change, continuation, parent_reason
from later.core.records import Applied, On, Ref, State, Verdict
from later.core.steps import CASCADE
from later.testing.contract.bench import END_BY, Bench, StorageFixtures, ids, new_job, report


class ContinuationContract(StorageFixtures):
    @pytest.mark.parametrize("on", On)
    @pytest.mark.parametrize("state", END_BY)
    def test_the_end_of_the_parent_decides(self, bench: Bench, state: State, on: On) -> None:
        bench.add(new_job("parent"), new_job("child", queue="other", priority=2, parent="parent", on=on))
        bench.clock.advance(1)
        applied = bench.end("parent", state)
        child = bench.job("child")
        match continuation(state, on):
            case Cause.PARENT_ENDED:
                assert applied.enqueued == (Ref("child", 1, "other", 2),)
                assert (child.state, child.epoch, child.expires_at) == (State.ENQUEUED, 1, None)
            case Cause.PARENT_MISSED:
                assert applied.enqueued == ()
                assert (child.state, child.epoch) == (State.DELETED, 0)
                assert child.expires_at == bench.clock() + KEEP[State.DELETED]
            case _:
                assert applied.enqueued == ()
                assert child.state is State.AWAITING
        if child.state is not State.AWAITING:
            assert child.state_at == bench.clock()
            assert child.reason == parent_reason("parent", state)
            assert [entry.state for entry in bench.history("child")] == [State.AWAITING, child.state]

    @pytest.mark.parametrize("cause", [Cause.RETRY, Cause.SNOOZE, Cause.DEFER, Cause.RELEASE, Cause.CRASH])
    def test_a_parent_that_goes_on_keeps_its_continuations_waiting(self, bench: Bench, cause: Cause) -> None:
        claim = bench.start("parent")
        bench.add(*(new_job(on, parent="parent", on=on) for on in On))
        bench.move(report(claim, cause))
        assert [bench.state(on) for on in On] == [State.AWAITING] * len(On)

    def test_a_deleted_parent_ends_the_wait_of_all(self, bench: Bench) -> None:
        bench.add(new_job("parent", delay=5), *(new_job(on, parent="parent", on=on) for on in On))
        applied = bench.move(Change("parent", Cause.DELETE))
        assert ids(applied.enqueued) == [On.DELETED, On.FINISHED]
        assert bench.state(On.SUCCEEDED) is State.DELETED
        assert bench.state(On.FAILED) is State.DELETED

    @pytest.mark.parametrize("count", [CASCADE, CASCADE + 1, 2 * CASCADE + 500])
    def test_many_children_are_told_in_time_and_in_order(self, bench: Bench, count: int) -> None:
        bench.add(new_job("parent"))
        children = [f"child-{number:05}" for number in range(count)]
        bench.add(*(new_job(child, parent="parent") for child in children))
        told = ids(bench.end("parent", State.SUCCEEDED).enqueued)
        assert len(told) >= min(count, CASCADE)
        told += bench.go_on()
        assert told == children
        counts = bench.storage.counts().by_queue
        assert sum(states.get(State.ENQUEUED, 0) for states in counts.values()) == count
        assert sum(states.get(State.AWAITING, 0) for states in counts.values()) == 0
        assert bench.go_on() == []

    def test_many_generations_and_families_share_a_step(self, bench: Bench) -> None:
        families = 3
        parents = [new_job(f"parent-{family}", delay=5) for family in range(families)]
        bench.add(*parents)
        for family in range(families):
            bench.add(new_job(f"middle-{family}", parent=f"parent-{family}", on=On.SUCCEEDED))
            bench.add(*(new_job(f"s-{family}-{n}", parent=f"middle-{family}") for n in range(400)))
            bench.add(*(new_job(f"f-{family}-{n}", parent=f"middle-{family}", on=On.FINISHED) for n in range(400)))
        bench.storage.apply([Change(parent.id, Cause.DELETE) for parent in parents])
        bench.go_on()
        [states] = bench.storage.counts().by_queue.values()
        assert states == {State.DELETED: families * 402, State.ENQUEUED: families * 400}

    def test_children_that_wait_on_do_not_hide_those_behind_them(self, bench: Bench) -> None:
        bench.add(new_job("parent"))
        bench.add(*(new_job(f"waits-{n}", parent="parent") for n in range(CASCADE + 10)))
        bench.add(*(new_job(f"told-{n}", parent="parent", on=On.FAILED) for n in range(10)))
        told = ids(bench.end("parent", State.FAILED).enqueued) + bench.go_on()
        assert told == [f"told-{n}" for n in range(10)]
        assert bench.state("waits-0") is bench.state(f"waits-{CASCADE}") is State.AWAITING
        bench.move(Change("parent", Cause.REQUEUE))
        told = ids(bench.end("parent", State.SUCCEEDED).enqueued) + bench.go_on()
        assert told == [f"waits-{n}" for n in range(CASCADE + 10)]

    def test_a_parent_that_is_requeued_meanwhile_loses_no_child(self, bench: Bench) -> None:
        bench.add(new_job("parent"))
        bench.add(*(new_job(f"child-{n}", parent="parent") for n in range(CASCADE + 10)))
        told = ids(bench.end("parent", State.SUCCEEDED).enqueued)
        bench.move(Change("parent", Cause.REQUEUE))
        told += bench.go_on()
        told += ids(bench.end("parent", State.SUCCEEDED).enqueued) + bench.go_on()
        assert sorted(job for job in told if job != "parent") == sorted(f"child-{n}" for n in range(CASCADE + 10))

    def test_a_poisoned_parent_has_failed(self, bench: Bench) -> None:
        claim = bench.start("parent", max_crashes=0)
        bench.add(*(new_job(on, parent="parent", on=on) for on in On))
        assert ids(bench.move(report(claim, Cause.CRASH)).enqueued) == [On.FAILED, On.FINISHED]

    def test_a_failed_parent_may_be_requeued_and_succeed_after_all(self, bench: Bench) -> None:
        bench.add(new_job("parent"), new_job("child", parent="parent"), new_job("f", parent="parent", on=On.FAILED))
        assert ids(bench.end("parent", State.FAILED).enqueued) == ["f"]
        assert bench.state("child") is State.AWAITING
        assert ids(bench.move(Change("parent", Cause.REQUEUE)).enqueued) == ["parent"]
        assert ids(bench.end("parent", State.SUCCEEDED).enqueued) == ["child"]
        assert bench.job("f").epoch == 1, "released once"

    def test_a_failed_parent_that_is_deleted_ends_the_wait(self, bench: Bench) -> None:
        bench.add(new_job("parent"), new_job("child", parent="parent"), new_job("d", parent="parent", on=On.DELETED))
        bench.end("parent", State.FAILED)
        assert ids(bench.move(Change("parent", Cause.DELETE)).enqueued) == ["d"]
        assert bench.state("child") is State.DELETED

    def test_a_repeated_end_releases_nothing_again(self, bench: Bench) -> None:
        claim = bench.start("parent")
        bench.add(new_job("child", parent="parent"))
        end = report(claim, Cause.SUCCEED)
        assert ids(bench.move(end).enqueued) == ["child"]
        before = bench.details("child")
        assert bench.apply(end) == Applied(Verdict.REPEATED, State.SUCCEEDED, ())
        bench.move(Change("parent", Cause.REQUEUE))
        assert bench.end("parent", State.SUCCEEDED).enqueued == ()
        assert bench.details("child") == before

    def test_a_fenced_end_releases_nothing(self, bench: Bench) -> None:
        claim = bench.start("parent")
        bench.add(new_job("child", parent="parent"))
        for fenced in (report(claim, Cause.SUCCEED, server="other"), Change("parent", Cause.SUCCEED)):
            assert bench.apply(fenced) == Applied(Verdict.FENCED, State.PROCESSING, ())
        assert bench.state("child") is State.AWAITING

    def test_a_continuation_that_was_deleted_meanwhile_stays_deleted(self, bench: Bench) -> None:
        bench.add(new_job("parent"), new_job("child", parent="parent"))
        bench.move(Change("child", Cause.DELETE))
        assert bench.end("parent", State.SUCCEEDED).enqueued == ()
        assert bench.state("child") is State.DELETED

    def test_a_deleted_continuation_may_be_requeued_without_its_parent(self, bench: Bench) -> None:
        bench.add(new_job("parent"), new_job("child", parent="parent"))
        bench.move(Change("child", Cause.DELETE))
        assert ids(bench.move(Change("child", Cause.REQUEUE)).enqueued) == ["child"]
        assert bench.end("parent", State.SUCCEEDED).enqueued == ()
        assert bench.job("child").epoch == 1

    def test_a_waiting_continuation_is_not_requeued(self, bench: Bench) -> None:
        bench.add(new_job("parent"), new_job("child", parent="parent"))
        assert bench.apply(Change("child", Cause.REQUEUE)) == Applied(Verdict.REFUSED, State.AWAITING, ())

    def test_an_end_reaches_the_children_of_children(self, bench: Bench) -> None:
        """Nearer ones come first, older siblings first."""
        bench.add(
            new_job("root"),
            new_job("missed", parent="root"),
            new_job("released", parent="root", on=On.FINISHED),
            new_job("below-missed", parent="missed", on=On.DELETED),
            new_job("waits", parent="released"),
            new_job("missed-too", parent="missed", on=On.FAILED),
            new_job("last", parent="missed-too", on=On.FINISHED),
            new_job("sibling", parent="root", on=On.DELETED),
        )
        applied = bench.end("root", State.DELETED)
        assert ids(applied.enqueued) == ["released", "sibling", "below-missed", "last"]
        assert bench.state("missed") is State.DELETED
        assert bench.state("missed-too") is State.DELETED
        assert bench.state("waits") is State.AWAITING

    def test_one_call_may_end_several_generations(self, bench: Bench) -> None:
        """A child that the second change of a call moves is seen as that change left it by the third."""
        bench.add(new_job("parent"), new_job("child", parent="parent"), new_job("grandchild", parent="child"))
        claim = bench.claim("parent", bench.serve())
        applied = bench.storage.apply([Change("child", Cause.DELETE), report(claim, Cause.SUCCEED)])
        assert [item.enqueued for item in applied] == [(), ()]
        assert [bench.state(job_id) for job_id in ("child", "grandchild")] == [State.DELETED, State.DELETED]

    def test_a_chain_of_a_thousand(self, bench: Bench) -> None:
        """Longer than an interpreter's stack is deep."""
        chain = [new_job(f"job-{n}", parent=f"job-{n - 1}" if n else None) for n in range(1_000)]
        bench.add(*chain, new_job("end", parent=chain[-1].id, on=On.DELETED))
        assert ids(bench.end("job-0", State.DELETED).enqueued) == ["end"]
        assert bench.storage.counts().by_queue["q"] == {State.DELETED: 1_000, State.ENQUEUED: 1}

    def test_five_hundred_children(self, bench: Bench) -> None:
        children = [new_job(f"job-{n}", parent="parent") for n in range(500)]
        bench.add(new_job("parent"), *children)
        applied = bench.end("parent", State.SUCCEEDED)
        assert ids(applied.enqueued) == [child.id for child in children]
        assert list(bench.details("parent").children) == [child.id for child in children]
        assert bench.storage.counts().by_queue["q"] == {State.SUCCEEDED: 1, State.ENQUEUED: 500}

    def test_each_change_of_a_call_tells_what_it_released(self, bench: Bench) -> None:
        first, second = bench.start("first"), bench.start("second")
        bench.add(new_job("of-second", parent="second"), new_job("of-first", parent="first"))
        applied = bench.storage.apply([report(first, Cause.SUCCEED), report(second, Cause.SUCCEED)])
        assert [ids(item.enqueued) for item in applied] == [["of-first"], ["of-second"]]

    def test_a_report_that_is_repeated_forgets_no_children(self, bench: Bench) -> None:
        """The reply to a report was lost, and it comes again beside the end of another parent, while children of the
        first are still to be told."""
        first, second = bench.start("first"), bench.start("second")
        many = [f"child-{number:05}" for number in range(CASCADE + 10)]
        bench.add(*(new_job(child, parent="first") for child in many), new_job("other", parent="second"))
        told = ids(bench.move(report(first, Cause.SUCCEED)).enqueued)
        repeated, ended = bench.storage.apply([report(first, Cause.SUCCEED), report(second, Cause.SUCCEED)])
        assert (repeated.verdict, ended.verdict) == (Verdict.REPEATED, Verdict.APPLIED)
        told += [*ids(repeated.enqueued), *ids(ended.enqueued), *bench.go_on()]
        assert sorted(told) == [*many, "other"]
