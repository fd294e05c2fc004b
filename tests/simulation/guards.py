"""Guards that can be removed: each keeps one promise, told in its docstring.

Without it the simulation must find a world in which the promise is broken: the proof that the simulation looks there,
and that the guard is needed. `python -m tests.simulation --guards` lists what fails without each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Final, TypeAlias

import pytest

from later.core import lifecycle
from later.core.engine import keeper, worker
from later.core.engine.keeper import Keeper
from later.core.engine.worker import Worker, WorkerSettings
from later.core.lifecycle import RULES, Change, Reschedule, Step
from later.core.records import (
    Claim,
    Claimant,
    Exchanged,
    Inserted,
    JobRecord,
    Micros,
    NewJob,
    Ref,
    Rescheduled,
    Rescued,
    State,
    Verdict,
)
from later.testing.model import ModelStorage
from tests.simulation.faults import INCIDENTS, Fault, Weather
from tests.simulation.scheduler import Scheduler, Violation
from tests.simulation.world import Setup, World

SEEDS: Final = 400
"""Worlds to look into before a guard counts as not needed."""

Patch = pytest.MonkeyPatch
Removal: TypeAlias = Callable[[Patch], None]


@dataclass(frozen=True)
class Guard:
    remove: Callable[[Patch], None]
    fails: str
    """Part of the complaint that is then heard."""
    odds: Mapping[Fault, float] = field(default_factory=dict[Fault, float])
    """Faults that every world has for it; most guards need none in particular."""
    setup: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What every world is like for it."""


GUARDS: dict[str, Guard] = {}
EMBEDDED: Mapping[str, Any] = {"embedded": True, "processes": 1, "nodes": 2, "seconds": 40.0, "slow": True}
"""Where the loss of a lease does not kill the worker, and there is time to lose one."""


def guard(fails: str, *faults: Fault, **setup: object) -> Callable[[Removal], Removal]:
    def add(remove: Removal) -> Removal:
        odds = {fault: 3.0 if fault in INCIDENTS else 0.1 for fault in faults}
        GUARDS[remove.__name__] = Guard(remove, fails, odds, setup)
        return remove

    return add


# --- the lifecycle: every storage runs it


def _change_advance(patch: Patch, around: Callable[[JobRecord, Change], tuple[JobRecord, Change]]) -> None:
    advance = lifecycle.advance

    def broken(job: JobRecord, change: Change, now: Micros, *, outbox: bool) -> Step:
        job, change = around(job, change)
        return advance(job, change, now, outbox=outbox)

    patch.setattr(lifecycle, "advance", broken)


@guard("a stale report was accepted")
def epoch_fence(patch: Patch) -> None:
    """A report counts only with the claim's own epoch."""
    _change_advance(
        patch,
        lambda job, change: (job, change._replace(epoch=job.epoch) if RULES[change.cause].of_claim else change),
    )


@guard("a stale report was accepted", Fault.FORGOT, Fault.SERVER_PAUSE)
def server_fence(patch: Patch) -> None:
    """A report counts only from the server that holds the claim: a storage that forgot gives epochs out again."""
    _change_advance(
        patch,
        lambda job, change: (job, change._replace(server=job.server) if RULES[change.cause].of_claim else change),
    )


@guard("illegal move")
def state_check(patch: Patch) -> None:
    """A report counts only while the job is Processing."""
    _change_advance(
        patch,
        lambda job, change: (job._replace(state=State.PROCESSING) if RULES[change.cause].of_claim else job, change),
    )


@guard("crashes, ")
def crash_budget(patch: Patch) -> None:
    """A job that takes its workers down is given up."""
    advance = lifecycle.advance

    def broken(job: JobRecord, change: Change, now: Micros, *, outbox: bool) -> Step:
        step = advance(job._replace(max_crashes=1_000_000), change, now, outbox=outbox)
        return step if step.job is None else step._replace(job=step.job._replace(max_crashes=job.max_crashes))

    patch.setattr(lifecycle, "advance", broken)


@guard("a cancelled job goes on")
def cancel_is_kept(patch: Patch) -> None:
    """A running job whose cancel was asked for does not run again."""
    _change_advance(patch, lambda job, change: (job._replace(cancel_requested=False), change))


