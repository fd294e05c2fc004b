"""The machine that holds a server's lease and does the upkeep that any server may do.

Three lanes, so that slow upkeep cannot starve the heartbeat, nor a slow broker the upkeep: the lease lane (Register,
Beat, Unregister), the upkeep lane, and the broker lane (Compare); each has one command under way at a time.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from random import Random
from typing import Final, TypeAlias

from later.core import records
from later.core.engine.worker import FLUSH, RETRY, Key, Publish
from later.core.lifecycle import Cause, Change, Reschedule
from later.core.records import (
    SECOND,
    HeldClaim,
    JobDetails,
    Micros,
    Ref,
    RescheduleVerdict,
    ScheduleRecord,
    ServerInfo,
    ServerRecord,
)
from later.core.recurring.planning import awaited, plan_all, postponed
from later.core.steps import refs_of

LEASE: Final[Micros] = 15 * SECOND
BEAT: Final = 5.0
"""A third of the lease: two beats may be lost."""
MARGIN: Final = 1.0
"""The lease is taken for lost so long before it runs out, counted from the sending of the last beat that was answered:
clocks may run apart by a fifteenth without two servers holding one claim."""
TRUST: Final = LEASE / SECOND - MARGIN
RESCUE: Final = 2.0
PROMOTE: Final = 1.0
"""How often to look for due jobs when none is known to be due earlier."""
TICK: Final = 1.0
"""How often to look for recurring jobs when none is known to be due earlier."""
TICKS: Final = 100
"""Recurring jobs per look."""
SOONEST: Final = 0.005
"""Never promote or tick more often, however close together due times lie."""
REPUBLISH: Final = 2.0
REPUBLISH_AGAIN: Final[Micros] = 30 * SECOND
"""A job published again by the upkeep and still unconfirmed is due once more after this."""
COMPARE: Final = 10.0
"""With a broker: how often to look whether it has lost messages that it had confirmed. Once it has, each look that
finds so again waits twice as long, up to `COMPARE_LONGEST`: a broker that keeps fewer than it takes is not helped."""
COMPARE_LONGEST: Final = 600.0
LOST_AFTER: Final[Micros] = 10 * SECOND
"""A job that has waited for less is on its way, or in the hands of a worker that is about to claim it."""
PRUNE: Final = 60.0
RECONCILE: Final = 60.0
MAX_DIED: Final = 1000
LIMIT: Final = 500
"""Jobs per upkeep call; bounds how long it holds the storage. A call that reached it is repeated at once."""


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    pass


@dataclass(frozen=True, slots=True)
class Ticked:
    """`wake_at` has come."""


@dataclass(frozen=True, slots=True)
class Registered:
    pass


@dataclass(frozen=True, slots=True)
class Beaten:
    beat: records.Beat


@dataclass(frozen=True, slots=True)
class Unregistered:
    pass


@dataclass(frozen=True, slots=True)
class LeaseCallFailed:
    """The command of the lease lane was not answered."""


@dataclass(frozen=True, slots=True)
class PromoteDone:
    result: records.Promoted


@dataclass(frozen=True, slots=True)
class RescueDone:
    result: records.Rescued


@dataclass(frozen=True, slots=True)
class UnpublishedFound:
    refs: Sequence[Ref]


@dataclass(frozen=True, slots=True)
class Unpublished:
    after: str | None
    """Where to go on; None when all have been looked at."""


@dataclass(frozen=True, slots=True)
class Compared:
    """By queue, the Enqueued jobs in the storage and the messages in the broker."""

    enqueued: Mapping[str, int]
    depth: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CompareFailed:
    """The broker or the storage did not answer."""


@dataclass(frozen=True, slots=True)
class PruneDone:
    touched: int


@dataclass(frozen=True, slots=True)
class ServersListed:
    servers: Sequence[ServerRecord]
    dead: Sequence[str]
    """Those of them that ran on this node and whose process is gone."""


@dataclass(frozen=True, slots=True)
class HeldListed:
    claims: Sequence[HeldClaim]


@dataclass(frozen=True, slots=True)
class Applied:
    results: Sequence[records.Applied]


@dataclass(frozen=True, slots=True)
class DeclareDone:
    pass


@dataclass(frozen=True, slots=True)
class DueFound:
    due: records.Due


@dataclass(frozen=True, slots=True)
class JobsFound:
    jobs: Sequence[JobDetails | None]


@dataclass(frozen=True, slots=True)
class Fired:
    results: Sequence[records.Rescheduled]


@dataclass(frozen=True, slots=True)
class UpkeepFailed:
    """The command of the upkeep lane was not answered."""

    refused: str = ""
    """The storage cannot do this, and would say so again: why."""


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    worker: str


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """A worker process ended without a report. `running`: the claims whose handlers had started."""

    worker: str
    running: Sequence[Key]


@dataclass(frozen=True, slots=True)
class WorkerLeft:
    """A worker process ended in order and holds no claim."""

    worker: str


@dataclass(frozen=True, slots=True)
class StopWanted:
    """All workers have ended: unregister and exit."""


Event: TypeAlias = (
    Started
    | Ticked
    | Registered
    | Beaten
    | Unregistered
    | LeaseCallFailed
    | PromoteDone
    | RescueDone
    | UnpublishedFound
    | Unpublished
    | Compared
    | CompareFailed
    | PruneDone
    | ServersListed
    | HeldListed
    | Applied
    | DeclareDone
    | DueFound
    | JobsFound
    | Fired
    | UpkeepFailed
    | WorkerStarted
    | WorkerDied
    | WorkerLeft
    | StopWanted
)

# --- commands -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Register:
    """Answer Registered or LeaseCallFailed; so for the other two of the lease lane."""

    server: ServerInfo
    lease: Micros


@dataclass(frozen=True, slots=True)
class Beat:
    server: str
    lease: Micros


@dataclass(frozen=True, slots=True)
class Unregister:
    server: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Answer PromoteDone or UpkeepFailed; likewise for the others of the upkeep lane."""

    limit: int


