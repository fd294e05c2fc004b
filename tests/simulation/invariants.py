"""What must hold after every step, whatever goes wrong; and in the end, once nothing goes wrong any more.

Written without the code that it judges: the tables here are copies taken, or rules stated anew, so that breaking the
engine or the lifecycle does not bend the yardstick.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from later.core.engine.worker import Key
from later.core.lifecycle import RULES, Cause, Change
from later.core.ports import Delivery
from later.core.records import (
    Applied,
    Claim,
    Claimant,
    Exchanged,
    JobRecord,
    Micros,
    NewJob,
    On,
    Ref,
    State,
    Verdict,
)
from later.core.timetables.timetable import micros
from later.runtime.ticks import Tick, tick_of, to_datetime
from tests.simulation.faults import Fault, Weather
from tests.simulation.ledger import Ledger
from tests.simulation.scheduler import Scheduler
from tests.simulation.storage import Call, WatchedStorage

LEGAL: Final = frozenset(
    (source, target, cause)
    for cause, rule in RULES.items()
    for source in rule.sources
    for target in ({rule.to, State.DELETED} if rule.yields else {rule.to})
)
OF_CLAIM: Final = frozenset(cause for cause, rule in RULES.items() if rule.of_claim)
ENDED: Final = frozenset({State.SUCCEEDED, State.FAILED, State.DELETED})
RELEASED_BY: Final[Mapping[On, frozenset[State]]] = {
    On.SUCCEEDED: frozenset({State.SUCCEEDED}),
    On.FAILED: frozenset({State.FAILED}),
    On.DELETED: frozenset({State.DELETED}),
    On.FINISHED: ENDED,
}
MISSED_BY: Final[Mapping[On, frozenset[State]]] = {
    On.SUCCEEDED: frozenset({State.DELETED}),
    On.FAILED: frozenset({State.SUCCEEDED, State.DELETED}),
    On.DELETED: frozenset({State.SUCCEEDED}),
    On.FINISHED: frozenset(),
}
PUBLISH_OVERDUE: Final = 15_000_000
"""Once nothing goes wrong, no job waits longer than this past its `publish_by`: beats of the upkeep, and its calls."""


class Move(NamedTuple):
    """One job entering a state."""

    before: JobRecord
    after: JobRecord
    cause: Cause
    change: Change | None
    """What was asked for; None for a claim, another job's for a continuation."""
    call: Call

    @property
    def key(self) -> Key:
        return self.before.id, self.before.epoch

    def __str__(self) -> str:
        before, after = self.before, self.after
        return f"{after.id} {before.state} -> {after.state} by {self.cause} for {self.call.actor}"