@guard("was given")
def claim_is_repeated_to_its_holder_only(patch: Patch) -> None:
    """A repeated message gives a claim again only to the worker that has it."""
    claim = lifecycle.claim

    def broken(job: JobRecord, epoch: int, by: Claimant, now: Micros) -> Step:
        if job.state is State.PROCESSING and job.epoch == epoch:
            return Step(Verdict.REPEATED, job)
        return claim(job, epoch, by, now)

    patch.setattr(lifecycle, "claim", broken)


@guard("epoch ")
def epoch_rises(patch: Patch) -> None:
    """Every entry into Enqueued has an epoch of its own."""
    advance = lifecycle.advance

    def broken(job: JobRecord, change: Change, now: Micros, *, outbox: bool) -> Step:
        step = advance(job, change, now, outbox=outbox)
        return step if step.job is None else step._replace(job=step.job._replace(epoch=job.epoch))

    patch.setattr(lifecycle, "advance", broken)


# --- the storage


@guard("a claim without a lease")
def lease_at_claim(patch: Patch) -> None:
    """Only a server whose lease holds may claim."""
    exchange = ModelStorage.exchange

    def broken(
        self: ModelStorage,
        by: Claimant,
        changes: Sequence[Change] = (),
        refs: Sequence[Ref] = (),
        queues: Sequence[str] = (),
        limit: int = 0,
    ) -> Exchanged:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(ModelStorage, "_holds_lease", lambda self, server: True)
            return exchange(self, by, changes, refs, queues, limit)

    patch.setattr(ModelStorage, "exchange", broken)


@guard("whose lease holds")
def lease_at_rescue(patch: Patch) -> None:
    """Claims are taken only from servers whose lease has run out."""
    rescue = ModelStorage.rescue

    def broken(self: ModelStorage, limit: int, dead: Sequence[str] = ()) -> Rescued:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(ModelStorage, "_holds_lease", lambda self, server: False)
            return rescue(self, limit, dead)

    patch.setattr(ModelStorage, "rescue", broken)


@guard("was stored twice")
def idempotent_insert(patch: Patch) -> None:
    """A repeated insert stores nothing."""
    insert = ModelStorage._insert

    def broken(self: ModelStorage, new: NewJob) -> Inserted:
        self._world.jobs.pop(new.id, None)
        return insert(self, new)

    patch.setattr(ModelStorage, "_insert", broken)


@guard("waits for")
def child_release_is_atomic(patch: Patch) -> None:
    """Children leave Awaiting in the very step that ends their parent."""
    patch.setattr(ModelStorage, "_children", lambda self, parent: [])
    patch.setattr(
        "tests.simulation.storage.WatchedStorage.children",
        lambda self, parent: [job for job in self.jobs() if job.parent == parent],
    )


@guard("claimed together with others")
def suspects_alone(patch: Patch) -> None:
    """A job that has crashed before is claimed alone."""
    following = ModelStorage._next

    def broken(self: ModelStorage, queues: Sequence[str]) -> JobRecord | None:
        job = following(self, queues)
        return None if job is None else job._replace(crashes=0)

    patch.setattr(ModelStorage, "_next", broken)


@guard("pruned before its children ended")
def parents_are_kept(patch: Patch) -> None:
    """A job is kept while one of its children has not ended."""
    patch.setattr(ModelStorage, "_needed", lambda self, job: False)


# --- the worker


@guard("acked before its job was claimed")
def ack_after_claim(patch: Patch) -> None:
    """A message is acked only when its job is claimed."""
    handle = Worker.handle

    def broken(self: Worker, event: worker.Event, now: float) -> list[worker.Command]:
        out = handle(self, event, now)
        for command in list(out):
            if isinstance(command, worker.Exchange) and isinstance(self._call, worker._Call):
                out.insert(0, worker.Ack(self._call.deliveries))
        return out

    patch.setattr(Worker, "handle", broken)


@guard("which was started before")
def held_claims_are_known(patch: Patch) -> None:
    """A claim that is given again, since its message was repeated, is not run again."""
    claimed = Worker._claimed

    def broken(self: Worker, claim: Claim, now: float) -> None:
        self._held.discard((claim.id, claim.epoch))
        claimed(self, claim, now)

    patch.setattr(Worker, "_claimed", broken)