@dataclass(frozen=True, slots=True)
class Rescue:
    limit: int
    dead: Sequence[str]


@dataclass(frozen=True, slots=True)
class FindUnpublished:
    limit: int
    again_in: Micros


@dataclass(frozen=True, slots=True)
class Unpublish:
    queues: Sequence[str]
    waiting: Micros
    limit: int
    after: str | None


@dataclass(frozen=True, slots=True)
class Compare:
    """Call `Broker.depth` for the queues that have Enqueued jobs; answer Compared or CompareFailed."""


@dataclass(frozen=True, slots=True)
class Prune:
    limit: int


@dataclass(frozen=True, slots=True)
class ListServers:
    """Call `Storage.servers`, and look which of this node's are dead; answer ServersListed."""


@dataclass(frozen=True, slots=True)
class ListHeld:
    """Call `Storage.claims`; answer HeldListed."""

    server: str


@dataclass(frozen=True, slots=True)
class Apply:
    changes: Sequence[Change]


@dataclass(frozen=True, slots=True)
class Declare:
    """Make the recurring jobs those that the code declares; answer DeclareDone."""


@dataclass(frozen=True, slots=True)
class FindDue:
    """Call `Storage.due`; answer DueFound."""

    limit: int


@dataclass(frozen=True, slots=True)
class GetJobs:
    """Call `Storage.get`; answer JobsFound."""

    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Fire:
    """Call `Storage.reschedule`; answer Fired."""

    changes: Sequence[Reschedule]


@dataclass(frozen=True, slots=True)
class TellUnreadable:
    """Recurring jobs that are due and that this server cannot read, or the storage cannot change; with the reasons."""

    schedules: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TellLeased:
    """To every worker of this server, and to those that start later."""

    server: str


@dataclass(frozen=True, slots=True)
class TellLeaseLost:
    pass


@dataclass(frozen=True, slots=True)
class TellCancels:
    claims: Sequence[Key]


@dataclass(frozen=True, slots=True)
class KeeperExit:
    pass


