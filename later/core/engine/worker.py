"""The machine that claims jobs, has them run, and reports how they ended.

One storage call is under way at a time. It carries everything at once: what has ended, references to claim, and how
many jobs are wanted next. While it is under way ends pile up, so batches grow with the load and a lone job never waits
for company.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Final, TypeAlias

from later.core import records
from later.core.engine.judge import INTERRUPTED
from later.core.lifecycle import Cause, Change
from later.core.ports import Delivery
from later.core.records import Claim, Claimant, ErrorInfo, HeldClaim, Ref, Verdict

Key: TypeAlias = tuple[str, int]
"""(id, epoch): one claim."""

MAX_CHANGES: Final = 500
"""Reports in one storage call; bounds how long a storage is held by one transaction or script."""
AHEAD_SECONDS: Final = 0.05
"""Work claimed beyond the free slots: what the slots finish in this time at the recent mean duration. Enough to hide a
storage round trip, too little to withhold work from other servers."""
MAX_AHEAD: Final = 64
STALE_AHEAD: Final = 1.0
"""A job claimed ahead that has not started for so long stands behind a long job: it is given back."""
SWEEP: Final = 10.0
"""With a broker: how often to look into the storage for what the broker lost. Also how long a dead broker is felt."""
RECONCILE: Final = 60.0
"""How often the claims in the storage are compared with those held here."""
POLL: Final = 5.0
"""How often to look for jobs when the storage pushes wake-ups: only to survive a lost one."""
POLL_UNPUSHED: Final = (0.05, 1.0)
"""First and longest pause between looks when it does not."""
IN_VAIN: Final = 10
PAUSE: Final = 0.5
"""After `IN_VAIN` wake-ups in a row without a job for this worker, how long not to wait for more: the storage has work
and gives none, as when it takes the server's lease for lost and the next beat has not told so yet."""
RETRY: Final = (0.1, 5.0)
"""First and longest pause after a failed call."""
REFUSALS: Final = 3
"""A report that the storage refused so often, alone, while it took others, is given up: the job fails instead."""
FLUSH: Final = 5.0
"""At a hurried stop: how long to go on trying to report to the storage."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    queues: Sequence[str] | Mapping[str, int]
    """In strict order, or with weights: how often each comes first, relative to the others."""
    slots: int
    grace: float
    """Seconds that running handlers get at a stop."""
    broker: bool = False
    push: bool = True
    """The storage pushes wake-ups."""
    at_most_once: frozenset[str] = frozenset()
    """Job types whose interrupted runs are not run again: they count as crashed, and survive no crash."""


class Interruption(Enum):
    """Why a running handler should stop."""

    CANCEL = "its cancel was asked for"
    STOP = "the server stops"
    LOST = "the claim was lost"


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leased:
    """The server holds a lease under this id: claims may be made in its name."""

    server: str


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The server's lease is lost, and with it every claim."""


@dataclass(frozen=True, slots=True)
class Tick:
    """`wake_at` has come."""


@dataclass(frozen=True, slots=True)
class ExchangeDone:
    result: records.Exchanged


@dataclass(frozen=True, slots=True)
class ExchangeFailed:
    """The storage did not answer; the call may have had its effect."""


@dataclass(frozen=True, slots=True)
class ExchangeRefused:
    """The storage raised what is no outage: it may be unable to store one of the changes. The call may have had its
    effect all the same."""

    error: str
    """Names the kind of error, and tells nothing of what was to be stored."""


@dataclass(frozen=True, slots=True)
class ClaimsListed:
    claims: Sequence[HeldClaim]


@dataclass(frozen=True, slots=True)
class ListFailed:
    pass


@dataclass(frozen=True, slots=True)
class Woken:
    """`Wait` returned. `hint`: there may be work; else its time ran out."""

    hint: bool


@dataclass(frozen=True, slots=True)
class Received:
    deliveries: Sequence[Delivery]


@dataclass(frozen=True, slots=True)
class ReceiveFailed:
    pass


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A handler ended, or was interrupted. `change` is what `judge` made of it."""

    change: Change
    seconds: float


@dataclass(frozen=True, slots=True)
class CancelAsked:
    claims: Sequence[Key]


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Finish what runs within the grace and exit; `hurry`: give it back and exit now."""

    hurry: bool = False


Event: TypeAlias = (
    Leased
    | LeaseLost
    | Tick
    | ExchangeDone
    | ExchangeFailed
    | ExchangeRefused
    | ClaimsListed
    | ListFailed
    | Woken
    | Received
    | ReceiveFailed
    | RunEnded
    | CancelAsked
    | StopAsked
)