@guard("jobs have not ended")
def reconcile_lost_replies(patch: Patch) -> None:
    """Claims whose names were lost with a reply are found and given back."""
    failed = Worker._exchange_failed

    def broken(self: Worker, now: float) -> None:
        at = self._reconcile_at
        failed(self, now)
        self._reconcile_at = at

    patch.setattr(Worker, "_exchange_failed", broken)
    patch.setattr(worker, "RECONCILE", 1e9)


@guard("may believe in its claim", Fault.CUT_OFF, **EMBEDDED)
def drop_claims_at_lease_lost(patch: Patch) -> None:
    """A worker whose server has lost its lease gives its claims up."""
    patch.setattr(Worker, "_lease_lost", lambda self, out: None)


@guard("is of server", Fault.CUT_OFF, Fault.SLOW_REPLY, **EMBEDDED)
def answers_of_a_lost_server_are_dropped(patch: Patch) -> None:
    """Claims that arrive after their server's lease was lost are not run."""
    done = Worker._exchange_done

    def broken(self: Worker, result: Exchanged, now: float, out: list[worker.Command]) -> None:
        assert isinstance(self._call, worker._Call)
        self._call.server = self._server
        done(self, result, now, out)

    patch.setattr(Worker, "_exchange_done", broken)


@guard("slots, all in use", Fault.CUT_OFF, **EMBEDDED)
def abandoned_handlers_hold_their_slots(patch: Patch) -> None:
    """A handler that ignores its interruption still uses its slot."""
    patch.setattr(Worker, "busy", property(lambda self: len(self._running)))


@guard("jobs have not ended")
def lost_messages(patch: Patch) -> None:
    """Jobs whose messages were lost are found in the storage: by the workers' sweep, and by the keepers' comparison.
    For an end either is enough; the one is for a message or two, the other for all."""
    patch.setattr(worker, "SWEEP", 1e9)
    patch.setattr(keeper, "COMPARE", 1e9)


# --- the keeper


@guard("may believe in its claim", Fault.CUT_OFF, nodes=2, seconds=40.0, slow=True)
def trust_deadline(patch: Patch) -> None:
    """A server stops before others may take its claims, though it hears of nothing."""
    held = Keeper._lease_held

    def broken(self: Keeper, now: float) -> None:
        held(self, now)
        self._trusted_until = inf

    patch.setattr(Keeper, "_lease_held", broken)


class _Everything(frozenset[worker.Key]):
    def __contains__(self, key: object) -> bool:
        return True


def _change_deaths(patch: Patch, running: Callable[[keeper.WorkerDied], frozenset[worker.Key]]) -> None:
    take = Keeper._take

    def broken(self: Keeper, event: keeper.Event, now: float, out: list[keeper.Command]) -> None:
        take(self, event, now, out)
        if isinstance(event, keeper.WorkerDied):
            self._died[event.worker] = running(event)

    patch.setattr(Keeper, "_take", broken)


@guard("a crash was counted for a job that nobody had started", Fault.WORKER_CRASH, embedded=False, processes=2)
def the_innocent_do_not_pay(patch: Patch) -> None:
    """What a dead worker had not started is released, not counted as crashed."""
    _change_deaths(patch, lambda event: _Everything())


@guard("a crash was not counted")
def the_guilty_pay(patch: Patch) -> None:
    """What a dead worker was running has crashed."""
    _change_deaths(patch, lambda event: frozenset())


@guard("jobs have not ended")
def claims_of_dead_workers_are_taken_back(patch: Patch) -> None:
    """A living server takes back what its dead worker had claimed."""
    patch.setattr(Keeper, "_held_listed", lambda self, call, claims: None)


@guard("never published again", Fault.UNCONFIRMED, Fault.BROKER_DOWN, broker=True, slots=1)
def republish(patch: Patch) -> None:
    """What no broker has confirmed is published again."""
    patch.setitem(keeper._EVERY, keeper._Chore.REPUBLISH, 1e9)


@guard("never promoted")
def promote(patch: Patch) -> None:
    """Due jobs are looked for again and again."""
    patch.setitem(keeper._EVERY, keeper._Chore.PROMOTE, 1e9)


