"""Storages and brokers that are broken in one way each, to see that the contract notices.

Each names the tests that have to fail. They break the reference model, whose methods are small, or the memory broker.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from typing_extensions import override

from later.backends.memory.broker import Exchange, MemoryBroker
from later.core.clock import wall_clock
from later.core.lifecycle import Cause, Change, Reschedule
from later.core.ports import BrokerOptions, Delivery, StorageOptions
from later.core.records import (
    SECOND,
    Applied,
    Beat,
    Claim,
    Claimant,
    Counts,
    Due,
    Exchanged,
    HistoryEntry,
    Inserted,
    InsertVerdict,
    JobDetails,
    JobQuery,
    JobRecord,
    Joined,
    Micros,
    NewJob,
    Page,
    Promoted,
    Ref,
    Rescheduled,
    RescheduleVerdict,
    Rescued,
    ServerInfo,
    State,
    Verdict,
)
from later.core.steps import CASCADE
from later.testing import ModelStorage, ModelTransaction
from later.testing.model import World


class Saboteur(ModelStorage):
    caught_by: ClassVar[Sequence[str]]
    """The tests of the contract that have to fail, each for at least one of its parameters."""

    by_history: ClassVar[bool] = True
    """Whether a random history has to notice, too. Not: what shows only in a race, in bulk, or in a corner."""

    def gap(self) -> None:
        """Let another thread in, as between two statements that are not one transaction."""
        self._lock.wait(0.002)


class NoEpochFence(Saboteur):
    caught_by: ClassVar = ["test_a_wrong_epoch_is_fenced"]

    @override
    def _apply(self, change: Change) -> Applied:
        job = self._load(change.id)
        return super()._apply(change if job is None else change._replace(epoch=job.epoch))


class NoServerFence(Saboteur):
    caught_by: ClassVar = [
        "test_a_wrong_server_is_fenced",
        "test_a_fenced_end_releases_nothing",
        "test_changes_are_answered_in_order_and_each_on_its_own",
    ]

    @override
    def _apply(self, change: Change) -> Applied:
        job = self._load(change.id)
        return super()._apply(change if job is None else change._replace(server=job.server, epoch=job.epoch))


class LostRelease(Saboteur):
    """An end says nothing to the continuations."""

    caught_by: ClassVar = [
        "test_the_end_of_the_parent_decides",
        "test_five_hundred_children",
        "test_a_poisoned_parent_has_failed",
    ]

    @override
    def _children(self, parent: str) -> list[JobRecord]:
        return []


class ReleaseOfTheNearestOnly(Saboteur):
    caught_by: ClassVar = ["test_an_end_reaches_the_children_of_children", "test_a_chain_of_a_thousand"]

    @override
    def _children(self, parent: str) -> list[JobRecord]:
        children = super()._children(parent)
        grandparent = self._load(parent)
        return children if grandparent is None or grandparent.parent is None else []


class ReleaseOfTheFirstOnly(Saboteur):
    """What is too much for one step is forgotten."""

    caught_by: ClassVar = [
        "test_many_children_are_told_in_time_and_in_order",
        "test_children_that_wait_on_do_not_hide_those_behind_them",
    ]
    by_history = False

    @override
    def _children(self, parent: str) -> list[JobRecord]:
        return super()._children(parent)[:CASCADE]


class SecondRelease(Saboteur):
    """Children are enqueued at every end of their parent, whatever became of them."""

    caught_by: ClassVar = [
        "test_a_repeated_end_releases_nothing_again",
        "test_a_continuation_that_was_deleted_meanwhile_stays_deleted",
    ]

    @override
    def _apply(self, change: Change) -> Applied:
        applied = super()._apply(change)
        if applied.state is State.SUCCEEDED:
            for child in self._children(change.id):
                if child.state in {State.ENQUEUED, State.DELETED}:
                    self._keep(child._replace(state=State.ENQUEUED, epoch=child.epoch + 1))
        return applied


class LastInFirstOut(Saboteur):
    caught_by: ClassVar = [
        "test_equals_are_claimed_in_the_order_in_which_they_became_enqueued",
        "test_siblings_released_together_are_claimed_oldest_first",
    ]

    @override
    def _next(self, queues: Sequence[str]) -> JobRecord | None:
        job = super()._next(queues)
        if job is None:
            return None
        rivals = [
            kept
            for kept in self._world.jobs.values()
            if (kept.job.state, kept.job.queue, kept.job.priority) == (State.ENQUEUED, job.queue, job.priority)
        ]
        return max(rivals, key=lambda kept: kept.turn).job


class NoPriority(Saboteur):
    caught_by: ClassVar = ["test_a_higher_priority_is_claimed_first"]

    @override
    def _next(self, queues: Sequence[str]) -> JobRecord | None:
        waiting = [k for k in self._world.jobs.values() if k.job.state is State.ENQUEUED and k.job.queue in queues]
        waiting.sort(key=lambda kept: (list(queues).index(kept.job.queue), kept.turn))
        return waiting[0].job if waiting else None


class MixedQueues(Saboteur):
    caught_by: ClassVar = ["test_queues_are_claimed_in_strict_order"]

    @override
    def _next(self, queues: Sequence[str]) -> JobRecord | None:
        heads = [job for queue in queues if (job := super(MixedQueues, self)._next([queue])) is not None]
        return max(heads, key=lambda job: job.priority) if heads else None


class ClaimsAfterTheLease(Saboteur):
    caught_by: ClassVar = [
        "test_a_server_claims_until_its_lease_runs_out",
        "test_a_claim_is_given_again_to_the_worker_that_holds_it",
    ]
    _claiming = False

    @override
    def exchange(
        self,
        by: Claimant,
        changes: Sequence[Change] = (),
        refs: Sequence[Ref] = (),
        queues: Sequence[str] = (),
        limit: int = 0,
    ) -> Exchanged:
        with self._lock:
            self._claiming = True
            try:
                return super().exchange(by, changes, refs, queues, limit)
            finally:
                self._claiming = False

    @override
    def _holds_lease(self, server: str) -> bool:
        return server in self._world.servers if self._claiming else super()._holds_lease(server)


class StrangersClaim(Saboteur):
    caught_by: ClassVar = ["test_an_unknown_server_claims_nothing"]

    @override
    def _holds_lease(self, server: str) -> bool:
        return server not in self._world.servers or super()._holds_lease(server)


class ClaimsBeforeChanges(Saboteur):
    caught_by: ClassVar = [
        "test_changes_come_before_claims",
        "test_a_released_continuation_may_be_claimed_in_the_same_exchange",
    ]

    @override
    def exchange(
        self,
        by: Claimant,
        changes: Sequence[Change] = (),
        refs: Sequence[Ref] = (),
        queues: Sequence[str] = (),
        limit: int = 0,
    ) -> Exchanged:
        with self._lock:
            claims = super().exchange(by, (), refs, queues, limit)
            return claims._replace(applied=super().exchange(by, changes).applied)


class LostReplyLosesTheClaim(Saboteur):
    caught_by: ClassVar = ["test_a_claim_is_given_again_to_the_worker_that_holds_it"]

    @override
    def _claim(self, job_id: str, epoch: int, by: Claimant) -> Claim | None:
        job = self._load(job_id)
        return None if job is not None and job.state is State.PROCESSING else super()._claim(job_id, epoch, by)


class AnyWorkerOfTheServerGetsTheClaim(Saboteur):
    caught_by: ClassVar = ["test_a_claim_is_given_to_nobody_else"]

    @override
    def _claim(self, job_id: str, epoch: int, by: Claimant) -> Claim | None:
        job = self._load(job_id)
        worker = job.worker if job is not None and job.server == by.server else None
        return super()._claim(job_id, epoch, by if worker is None else by._replace(worker=worker))


class CrowdAroundASuspect(Saboteur):
    """A job that crashed before is claimed with others."""

    caught_by: ClassVar = [
        "test_a_job_that_crashed_is_claimed_alone",
        "test_the_batch_stops_before_a_job_that_crashed",
        "test_a_job_that_crashed_is_claimed_alone_across_queues",
    ]

    @override
    def _next(self, queues: Sequence[str]) -> JobRecord | None:
        job = super()._next(queues)
        return job and job._replace(crashes=0)


class RescueWithoutRecheck(Saboteur):
    """Looks for dead claims first, and takes what it found then, whatever happened meanwhile."""

    caught_by: ClassVar = ["test_a_report_races_a_rescue"]
    by_history = False

    @override
    def rescue(self, limit: int, dead: Sequence[str] = ()) -> Rescued:
        with self._lock:
            found = [job for server in dead for job in self._held_by(server)]
            self.gap()
            for job in found:
                self._keep(job)
            return super().rescue(limit, dead)


class RescueOfTheLiving(Saboteur):
    caught_by: ClassVar = ["test_the_living_are_left_alone", "test_a_server_that_beat_in_time_is_not_rescued"]

    @override
    def rescue(self, limit: int, dead: Sequence[str] = ()) -> Rescued:
        return super().rescue(limit, [*dead, *self._world.servers])


class NamedDeadIgnored(Saboteur):
    caught_by: ClassVar = ["test_a_server_named_dead_is_rescued_at_once"]

    @override
    def rescue(self, limit: int, dead: Sequence[str] = ()) -> Rescued:
        return super().rescue(limit)


class UnregisteredClaimsAreStranded(Saboteur):
    caught_by: ClassVar = ["test_the_claims_of_an_unregistered_server_are_rescued"]

    @override
    def rescue(self, limit: int, dead: Sequence[str] = ()) -> Rescued:
        with self._lock:
            stranded = {k.job.server or "" for k in self._world.jobs.values()} - self._world.servers.keys()
            for server in stranded:
                for job in self._held_by(server):
                    self._keep(job._replace(state=State.AWAITING))
            rescued = super().rescue(limit, dead)
            for kept in self._world.jobs.values():
                if kept.job.state is State.AWAITING and kept.job.server in stranded:
                    kept.job = kept.job._replace(state=State.PROCESSING)
            return rescued


class BeatRevives(Saboteur):
    caught_by: ClassVar = ["test_a_beat_does_not_bring_back_a_lapsed_lease"]

    @override
    def beat(self, server: str, lease: Micros, note: str = "") -> Beat:
        with self._lock:
            if server in self._world.servers:
                self._set_lease(server, self._now() + lease)
            return super().beat(server, lease, note)


class RegisterRevives(Saboteur):
    caught_by: ClassVar = [
        "test_registering_again_does_not_bring_back_a_lapsed_lease",
        "test_registering_again_changes_nothing",
    ]

    @override
    def register(self, server: ServerInfo, lease: Micros) -> None:
        super().register(server, lease)
        self._set_lease(server.id, self._now() + lease)


class HalfABatch(Saboteur):
    """Stops at the first change that is not applied, and says of the rest that it was."""

    caught_by: ClassVar = ["test_changes_are_answered_in_order_and_each_on_its_own"]
    _stopped = False

    @override
    def exchange(
        self,
        by: Claimant,
        changes: Sequence[Change] = (),
        refs: Sequence[Ref] = (),
        queues: Sequence[str] = (),
        limit: int = 0,
    ) -> Exchanged:
        self._stopped = False
        return super().exchange(by, changes, refs, queues, limit)

    @override
    def _apply(self, change: Change) -> Applied:
        job = self._load(change.id)
        if self._stopped and job is not None:
            return Applied(Verdict.APPLIED, job.state, ())
        applied = super()._apply(change)
        self._stopped = self._stopped or applied.verdict is not Verdict.APPLIED
        return applied


class HalfAnInsert(Saboteur):
    """What follows a refused item is not stored."""

    caught_by: ClassVar = [
        "test_insert_answers_in_the_order_of_its_input",
        "test_insert_knows_parents_earlier_in_the_call",
    ]

    @override
    def insert(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        inserted: list[Inserted] = []
        for job in jobs:
            refused = inserted and inserted[-1].state is None
            inserted.append(
                Inserted(InsertVerdict.CREATED, State.ENQUEUED, None) if refused else super().insert([job])[0]
            )
        return inserted


class OwnClock(Saboteur):
    caught_by: ClassVar = ["test_insert_makes_a_job_enqueued", "test_a_job_becomes_enqueued_when_its_time_has_come"]

    def __init__(self, options: StorageOptions, world: World | None = None) -> None:
        super().__init__(options, world)
        self._now = wall_clock


class InsertOverwrites(Saboteur):
    caught_by: ClassVar = [
        "test_insert_again_is_accepted_and_changes_nothing",
        "test_insert_again_tells_the_state_of_a_job_that_has_moved_on",
        "test_insert_of_one_id_twice_in_a_call",
        "test_one_id_is_inserted_by_many",
    ]

    @override
    def _insert(self, new: NewJob) -> Inserted:
        self._world.jobs.pop(new.id, None)
        return super()._insert(new)


class ConflictUnseen(Saboteur):
    caught_by: ClassVar = ["test_insert_of_another_job_under_a_taken_id_is_a_conflict"]

    @override
    def _insert(self, new: NewJob) -> Inserted:
        old = self._load(new.id)
        same = new if old is None else new._replace(type=old.type, payload=old.payload)
        return super()._insert(same)


class OrphansAccepted(Saboteur):
    caught_by: ClassVar = ["test_insert_under_an_unknown_parent_stores_nothing", "test_a_job_is_not_its_own_parent"]

    @override
    def _insert(self, new: NewJob) -> Inserted:
        known = new.parent is None or self._load(new.parent) is not None
        return super()._insert(new if known else new._replace(parent=None))


class InsertLooksAtTheParentFirst(Saboteur):
    caught_by: ClassVar = ["test_insert_again_does_not_look_for_the_parent"]

    @override
    def _insert(self, new: NewJob) -> Inserted:
        if new.parent is not None and self._load(new.parent) is None:
            return Inserted(InsertVerdict.NO_PARENT, None, None)
        return super()._insert(new)


class ParentSeenTooEarly(Saboteur):
    """Reads the parent's state in one step and stores the child in another."""

    caught_by: ClassVar = ["test_a_child_is_inserted_while_its_parent_ends"]
    by_history = False

    @override
    def _insert(self, new: NewJob) -> Inserted:
        parent = None if new.parent is None else self._load(new.parent)
        self.gap()
        if parent is None:
            return super()._insert(new)
        now = self._world.jobs[parent.id]
        seen, now.job = now.job, parent
        try:
            return super()._insert(new)
        finally:
            now.job = seen


