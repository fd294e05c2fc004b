"""The reference model behind an unreliable line, and watched: every write is shown to the checker with its cause."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from typing_extensions import override

from later.core.lifecycle import Cause, Change
from later.core.ports import StorageOptions
from later.core.records import (
    SECOND,
    Applied,
    Claim,
    Claimant,
    HistoryEntry,
    JobRecord,
    Micros,
    ScheduleRecord,
    ServerRecord,
    State,
)
from later.testing.model import Kept, ModelStorage, World
from tests.simulation.faults import CALL_FAULTS, Fault, Weather
from tests.simulation.scheduler import Actor, Scheduler

T = TypeVar("T")

EPOCH = 1_700_000_000 * SECOND


@dataclass(frozen=True, slots=True)
class Call:
    """Who asked for what is being done."""

    actor: str
    kind: str
    by: Claimant
    fault: Fault | None = None


class Watcher(Protocol):
    def created(self, job: JobRecord) -> None: ...
    def wrote(self, before: JobRecord, after: JobRecord, cause: Cause | None, change: Change | None) -> None: ...
    def claimed(self, claim: Claim, by: Claimant, *, repeated: bool) -> None: ...
    def applied(self, change: Change, applied: Applied) -> None: ...
    def pruned(self, job: JobRecord) -> None: ...


class WatchedStorage(ModelStorage):
    """The model, telling a watcher what it does while it does it."""

    def __init__(self, options: StorageOptions, watcher: Watcher) -> None:
        self.world = World()
        super().__init__(options, self.world)
        self.watcher = watcher
        self._change: Change | None = None
        self._saved: tuple[dict[str, Kept], dict[str, ServerRecord], dict[str, ScheduleRecord]] | None = None

    def job(self, job_id: str) -> JobRecord | None:
        return self._load(job_id)

    def jobs(self) -> list[JobRecord]:
        return self._jobs()

    def now(self) -> Micros:
        return self._now()

    def history(self, job_id: str) -> Sequence[HistoryEntry]:
        kept = self.world.jobs.get(job_id)
        return () if kept is None else kept.history

    def children(self, parent: str) -> list[JobRecord]:
        return self._children(parent)

    def lease_holds(self, server: str) -> bool:
        """Asked by the checker: told by the records, whatever the storage itself makes of them."""
        record = self.world.servers.get(server)
        return record is not None and self._now() < record.lease_until

    def save_all(self) -> None:
        jobs = {job_id: Kept(kept.job, kept.history, kept.turn) for job_id, kept in self.world.jobs.items()}
        self._saved = jobs, dict(self.world.servers), dict(self.world.schedules)

    def forget(self) -> None:
        """Go back to what was saved."""
        assert self._saved is not None
        self.world.jobs, self.world.servers, self.world.schedules = self._saved

    @override
    def _apply(self, change: Change) -> Applied:
        self._change = change
        applied = super()._apply(change)
        self._change = None
        self.watcher.applied(change, applied)
        return applied

    @override
    def _claim(self, job_id: str, epoch: int, by: Claimant) -> Claim | None:
        before = self._load(job_id)
        claim = super()._claim(job_id, epoch, by)
        if claim is not None:
            repeated = before is not None and before.state is State.PROCESSING
            self.watcher.claimed(claim, by, repeated=repeated)
        return claim

    @override
    def _keep(self, job: JobRecord, entry: HistoryEntry | None = None) -> None:
        kept = self.world.jobs[job.id]
        before, known = kept.job, bool(kept.history)
        super()._keep(job, entry)
        if not known:
            self.watcher.created(job)
        else:
            change = self._change
            self.watcher.wrote(before, job, None if entry is None else self._cause(job), change)

    def _cause(self, job: JobRecord) -> Cause:
        change = self._change
        if change is None:
            return Cause.CLAIM
        if change.id == job.id:
            poison = change.cause is Cause.CRASH and job.state is State.FAILED
            return Cause.POISON if poison else change.cause
        return Cause.PARENT_ENDED if job.state is State.ENQUEUED else Cause.PARENT_MISSED

    @override
    def prune(self, limit: int) -> int:
        before = self._jobs()
        touched = super().prune(limit)
        for job in before:
            if job.id not in self.world.jobs:
                self.watcher.pruned(job)
        return touched


class Line:
    """How everybody reaches the storage: each call takes time both ways and may fail in each of the known ways."""

    def __init__(self, scheduler: Scheduler, weather: Weather) -> None:
        self.scheduler = scheduler
        self.weather = weather
        self.away = False
        self.cut_off: set[str] = set()
        """Names of actors that cannot reach the storage."""
        self._random = scheduler.random("line")

    def reaches(self, actor: Actor) -> bool:
        return not self.away and actor.name not in self.cut_off

    def come_back(self) -> None:
        self.away = False

    def call(
        self,
        actor: Actor,
        about: tuple[str, Claimant],
        effect: Callable[[Call], T],
        done: Callable[[T], None],
        failed: Callable[[], None],
    ) -> None:
        """Have `effect` in the storage, then `done` with its answer, or `failed`."""
        random = self._random
        there, back = self._latency(), self._latency()
        if not self.reaches(actor):
            actor.after(there + random.choice((0.0, 1.0, 5.0)), failed)
            return
        call = Call(actor.name, *about, self.weather.first_of(CALL_FAULTS))

        def arrive(*, answers: bool) -> None:
            answer = effect(call)
            if answers:
                actor.after(back, done, answer)

        lands, answers = there, True
        match call.fault:
            case Fault.REFUSED | Fault.LOST_REPLY | Fault.LATE:
                answers = False
                actor.after(there + back, failed)
                if call.fault is Fault.LATE:
                    lands += random.uniform(0.0, 20.0)
            case Fault.SLOW_REPLY:
                back += random.uniform(0.5, 12.0)
            case Fault.STALL:
                lands += random.uniform(0.5, 12.0)
            case _:
                pass
        if call.fault is not Fault.REFUSED:
            self.scheduler.after(lands, partial(arrive, answers=answers))

    def _latency(self) -> float:
        return self._random.uniform(0.0005, 0.01)


class StorageClock:
    """The storage's own clock: it runs at its own rate and may be set to another time."""

    def __init__(self, scheduler: Scheduler, rate: float) -> None:
        self._scheduler = scheduler
        self._rate = rate
        self._offset = 0.0

    def __call__(self) -> Micros:
        return EPOCH + round((self._scheduler.now * self._rate + self._offset) * SECOND)

    def jump(self, seconds: float) -> None:
        self._offset += seconds