LeaseCommand: TypeAlias = Register | Beat | Unregister
UpkeepCommand: TypeAlias = (
    Promote
    | Rescue
    | FindUnpublished
    | Unpublish
    | Prune
    | ListServers
    | ListHeld
    | Apply
    | Declare
    | FindDue
    | GetJobs
    | Fire
)
Command: TypeAlias = (
    LeaseCommand
    | UpkeepCommand
    | Compare
    | Publish
    | TellUnreadable
    | TellLeased
    | TellLeaseLost
    | TellCancels
    | KeeperExit
)

# --- the machine ----------------------------------------------------------------------------------------------------


class _Chore(IntEnum):
    """What the upkeep lane does."""

    RECONCILE = 0
    LOOK = 1
    RESCUE = 2
    PROMOTE = 3
    DECLARE = 4
    TICK = 5
    UNPUBLISH = 6
    """Before the republishing: a job that was published again is not to be found unpublished a second time."""
    REPUBLISH = 7
    PRUNE = 8


_EVERY: Final = {
    _Chore.RECONCILE: RECONCILE,
    _Chore.LOOK: BEAT,
    _Chore.RESCUE: RESCUE,
    _Chore.PROMOTE: PROMOTE,
    _Chore.DECLARE: 0.0,
    _Chore.TICK: TICK,
    _Chore.UNPUBLISH: REPUBLISH,
    _Chore.REPUBLISH: REPUBLISH,
    _Chore.PRUNE: PRUNE,
}
"""How often, in seconds; most urgent first. DECLARE is done once."""


_URGENT: Final[Mapping[type[UpkeepCommand], _Chore]] = {
    ListHeld: _Chore.RECONCILE,
    Rescue: _Chore.RESCUE,
    Declare: _Chore.DECLARE,
    FindDue: _Chore.TICK,
    GetJobs: _Chore.TICK,
    Fire: _Chore.TICK,
}
"""What is done again soon when it was not answered; the rest is when it is due again."""