class TwoStepClaim(Saboteur):
    """Chooses a job in one step and takes it in another."""

    caught_by: ClassVar = ["test_each_job_is_claimed_by_one_thread"]
    by_history = False

    @override
    def _next(self, queues: Sequence[str]) -> JobRecord | None:
        job = super()._next(queues)
        self.gap()
        if job is not None:
            self._keep(job)
        return job


class TwoStepPublish(Saboteur):
    caught_by: ClassVar = ["test_upkeep_is_done_once_by_many"]
    by_history = False

    @override
    def unpublished(self, limit: int, again_in: Micros) -> list[Ref]:
        with self._lock:
            due = sorted((k.job.publish_by, k.job.id) for k in self._world.jobs.values() if k.job.publish_by)
            self.gap()
            refs: list[Ref] = []
            for at, job_id in due[:limit]:
                job = self._world.jobs[job_id].job
                if at is not None and at <= self._now():
                    self._keep(job._replace(publish_by=self._now() + again_in))
                    refs.append(Ref(job.id, job.epoch, job.queue, job.priority))
            return refs


class HistoryWithoutEnd(Saboteur):
    caught_by: ClassVar = ["test_the_history_is_bounded_and_keeps_the_newest"]
    by_history = False

    @override
    def _keep(self, job: JobRecord, entry: HistoryEntry | None = None) -> None:
        history = self._world.jobs[job.id].history
        super()._keep(job, entry)
        if entry is not None:
            self._world.jobs[job.id].history = [*history, entry]


