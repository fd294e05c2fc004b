"""What `Storage.apply` promises about one job: the table of `later.core.lifecycle`, fences, and what is recorded."""

import pytest

from later.core import lifecycle
from later.core.lifecycle import DAY, KEEP, RULES, Cause, Change
from later.core.ports import Storage
from later.core.records import (
    HISTORY_LIMIT,
    SECOND,
    Applied,
    Claimant,
    HistoryEntry,
    Micros,
    Promoted,
    State,
    Verdict,
)
from later.testing.contract.bench import BY, ERROR, Bench, StorageFixtures, new_job, report

OF_CLAIM = [cause for cause, rule in RULES.items() if rule.of_claim]
YIELDING = [cause for cause, rule in RULES.items() if rule.yields]


class ApplyContract(StorageFixtures):
    @pytest.mark.parametrize("state", State)
    @pytest.mark.parametrize("cause", Cause)
    def test_a_change_does_what_the_table_says(self, bench: Bench, cause: Cause, state: State) -> None:
        job = bench.bring("job", state)
        before = bench.details("job")
        bench.clock.advance(SECOND)
        change = Change(
            "job",
            cause,
            "because",
            epoch=job.epoch - (state is State.ENQUEUED),
            server=job.server,
            delay=3 * SECOND,
            result=b"1",
            error=ERROR,
            keep=5 * SECOND,
        )
        step = lifecycle.advance(job, change, bench.clock(), outbox=False)
        applied = bench.apply(change)
        after = bench.details("job")
        assert applied.verdict is step.verdict
        assert after.job == (step.job or job)
        assert applied.state is after.job.state
        assert after.history == before.history + ((step.entry,) if step.entry else ())
        assert applied.enqueued == (
            (lifecycle.ref_of(after.job),) if step.entry and after.job.epoch > job.epoch else ()
        )

    @pytest.mark.parametrize("cause", YIELDING)
    def test_a_running_job_whose_cancel_was_asked_for_is_deleted(self, bench: Bench, cause: Cause) -> None:
        claim = bench.start("job")
        assert bench.apply(Change("job", Cause.DELETE)) == Applied(Verdict.REQUESTED, State.PROCESSING, ())
        assert bench.job("job").cancel_requested
        change = report(claim, cause, "because", delay=SECOND)
        assert bench.apply(change) == Applied(Verdict.APPLIED, State.DELETED, ())
        job = bench.job("job")
        assert (job.state, job.cancel_requested, job.run_at) == (State.DELETED, False, None)
        assert job.expires_at == bench.clock() + KEEP[State.DELETED]
        assert bench.apply(change) == Applied(Verdict.REPEATED, State.DELETED, ())

    def test_a_running_job_may_succeed_although_its_cancel_was_asked_for(self, bench: Bench) -> None:
        claim = bench.start("job")
        bench.apply(Change("job", Cause.DELETE))
        bench.move(report(claim, Cause.SUCCEED))
        assert bench.state("job") is State.SUCCEEDED

    def test_asking_again_for_a_cancel_changes_nothing(self, bench: Bench) -> None:
        bench.start("job")
        bench.apply(Change("job", Cause.DELETE))
        before = bench.details("job")
        assert len(before.history) == 2, "a request is no state"
        bench.clock.advance(SECOND)
        assert bench.apply(Change("job", Cause.DELETE)).verdict is Verdict.REQUESTED
        assert bench.details("job") == before

    @pytest.mark.parametrize("cause", OF_CLAIM)
    @pytest.mark.parametrize("epoch", [0, 2, None])
    def test_a_wrong_epoch_is_fenced(self, bench: Bench, cause: Cause, epoch: int | None) -> None:
        bench.start("job")
        before = bench.details("job")
        change = Change("job", cause, epoch=epoch, server=BY.server)
        assert bench.apply(change) == Applied(Verdict.FENCED, State.PROCESSING, ())
        assert bench.details("job") == before

    @pytest.mark.parametrize("cause", OF_CLAIM)
    @pytest.mark.parametrize("server", ["other", "", None])
    def test_a_wrong_server_is_fenced(self, bench: Bench, cause: Cause, server: str | None) -> None:
        bench.start("job")
        before = bench.details("job")
        change = Change("job", cause, epoch=1, server=server)
        assert bench.apply(change) == Applied(Verdict.FENCED, State.PROCESSING, ())
        assert bench.details("job") == before

    def test_a_worker_that_lost_its_claim_to_another_changes_nothing(self, bench: Bench) -> None:
        late = bench.start("job")
        bench.storage.rescue(10, dead=[BY.server])
        bench.claim("job", bench.serve(Claimant("other", "worker")))
        before = bench.details("job")
        for cause in OF_CLAIM:
            assert bench.apply(report(late, cause)) == Applied(Verdict.FENCED, State.PROCESSING, ())
        assert bench.details("job") == before

    @pytest.mark.parametrize("cause", [Cause.SUCCEED, Cause.RETRY, Cause.SNOOZE, Cause.DEFER, Cause.FAIL, Cause.CANCEL])
    def test_a_report_repeated_after_a_lost_reply_is_accepted_again(self, bench: Bench, cause: Cause) -> None:
        change = report(bench.start("job"), cause, delay=SECOND, result=b"1", error=ERROR)
        bench.move(change)
        before = bench.details("job")
        bench.clock.advance(SECOND)
        assert bench.apply(change) == Applied(Verdict.REPEATED, before.job.state, ())
        assert bench.details("job") == before

    @pytest.mark.parametrize("cause", [Cause.RELEASE, Cause.CRASH])
    def test_a_repeated_report_that_enqueued_the_job_is_fenced(self, bench: Bench, cause: Cause) -> None:
        change = report(bench.start("job"), cause)
        bench.move(change)
        before = bench.details("job")
        assert bench.apply(change) == Applied(Verdict.FENCED, State.ENQUEUED, ())
        assert bench.details("job") == before

    def test_a_report_repeated_after_the_job_went_on_is_fenced(self, bench: Bench) -> None:
        change = report(bench.start("job"), Cause.RETRY, delay=SECOND)
        bench.move(change)
        bench.clock.advance(SECOND)
        bench.storage.promote(1)
        assert bench.apply(change) == Applied(Verdict.FENCED, State.ENQUEUED, ())
        bench.claim("job")
        assert bench.apply(change) == Applied(Verdict.FENCED, State.PROCESSING, ())

    def test_a_change_of_an_unknown_job(self, storage: Storage) -> None:
        for cause in Cause:
            change = Change("nobody", cause, epoch=1, server="server")
            assert storage.apply([change]) == [Applied(Verdict.UNKNOWN, None, ())]

    def test_changes_are_answered_in_order_and_each_on_its_own(self, bench: Bench) -> None:
        first, second, third = (bench.start(job_id) for job_id in "abc")
        applied = bench.storage.apply(
            [
                report(third, Cause.SUCCEED),
                Change("nobody", Cause.DELETE),
                report(first, Cause.SUCCEED, server="other"),
                report(second, Cause.FAIL),
                report(first, Cause.RELEASE),
            ]
        )
        assert [item.verdict for item in applied] == [
            Verdict.APPLIED,
            Verdict.UNKNOWN,
            Verdict.FENCED,
            Verdict.APPLIED,
            Verdict.APPLIED,
        ]
        assert [bench.state(job_id) for job_id in "abc"] == [State.ENQUEUED, State.FAILED, State.SUCCEEDED]

    def test_changes_of_one_job_are_applied_in_order(self, bench: Bench) -> None:
        claim = bench.start("job")
        applied = bench.storage.apply(
            [
                report(claim, Cause.FAIL),
                Change("job", Cause.REQUEUE),
                Change("job", Cause.DELETE),
                Change("job", Cause.REQUEUE),
            ]
        )
        assert [item.state for item in applied] == [
            State.FAILED,
            State.ENQUEUED,
            State.DELETED,
            State.ENQUEUED,
        ]
        assert [[ref.epoch for ref in item.enqueued] for item in applied] == [[], [2], [], [3]]
        assert bench.job("job").epoch == 3

    def test_no_changes(self, storage: Storage) -> None:
        assert storage.apply([]) == []

    def test_a_result_is_kept_when_the_job_succeeded(self, bench: Bench) -> None:
        result = b"\x00\xff" * 32 * 1024
        bench.move(report(bench.start("job"), Cause.SUCCEED, result=result, keep=7 * DAY))
        job = bench.job("job")
        assert job.result == result
        assert job.expires_at == bench.clock() + 7 * DAY
        bench.move(Change("job", Cause.REQUEUE, "again"))
        job = bench.job("job")
        assert (job.result, job.expires_at, job.reason) == (None, None, "again")

    def test_an_error_is_kept_in_the_history(self, bench: Bench) -> None:
        claim = bench.start("job")
        claimed_at = bench.clock()
        failed_at = bench.clock.advance(SECOND)
        bench.move(report(claim, Cause.RETRY, "raised", delay=SECOND, error=ERROR))
        assert bench.history("job") == (
            HistoryEntry(State.ENQUEUED, claimed_at, "", 0),
            HistoryEntry(State.PROCESSING, claimed_at, "", 1, BY.server, BY.worker),
            HistoryEntry(State.SCHEDULED, failed_at, "raised", 1, BY.server, BY.worker, ERROR),
        )
        assert bench.job("job").run_at == failed_at + SECOND

    def test_text_is_kept_as_it_was_written(self, bench: Bench) -> None:
        reason = "größer als 'vorher'; \"x\" \U0001f600\n%s {} \\"
        bench.move(report(bench.start("job"), Cause.FAIL, reason, error=ERROR))
        assert (bench.job("job").reason, bench.history("job")[-1].reason) == (reason, reason)

    def test_attempts_are_counted_and_refunded(self, bench: Bench) -> None:
        claim = bench.start("job")
        assert claim.attempt == 1
        for cause, attempt in [(Cause.RETRY, 1), (Cause.SNOOZE, 1), (Cause.DEFER, 1), (Cause.RETRY, 2)]:
            bench.move(report(claim, cause))
            assert bench.job("job").attempt == attempt
            assert bench.storage.promote(1).enqueued
            claim = bench.claim("job")
            assert claim.attempt == attempt + 1
        bench.move(report(claim, Cause.RELEASE))
        assert bench.job("job").attempt == 2

    def test_crashes_are_counted_until_they_poison(self, bench: Bench) -> None:
        bench.add(new_job("job", max_crashes=2))
        bench.serve()
        for crashes in (1, 2):
            bench.move(report(bench.claim("job"), Cause.CRASH, "killed"))
            job = bench.job("job")
            assert (job.state, job.crashes, job.attempt) == (State.ENQUEUED, crashes, 0)
        change = report(bench.claim("job"), Cause.CRASH, "killed")
        assert bench.apply(change) == Applied(Verdict.APPLIED, State.FAILED, ())
        job = bench.job("job")
        assert (job.state, job.crashes) == (State.FAILED, 3)
        assert job.reason.startswith("poison")
        assert "killed" in job.reason
        assert bench.apply(change).verdict is Verdict.REPEATED

    def test_a_job_that_may_survive_no_crash(self, bench: Bench) -> None:
        bench.move(report(bench.start("job", max_crashes=0), Cause.CRASH))
        assert bench.state("job") is State.FAILED

    @pytest.mark.parametrize("after", [5 * SECOND, 90 * SECOND])
    def test_a_scheduled_job_is_given_another_time(self, bench: Bench, after: Micros) -> None:
        bench.move(report(bench.start("job"), Cause.RETRY, "raised", delay=60 * SECOND))
        now = bench.clock.advance(SECOND)
        applied = bench.move(Change("job", Cause.RESCHEDULE, "asked for", delay=after))
        assert applied == Applied(Verdict.APPLIED, State.SCHEDULED, ())
        job = bench.job("job")
        assert (job.run_at, job.reason, job.attempt, job.epoch) == (now + after, "asked for", 1, 1)
        assert len(bench.history("job")) == 4
        assert bench.storage.counts().total(State.SCHEDULED) == 1
        assert bench.storage.promote(10).next_due_in == after
        bench.clock.advance(after - 1)
        assert bench.storage.promote(10) == Promoted((), 1)
        bench.clock.advance(1)
        assert [ref.id for ref in bench.storage.promote(10).enqueued] == ["job"]
        assert bench.apply(Change("job", Cause.RESCHEDULE)).verdict is Verdict.REFUSED

    def test_requeue_starts_anew(self, bench: Bench) -> None:
        claim = bench.start("job", max_crashes=0)
        bench.move(report(claim, Cause.CRASH, error=ERROR))
        applied = bench.move(Change("job", Cause.REQUEUE))
        job = bench.job("job")
        assert (job.state, job.attempt, job.crashes, job.epoch) == (State.ENQUEUED, 0, 0, 2)
        assert [ref.epoch for ref in applied.enqueued] == [2]
        assert len(bench.history("job")) == 4, "the past stays visible"

    def test_delete_takes_a_job_out_of_its_queue(self, bench: Bench) -> None:
        bench.add(new_job("job"), new_job("other"))
        bench.move(Change("job", Cause.DELETE))
        bench.serve()
        assert [claim.id for claim in bench.take(limit=5)] == ["other"]

    def test_delete_of_a_scheduled_job_keeps_it_from_coming_due(self, bench: Bench) -> None:
        bench.add(new_job("job", delay=SECOND))
        bench.move(Change("job", Cause.DELETE))
        bench.clock.advance(SECOND)
        assert bench.storage.promote(5) == ((), None)
        assert bench.state("job") is State.DELETED

    def test_epochs_rise_and_are_never_used_again(self, bench: Bench) -> None:
        bench.start("job")
        bench.move(report(bench.job("job"), Cause.RELEASE))
        seen = [1, bench.job("job").epoch]
        for _ in range(3):
            bench.move(Change("job", Cause.DELETE))
            bench.move(Change("job", Cause.REQUEUE))
            seen.append(bench.job("job").epoch)
        assert seen == [1, 2, 3, 4, 5]

    def test_the_history_is_bounded_and_keeps_the_newest(self, bench: Bench) -> None:
        bench.add(new_job("job"))
        for n in range(HISTORY_LIMIT):
            cause = Cause.REQUEUE if n % 2 else Cause.DELETE
            bench.clock.advance(1)
            bench.move(Change("job", cause, f"turn {n}"))
        history = bench.history("job")
        assert [entry.reason for entry in history] == [f"turn {n}" for n in range(HISTORY_LIMIT)]
        bench.move(Change("job", Cause.DELETE, "last"))
        history = bench.history("job")
        assert len(history) == HISTORY_LIMIT
        assert (history[0].reason, history[-1].reason) == ("turn 1", "last")