@dataclass(slots=True)
class Keeper:
    new_server: Callable[[], ServerInfo]
    """Makes the server's description with a fresh random id."""
    random: Random
    app: str
    """The ids of recurring jobs' jobs are made from it."""
    broker: bool = False
    declares: bool = False
    """Whether the recurring jobs are to be made those of the code, once."""
    wake_at: float | None = None
    """When the machine wants to be Ticked; read it after every event."""

    _server: ServerInfo | None = None
    _leased: bool = False
    _trusted_until: float = 0.0
    _lease_call: LeaseCommand | None = None
    _lease_sent_at: float = 0.0
    _asked_for: ServerInfo | None = None
    """The server that was last asked to be registered."""
    _lease_due: float = 0.0
    _lease_pause: float = 0.0
    _upkeep_call: UpkeepCommand | None = None
    _upkeep_pause: float = 0.0
    _upkeep_after: float = 0.0
    _pauses: dict[_Chore, float] = field(default_factory=dict[_Chore, float])
    """After failures, by chore."""
    _due: dict[_Chore, float] = field(default_factory=dict[_Chore, float])
    _dead_servers: set[str] = field(default_factory=set[str])
    _workers: set[str] = field(default_factory=set[str])
    _died: dict[str, frozenset[Key]] = field(default_factory=dict[str, frozenset[Key]])
    """Ended workers by name, with what had started, oldest first; kept, since a claim of theirs may still reach the
    storage. That is a matter of seconds, so it does no harm to forget all but the last `MAX_DIED`."""
    _unlisted: set[str] = field(default_factory=set[str])
    """Dead workers whose claims have not been asked for yet."""
    _listing: set[str] = field(default_factory=set[str])
    """Those of them that the ListHeld under way is for."""
    _changes: tuple[Change, ...] = ()
    _ticked: bool = False
    """The last chore was TICK."""
    _due_found: records.Due | None = None
    """Recurring jobs for whose plans the state of jobs is missing."""
    _firing: tuple[Reschedule, ...] = ()
    _fired_of: dict[str, ScheduleRecord] = field(default_factory=dict[str, ScheduleRecord])
    """What they were planned from, ..."""
    _fired_at: Micros = 0
    """... and at which time of the storage."""
    _one_by_one: bool = False
    """The storage refused them together: each goes alone, so that one which it cannot store does not stop the rest."""
    _unreadable: dict[str, str] = field(default_factory=dict[str, str])
    _comparing: bool = False
    _compare_due: float = 0.0
    _compare_pause: float = 0.0
    """After a failure; 0.0 when the last one was answered."""
    _compare_every: float = COMPARE
    _lost: tuple[str, ...] = ()
    """Queues whose jobs are being made due to be published again."""
    _lost_after: str | None = None
    """Where that goes on."""
    _behind: bool = False
    """More is to be published than the last call gave: what the broker lacks is on its way."""
    _stop_by: float | None = None
    """When stopping: exit by then, whatever the storage answers."""
    _exited: bool = False

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event at monotonic time `now`; what to do next, in order."""
        out: list[Command] = []
        if self._exited:
            return out
        self._take(event, now, out)
        if self._leased and now >= self._trusted_until:
            self._lose(now, out)
        self._lease_lane(now, out)
        self._upkeep_lane(now, out)
        self._broker_lane(now, out)
        if self._stop_by is not None and (self._server is None or now >= self._stop_by):
            self._exited = True
            out.append(KeeperExit())
        self.wake_at = self._next_tick()
        return out

    def _take(self, event: Event, now: float, out: list[Command]) -> None:
        match event:
            case Started():
                self._server = self.new_server()
                first = {chore: now + every * self.random.random() for chore, every in _EVERY.items()}
                # A restarted service looks at once for the dead server that it was, and for what is due.
                self._due = first | {_Chore.LOOK: now, _Chore.RESCUE: now, _Chore.PROMOTE: now, _Chore.TICK: now}
                if not self.declares:
                    del self._due[_Chore.DECLARE]
                self._compare_due = now + COMPARE * self.random.random()
            case Registered():
                if self._lease_answered(Register):
                    self._registered(now, out)
            case Beaten(beat):
                if self._lease_answered(Beat):
                    if beat.alive:
                        self._lease_held(now)
                        if beat.cancels:
                            out.append(TellCancels(beat.cancels))
                    elif self._leased:
                        self._lose(now, out)
            case Unregistered():
                self._lease_call = None
                self._server = None
            case LeaseCallFailed():
                self._lease_failed(now)
            case UpkeepFailed(refused):
                self._upkeep_failed(refused, now, out)
            case Compared():
                self._compared(event, now)
            case CompareFailed():
                self._compare_failed(now)
            case WorkerStarted(worker):
                self._workers.add(worker)
            case WorkerLeft(worker):
                self._workers.discard(worker)
                self._died[worker] = frozenset()
            case WorkerDied(worker, running):
                self._workers.discard(worker)
                self._died[worker] = frozenset(running)
                self._unlisted.add(worker)
                self._due[_Chore.RECONCILE] = now
            case StopWanted():
                self._stop_by = now + FLUSH
            case Ticked():
                pass
            case _:
                self._upkeep_done(event, now, out)

    # --- the lease

    def _lease_answered(self, kind: type[Register] | type[Beat]) -> bool:
        """Whether the answer is for the server that this machine is now."""
        call, self._lease_call = self._lease_call, None
        assert isinstance(call, kind)
        asked = call.server.id if isinstance(call, Register) else call.server
        return self._server is not None and asked == self._server.id

    def _registered(self, now: float, out: list[Command]) -> None:
        assert self._server is not None
        if now < self._lease_sent_at + TRUST:
            self._lease_held(now)
            out.append(TellLeased(self._server.id))
        else:  # too late: the lease may have run out already
            self._server = self.new_server()
            self._lease_due = now

    def _lease_held(self, now: float) -> None:
        self._leased = True
        self._lease_pause = 0.0
        # Counted from the sending: the storage's lease cannot have begun earlier.
        self._trusted_until = self._lease_sent_at + TRUST
        self._lease_due = now + BEAT * self.random.uniform(0.8, 1.0)

    def _lease_failed(self, now: float) -> None:
        if isinstance(self._lease_call, Unregister):
            self._server = None  # its lease runs out by itself
        self._lease_call = None
        first, longest = RETRY
        self._lease_pause = min(longest, self._lease_pause * 2 or first)
        self._lease_due = now + self._lease_pause * self.random.uniform(0.5, 1.0)

    def _lose(self, now: float, out: list[Command]) -> None:
        self._leased = False
        self._died.clear()
        self._unlisted.clear()
        self._changes = ()
        self._server = self.new_server()
        self._lease_due = now
        out.append(TellLeaseLost())

    def _lease_lane(self, now: float, out: list[Command]) -> None:
        if self._lease_call is not None or self._server is None:
            return
        if self._stop_by is not None and self._upkeep_call is None and not self._unsettled():
            self._lease_call = Unregister(self._server.id)
            self._leased = False
        elif now < self._lease_due or (self._stop_by is not None and not self._leased):
            return
        elif self._leased:
            self._lease_call = Beat(self._server.id, LEASE)
            self._lease_sent_at = now
        else:
            self._lease_call = Register(self._server, LEASE)
            # Registering again does not renew: the lease may run since the first time.
            if self._server is not self._asked_for:
                self._asked_for = self._server
                self._lease_sent_at = now
        out.append(self._lease_call)

    # --- the upkeep

    def _unsettled(self) -> bool:
        """Whether claims of dead workers are still to be taken back."""
        return self._leased and bool(self._unlisted or self._changes)

    def _upkeep_lane(self, now: float, out: list[Command]) -> None:
        if self._upkeep_call is not None or now < self._upkeep_after:
            return
        if self._changes and self._leased:
            self._upkeep_call = Apply(self._changes)
        elif self._stop_by is not None:
            if self._unsettled() and self._server is not None:
                self._upkeep_call = self._list_held(self._server.id)
        elif self._firing:
            self._upkeep_call = Fire(self._firing[:1] if self._one_by_one else self._firing)
        elif self._due_found is not None:
            self._upkeep_call = GetJobs(awaited(self._due_found.schedules))
        else:
            self._upkeep_call = self._next_chore(now)
        if self._upkeep_call is not None:
            out.append(self._upkeep_call)

    def _next_chore(self, now: float) -> UpkeepCommand | None:
        # With more recurring jobs than get done TICK is always due; what comes after it has its turns all the same.
        for chore in sorted(_EVERY, key=lambda chore: (self._ticked and chore is _Chore.TICK, chore)):
            if now < self._due.get(chore, now + 1):
                continue
            self._ticked = chore is _Chore.TICK
            self._due[chore] = now + _EVERY[chore] * self.random.uniform(0.75, 1.0)
            match chore:
                case _Chore.RECONCILE:
                    if self._leased and self._died and self._server is not None:
                        return self._list_held(self._server.id)
                case _Chore.LOOK:
                    return ListServers()
                case _Chore.RESCUE:
                    return Rescue(LIMIT, tuple(sorted(self._dead_servers)))
                case _Chore.PROMOTE:
                    return Promote(LIMIT)
                case _Chore.DECLARE:
                    return Declare()
                case _Chore.TICK:
                    # Beyond those that stay due because they cannot be read.
                    return FindDue(TICKS + len(self._unreadable))
                case _Chore.UNPUBLISH:
                    if self._lost:
                        return Unpublish(self._lost, LOST_AFTER, LIMIT, self._lost_after)
                case _Chore.REPUBLISH:
                    if self.broker:
                        return FindUnpublished(LIMIT, REPUBLISH_AGAIN)
                case _Chore.PRUNE:
                    return Prune(LIMIT)
        return None

    def _upkeep_done(self, event: Event, now: float, out: list[Command]) -> None:
        call, self._upkeep_call = self._upkeep_call, None
        assert call is not None
        self._upkeep_pause = 0.0
        if type(call) in _URGENT:
            self._pauses.pop(_URGENT[type(call)], None)
        match event:
            case PromoteDone(result):
                self._publish(result.enqueued, out)
                self._again_in(_Chore.PROMOTE, result.next_due_in, now)
            case RescueDone(result):
                self._publish(result.enqueued, out)
                if result.more:
                    self._due[_Chore.RESCUE] = now
                elif isinstance(call, Rescue):
                    self._dead_servers.difference_update(call.dead)
            case UnpublishedFound(refs):
                self._publish(refs, out)
                self._behind = len(refs) == LIMIT
                if self._behind:
                    self._due[_Chore.REPUBLISH] = now
            case Unpublished(after):
                self._lost_after = after
                if after is None:
                    self._lost = ()
                    self._due[_Chore.REPUBLISH] = now
                else:
                    self._due[_Chore.UNPUBLISH] = now
            case PruneDone(touched):
                if touched == LIMIT:
                    self._due[_Chore.PRUNE] = now
            case ServersListed(_, dead):
                self._dead_servers.update(dead)
                if dead:
                    self._due[_Chore.RESCUE] = now
            case HeldListed(claims):
                self._held_listed(call, claims)
            case Applied(results):
                self._changes = ()
                self._publish((ref for applied in results for ref in applied.enqueued), out)
            case _:
                self._tick_done(call, event, now, out)

    def _tick_done(self, call: UpkeepCommand, event: Event, now: float, out: list[Command]) -> None:
        match event:
            case DeclareDone():
                self._due.pop(_Chore.DECLARE, None)
                self._due[_Chore.TICK] = now
            case DueFound(due):
                self._again_in(_Chore.TICK, due.next_due_in, now)
                if awaited(due.schedules):
                    self._due_found = due
                else:
                    self._plan(due, (), now, out)
            case JobsFound(jobs):
                found, self._due_found = self._due_found, None
                assert found is not None
                self._plan(found, jobs, now, out)
            case Fired(results):
                assert isinstance(call, Fire)
                self._fired(call.changes, results, now, out)
            case _:
                raise AssertionError(event)

    def _again_in(self, chore: _Chore, micros: Micros | None, now: float) -> None:
        if micros is not None:
            self._due[chore] = min(self._due[chore], now + max(SOONEST, micros / SECOND))

    def _plan(self, due: records.Due, jobs: Sequence[JobDetails | None], now: float, out: list[Command]) -> None:
        known = {details.job.id: details.job for details in jobs if details is not None}
        plans = plan_all(self.app, due.schedules, due.now, known, LIMIT)
        self._firing, self._one_by_one = plans.changes, False
        self._fired_of, self._fired_at = {record.id: record for record in due.schedules}, due.now
        next_at = min((change.next_at for change in plans.changes if change.next_at is not None), default=None)
        self._again_in(_Chore.TICK, 0 if plans.more else None if next_at is None else next_at - due.now, now)
        if plans.unreadable.keys() - self._unreadable.keys():
            out.append(TellUnreadable(plans.unreadable))
        self._unreadable = plans.unreadable

    def _fired(
        self, changes: Sequence[Reschedule], results: Sequence[records.Rescheduled], now: float, out: list[Command]
    ) -> None:
        """What was STALE somebody else has done, or it was to make a job wait for one that has gone."""
        self._firing = self._firing[len(changes) :]
        self._publish((ref for result in results for ref in refs_of(result)), out)
        for change, result in zip(changes, results, strict=True):
            if result.verdict is RescheduleVerdict.STALE and any(job.parent is not None for job in change.jobs):
                self._due[_Chore.TICK] = now

    def _fire_refused(self, changes: Sequence[Reschedule], why: str, out: list[Command]) -> None:
        """Find the change that the storage cannot store, and let its schedule tell so instead."""
        if len(changes) > 1:
            self._one_by_one = True
            return
        [change], rest = changes, self._firing[1:]
        if change.jobs or change.moves:
            self._firing = (postponed(self._fired_of[change.id], self._fired_at, why), *rest)
        else:
            self._firing = rest
            out.append(TellUnreadable({change.id: why}))

    def _list_held(self, server: str) -> ListHeld:
        self._listing, self._unlisted = self._unlisted, set()
        return ListHeld(server)

    def _held_listed(self, call: UpkeepCommand, claims: Sequence[HeldClaim]) -> None:
        if not isinstance(call, ListHeld) or self._server is None or call.server != self._server.id:
            return
        changes: list[Change] = []
        for held in claims:
            started = self._died.get(held.worker)
            if started is None or held.worker in self._unlisted:
                continue
            key = (held.id, held.epoch)
            cause = Cause.CRASH if key in started else Cause.RELEASE
            reason = f"worker {held.worker} " + ("died" if key in started else "has ended without starting the job")
            changes.append(Change(held.id, cause, reason, epoch=held.epoch, server=self._server.id))
        self._changes = tuple(changes)
        self._listing = set()
        for worker in self._died.keys() - self._unlisted:
            self._died[worker] = frozenset()
        settled = [worker for worker in self._died if worker not in self._unlisted]
        for worker in settled[: max(0, len(self._died) - MAX_DIED)]:
            del self._died[worker]

    def _upkeep_failed(self, refused: str, now: float, out: list[Command]) -> None:
        call, self._upkeep_call = self._upkeep_call, None
        if refused and isinstance(call, Fire):
            self._fire_refused(call.changes, refused, out)
            return
        first, longest = RETRY
        self._upkeep_pause = min(longest, self._upkeep_pause * 2 or first)
        self._upkeep_after = now + self._upkeep_pause * self.random.uniform(0.5, 1.0)
        if isinstance(call, ListHeld):
            self._unlisted |= self._listing
        elif isinstance(call, FindDue | GetJobs | Fire):
            # What was fired all the same is not found again.
            self._due_found, self._firing = None, ()
        chore = None if call is None else _URGENT.get(type(call))
        if chore is not None:
            # Each has a pause of its own: one that fails while the others work must not keep them from their turns.
            self._pauses[chore] = min(longest, self._pauses.get(chore, 0.0) * 2 or first)
            self._due[chore] = now + self._pauses[chore] * self.random.uniform(0.5, 1.0)

    # --- what the broker has lost

    def _broker_lane(self, now: float, out: list[Command]) -> None:
        if self.broker and not self._comparing and self._stop_by is None and now >= self._compare_due:
            self._comparing = True
            out.append(Compare())

    def _compared(self, found: Compared, now: float) -> None:
        """A broker that has no more than half of a queue's jobs was wiped, or has lost messages otherwise. The other
        half allows for those that are on their way to it, or in the hands of workers. A mistake costs messages that
        come twice."""
        self._comparing = False
        self._compare_pause = 0.0
        lost = tuple(sorted(queue for queue, jobs in found.enqueued.items() if 2 * found.depth.get(queue, 0) < jobs))
        if not lost:
            self._compare_every = COMPARE
        elif not self._lost and not self._behind:
            self._lost, self._lost_after = lost, None
            self._due[_Chore.UNPUBLISH] = now
            self._compare_every = min(COMPARE_LONGEST, 2 * self._compare_every)
        self._compare_due = now + self._compare_every * self.random.uniform(0.75, 1.0)

    def _compare_failed(self, now: float) -> None:
        self._comparing = False
        first, longest = RETRY
        self._compare_pause = min(longest, self._compare_pause * 2 or first)
        self._compare_every = COMPARE  # it may come back empty
        self._compare_due = now + self._compare_pause * self.random.uniform(0.5, 1.0)

    def _publish(self, refs: Iterable[Ref], out: list[Command]) -> None:
        found = tuple(refs)
        if found and self.broker:
            out.append(Publish(found))

    def _next_tick(self) -> float | None:
        if self._exited:
            return None
        if self._stop_by is not None:
            waits = self._unsettled() and self._upkeep_call is None
            return min(self._stop_by, self._upkeep_after) if waits else self._stop_by
        times: list[float] = []
        if self._leased:
            times.append(self._trusted_until)
        if self._lease_call is None and self._server is not None:
            times.append(self._lease_due)
        if self._upkeep_call is None:
            times.append(max(self._upkeep_after, min(self._due.values(), default=self._upkeep_after)))
        if self.broker and not self._comparing and self._server is not None:
            times.append(self._compare_due)
        return min(times, default=None)