class HistoryForgotten(Saboteur):
    caught_by: ClassVar = ["test_an_error_is_kept_in_the_history", "test_requeue_starts_anew"]

    @override
    def _keep(self, job: JobRecord, entry: HistoryEntry | None = None) -> None:
        super()._keep(job, entry)
        kept = self._world.jobs[job.id]
        kept.history = kept.history[-1:]


class PruneIgnoresChildren(Saboteur):
    caught_by: ClassVar = [
        "test_a_parent_is_kept_until_its_children_have_ended",
        "test_a_parent_whose_child_was_requeued_is_kept",
    ]

    @override
    def _needed(self, job: JobRecord) -> bool:
        return False


class PruneKeepsFailed(Saboteur):
    caught_by: ClassVar = ["test_a_failed_job_becomes_deleted_and_is_removed_a_day_later"]

    @override
    def _needed(self, job: JobRecord) -> bool:
        return job.state is State.FAILED or super()._needed(job)


class PruneSkipsTheSecondLook(Saboteur):
    """Takes the first expired jobs, kept parents included, so that these use up the limit."""

    caught_by: ClassVar = ["test_parents_that_are_kept_do_not_use_up_the_limit"]
    by_history = False

    @override
    def prune(self, limit: int) -> int:
        with self._lock:
            expired = [at for at, job_id in self._timed(lambda job: job.expires_at)[:limit] if at <= self._now()]
            needed = [job for job in self._jobs() if job.state.ended and self._needed(job)]
            return super().prune(max(0, len(expired) - len(needed)))


