"""What `Storage.exchange` promises about claims."""

import pytest

from later.core.lifecycle import Cause, Change
from later.core.records import SECOND, Claim, Claimant, Exchanged, HistoryEntry, On, Ref, State, Verdict
from later.testing.contract.bench import BY, LEASE, Bench, StorageFixtures, ids, new_job, report


class ExchangeContract(StorageFixtures):
    def test_a_claim_has_what_the_worker_needs(self, bench: Bench) -> None:
        bench.add(new_job("job", type="mail", queue="mails", payload=b'{"a":1}', priority=4))
        bench.serve()
        now = bench.clock.advance(SECOND)
        assert bench.take("mails") == (
            Claim(
                id="job",
                epoch=1,
                type="mail",
                queue="mails",
                priority=4,
                payload=b'{"a":1}',
                attempt=1,
                crashes=0,
                server=BY.server,
            ),
        )
        job = bench.job("job")
        assert (job.state, job.state_at, job.attempt, job.epoch) == (State.PROCESSING, now, 1, 1)
        assert (job.server, job.worker) == BY
        assert bench.history("job")[-1] == HistoryEntry(State.PROCESSING, now, "", 1, BY.server, BY.worker)

    def test_an_exchange_of_nothing(self, bench: Bench) -> None:
        assert bench.storage.exchange(bench.serve()) == Exchanged((), (), ())

    def test_changes_come_before_claims(self, bench: Bench) -> None:
        claim = bench.start("job")
        ref = Ref("job", 2, "q", 0)
        exchanged = bench.storage.exchange(BY, [report(claim, Cause.RELEASE)], [ref])
        assert exchanged.applied[0].enqueued == (ref,)
        [again] = exchanged.by_ref
        assert again is not None
        assert (again.epoch, again.attempt) == (2, 1)

        exchanged = bench.storage.exchange(BY, [report(again, Cause.RELEASE)], queues=["q"], limit=1)
        assert ids(exchanged.next) == ["job"]

    def test_a_released_continuation_may_be_claimed_in_the_same_exchange(self, bench: Bench) -> None:
        claim = bench.start("parent")
        bench.add(new_job("child", parent="parent"))
        exchanged = bench.storage.exchange(BY, [report(claim, Cause.SUCCEED, result=b"42")], queues=["q"], limit=5)
        [child] = exchanged.next
        assert (child.id, child.parent_state, child.parent_result) == ("child", State.SUCCEEDED, b"42")

    def test_references_come_before_what_is_next(self, bench: Bench) -> None:
        [_, second, _] = (item.ref for item in bench.add(new_job("a"), new_job("b"), new_job("c")))
        assert second is not None
        bench.serve()
        exchanged = bench.storage.exchange(BY, refs=[second], queues=["q"], limit=5)
        assert [claim and claim.id for claim in exchanged.by_ref] == ["b"]
        assert ids(exchanged.next) == ["a", "c"]

    def test_references_are_answered_in_order_and_stale_ones_by_none(self, bench: Bench) -> None:
        bench.add(new_job("a"), new_job("gone"), new_job("due", delay=1), new_job("b"))
        bench.move(Change("gone", Cause.DELETE))
        bench.serve()
        bench.clock.advance(5)
        refs = [
            Ref("b", 1, "q", 0),
            Ref("nobody", 1, "q", 0),
            Ref("gone", 1, "q", 0),
            Ref("due", 0, "q", 0),
            Ref("due", 1, "q", 0),
            Ref("a", 0, "q", 0),
            Ref("a", 2, "q", 0),
            Ref("a", 1, "q", 0),
        ]
        by_ref = bench.storage.exchange(BY, refs=refs).by_ref
        assert [claim and claim.id for claim in by_ref] == ["b", None, None, None, None, None, None, "a"]
        assert bench.state("due") is State.SCHEDULED

    @pytest.mark.parametrize("epoch", [0, 2, 2**31, 2**32 + 1, 2**63 - 1])
    def test_a_reference_with_an_epoch_that_was_made_up_claims_nothing(self, outbox: Bench, epoch: int) -> None:
        [inserted] = outbox.add(new_job("job"))
        assert inserted.ref is not None
        forged = inserted.ref._replace(epoch=epoch)
        assert [claim and claim.id for claim in outbox.storage.exchange(outbox.serve(), refs=[forged]).by_ref] == [None]
        outbox.storage.published([forged])
        assert outbox.job("job").publish_by is not None
        assert outbox.storage.exchange(BY, refs=[forged, inserted.ref]).by_ref[1] is not None

    def test_a_reference_is_only_a_hint_about_queue_and_priority(self, bench: Bench) -> None:
        bench.add(new_job("job", queue="real", priority=3))
        [claim] = bench.storage.exchange(bench.serve(), refs=[Ref("job", 1, "forged", 9)]).by_ref
        assert claim is not None
        assert (claim.queue, claim.priority) == ("real", 3)

    def test_queues_are_claimed_in_strict_order(self, bench: Bench) -> None:
        bench.add(
            new_job("low", queue="low", priority=9),
            new_job("high-1", queue="high"),
            new_job("unasked", queue="unasked"),
            new_job("high-2", queue="high"),
        )
        bench.serve()
        assert ids(bench.take("high", "low", limit=2)) == ["high-1", "high-2"]
        assert ids(bench.take("high", "empty", "low", limit=2)) == ["low"]
        assert bench.state("unasked") is State.ENQUEUED

    def test_a_higher_priority_is_claimed_first(self, bench: Bench) -> None:
        priorities = [0, 9, 5, 1, 8, 5, 0, 9]
        bench.add(*(new_job(f"{n}", priority=priority) for n, priority in enumerate(priorities)))
        bench.serve()
        assert [claim.priority for claim in bench.take(limit=8)] == sorted(priorities, reverse=True)

    def test_equals_are_claimed_in_the_order_in_which_they_became_enqueued(self, bench: Bench) -> None:
        """Neither the id nor the time of insertion counts, and the clock may stand still."""
        bench.serve()
        bench.add(new_job("z"), new_job("a"), new_job("m", delay=1), new_job("k"))
        bench.add(new_job("b"))
        bench.move(Change("a", Cause.DELETE))
        bench.move(Change("a", Cause.REQUEUE))
        claim = bench.claim("z")
        bench.clock.advance(1)
        bench.storage.promote(5)
        bench.move(report(claim, Cause.RELEASE))
        assert ids(bench.take(limit=9)) == ["k", "b", "a", "m", "z"]

    def test_one_call_enqueues_in_the_order_of_its_input(self, bench: Bench) -> None:
        """Whatever the jobs were before."""
        bench.add(*(new_job(job_id) for job_id in "abcd"), new_job("due", delay=SECOND))
        bench.serve()
        running = {job_id: bench.claim(job_id) for job_id in "abcd"}
        bench.move(report(running["a"], Cause.SUCCEED))
        bench.move(report(running["c"], Cause.FAIL))
        bench.storage.apply(
            [
                Change("c", Cause.REQUEUE),
                report(running["d"], Cause.RELEASE),
                Change("a", Cause.REQUEUE),
                Change("due", Cause.REQUEUE),
                report(running["b"], Cause.CRASH),
            ]
        )
        assert ids(bench.take(limit=9)) == ["c", "d", "a", "due"]
        assert ids(bench.take(limit=9)) == ["b"]

    def test_siblings_released_together_are_claimed_oldest_first(self, bench: Bench) -> None:
        bench.add(new_job("parent"), *(new_job(job_id, parent="parent") for job_id in "zbya"))
        applied = bench.end("parent", State.SUCCEEDED)
        assert ids(applied.enqueued) == list("zbya")
        assert ids(bench.take(limit=9)) == list("zbya")

    @pytest.mark.parametrize(("limit", "given"), [(0, 0), (1, 1), (3, 3), (4, 3)])
    def test_no_more_than_the_limit_is_claimed(self, bench: Bench, limit: int, given: int) -> None:
        bench.add(*(new_job(job_id) for job_id in "abc"))
        bench.serve()
        assert len(bench.take(limit=limit)) == given
        assert bench.storage.counts().total(State.PROCESSING) == given

    def test_without_queues_nothing_is_claimed_by_limit(self, bench: Bench) -> None:
        bench.add(new_job("job"))
        assert bench.storage.exchange(bench.serve(), limit=5).next == ()

    def test_a_job_that_crashed_is_claimed_alone(self, bench: Bench) -> None:
        bench.move(report(bench.start("suspect"), Cause.CRASH))
        bench.add(new_job("a"), new_job("b"))
        assert ids(bench.take(limit=5)) == ["suspect"]
        assert ids(bench.take(limit=5)) == ["a", "b"]

    def test_the_batch_stops_before_a_job_that_crashed(self, bench: Bench) -> None:
        claim = bench.start("suspect")
        bench.add(new_job("a"), new_job("b"))
        bench.move(report(claim, Cause.CRASH))
        bench.add(new_job("c"))
        assert ids(bench.take(limit=5)) == ["a", "b"]
        assert ids(bench.take(limit=5)) == ["suspect"]
        assert ids(bench.take(limit=5)) == ["c"]

    def test_a_job_that_crashed_is_claimed_alone_across_queues(self, bench: Bench) -> None:
        bench.move(report(bench.start("suspect"), Cause.CRASH))
        bench.add(new_job("a", queue="other"))
        assert ids(bench.take("other", "q", limit=5)) == ["a"]
        assert ids(bench.take("q", "other", limit=5)) == ["suspect"]

    def test_a_requeued_job_is_no_suspect_any_more(self, bench: Bench) -> None:
        bench.move(report(bench.start("job"), Cause.CRASH))
        bench.add(new_job("a"))
        bench.move(Change("job", Cause.DELETE))
        bench.move(Change("job", Cause.REQUEUE))
        assert ids(bench.take(limit=5)) == ["a", "job"]

    def test_an_unknown_server_claims_nothing(self, bench: Bench) -> None:
        bench.add(new_job("job"))
        exchanged = bench.storage.exchange(
            Claimant("stranger", "worker"), refs=[Ref("job", 1, "q", 0)], queues=["q"], limit=1
        )
        assert exchanged == Exchanged((), (None,), ())
        assert bench.state("job") is State.ENQUEUED

    @pytest.mark.parametrize(("after", "given"), [(LEASE - 1, 1), (LEASE, 0), (LEASE + 1, 0)])
    def test_a_server_claims_until_its_lease_runs_out(self, bench: Bench, after: int, given: int) -> None:
        bench.add(new_job("a"), new_job("b"))
        bench.serve()
        bench.clock.advance(after)
        exchanged = bench.storage.exchange(BY, refs=[Ref("a", 1, "q", 0)], queues=["q"], limit=1)
        assert len(exchanged.next) == given
        assert (exchanged.by_ref[0] is not None) == bool(given)

    def test_a_server_without_a_lease_may_still_report(self, bench: Bench) -> None:
        claim = bench.start("job")
        bench.clock.advance(LEASE)
        exchanged = bench.storage.exchange(BY, [report(claim, Cause.SUCCEED)], queues=["q"], limit=1)
        assert exchanged.applied[0].verdict is Verdict.APPLIED
        assert bench.state("job") is State.SUCCEEDED

    def test_a_claim_is_given_again_to_the_worker_that_holds_it(self, bench: Bench) -> None:
        claim = bench.start("job")
        before = bench.details("job")
        bench.clock.advance(1)
        ref = Ref("job", 1, "q", 0)
        assert bench.storage.exchange(BY, refs=[ref, ref]).by_ref == (claim, claim)
        assert bench.details("job") == before
        bench.clock.advance(LEASE)
        assert bench.storage.exchange(BY, refs=[ref]).by_ref == (None,)

    @pytest.mark.parametrize("by", [Claimant("other", "worker"), Claimant("server", "other")])
    def test_a_claim_is_given_to_nobody_else(self, bench: Bench, by: Claimant) -> None:
        bench.start("job")
        before = bench.details("job")
        bench.serve(by)
        exchanged = bench.storage.exchange(by, refs=[Ref("job", 1, "q", 0)], queues=["q"], limit=1)
        assert exchanged == Exchanged((), (None,), ())
        assert bench.details("job") == before

    @pytest.mark.parametrize("on", [On.SUCCEEDED, On.FAILED, On.DELETED])
    def test_a_claim_tells_how_the_parent_ended(self, bench: Bench, on: On) -> None:
        bench.add(new_job("parent"), new_job("child", parent="parent", on=on))
        bench.serve()
        state = State(on.capitalize())
        cause = {On.SUCCEEDED: Cause.SUCCEED, On.FAILED: Cause.FAIL, On.DELETED: Cause.CANCEL}[on]
        bench.move(report(bench.claim("parent"), cause, result=b"[1]"))
        claim = bench.claim("child")
        assert (claim.parent, claim.parent_state) == ("parent", state)
        assert claim.parent_result == (b"[1]" if state is State.SUCCEEDED else None)

    def test_a_claim_tells_for_how_long_the_job_has_been_deferred(self, bench: Bench) -> None:
        claim = bench.start("job")
        assert claim.deferred_for is None
        for seconds in (0, 1):
            bench.move(report(claim, Cause.DEFER, delay=SECOND))
            bench.clock.advance(SECOND)
            bench.storage.promote(1)
            claim = bench.claim("job")
            assert claim.deferred_for == SECOND * (seconds + 1)
        bench.move(report(claim, Cause.RETRY))
        bench.storage.promote(1)
        assert bench.claim("job").deferred_for is None