@guard("jobs have not ended")
def rescue(patch: Patch) -> None:
    """Claims of dead servers are looked for again and again."""
    patch.setitem(keeper._EVERY, keeper._Chore.RESCUE, 1e9)


# --- guards that were missing once: the simulation has found these


@guard("asks to be woken at once", Fault.STOP, embedded=False, processes=3)
def a_stopping_keeper_sleeps(patch: Patch) -> None:
    """A keeper that waits for an answer before it unregisters does not ask to be woken for it."""
    following = Keeper._next_tick

    def broken(self: Keeper) -> float | None:
        if self._stop_by is not None and not self._exited and self._unsettled():
            return min(self._stop_by, self._upkeep_after)
        return following(self)

    patch.setattr(Keeper, "_next_tick", broken)


@guard("a busy loop", Fault.CLOCK_JUMP, broker=False, push=True, seconds=5.0, slots=1, jobs=8)
def wake_ups_in_vain_are_limited(patch: Patch) -> None:
    """A storage that takes the server for dead tells of work all the time and gives none."""
    patch.setattr(worker, "IN_VAIN", 1_000_000_000)


@guard("ran 1 times", seconds=35.0, jobs=16, slow=True, nodes=1, processes=1, embedded=True, broker=False)
def no_second_look_ahead_behind_a_long_job(patch: Patch) -> None:
    """What was claimed ahead of a long job and given back is not claimed ahead again."""
    advance = Worker._advance

    def broken(self: Worker, now: float, out: list[worker.Command]) -> None:
        mean = self._mean
        advance(self, now, out)
        self._mean = mean

    patch.setattr(Worker, "_advance", broken)


@guard("which may run once at most", Fault.HURRY)
def interrupted_runs_are_not_repeated(patch: Patch) -> None:
    """A run of a type that may run once at most is not given back when it is interrupted."""
    patch.setattr(Setup, "worker_settings", _without_at_most_once(Setup.worker_settings))


def _without_at_most_once(settings: Callable[[Setup], WorkerSettings]) -> Callable[[Setup], WorkerSettings]:
    return lambda self: replace(settings(self), at_most_once=frozenset())


@guard("which may run once at most", Fault.WORKER_CRASH, Fault.OUTAGE, embedded=False, ends_told=True)
def unreported_ends_count_as_started(patch: Patch) -> None:
    """What may run once at most has started until its report has arrived, though its handler has ended."""
    handle = Worker.handle

    def broken(self: Worker, event: worker.Event, now: float) -> list[worker.Command]:
        settled = []
        if isinstance(event, worker.RunEnded):
            settled.append(worker.Settled([(event.change.id, event.change.epoch or 0)]))
        return [*settled, *handle(self, event, now)]

    patch.setattr(Worker, "handle", broken)


@guard("made a second job", Fault.LATE, Fault.STALL, recurring=3, short_lived=True, nodes=3, seconds=35.0)
def a_version_of_a_schedule_is_changed_once(patch: Patch) -> None:
    """A change of a schedule that others have changed meanwhile is refused."""
    reschedule = ModelStorage._reschedule

    def broken(self: ModelStorage, change: Reschedule) -> Rescheduled:
        known = self._world.schedules.get(change.id)
        return reschedule(self, replace(change, version=0 if known is None else known.version))

    patch.setattr(ModelStorage, "_reschedule", broken)


def complaint(name: str) -> str | None:
    """What the simulation finds without this guard, with the seed; None when it finds nothing."""
    removed = GUARDS[name]
    with pytest.MonkeyPatch.context() as patch:
        removed.remove(patch)
        for seed in range(SEEDS):
            source = Scheduler(seed)
            weather = Weather.draw(source.random("weather"))
            # Every second world has the guard's own faults only, where it has some: others might hide them.
            drawn = {} if removed.odds and seed % 2 else weather.odds
            weather.odds = {**drawn, **removed.odds}
            setup = replace(Setup.draw(source.random("setup")), **removed.setup)
            try:
                World(seed, setup, weather).run()
            except Violation as violation:
                if removed.fails in str(violation):
                    return f"seed {seed}: {violation}"
    return None