class CancelForgotten(Saboteur):
    """Takes note of a cancel but does not honour it."""

    caught_by: ClassVar = [
        "test_a_running_job_whose_cancel_was_asked_for_is_deleted",
        "test_a_rescued_job_whose_cancel_was_asked_for_is_deleted",
    ]

    @override
    def _apply(self, change: Change) -> Applied:
        job = self._load(change.id)
        if job is not None and job.cancel_requested and change.cause is not Cause.DELETE:
            self._keep(job._replace(cancel_requested=False))
        return super()._apply(change)


class CancelUntold(Saboteur):
    caught_by: ClassVar = ["test_a_beat_tells_which_jobs_to_cancel"]

    @override
    def beat(self, server: str, lease: Micros, note: str = "") -> Beat:
        return super().beat(server, lease, note)._replace(cancels=())


class NotesPileUp(Saboteur):
    """Takes what a beat does not say for no news."""

    caught_by: ClassVar = ["test_a_beat_that_says_nothing_clears_the_note", "test_a_beat_keeps_a_note"]

    @override
    def beat(self, server: str, lease: Micros, note: str = "") -> Beat:
        with self._lock:
            known = self._world.servers.get(server)
            return super().beat(server, lease, note or ("" if known is None else known.note))


class Immortal(Saboteur):
    """Never poisons."""

    caught_by: ClassVar = [
        "test_crashes_are_counted_until_they_poison",
        "test_a_suspect_may_survive_as_many_crashes_as_it_was_given",
    ]

    @override
    def _apply(self, change: Change) -> Applied:
        job = self._load(change.id)
        if job is not None and change.cause is Cause.CRASH:
            self._keep(job._replace(crashes=-1))
        return super()._apply(change)


class EpochUsedAgain(Saboteur):
    caught_by: ClassVar = ["test_epochs_rise_and_are_never_used_again", "test_requeue_starts_anew"]

    @override
    def _keep(self, job: JobRecord, entry: HistoryEntry | None = None) -> None:
        again = job.state is State.ENQUEUED and job.epoch > 1
        super()._keep(job._replace(epoch=job.epoch - 1) if again else job, entry)


class EarlyPromotion(Saboteur):
    caught_by: ClassVar = ["test_a_job_becomes_enqueued_when_its_time_has_come"]

    @override
    def promote(self, limit: int) -> Promoted:
        with self._lock:
            for kept in self._world.jobs.values():
                if kept.job.run_at is not None:
                    kept.job = kept.job._replace(run_at=kept.job.run_at - 1)
            return super().promote(limit)


class PromotionWithoutLimit(Saboteur):
    caught_by: ClassVar = ["test_the_earliest_come_first_up_to_the_limit"]

    @override
    def promote(self, limit: int) -> Promoted:
        return super().promote(1_000)


class NoOutbox(Saboteur):
    caught_by: ClassVar = [
        "test_what_was_neither_confirmed_nor_claimed_is_published_again",
        "test_every_way_into_enqueued_leads_through_the_outbox",
    ]

    def __init__(self, options: StorageOptions, world: World | None = None) -> None:
        super().__init__(replace(options, outbox=False), world)


class OldConfirmationCounts(Saboteur):
    caught_by: ClassVar = ["test_a_confirmation_of_an_earlier_epoch_does_not_count"]

    @override
    def published(self, refs: Sequence[Ref]) -> None:
        known = [ref for ref in refs if self._load(ref.id) is not None]
        super().published([ref._replace(epoch=self._world.jobs[ref.id].job.epoch) for ref in known])


class LostForGood(Saboteur):
    caught_by: ClassVar = [
        "test_what_the_broker_has_lost_is_published_again",
        "test_a_walk_over_what_was_lost_goes_on_where_it_was",
    ]

    @override
    def unpublish(self, queues: Sequence[str], waiting: Micros, limit: int, after: str | None = None) -> str | None:
        return None


class LostInEveryQueue(Saboteur):
    caught_by: ClassVar = ["test_what_the_broker_has_lost_is_published_again"]

    @override
    def unpublish(self, queues: Sequence[str], waiting: Micros, limit: int, after: str | None = None) -> str | None:
        return super().unpublish(list(self.counts().by_queue), waiting, limit, after)