@dataclass
class Checker:
    scheduler: Scheduler
    weather: Weather
    ledger: Ledger
    holders: Callable[[str], Iterable[str]]
    """By job: the worker processes that run it, believe in their claim, and have had no reason to doubt it."""
    reached: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """(cause or command, fault): what has been seen together."""
    attempts: dict[str, int] = field(default_factory=dict[str, int])
    """By job: how many its policy allows."""
    accepted: dict[str, NewJob] = field(default_factory=dict[str, NewJob])
    """Inserts that were acknowledged."""
    verdicts: dict[Verdict, int] = field(default_factory=dict[Verdict, int])
    storage: WatchedStorage = field(init=False)
    left: set[str] = field(default_factory=set[str])
    """Worker processes that have ended in order."""
    forgot: bool = False
    """The storage has lost acknowledged writes, so claims may exist twice."""
    _call: Call | None = None
    _finished: set[Key] = field(default_factory=set[Key])
    _struck: dict[Key, set[Fault]] = field(default_factory=dict[Key, set[Fault]])
    _hinted: dict[Key, set[Fault]] = field(default_factory=dict[Key, set[Fault]])
    _touched: set[str] = field(default_factory=set[str])
    _excused: dict[str, int] = field(default_factory=dict[str, int])
    """By job: how many of its runs were before somebody requeued it."""
    recurring: dict[str, set[Micros]] = field(default_factory=dict[str, set[Micros]])
    """Recurring jobs all of whose times make a job in the end, with these times."""
    _ticks: set[Tick] = field(default_factory=set[Tick])
    _known: set[str] = field(default_factory=set[str])
    _pruned: set[str] = field(default_factory=set[str])

    # --- coverage

    def strike(self, key: Key, fault: Fault) -> None:
        """The holder of a claim was struck: remembered with the way in which the claim ends."""
        self._struck.setdefault(key, set()).add(fault)

    def strike_message(self, ref: Ref, fault: Fault) -> None:
        self._hinted.setdefault((ref.id, ref.epoch), set()).add(fault)

    # --- the storage's steps

    def called(self, call: Call) -> None:
        self._call = call

    def answered(self, answer: object) -> None:
        if isinstance(answer, Exchanged) and len(answer.next) > 1 and any(claim.crashes for claim in answer.next):
            self.scheduler.fail(f"a suspect was claimed together with others: {answer.next}")
        self._check_families()
        self._call = None

    def created(self, job: JobRecord) -> None:
        self._check_tick(job)
        if job.id in self._pruned:  # an insert that was repeated too late: a new life of the job
            self._excused[job.id] = len(self.ledger.by_job.get(job.id, ()))
            self._finished = {key for key in self._finished if key[0] != job.id}
            self.ledger.by_key = {key: runs for key, runs in self.ledger.by_key.items() if key[0] != job.id}
        elif job.id in self._known and not self.forgot:
            self.scheduler.fail(f"{job.id} was stored twice")
        self._known.add(job.id)
        if job.epoch != (job.state is State.ENQUEUED):
            self.scheduler.fail(f"{job.id} starts {job.state} with epoch {job.epoch}")
        self._touched.add(job.id)

    def _check_tick(self, job: JobRecord) -> None:
        """A time of a recurring job makes one job, once, and not before it has come."""
        tick = tick_of(job.payload)
        if tick is None or self.forgot:
            return
        if tick in self._ticks:
            self.scheduler.fail(f"{tick} made a second job: {job}")
        if tick.due > to_datetime(self.storage.now()) and Fault.CLOCK_JUMP not in self.weather.odds:
            self.scheduler.fail(f"{tick} made a job too early: {job}")
        self._ticks.add(tick)

    def wrote(self, before: JobRecord, after: JobRecord, cause: Cause | None, change: Change | None) -> None:
        if cause is None:
            if (before.state, before.epoch) != (after.state, after.epoch):
                self.scheduler.fail(f"{after.id} moved without an entry in its history: {before} -> {after}")
            return
        assert self._call is not None
        move = Move(before, after, cause, change, self._call)
        self._check_move(move)
        self._check_budgets(move)
        if cause in OF_CLAIM:
            self._check_report(move)
        if cause in (Cause.CRASH, Cause.POISON):
            self._check_crash(move)
        if cause in (Cause.PARENT_ENDED, Cause.PARENT_MISSED):
            self._check_release_of_child(move)
        if cause is Cause.REQUEUE:
            self._excused[after.id] = len(self.ledger.by_job.get(after.id, ()))
        self._touched.add(after.id)
        self._cover(move)

    def _check_move(self, move: Move) -> None:
        before, after = move.before, move.after
        if (before.state, after.state, move.cause) not in LEGAL:
            self.scheduler.fail(f"illegal move: {move}")
        if after.epoch != before.epoch + (after.state is State.ENQUEUED):
            self.scheduler.fail(f"epoch {before.epoch} became {after.epoch}: {move}")
        if before.cancel_requested and before.state is State.PROCESSING and after.state not in ENDED:
            self.scheduler.fail(f"a cancelled job goes on: {move}")

    def _check_budgets(self, move: Move) -> None:
        after = move.after
        if not 0 <= after.attempt <= self.attempts.get(after.id, 1):
            self.scheduler.fail(f"attempt {after.attempt} of {self.attempts.get(after.id)}: {move}")
        # The crash that is one too many ends the job.
        if after.crashes > after.max_crashes + (after.state in ENDED):
            self.scheduler.fail(f"{after.crashes} crashes, {after.max_crashes} survived: {move}")

    def _check_report(self, move: Move) -> None:
        before, change, call = move.before, move.change, move.call
        assert change is not None
        if (change.epoch, change.server) != (before.epoch, before.server):
            self.scheduler.fail(f"a stale report was accepted: {move}, {change}, but the claim is {before}")
        if move.key in self._finished:
            self.scheduler.fail(f"a second report was accepted for {move.key}: {move}")
        self._finished.add(move.key)
        if self.forgot:
            return
        if call.kind == "exchange" and call.by.worker != before.worker:
            self.scheduler.fail(f"{call.by.worker} reported for {before.worker}: {move}")
        if move.cause is Cause.SUCCEED and not self.ledger.completed(move.key, before.worker):
            self.scheduler.fail(f"Succeeded without its effect: {move}")
        of_the_dead = call.kind == "apply" and before.worker not in self.left
        if move.cause is Cause.RELEASE and of_the_dead and self.ledger.cut_short(move.key):
            self.scheduler.fail(f"a crash was not counted: {move}")

    def _check_crash(self, move: Move) -> None:
        server = move.before.server or ""
        if move.call.kind == "rescue":
            if self.storage.lease_holds(server):
                self.scheduler.fail(f"rescued from {server}, whose lease holds: {move}")
        elif not self.ledger.began(move.key) and not self.forgot:
            self.scheduler.fail(f"a crash was counted for a job that nobody had started: {move}")

    def _check_release_of_child(self, move: Move) -> None:
        child = move.after
        parent = self.storage.job(child.parent or "")
        states = RELEASED_BY if move.cause is Cause.PARENT_ENDED else MISSED_BY
        if parent is None or parent.state not in states[child.on]:
            self.scheduler.fail(f"left Awaiting ({child.on}) while its parent is {parent}: {move}")

    def _check_families(self) -> None:
        """No child waits for what has happened. Looked at when a step is over: children follow parents within it."""
        touched, self._touched = self._touched, set()
        for job_id in touched:
            job = self.storage.job(job_id)
            if job is None:
                continue
            family = [(job, child) for child in self.storage.children(job_id)]
            parent = self.storage.job(job.parent) if job.parent else None
            if parent is not None:
                family.append((parent, job))
            for above, child in family:
                if child.state is State.AWAITING and above.state in RELEASED_BY[child.on] | MISSED_BY[child.on]:
                    self.scheduler.fail(f"{child.id} waits for {child.on} of {above.id}, which is {above.state}")

    def applied(self, change: Change, applied: Applied) -> None:
        self.verdicts[applied.verdict] = self.verdicts.get(applied.verdict, 0) + 1
        if applied.verdict is Verdict.FENCED and self.weather.calm:
            self.scheduler.fail(f"fenced although nothing went wrong: {change}")

    def claimed(self, claim: Claim, by: Claimant, *, repeated: bool) -> None:
        fail = self.scheduler.fail
        job = self.storage.job(claim.id)
        assert job is not None
        if (job.state, job.epoch, job.server, job.worker) != (State.PROCESSING, claim.epoch, by.server, by.worker):
            fail(f"{by} was given {claim}, but the job is {job}")
        if claim.server != by.server:
            fail(f"a claim in the name of {claim.server} for {by}")
        if not self.storage.lease_holds(by.server):
            fail(f"a claim without a lease: {claim} for {by}")
        if not repeated and not self.forgot and Fault.CLOCK_JUMP not in self.weather.odds:
            for holder in self.holders(claim.id):
                fail(f"{by} was given {claim} while {holder} runs it and may believe in its claim")
        parent = self.storage.job(job.parent) if job.parent else None
        if (claim.parent_state, claim.parent_result) != (
            parent.state if parent else None,
            parent.result if parent else None,
        ):
            fail(f"a wrong parent: {claim}, the parent is {parent}")

    def pruned(self, job: JobRecord) -> None:
        if job.state not in ENDED or job.expires_at is None or job.expires_at > self.storage.now():
            self.scheduler.fail(f"pruned too early: {job}")
        if any(child.state not in ENDED for child in self.storage.children(job.id)):
            self.scheduler.fail(f"pruned before its children ended: {job}")
        self.accepted.pop(job.id, None)
        self._pruned.add(job.id)

    def _cover(self, move: Move) -> None:
        if move.call.fault is not None:
            self.reached.add((move.cause, move.call.fault))
        if move.cause is Cause.CLAIM:
            self.reached.update((move.cause, fault) for fault in self._hinted.pop(move.key, ()))
        elif move.before.state is State.PROCESSING:
            self.reached.update((move.cause, fault) for fault in self._struck.pop(move.key, ()))

    # --- what a worker does with its claims

    def starts(self, claim: Claim, worker: str) -> None:
        """A worker starts a handler: the claim is its own, and it starts it once."""
        job = self.storage.job(claim.id)
        key = (claim.id, claim.epoch)
        if self.forgot:
            return
        if self.ledger.began(key):
            self.scheduler.fail(f"{worker} starts {key}, which was started before")
        mine = job is not None and (job.state, job.epoch, job.worker) == (State.PROCESSING, claim.epoch, worker)
        if not mine and self.storage.lease_holds(claim.server):
            self.scheduler.fail(f"{worker} starts {key} without a claim: the job is {job}")
        if claim.type == "once":
            runs = self.ledger.by_job.get(claim.id, [])[self._excused.get(claim.id, 0) :]
            if not all(run.again for run in runs):
                self.scheduler.fail(f"{worker} starts {key} again, which may run once at most")

    def acks(self, delivery: Delivery, server: str) -> None:
        """A message is done with only once its job is claimed, or the message is stale."""
        job = self.storage.job(delivery.ref.id)
        waits = job is not None and job.state is State.ENQUEUED and job.epoch == delivery.ref.epoch
        if waits and not self.forgot and self.storage.lease_holds(server):
            self.scheduler.fail(f"a message was acked before its job was claimed: {delivery}, {job}")

    def accept(self, new: NewJob) -> None:
        """A client was told that its job is stored."""
        if self.storage.job(new.id) is not None or not (self.forgot or new.id in self._pruned):
            self.accepted[new.id] = new

    def forget(self) -> None:
        """The storage has gone back a moment: so does what is known of it."""
        self.forgot = True
        self._finished.clear()
        for job_id in [job_id for job_id in self.accepted if self.storage.job(job_id) is None]:
            del self.accepted[job_id]

    # --- the end

    def settled(self) -> bool:
        """Whether every job that was stored has ended, or waits for what may still come of a Failed parent."""
        return all(job.state in ENDED or self._waits_for_good(job) for job in self.storage.jobs())

    def _waits_for_good(self, job: JobRecord) -> bool:
        if job.state is not State.AWAITING:
            return False
        parent = self.storage.job(job.parent or "")
        return parent is not None and (parent.state is State.FAILED or self._waits_for_good(parent))

    def check_calm(self) -> None:
        """Nothing is overdue once nothing goes wrong any more."""
        now = self.storage.now()
        for job in self.storage.jobs():
            if job.publish_by is not None and job.publish_by + PUBLISH_OVERDUE < now:
                self.scheduler.fail(f"never published again: {job}")
            if job.run_at is not None and job.run_at + PUBLISH_OVERDUE < now:
                self.scheduler.fail(f"never promoted: {job}")

    def check_end(self) -> None:
        """Accepted jobs are still there, all have ended, and recurring jobs have missed nothing."""
        for schedule, times in self.recurring.items():
            made = {micros(tick.due) for tick in self._ticks if tick.id == schedule}
            if made != times and not self.forgot:
                self.scheduler.fail(f"recurring job {schedule} made {len(made)} jobs, for {len(times)} times")
        for job_id, new in self.accepted.items():
            job = self.storage.job(job_id)
            if job is None:
                self.scheduler.fail(f"an accepted job has disappeared: {new}")
            if (job.type, job.queue, job.payload, job.parent) != (new.type, new.queue, new.payload, new.parent):
                self.scheduler.fail(f"an accepted job has become another: {new}, {job}")
            states = [entry.state for entry in self.storage.history(job_id)]
            if job.epoch != states.count(State.ENQUEUED) and not self.forgot:
                self.scheduler.fail(f"epoch {job.epoch} does not match the history {states}")
        if not self.settled():
            stuck = [job for job in self.storage.jobs() if job.state not in ENDED and not self._waits_for_good(job)]
            self.scheduler.fail("jobs have not ended:\n    " + "\n    ".join(map(repr, stuck)))

    def check_that_nothing_happened(self, workers: int) -> None:
        """Where nothing goes wrong each job runs once. Each worker may have claimed it ahead once, in vain."""
        for job_id, started in self.ledger.by_job.items():
            runs = len(started)
            claims = sum(entry.state is State.PROCESSING for entry in self.storage.history(job_id))
            if runs != 1 or claims > 1 + workers:
                self.scheduler.fail(f"{job_id} ran {runs} times, from {claims} claims")