# --- commands -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exchange:
    """Call `Storage.exchange`; answer ExchangeDone, ExchangeFailed or ExchangeRefused."""

    by: Claimant
    changes: Sequence[Change]
    refs: Sequence[Ref]
    queues: Sequence[str]
    limit: int


@dataclass(frozen=True, slots=True)
class ListClaims:
    """Call `Storage.claims`; answer ClaimsListed or ListFailed."""

    server: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Call `Storage.wait`, or sleep when that fails; answer Woken."""

    queues: Sequence[str]
    timeout: float


@dataclass(frozen=True, slots=True)
class Wake:
    """Call `Storage.wake`: a job that it tells of would not be claimed here, and others may wait for one."""


@dataclass(frozen=True, slots=True)
class Receive:
    """Call `Broker.receive`; answer Received or ReceiveFailed."""

    queues: Sequence[str]
    limit: int
    wait: float


@dataclass(frozen=True, slots=True)
class Ack:
    deliveries: Sequence[Delivery]


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Call `Broker.release`."""

    deliveries: Sequence[Delivery]


@dataclass(frozen=True, slots=True)
class Publish:
    """Hand refs to the broker, then call `Storage.published`. Best effort: the storage knows what was not published."""

    refs: Sequence[Ref]


@dataclass(frozen=True, slots=True)
class Run:
    """Start the handler in a free slot; answer RunEnded once, whatever happens."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Ask a running handler to stop, as its kind allows. RunEnded still follows when it has."""

    claim: Key
    why: Interruption


@dataclass(frozen=True, slots=True)
class Settled:
    """The ends of these runs, of types in `at_most_once` alone, are stored, or their claims are gone. Until then
    each holds its slot, and its worker's death must be told as if it was still running."""

    claims: Sequence[Key]


@dataclass(frozen=True, slots=True)
class Exit:
    """Everything is reported, or the time for it is over."""


Command: TypeAlias = (
    Exchange | ListClaims | Wait | Wake | Receive | Ack | GiveBack | Publish | Run | Interrupt | Settled | Exit
)


# --- the machine ----------------------------------------------------------------------------------------------------


class _Mode(Enum):
    UNLEASED = 0
    RUNNING = 1
    DRAINING = 2
    HURRIED = 3
    EXITED = 4


@dataclass(slots=True)
class _Backoff:
    """Pauses that double from the first to the longest, each shortened by up to half at random, so that workers that
    failed together do not come back together."""

    random: Random
    pause: float = 0.0
    until: float = 0.0

    def failed(self, now: float) -> None:
        first, longest = RETRY
        self.pause = min(longest, self.pause * 2 or first)
        self.until = now + self.pause * self.random.uniform(0.5, 1.0)

    def worked(self) -> None:
        self.pause = self.until = 0.0


@dataclass(slots=True)
class Stats:
    """What happened since the start; for people."""

    claimed: int = 0
    reported: int = 0
    fenced: int = 0
    released: int = 0
    failed_calls: int = 0


@dataclass(slots=True)
class _Suspect:
    """A report that was part of a refused call, and now goes alone."""

    change: Change
    backoff: _Backoff
    refusals: int = 0


@dataclass(slots=True)
class _Call:
    """The storage call under way."""

    server: str
    changes: Sequence[Change] = ()
    suspect: _Suspect | None = None
    deliveries: Sequence[Delivery] = ()
    limit: int = 0