class TakesForgedEpochs(Saboteur):
    caught_by: ClassVar = ["test_a_reference_with_an_epoch_that_was_made_up_claims_nothing"]

    @override
    def _claim(self, job_id: str, epoch: int, by: Claimant) -> Claim | None:
        job = self._load(job_id)
        return super()._claim(job_id, epoch if job is None else job.epoch, by)


class NeverUnpublished(Saboteur):
    """Takes every job for published."""

    caught_by: ClassVar = ["test_what_was_neither_confirmed_nor_claimed_is_published_again"]

    @override
    def unpublished(self, limit: int, again_in: Micros) -> list[Ref]:
        return []


class ConfirmsNothing(Saboteur):
    caught_by: ClassVar = ["test_what_was_confirmed_is_not_published_again"]

    @override
    def published(self, refs: Sequence[Ref]) -> None:
        pass


class ClaimedIsPublished(Saboteur):
    """A claim leaves the job in the outbox."""

    caught_by: ClassVar = ["test_a_claimed_job_is_not_published_again"]

    @override
    def _claim(self, job_id: str, epoch: int, by: Claimant) -> Claim | None:
        before = self._load(job_id)
        claim = super()._claim(job_id, epoch, by)
        if claim is not None and before is not None:
            self._keep(self._world.jobs[job_id].job._replace(publish_by=before.publish_by))
        return claim


class TextPayload(Saboteur):
    caught_by: ClassVar = ["test_a_payload_is_bytes_that_nobody_reads"]

    @override
    def _insert(self, new: NewJob) -> Inserted:
        return super()._insert(new._replace(payload=new.payload.decode("utf-8", "replace").encode()))


class ListingShowsPayloads(Saboteur):
    caught_by: ClassVar = ["test_a_listing_has_all_but_payload_and_result"]

    @override
    def find(self, query: JobQuery) -> Page:
        page = super().find(query)
        return page._replace(jobs=tuple(self._world.jobs[job.id].job for job in page.jobs))


class PagesByOffset(Saboteur):
    caught_by: ClassVar = ["test_pages_do_not_shift_when_jobs_come_and_go", "test_a_cursor_that_is_not_ours_is_refused"]
    by_history = False

    @override
    def find(self, query: JobQuery) -> Page:
        offset = int(query.after) if query.after and query.after.isdecimal() else 0
        page = super().find(replace(query, after=None, limit=offset + query.limit))
        return Page(page.jobs[offset:], page.next and str(offset + query.limit))


class PagesByTimeOnly(Saboteur):
    """A page that ends in the middle of an instant loses the rest of it."""

    caught_by: ClassVar = ["test_pages_together_are_the_whole"]

    @override
    def find(self, query: JobQuery) -> Page:
        return super().find(query if query.after is None else replace(query, after=query.after.split(":")[0] + ":"))


class CountsOfTheEndedOnly(Saboteur):
    caught_by: ClassVar = ["test_jobs_are_counted_by_queue_and_state"]

    @override
    def counts(self) -> Counts:
        counts = super().counts()
        return Counts({q: {s: n for s, n in states.items() if s.ended} for q, states in counts.by_queue.items()})


class ForgetsWhenClosed(Saboteur):
    caught_by: ClassVar = ["test_a_closed_storage_may_be_used_again", "test_two_storages_of_one_namespace_are_one"]

    @override
    def close(self) -> None:
        self._world.jobs.clear()


class TornReads(Saboteur):
    """Reads a job in one step and its history in another."""

    caught_by: ClassVar = ["test_readers_see_whole_steps"]
    by_history = False

    @override
    def _details(self, job_id: str) -> JobDetails | None:
        details = super()._details(job_id)
        self.gap()
        now = super()._details(job_id)
        return details and now and replace(now, job=details.job)


class DeafWait(Saboteur):
    caught_by: ClassVar = [
        "test_a_job_that_became_enqueued_before_the_call_is_noticed",
        "test_a_job_that_becomes_enqueued_is_noticed",
    ]
    by_history = False

    @override
    def wait(self, queues: Sequence[str], timeout: float) -> bool:
        return False


class OneNamespace(Saboteur):
    caught_by: ClassVar = ["test_namespaces_do_not_see_each_other"]
    by_history = False
    _worlds: ClassVar[dict[int, World]] = {}

    def __init__(self, options: StorageOptions, world: World | None = None) -> None:
        # The clock stands for the test: all that is opened within one shares it.
        super().__init__(options, self._worlds.setdefault(id(options.clock), World()))


class TransactionOfItsOwn(Saboteur):
    """Stores at once what should wait for the user's commit."""

    caught_by: ClassVar = [
        "test_a_job_is_there_when_the_transaction_commits",
        "test_a_job_is_gone_when_the_transaction_is_rolled_back",
        "test_the_jobs_of_a_transaction_are_published_in_the_end",
    ]
    by_history: ClassVar = False

    @override
    def insert_within(self, connection: object, jobs: Sequence[NewJob]) -> Joined:
        return Joined(tuple(self.insert(jobs)), committed=False)


class LostCommit(Saboteur):
    caught_by: ClassVar = [
        "test_a_job_is_there_when_the_transaction_commits",
        "test_a_family_of_one_transaction",
        "test_a_commit_of_the_user_ends_a_wait",
    ]
    by_history: ClassVar = False

    @override
    def insert_within(self, connection: object, jobs: Sequence[NewJob]) -> Joined:
        return super().insert_within(ModelTransaction(), jobs)


class CapabilityNotTold(Saboteur):
    """Joins a transaction, and says that it cannot."""

    caught_by: ClassVar = ["test_without_the_capability_a_connection_is_refused"]
    by_history: ClassVar = False
    capabilities = replace(ModelStorage.capabilities, transactional=False)


class ForgetfulTransaction(Saboteur):
    """Each call knows only what was committed before."""

    caught_by: ClassVar = ["test_a_transaction_answers_in_the_order_of_the_input", "test_a_family_of_one_transaction"]
    by_history: ClassVar = False

    @override
    def insert_within(self, connection: object, jobs: Sequence[NewJob]) -> Joined:
        assert isinstance(connection, ModelTransaction)
        call = ModelTransaction()
        joined = super().insert_within(call, jobs)
        connection.jobs += call.jobs
        return joined


class StaleParent(Saboteur):
    """What a parent had come to before the commit is never looked at."""

    caught_by: ClassVar = [
        "test_a_transaction_under_a_parent_that_has_ended",
        "test_a_continuation_is_looked_at_again_when_its_parent_failed_and_succeeds",
    ]
    by_history: ClassVar = False

    @override
    def insert_within(self, connection: object, jobs: Sequence[NewJob]) -> Joined:
        return super().insert_within(connection, [new._replace(parent=None, delay=SECOND) for new in jobs])


class NoVersionFence(Saboteur):
    """Every server that finds a schedule due makes its jobs."""

    caught_by: ClassVar = [
        "test_a_change_of_another_version_is_stale",
        "test_a_change_of_one_that_is_not_there_is_stale",
        "test_one_of_many_makes_the_jobs_of_a_version",
    ]

    @override
    def _reschedule(self, change: Reschedule) -> Rescheduled:
        known = self._world.schedules.get(change.id)
        return super()._reschedule(replace(change, version=0 if known is None else known.version))


class StaleChangeMakesJobs(Saboteur):
    caught_by: ClassVar = ["test_a_change_of_another_version_is_stale"]

    @override
    def _reschedule(self, change: Reschedule) -> Rescheduled:
        done = super()._reschedule(change)
        if done.verdict is RescheduleVerdict.STALE:
            for new in change.jobs:
                self._insert(new)
        return done


class ChangeWithoutItsOrphan(Saboteur):
    """Makes the change, and leaves out the job whose parent is gone."""

    caught_by: ClassVar = [
        "test_a_change_with_a_job_whose_parent_is_gone_is_stale",
        "test_a_parent_must_stand_before_its_child",
    ]

    @override
    def _lacks_parent(self, jobs: Sequence[NewJob]) -> bool:
        return False


class TwoStepReschedule(Saboteur):
    """Looks at the version, and writes later."""

    caught_by: ClassVar = ["test_one_of_many_makes_the_jobs_of_a_version"]
    by_history: ClassVar = False

    @override
    def _reschedule(self, change: Reschedule) -> Rescheduled:
        known = self._world.schedules.get(change.id)
        if change.version != (0 if known is None else known.version):
            return Rescheduled(RescheduleVerdict.STALE, (), ())
        self.gap()
        now = self._world.schedules.get(change.id)
        return super()._reschedule(replace(change, version=0 if now is None else now.version))


class MovesBeforeJobs(Saboteur):
    caught_by: ClassVar = ["test_its_moves_are_applied_after_its_jobs"]

    @override
    def _reschedule(self, change: Reschedule) -> Rescheduled:
        applied = tuple(self._apply(wish) for wish in change.moves)
        return super()._reschedule(replace(change, moves=()))._replace(applied=applied)


class DueTooLate(Saboteur):
    caught_by: ClassVar = ["test_due_ones_come_by_time_and_id_up_to_the_limit"]

    @override
    def due(self, limit: int) -> Due:
        due = super().due(limit)
        past = tuple(schedule for schedule in due.schedules if schedule.next_at != due.now)
        return due._replace(schedules=past)


class RemovedComesBack(Saboteur):
    """Keeps counting where a removed schedule left off."""

    caught_by: ClassVar = ["test_it_is_removed_and_made_again"]

    @override
    def _reschedule(self, change: Reschedule) -> Rescheduled:
        if change.body is None and change.id in self._world.schedules:
            return super()._reschedule(replace(change, body=b"", next_at=None))
        return super()._reschedule(change)


STORAGES: list[type[Saboteur]] = Saboteur.__subclasses__()


class SaboteurStore:
    """Opens storages of one broken kind, as `Model` opens right ones."""

    def __init__(self, kind: type[Saboteur]) -> None:
        self._kind = kind
        self._worlds: dict[str, World] = {}

    def open_storage(self, options: StorageOptions) -> Saboteur:
        return self._kind(options, self._worlds.setdefault(options.namespace, World()))


class BrokerSaboteur(MemoryBroker):
    caught_by: ClassVar[Sequence[str]]


class LostAck(BrokerSaboteur):
    caught_by: ClassVar = ["test_an_acked_message_is_gone"]

    @override
    def ack(self, deliveries: Sequence[Delivery]) -> None:
        pass


class ReleasedAreLost(BrokerSaboteur):
    caught_by: ClassVar = ["test_a_released_message_comes_again_to_anyone"]

    @override
    def release(self, deliveries: Sequence[Delivery]) -> None:
        self.ack(deliveries)