@dataclass(slots=True)
class Worker:
    settings: WorkerSettings
    name: str
    """Unique within the server, and new for every process."""
    random: Random
    stats: Stats = field(default_factory=Stats)
    wake_at: float | None = None
    """When the machine wants a Tick; read it after every event."""

    _mode: _Mode = _Mode.UNLEASED
    _server: str = ""
    _held: set[Key] = field(default_factory=set[Key])
    """Every claim from its reply until its end is confirmed: ready, running or ended."""
    _ready: deque[tuple[Claim, float]] = field(default_factory=deque[tuple[Claim, float]])
    """Claimed, not started, with the time of the claim."""
    _running: dict[Key, Claim] = field(default_factory=dict[Key, Claim])
    _abandoned: dict[Key, Claim] = field(default_factory=dict[Key, Claim])
    """Handlers that still hold a slot though their claim is gone."""
    _unsettled: set[Key] = field(default_factory=set[Key])
    """Ended runs that still hold a slot, see `Settled`."""
    _ended: deque[Change] = field(default_factory=deque[Change])
    """Ends that the storage has not confirmed and that no call carries."""
    _suspects: deque[_Suspect] = field(default_factory=deque[_Suspect])
    """Ends of which the storage may be unable to store one."""
    _answered: bool = False
    """Something else was taken since a suspect was last refused: it is not the storage that is broken."""
    _deliveries: list[Delivery] = field(default_factory=list[Delivery])
    """Received and not yet turned into claims."""
    _call: _Call | ListClaims | None = None
    _waiting: bool = False
    _wakes: bool = False
    """The wait under way was told to end."""
    _receiving: bool = False
    _broker_down: bool = False
    _empty: bool = False
    """The storage had nothing more when last asked."""
    _received_since_sweep: bool = False
    _sweep_at: float = 0.0
    _poll: float = POLL_UNPUSHED[0]
    _in_vain: int = 0
    _wait_from: float = 0.0
    _reconcile_at: float | None = None
    _deadline: float = 0.0
    _mean: float | None = None
    """Recent mean duration of a run, in seconds (exponential, a fifth each)."""
    _storage_backoff: _Backoff = field(init=False)
    _broker_backoff: _Backoff = field(init=False)

    def __post_init__(self) -> None:
        self._storage_backoff = _Backoff(self.random)
        self._broker_backoff = _Backoff(self.random)

    @property
    def busy(self) -> int:
        """Slots in use."""
        return len(self._running) + len(self._abandoned) + len(self._unsettled)

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event at monotonic time `now`; what to do next, in order."""
        out: list[Command] = []
        if isinstance(event, RunEnded) and self._awaits_nothing_else:
            self._run_ended(event.change, event.seconds)
            self._start(out)
        elif self._mode is not _Mode.EXITED:
            self._take(event, now, out)
            self._advance(now, out)
        return out

    @property
    def _awaits_nothing_else(self) -> bool:
        """Whether the end of a run can have no other effect than the start of the next: the storage is being asked, and
        the broker as well. Most ends of short runs come so, and are worth a short way."""
        return self._call is not None and self._mode is _Mode.RUNNING and (self._receiving or not self.settings.broker)

    # --- events

    def _take(self, event: Event, now: float, out: list[Command]) -> None:
        match event:
            case RunEnded(change, seconds):
                self._run_ended(change, seconds)
            case ExchangeDone(result):
                self._exchange_done(result, now, out)
            case ExchangeFailed():
                self._exchange_failed(now)
            case ExchangeRefused(error):
                self._exchange_refused(error, now, out)
            case Woken(hint):
                self._waiting = self._wakes = self._empty = False
                self._in_vain = self._in_vain + 1 if hint else 0
                first, longest = POLL_UNPUSHED
                self._poll = first if hint else min(longest, self._poll * 2)
            case Received(deliveries):
                self._receiving = self._broker_down = False
                self._broker_backoff.worked()
                self._received_since_sweep |= bool(deliveries)
                self._deliveries += deliveries
            case ReceiveFailed():
                self._receiving = False
                self._broker_down = True
                self._broker_backoff.failed(now)
            case ClaimsListed(claims):
                self._claims_listed(claims, now, out)
            case ListFailed():
                self._call = None
                self._storage_backoff.failed(now)
                # Other calls come first: it may be one claim that cannot be read, which must not hold up the rest.
                self._reconcile_at = self._storage_backoff.until + RETRY[1]
            case CancelAsked(claims):
                self._cancel_asked(claims, out)
            case Leased(server):
                self._server = server
                self._empty = False
                if self._mode is _Mode.UNLEASED:
                    self._mode = _Mode.RUNNING
                self._reconcile_at = now + RECONCILE * self.random.uniform(0.5, 1.0)
            case LeaseLost():
                self._lease_lost(out)
            case StopAsked(hurry):
                self._stop_asked(hurry, now)
            case Tick():
                pass

    def _run_ended(self, change: Change, seconds: float) -> None:
        assert change.epoch is not None
        key = (change.id, change.epoch)
        self._mean = seconds if self._mean is None else self._mean + (seconds - self._mean) / 5
        claim = self._abandoned.pop(key, None) if self._abandoned else None
        if claim is None and (claim := self._running.pop(key, None)) is not None:
            self._ended.append(change)
        if claim is not None and claim.type in self.settings.at_most_once:
            self._unsettled.add(key)

    def _cancel_asked(self, claims: Sequence[Key], out: list[Command]) -> None:
        out += [Interrupt(key, Interruption.CANCEL) for key in claims if key in self._running]
        asked = set(claims)
        for item in [item for item in self._ready if (item[0].id, item[0].epoch) in asked]:
            self._ready.remove(item)
            self._release(item[0], "not started yet")  # the storage deletes it: its cancel was asked for

    def _exchange_done(self, result: records.Exchanged, now: float, out: list[Command]) -> None:
        call = self._call
        assert isinstance(call, _Call)
        self._call = None
        self._storage_backoff.worked()
        self._answered |= bool(result.applied or result.next or any(result.by_ref))
        self.stats.reported += len(call.changes)
        for verdict, _, enqueued in result.applied[: len(call.changes)]:
            if verdict is Verdict.FENCED:
                self.stats.fenced += 1
            if enqueued and self.settings.broker:
                out.append(Publish(enqueued))
        if call.deliveries:
            out.append(Ack(call.deliveries))
        if call.server != self._server:
            return  # the lease was lost meanwhile, and with it what this call claimed
        self._held.difference_update(map(_key, call.changes))
        if call.limit:
            few = len(result.next) < call.limit and not any(claim.crashes for claim in result.next)
            self._empty = few
            if self.settings.broker and (few or self._received_since_sweep):
                self._sweep_at = now + SWEEP * self.random.uniform(0.5, 1.0)
            self._received_since_sweep = False
        if result.next:
            self._in_vain = 0
        elif self._in_vain >= IN_VAIN:
            self._in_vain = 0
            self._wait_from = now + PAUSE
        for claim in (*(claim for claim in result.by_ref if claim), *result.next):
            self._claimed(claim, now)

    def _claimed(self, claim: Claim, now: float) -> None:
        key = (claim.id, claim.epoch)
        if key in self._held:
            return  # a repeated message for a claim that this worker holds: the storage gives it again
        self._held.add(key)
        self.stats.claimed += 1
        if self._mode is not _Mode.RUNNING:
            self._release(claim, "the server stops")
        elif key in self._abandoned:
            # The storage has lost what it knew of that claim. Back, it comes again with another epoch: the ends of the
            # two runs could not be told apart by this one.
            self._release(claim, "an earlier run of the same claim has not ended")
        else:
            self._ready.append((claim, now))

    def _exchange_failed(self, now: float) -> None:
        call = self._call
        assert isinstance(call, _Call)
        self._call = None
        self._storage_backoff.failed(now)
        self.stats.failed_calls += 1
        self._deliveries[:0] = call.deliveries
        if call.server != self._server:
            return
        if call.suspect is not None:
            self._suspects.appendleft(call.suspect)
            return
        self._ended.extendleft(reversed(call.changes))
        if call.deliveries or call.limit:
            # The storage may have given claims whose names were lost with the reply.
            self._reconcile_at = now

    def _exchange_refused(self, error: str, now: float, out: list[Command]) -> None:
        """Find the report that the storage cannot store: each goes alone. One that is refused while others are taken is
        replaced in the end, so that neither its slot nor anybody else waits for ever.

        Messages are dropped at once, since it may have been one of them, made up by anybody: the storage has the jobs.
        """
        call = self._call
        assert isinstance(call, _Call)
        suspect = call.suspect
        if suspect is None:
            changes, call.changes = call.changes, ()
            deliveries, call.deliveries = call.deliveries, ()
            self._exchange_failed(now)
            if deliveries:
                out.append(Ack(deliveries))
                self._reconcile_at = now  # what they were about may be claimed
            if call.server == self._server:
                self._suspects += [_Suspect(change, _Backoff(self.random)) for change in changes]
                self._answered &= not changes
            return
        self._call = None
        self.stats.failed_calls += 1
        if call.server != self._server:
            return
        self._answered = False
        suspect.refusals += 1
        suspect.backoff.failed(now)
        if suspect.refusals == REFUSALS:
            suspect.change = _unstorable(suspect.change, error)
        self._suspects.append(suspect)

    def _claims_listed(self, claims: Sequence[HeldClaim], now: float, out: list[Command]) -> None:
        self._call = None
        self._storage_backoff.worked()
        self._reconcile_at = now + RECONCILE * self.random.uniform(0.5, 1.0)
        listed = {(held.id, held.epoch) for held in claims if held.worker == self.name}
        for key in sorted(listed - self._held):
            self._held.add(key)
            self._give_back(key, "the claim's reply was lost")
        for key in [key for key in self._running if key not in listed]:
            self._abandon(key, Interruption.LOST, out)
        self._ready = deque(item for item in self._ready if (item[0].id, item[0].epoch) in listed)
        self._suspects = deque(item for item in self._suspects if _key(item.change) in listed)
        self._held &= listed

    def _lease_lost(self, out: list[Command]) -> None:
        for key in list(self._running):
            self._abandon(key, Interruption.LOST, out)
        self._ready.clear()
        self._ended.clear()
        self._suspects.clear()
        self._held.clear()
        self._server = ""
        if self._mode is _Mode.RUNNING:
            self._mode = _Mode.UNLEASED

    def _stop_asked(self, hurry: bool, now: float) -> None:
        if hurry and self._mode is not _Mode.HURRIED:
            self._mode = _Mode.HURRIED
            self._deadline = now + FLUSH
        elif self._mode in (_Mode.RUNNING, _Mode.UNLEASED):
            self._mode = _Mode.DRAINING
            self._deadline = now + self.settings.grace

    # --- what follows from the state

    def _advance(self, now: float, out: list[Command]) -> None:
        if self._mode is _Mode.DRAINING and now >= self._deadline:
            self._stop_asked(True, now)
        if self._mode in (_Mode.DRAINING, _Mode.HURRIED):
            self._wind_down(out)
        if self._mode is not _Mode.RUNNING and self._deliveries:
            out.append(GiveBack(tuple(self._deliveries)))
            self._deliveries.clear()
        if self._unsettled and (settled := self._unsettled - self._held):
            self._unsettled -= settled
            out.append(Settled(sorted(settled)))
        self._start(out)
        while self._ready and now >= self._ready[0][1] + STALE_AHEAD:
            self._release(self._ready.popleft()[0], "claimed ahead of a long job")
            # Else the recent short runs would have it, or the next one, claimed again at once, for as long as the
            # long job runs.
            self._mean = max(self._mean or 0.0, STALE_AHEAD)
        self._exchange(now, out)
        if self._mode is _Mode.RUNNING:
            self._listen(now, out)
        elif self._waiting and not self._wakes:
            self._wakes = True
            out.append(Wake())
        if self._finished(now):
            self._mode = _Mode.EXITED
            out.append(Exit())
        self.wake_at = self._next_tick(now)

    def _start(self, out: list[Command]) -> None:
        if not self._ready:
            return
        for _ in range(min(len(self._ready), self.settings.slots - self.busy)):
            claim, _ = self._ready.popleft()
            self._running[claim.id, claim.epoch] = claim
            out.append(Run(claim))

    def _wind_down(self, out: list[Command]) -> None:
        while self._ready:
            self._release(self._ready.popleft()[0], "the server stops")
        if self._mode is _Mode.HURRIED:
            for key, claim in list(self._running.items()):
                self._abandon(key, Interruption.STOP, out)
                once = claim.type in self.settings.at_most_once
                self._give_back(key, INTERRUPTED, Cause.CRASH if once else Cause.RELEASE)

    def _exchange(self, now: float, out: list[Command]) -> None:
        if self._call is not None or not self._server or now < self._storage_backoff.until:
            return
        if self._reconcile_at is not None and now >= self._reconcile_at:
            self._call = ListClaims(self._server)
            out.append(self._call)
            return
        by = Claimant(self._server, self.name)
        suspect = next((item for item in self._suspects if now >= item.backoff.until), None)
        if suspect is not None and self._answered:
            self._suspects.remove(suspect)
            self._call = _Call(self._server, (suspect.change,), suspect)
            out.append(Exchange(by, self._call.changes, (), (), 0))
            return
        if suspect is not None:
            # Whether the storage takes anything at all. Not asked by a wish for claims, which may be what it refuses.
            # No claim has the epoch 0, so nothing comes of it.
            self._call = _Call(self._server)
            nothing = Change("-", Cause.RELEASE, epoch=0, server=self._server)
            out.append(Exchange(by, (nothing,), (), (), 0))
            return
        room = self._room() if self._mode is _Mode.RUNNING else 0
        sweep = self.settings.broker and now >= self._sweep_at and room > 0
        if sweep:
            self._empty = False
        # One place is the sweep's, or a steady stream of messages would hide for ever what the broker has lost.
        taken = room - sweep
        deliveries, excess = tuple(self._deliveries[:taken]), tuple(self._deliveries[taken:])
        self._deliveries.clear()
        if excess:
            out.append(GiveBack(excess))
        direct = not self.settings.broker or self._broker_down or sweep
        limit = room - len(deliveries) if direct and not self._empty else 0
        if not (self._ended or deliveries or limit):
            return
        changes = tuple(self._ended.popleft() for _ in range(min(MAX_CHANGES, len(self._ended))))
        self._call = _Call(self._server, changes, None, deliveries, limit)
        refs = tuple(delivery.ref for delivery in deliveries)
        out.append(Exchange(by, changes, refs, self._order() if limit else (), limit))

    def _listen(self, now: float, out: list[Command]) -> None:
        if self.settings.broker and not self._receiving and now >= self._broker_backoff.until:
            room = self._room() - len(self._deliveries)
            if room > 0:
                self._receiving = True
                out.append(Receive(self._order(), room, SWEEP))
        direct = not self.settings.broker or self._broker_down
        # Not without room: the storage may tell of a job to one of those that wait alone, which must take it.
        if direct and self._empty and not self._waiting and now >= self._wait_from and self._room() > 0:
            self._waiting = True
            out.append(Wait(self._order(), POLL if self.settings.push else self._poll))

    def _room(self) -> int:
        """How many more jobs to hold: the free slots, and what they finish in `AHEAD_SECONDS`."""
        slots = self.settings.slots
        ahead = 0
        if self._mean is not None:
            ahead = min(MAX_AHEAD, int(slots * AHEAD_SECONDS / max(self._mean, 1e-6)))
        coming = len(self._call.deliveries) + self._call.limit if isinstance(self._call, _Call) else 0
        return max(0, slots - self.busy + ahead - len(self._ready) - coming)

    def _order(self) -> Sequence[str]:
        queues = self.settings.queues
        if not isinstance(queues, Mapping):
            return tuple(queues)
        # Efraimidis and Spirakis (2006): sorted by u^(1/weight), each queue leads in proportion to its weight.
        return tuple(sorted(queues, key=lambda name: self.random.random() ** (1 / queues[name]), reverse=True))

    def _release(self, claim: Claim, reason: str) -> None:
        self._give_back((claim.id, claim.epoch), reason)

    def _give_back(self, key: Key, reason: str, cause: Cause = Cause.RELEASE) -> None:
        self.stats.released += 1
        self._ended.append(Change(key[0], cause, reason, epoch=key[1], server=self._server))

    def _abandon(self, key: Key, why: Interruption, out: list[Command]) -> None:
        self._abandoned[key] = self._running.pop(key)
        out.append(Interrupt(key, why))

    def _finished(self, now: float) -> bool:
        if self._mode not in (_Mode.DRAINING, _Mode.HURRIED):
            return False
        if self._mode is _Mode.HURRIED and now >= self._deadline:
            return True
        flushed = not self._ended and not self._suspects and not isinstance(self._call, _Call)
        return (flushed and not self._running) or (not self._server and not self._running)

    def _next_tick(self, now: float) -> float | None:
        times: list[float] = []
        if self._mode in (_Mode.DRAINING, _Mode.HURRIED):
            times.append(self._deadline)
        if self._ready:
            times.append(self._ready[0][1] + STALE_AHEAD)
        if self._server and self._call is None:
            if self._reconcile_at is not None:
                times.append(max(self._reconcile_at, self._storage_backoff.until))
            if self._storage_backoff.until > now:
                times.append(self._storage_backoff.until)
            times += [item.backoff.until for item in self._suspects if item.backoff.until > now]
        if self._wait_from > now and self._mode is _Mode.RUNNING:
            times.append(self._wait_from)
        if self.settings.broker and self._mode is _Mode.RUNNING:
            if self._call is None and self._room() > 0:
                times.append(max(self._sweep_at, self._storage_backoff.until))
            if not self._receiving and self._broker_backoff.until > now:
                times.append(self._broker_backoff.until)
        return min(times, default=None)


def _key(change: Change) -> Key:
    return change.id, change.epoch or 0


def _unstorable(change: Change, error: str) -> Change:
    """What is reported instead of `change`."""
    message = (
        f"the storage refused to store that the run ended by {str(change.cause)!r} ({error}, {REFUSALS} times), "
        "though it took other reports: the log of the server has the error"
    )
    return Change(
        change.id, Cause.FAIL, message, epoch=change.epoch, server=change.server, error=ErrorInfo(error, message, "")
    )