class ReservedAreLostAtClose(BrokerSaboteur):
    caught_by: ClassVar = ["test_reserved_messages_return_when_the_connection_is_closed"]

    @override
    def close(self) -> None:
        self._reserved.clear()


class NothingIsReserved(BrokerSaboteur):
    caught_by: ClassVar = ["test_a_message_is_received_once_while_it_is_reserved"]

    @override
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        deliveries = super().receive(queues, limit, wait)
        self.release(deliveries)
        return deliveries


class Unordered(BrokerSaboteur):
    caught_by: ClassVar = ["test_equals_come_in_order"]

    @override
    def publish(self, refs: Sequence[Ref]) -> None:
        super().publish(refs[::-1])


class Unprioritised(BrokerSaboteur):
    caught_by: ClassVar = ["test_a_higher_priority_comes_first", "test_a_message_is_what_was_published"]

    @override
    def publish(self, refs: Sequence[Ref]) -> None:
        super().publish([ref._replace(priority=0) for ref in refs])


class Boundless(BrokerSaboteur):
    caught_by: ClassVar = ["test_no_more_than_the_limit_comes"]

    @override
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        return super().receive(queues, 1_000, wait)


class DeclaringPurges(BrokerSaboteur):
    caught_by: ClassVar = ["test_declaring_keeps_messages"]

    @override
    def declare(self, queues: Sequence[str]) -> None:
        for queue in queues:
            self._exchange.queues[queue] = {}


class AckCountsTwice(BrokerSaboteur):
    """Takes an ack for the next message when its own is gone."""

    caught_by: ClassVar = ["test_acking_twice_is_ignored"]

    @override
    def ack(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.tag in self._reserved:
                super().ack([delivery])
            else:
                super().ack(super().receive(["q"], 1, 0))


class LosesSome(BrokerSaboteur):
    """The last message of each batch that is longer than one."""

    caught_by: ClassVar = ["test_equals_come_in_order", "test_threads_share_the_messages"]

    @override
    def publish(self, refs: Sequence[Ref]) -> None:
        super().publish(refs[:-1] if len(refs) > 1 else refs)


class PublishesTwice(BrokerSaboteur):
    caught_by: ClassVar = ["test_a_message_is_received_once_while_it_is_reserved", "test_threads_share_the_messages"]

    @override
    def publish(self, refs: Sequence[Ref]) -> None:
        super().publish([ref for ref in refs for _ in range(2)])


class LowestPriorityFirst(BrokerSaboteur):
    caught_by: ClassVar = ["test_a_higher_priority_comes_first"]

    @override
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        return sorted(super().receive(queues, limit, wait), key=lambda delivery: delivery.ref.priority)


class AcksAtReceive(BrokerSaboteur):
    caught_by: ClassVar = [
        "test_a_released_message_comes_again_to_anyone",
        "test_acking_after_a_reconnect_is_ignored",
        "test_reserved_messages_return_when_the_connection_is_closed",
    ]

    @override
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        deliveries = super().receive(queues, limit, wait)
        self.ack(deliveries)
        return deliveries


class ReleaseIsAnotherPublish(BrokerSaboteur):
    """Whatever became of the message meanwhile."""

    caught_by: ClassVar = ["test_acking_after_a_reconnect_is_ignored"]

    @override
    def release(self, deliveries: Sequence[Delivery]) -> None:
        self.ack(deliveries)
        self.publish([delivery.ref for delivery in deliveries])


class AnswersByJob(BrokerSaboteur):
    """A late answer hits the message of a later connection."""

    caught_by: ClassVar = ["test_acking_after_a_reconnect_is_ignored"]

    @override
    def ack(self, deliveries: Sequence[Delivery]) -> None:
        refs = {delivery.ref for delivery in deliveries}
        self._reserved = {tag: ref for tag, ref in self._reserved.items() if ref not in refs}


class BlocksPastTheWait(BrokerSaboteur):
    caught_by: ClassVar = ["test_a_receive_that_finds_nothing_waits_and_then_returns"]

    @override
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        return super().receive(queues, limit, wait * 5)


class NeverBlocks(BrokerSaboteur):
    caught_by: ClassVar = [
        "test_a_receive_that_finds_nothing_waits_and_then_returns",
    ]

    @override
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        return super().receive(queues, limit, 0)


class DeafToWake(BrokerSaboteur):
    caught_by: ClassVar = ["test_wake_ends_every_receive"]

    @override
    def wake(self) -> None:
        pass


class HearsNoArrival(BrokerSaboteur):
    """Looks when the wait is over only."""

    caught_by: ClassVar = ["test_a_waiting_receiver_gets_a_message_at_once"]

    @override
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        return (
            super().receive(queues, limit, 0)
            or super().receive(["nobody's"], 1, wait)
            or super().receive(queues, limit, 0)
        )


class MixesQueues(BrokerSaboteur):
    caught_by: ClassVar = ["test_only_the_queues_asked_for"]

    @override
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        return super().receive([*queues, *self._exchange.queues], limit, wait)


class ForgetsTheEpoch(BrokerSaboteur):
    caught_by: ClassVar = ["test_a_message_is_what_was_published"]

    @override
    def publish(self, refs: Sequence[Ref]) -> None:
        super().publish([ref._replace(epoch=1) for ref in refs])


class ClosedForGood(BrokerSaboteur):
    caught_by: ClassVar = ["test_a_closed_broker_may_be_used_again"]

    _closed = False

    @override
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        return [] if self._closed else super().receive(queues, limit, wait)

    @override
    def close(self) -> None:
        super().close()
        self._closed = True


class NotMadeForThreads(BrokerSaboteur):
    """Reads a message in one step and removes it in another."""

    caught_by: ClassVar = ["test_threads_share_the_messages"]

    @override
    def receive(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        with self._changed:
            lines = [line for queue in queues for line in self._exchange.queues.get(queue, {}).values()]
            seen = [ref for line in lines for ref in line][:limit]
        if not seen:
            return super().receive(queues, limit, wait)
        time.sleep(0.002)
        taken = super().receive(queues, len(seen), 0)
        self.ack(taken)
        return [Delivery(ref, None) for ref in seen]


class DepthIsText(BrokerSaboteur):
    caught_by: ClassVar = ["test_the_depth_is_roughly_known"]

    @override
    def depth(self, queues: Sequence[str]) -> dict[str, int]:
        return {queue: str(depth) for queue, depth in super().depth(queues).items()}  # type: ignore[misc]


class DepthIsUnknown(BrokerSaboteur):
    caught_by: ClassVar = ["test_the_depth_is_roughly_known"]

    @override
    def depth(self, queues: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(queues, 0)


class DepthOfDeclaredOnly(BrokerSaboteur):
    caught_by: ClassVar = ["test_the_depth_is_roughly_known"]

    @override
    def depth(self, queues: Sequence[str]) -> dict[str, int]:
        return super().depth([queue for queue in queues if queue in self._exchange.queues])


class OneBrokerForAll(BrokerSaboteur):
    caught_by: ClassVar = ["test_namespaces_do_not_see_each_other"]


BROKERS: list[type[BrokerSaboteur]] = BrokerSaboteur.__subclasses__()


class PairSaboteur(MemoryBroker):
    """Brokers, beside a right storage, that the contract of pairs has to catch."""

    caught_by: ClassVar[Sequence[str]]


class MakesUpEpochs(PairSaboteur):
    """Messages come with the epoch that a job has at first."""

    caught_by: ClassVar = [
        "test_a_retry_comes_with_a_new_message",
        "test_the_claims_of_a_dead_worker_are_published_again",
    ]

    @override
    def publish(self, refs: Sequence[Ref]) -> None:
        super().publish([ref._replace(epoch=1) for ref in refs])


class LosesTheSecond(PairSaboteur):
    """Takes what was published before for enough: a job whose message was lost gets no other."""

    caught_by: ClassVar = [
        "test_a_broker_that_has_lost_all_is_filled_again",
        "test_a_message_that_comes_twice_is_one_claim",
    ]

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange)
        self._known: set[Ref] = set()

    @override
    def publish(self, refs: Sequence[Ref]) -> None:
        super().publish([ref for ref in refs if ref not in self._known])
        self._known.update(refs)


class PublishesToOneQueue(PairSaboteur):
    caught_by: ClassVar = ["test_each_job_comes_through_its_own_queue"]

    @override
    def publish(self, refs: Sequence[Ref]) -> None:
        super().publish([ref._replace(queue="q") for ref in refs])


class BoastsOfPriorities(PairSaboteur):
    """Promises what it does not do."""

    caught_by: ClassVar = ["test_a_higher_priority_is_claimed_first"]

    @override
    def publish(self, refs: Sequence[Ref]) -> None:
        super().publish([ref._replace(priority=0) for ref in refs])


class Reverses(PairSaboteur):
    caught_by: ClassVar = ["test_equals_are_claimed_in_the_order_in_which_they_were_enqueued"]

    @override
    def publish(self, refs: Sequence[Ref]) -> None:
        super().publish(refs[::-1])


class KeepsWhatIsGivenBack(PairSaboteur):
    caught_by: ClassVar = [
        "test_a_message_that_was_given_back_reaches_another_worker",
        "test_a_worker_that_dies_before_its_claim_leaves_the_message",
    ]

    @override
    def release(self, deliveries: Sequence[Delivery]) -> None:
        pass

    @override
    def close(self) -> None:
        pass


PAIR_BROKERS: list[type[PairSaboteur]] = PairSaboteur.__subclasses__()
PAIR_STORAGES: list[tuple[type[Saboteur], list[str]]] = [
    (TakesForgedEpochs, ["test_a_message_of_an_earlier_epoch_claims_nothing", "test_a_forged_message_harms_no_job"]),
    (NeverUnpublished, ["test_what_was_not_confirmed_is_published_again"]),
    (ConfirmsNothing, ["test_a_broker_that_has_lost_all_is_filled_again"]),
    (LostForGood, ["test_a_broker_that_has_lost_all_is_filled_again"]),
    (ClaimedIsPublished, ["test_a_claim_confirms_the_message_too"]),
    (NoServerFence, ["test_the_claims_of_a_dead_worker_are_published_again"]),
    (LostRelease, ["test_a_continuation_is_published_when_its_parent_has_ended"]),
]
"""Broken storages beside a right broker, and the tests of the contract of pairs that have to fail."""


class BrokerSaboteurStore:
    """Opens brokers of one broken kind."""

    def __init__(self, kind: type[BrokerSaboteur | PairSaboteur]) -> None:
        self._kind = kind
        self._exchanges: dict[str, Exchange] = {}

    def open_broker(self, options: BrokerOptions) -> MemoryBroker:
        namespace = "one" if self._kind is OneBrokerForAll else options.namespace
        return self._kind(self._exchanges.setdefault(namespace, Exchange()))
