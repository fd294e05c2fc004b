"""The machine that claims, runs and reports: one storage call at a time, and never more jobs than it can start soon."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TypeVar

import pytest

from later.core.engine import worker
from later.core.engine.worker import (
    Ack,
    CancelAsked,
    ClaimsListed,
    Exchange,
    ExchangeDone,
    ExchangeFailed,
    ExchangeRefused,
    Exit,
    GiveBack,
    Interrupt,
    Interruption,
    Leased,
    LeaseLost,
    ListClaims,
    ListFailed,
    Publish,
    Receive,
    Received,
    ReceiveFailed,
    Run,
    RunEnded,
    Settled,
    StopAsked,
    Tick,
    Wait,
    Wake,
    Woken,
    Worker,
    WorkerSettings,
)
from later.core.lifecycle import Cause, Change
from later.core.ports import Delivery
from later.core.records import Applied, Claim, Exchanged, HeldClaim, Ref, State, Verdict

T = TypeVar("T")

DONE = Applied(Verdict.APPLIED, State.SUCCEEDED, ())


def claim_of(job: str, epoch: int = 1, server: str = "s1", crashes: int = 0) -> Claim:
    return Claim(job, epoch, "work", "q", 0, b"{}", 1, crashes, server)


def message(job: str, epoch: int = 1) -> Delivery:
    return Delivery(Ref(job, epoch, "q", 0), f"{job}@{epoch}")


class Bench:
    """A worker, with a storage and a broker that answer when they are told to."""

    def __init__(
        self,
        *,
        slots: int = 1,
        broker: bool = False,
        push: bool = True,
        queues: Sequence[str] | Mapping[str, int] = ("q",),
        at_most_once: frozenset[str] = frozenset(),
    ) -> None:
        self.now = 100.0
        settings = WorkerSettings(queues, slots, 5.0, broker, push, at_most_once)
        self.machine = Worker(settings, "w", Random(1))
        self.out: list[worker.Command] = []
        self.waiting: list[worker.Command] = []
        """Commands that have not been taken."""

    def feed(self, event: worker.Event) -> list[worker.Command]:
        self.out = self.machine.handle(event, self.now)
        self.waiting += self.out
        return self.out

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with every tick that the machine asks for."""
        until = self.now + seconds
        ticks = 0
        while (at := self.machine.wake_at) is not None and at <= until:
            self.now = max(self.now, at)
            self.feed(Tick())
            ticks += 1
            assert ticks < 100 + 10 * seconds, "it asks to be woken again and again"
        self.now = until

    def take(self, kind: type[T]) -> T:
        for command in self.waiting:
            if isinstance(command, kind):
                self.waiting.remove(command)
                return command
        raise AssertionError(f"no {kind.__name__} in {self.waiting}")

    def has(self, kind: type[object]) -> bool:
        return any(isinstance(command, kind) for command in self.waiting)

    def answer(self, *found: Claim, by_ref: Sequence[Claim | None] | None = None) -> Exchange:
        """Answer the exchange under way: its changes are applied, these jobs are given."""
        asked = self.take(Exchange)
        refs = (None,) * len(asked.refs) if by_ref is None else tuple(by_ref)
        self.feed(ExchangeDone(Exchanged((DONE,) * len(asked.changes), refs, found)))
        return asked

    def end(self, claim: Claim, cause: Cause = Cause.SUCCEED, seconds: float = 1.0) -> None:
        change = Change(claim.id, cause, epoch=claim.epoch, server=claim.server)
        self.feed(RunEnded(change, seconds))

    def lease(self, server: str = "s1") -> "Bench":
        self.feed(Leased(server))
        return self

    def runs(self) -> list[str]:
        return [command.claim.id for command in self.waiting if isinstance(command, Run)]


@pytest.fixture
def bench() -> Bench:
    return Bench().lease()


@pytest.fixture
def idle() -> Bench:
    """With a broker: it has looked into the storage, found nothing, and waits for messages."""
    bench = Bench(broker=True).lease()
    bench.answer()
    return bench


def report_of(change: Change) -> tuple[str, Cause]:
    return change.id, change.cause


# --- claiming and running


def test_nothing_happens_without_a_lease() -> None:
    bench = Bench()
    assert bench.feed(Tick()) == []
    assert bench.machine.wake_at is None


def test_a_job_is_claimed_run_and_reported_together_with_the_next_claim(bench: Bench) -> None:
    assert bench.answer(claim_of("a")).limit == 1
    assert bench.take(Run).claim.id == "a"
    assert not bench.has(Exchange)
    bench.end(claim_of("a"))
    asked = bench.take(Exchange)
    assert [report_of(change) for change in asked.changes] == [("a", Cause.SUCCEED)]
    assert asked.limit == 1


def test_ends_that_come_during_a_call_go_together_in_the_next() -> None:
    bench = Bench(slots=3).lease()
    claims = [claim_of(name) for name in "abc"]
    bench.answer(*claims)
    for claim in claims:
        bench.end(claim)
    assert len(bench.answer().changes) == 1
    assert [change.id for change in bench.answer().changes] == ["b", "c"]


def test_no_more_than_its_slots_run() -> None:
    bench = Bench(slots=2).lease()
    bench.answer(claim_of("a"), claim_of("b"))
    assert bench.runs() == ["a", "b"]
    assert not bench.has(Exchange)


def test_it_waits_when_there_is_nothing_and_looks_when_it_is_woken(bench: Bench) -> None:
    bench.answer()
    assert bench.take(Wait).timeout == worker.POLL
    bench.feed(Woken(hint=True))
    assert bench.take(Exchange).limit == 1


def test_it_does_not_wait_for_jobs_that_it_has_no_room_for() -> None:
    """Word of a job may go to one worker alone."""
    bench = Bench().lease()
    bench.answer(claim_of("a"))
    bench.end(claim_of("a"), seconds=0.01)  # so it claims ahead
    bench.answer(claim_of("b"), claim_of("c"))
    bench.take(Wait)
    bench.feed(Woken(hint=True))
    bench.end(claim_of("b"), seconds=60.0)  # so it does not any more
    bench.answer()
    bench.answer()
    assert not bench.has(Wait)
    bench.end(claim_of("c"), seconds=60.0)
    bench.answer()
    assert bench.has(Wait)


@pytest.mark.parametrize("event", [StopAsked(), StopAsked(hurry=True), LeaseLost()])
def test_it_does_not_wait_when_it_claims_no_more(event: worker.Event) -> None:
    bench = Bench(slots=2).lease()
    bench.answer(claim_of("a"))
    bench.take(Wait)
    assert bench.feed(event).count(Wake()) == 1
    assert Wake() not in bench.feed(Tick())


def test_without_push_it_looks_ever_less_often_until_there_is_work() -> None:
    bench = Bench(push=False).lease()
    timeouts: list[float] = []
    for _ in range(8):
        bench.answer()
        timeouts.append(bench.take(Wait).timeout)
        bench.feed(Woken(hint=False))
    assert timeouts[0] == worker.POLL_UNPUSHED[0]
    assert timeouts[-1] == worker.POLL_UNPUSHED[1]
    bench.answer()
    bench.take(Wait)
    bench.feed(Woken(hint=True))
    bench.answer()
    assert bench.take(Wait).timeout == worker.POLL_UNPUSHED[0]


def test_wake_ups_in_vain_do_not_make_a_busy_loop(bench: Bench) -> None:
    """The storage has work and gives none, as when it takes the server for dead."""
    looks = 0
    began = bench.now
    while bench.now < began + 10:
        bench.answer()
        looks += 1
        if not bench.has(Wait):
            bench.pass_time(worker.PAUSE)
        bench.take(Wait)
        bench.feed(Woken(hint=True))
    assert looks <= 10 / worker.PAUSE * worker.IN_VAIN + 1


def test_weights_are_a_share_of_the_first_places() -> None:
    bench = Bench(queues={"often": 3, "seldom": 1}).lease()
    first: Counter[str] = Counter()
    for _ in range(1000):
        first[bench.answer().queues[0]] += 1
        bench.take(Wait)
        bench.feed(Woken(hint=False))
    assert 700 <= first["often"] <= 800


def test_a_strict_order_stays() -> None:
    assert Bench(queues=["b", "a"]).lease().take(Exchange).queues == ("b", "a")


# --- the look-ahead


def quick(bench: Bench, seconds: float = 0.001) -> None:
    """One short run, so that more are claimed ahead."""
    claim = claim_of("quick")
    bench.answer(claim)
    bench.take(Run)
    bench.end(claim, seconds=seconds)


def test_short_jobs_are_claimed_ahead_and_long_ones_are_not() -> None:
    for seconds, limit in ((0.001, 51), (0.01, 6), (1.0, 1)):
        bench = Bench().lease()
        quick(bench, seconds)
        assert bench.take(Exchange).limit == limit


def test_a_job_behind_a_long_one_is_given_back_and_not_claimed_again(bench: Bench) -> None:
    quick(bench)
    bench.answer(claim_of("long"), claim_of("behind"))
    bench.pass_time(worker.STALE_AHEAD)
    asked = bench.answer()
    assert [report_of(change) for change in asked.changes] == [("behind", Cause.RELEASE)]
    assert asked.limit == 0
    bench.feed(Woken(hint=True))
    bench.pass_time(30.0)
    assert not bench.has(Exchange)


def test_what_a_call_under_way_may_bring_is_not_asked_for_again(idle: Bench) -> None:
    idle.take(Receive)
    idle.feed(Received([message("a")]))
    assert idle.take(Exchange).refs == (Ref("a", 1, "q", 0),)
    assert not idle.has(Receive)


def test_messages_that_find_no_room_go_back(idle: Bench) -> None:
    """A sweep may have filled the slots while a receive was under way."""
    idle.feed(Received([message("a"), message("b")]))
    assert idle.answer(by_ref=[claim_of("a")]).refs == (Ref("a", 1, "q", 0),)
    assert idle.take(GiveBack).deliveries == (message("b"),)


# --- messages


def test_a_message_is_acked_when_its_job_is_claimed(idle: Bench) -> None:
    idle.feed(Received([message("a")]))
    assert not idle.has(Ack)
    idle.answer(by_ref=[claim_of("a")])
    assert idle.take(Ack).deliveries == (message("a"),)
    assert idle.runs() == ["a"]


def test_a_stale_message_is_acked_and_nothing_runs(idle: Bench) -> None:
    idle.feed(Received([message("a")]))
    idle.answer(by_ref=[None])
    assert idle.take(Ack).deliveries == (message("a"),)
    assert idle.runs() == []


def test_a_claim_that_is_given_again_is_not_run_again() -> None:
    bench = Bench(slots=2, broker=True).lease()
    bench.answer()
    bench.feed(Received([message("a"), message("a")]))
    bench.answer(by_ref=[claim_of("a"), claim_of("a")])
    assert bench.runs() == ["a"]


def test_messages_are_claimed_again_after_a_failed_call(idle: Bench) -> None:
    idle.feed(Received([message("a")]))
    idle.take(Exchange)
    idle.feed(ExchangeFailed())
    idle.pass_time(1.0)
    idle.take(ListClaims)
    idle.feed(ClaimsListed([]))
    assert idle.take(Exchange).refs == (Ref("a", 1, "q", 0),)


def test_what_the_broker_lost_is_found_by_a_sweep(idle: Bench) -> None:
    idle.pass_time(worker.SWEEP)
    assert idle.take(Exchange).limit == 1


def test_a_steady_stream_of_messages_does_not_keep_the_sweep_away(idle: Bench) -> None:
    limits: list[int] = []
    for number in range(200):
        idle.now += 0.1
        idle.feed(Received([message(f"job-{number}")]))
        refs = idle.take(Exchange)
        limits.append(refs.limit)
        by_ref = tuple(claim_of(ref.id) for ref in refs.refs)
        idle.feed(ExchangeDone(Exchanged((), by_ref, ())))
        for claim in by_ref:
            idle.end(claim)
            idle.answer()
        idle.waiting.clear()
    assert sum(limits) >= 1


def test_a_broker_that_is_down_is_replaced_by_the_storage(idle: Bench) -> None:
    idle.take(Receive)
    idle.feed(ReceiveFailed())
    assert idle.has(Wait)
    idle.feed(Woken(hint=True))
    assert idle.answer(claim_of("a")).limit == 1
    idle.pass_time(6.0)
    assert not idle.has(Receive), "no room for more"
    idle.end(claim_of("a"))
    idle.answer()
    assert idle.has(Receive)


def test_what_became_enqueued_is_published() -> None:
    bench = Bench(broker=True).lease()
    bench.answer(claim_of("a"))
    bench.end(claim_of("a"))
    bench.take(Exchange)
    child = Ref("child", 1, "q", 0)
    bench.feed(ExchangeDone(Exchanged((DONE._replace(enqueued=(child,)),), (), ())))
    assert bench.take(Publish).refs == (child,)


# --- calls that fail, replies that are lost


def test_a_report_is_repeated_until_it_is_answered(bench: Bench) -> None:
    bench.answer(claim_of("a"))
    bench.end(claim_of("a"))
    for _ in range(3):
        assert [report_of(change) for change in bench.take(Exchange).changes] == [("a", Cause.SUCCEED)]
        bench.feed(ExchangeFailed())
        bench.pass_time(10.0)
        bench.take(ListClaims)
        bench.feed(ClaimsListed([HeldClaim("a", 1, "w")]))
    assert len(bench.answer().changes) == 1


def test_calls_that_fail_are_repeated_ever_less_often(bench: Bench) -> None:
    pauses: list[float] = []
    for _ in range(10):
        failed_at = bench.now
        bench.feed(ExchangeFailed() if bench.has(Exchange) else ListFailed())
        bench.waiting.clear()
        while not (bench.has(ListClaims) or bench.has(Exchange)):
            assert bench.machine.wake_at is not None
            bench.pass_time(bench.machine.wake_at - bench.now)
        pauses.append(bench.now - failed_at)
    assert pauses[0] <= worker.RETRY[0]
    assert worker.RETRY[1] / 2 <= pauses[-1] <= worker.RETRY[1]


def test_a_claim_whose_reply_was_lost_is_given_back(bench: Bench) -> None:
    bench.take(Exchange)
    bench.feed(ExchangeFailed())
    bench.pass_time(1.0)
    bench.take(ListClaims)
    bench.feed(ClaimsListed([HeldClaim("lost", 4, "w"), HeldClaim("of another", 1, "v")]))
    [change] = bench.take(Exchange).changes
    assert (change.id, change.cause, change.epoch, change.server) == ("lost", Cause.RELEASE, 4, "s1")
    assert bench.runs() == []


class Picky:
    """Answers for a storage that raises on some reports, and keeps the others."""

    def __init__(self, bench: Bench, refuses: Callable[[Change], bool]) -> None:
        self.bench = bench
        self.refuses = refuses
        self.kept: dict[str, Change] = {}
        self.sizes: list[int] = []
        self.held: dict[str, Claim] = {}

    def give(self, *claims: Claim) -> None:
        self.held |= {claim.id: claim for claim in claims}
        self.bench.answer(*claims)

    def turn(self, seconds: float) -> None:
        """Answer all that is asked within this time."""
        ends = self.bench.now + seconds
        while self.bench.now < ends:
            if self.bench.has(ListClaims):
                self.bench.take(ListClaims)
                claims = [HeldClaim(claim.id, claim.epoch, "w") for claim in self.held.values()]
                self.bench.feed(ClaimsListed(claims))
            elif self.bench.has(Exchange):
                asked = self.bench.take(Exchange)
                self.sizes.append(len(asked.changes))
                if any(map(self.refuses, asked.changes)):
                    self.bench.feed(ExchangeRefused("ValueError"))
                    continue
                for change in asked.changes:
                    if change.epoch:
                        self.kept[change.id] = change
                        self.held.pop(change.id)
                self.bench.feed(ExchangeDone(Exchanged((DONE,) * len(asked.changes), (), ())))
            else:
                self.bench.pass_time(0.1)


def test_a_report_that_cannot_be_stored_fails_its_job_and_no_other() -> None:
    bench = Bench(slots=3).lease()
    picky = Picky(bench, lambda change: change.id == "b" and change.cause is Cause.SUCCEED)
    picky.give(*map(claim_of, "abc"))
    for id in "abc":
        bench.end(claim_of(id))
    picky.turn(20)

    assert [picky.kept[id].cause for id in "abc"] == [Cause.SUCCEED, Cause.FAIL, Cause.SUCCEED]
    failed = picky.kept["b"]
    assert failed.error is not None
    assert (failed.error.type, failed.epoch, failed.server) == ("ValueError", 1, "s1")
    assert "refused to store that the run ended by 'succeed'" in failed.reason
    assert len(failed.reason) < 250


def test_a_report_fails_its_job_also_when_nothing_else_is_to_be_stored(bench: Bench) -> None:
    picky = Picky(bench, lambda change: change.cause is Cause.SUCCEED)
    picky.give(claim_of("a"))
    bench.end(claim_of("a"))
    bench.feed(StopAsked())
    picky.turn(4)

    assert picky.kept["a"].cause is Cause.FAIL
    assert bench.has(Exit)


def test_a_storage_that_refuses_everything_fails_no_job() -> None:
    bench = Bench(slots=3).lease()
    broken = True
    picky = Picky(bench, lambda change: broken)
    picky.give(*map(claim_of, "abc"))
    for id in "abc":
        bench.end(claim_of(id))
    picky.turn(300)
    assert len(picky.sizes) < 300
    broken = False
    picky.turn(20)

    assert [picky.kept[id].cause for id in "abc"] == [Cause.SUCCEED] * 3


def test_a_job_whose_every_report_is_refused_keeps_nobody_waiting() -> None:
    bench = Bench(slots=2).lease()
    picky = Picky(bench, lambda change: change.id == "b")
    picky.give(*map(claim_of, "ab"))
    for id in "ab":
        bench.end(claim_of(id))
    picky.turn(60)
    assert picky.kept.keys() == {"a"}
    assert len(picky.sizes) < 60
    bench.feed(Woken(hint=True))
    picky.give(claim_of("c"))
    bench.end(claim_of("c"))
    picky.turn(1)

    assert picky.kept["c"].cause is Cause.SUCCEED


def test_a_message_that_the_storage_chokes_on_is_dropped(idle: Bench) -> None:
    """Asked again and again with it, the storage would never come to anything else."""
    idle.take(Receive)
    forged = message("forged", epoch=2**62)
    idle.feed(Received([forged]))
    idle.take(Exchange)
    idle.feed(ExchangeRefused("OverflowError"))
    assert idle.take(Ack) == Ack((forged,))
    idle.pass_time(1.0)
    idle.take(ListClaims)  # the call may have had its effect all the same
    idle.feed(ClaimsListed([]))
    idle.take(Receive)
    idle.feed(Received([message("sound")]))
    assert idle.take(Exchange).refs == (Ref("sound", 1, "q", 0),)


def test_a_message_is_asked_about_again_after_an_outage(idle: Bench) -> None:
    idle.take(Receive)
    idle.feed(Received([message("a")]))
    idle.take(Exchange)
    idle.feed(ExchangeFailed())
    assert not idle.has(Ack)
    idle.pass_time(1.0)
    idle.take(ListClaims)
    idle.feed(ClaimsListed([]))
    assert idle.take(Exchange).refs == (Ref("a", 1, "q", 0),)


def test_a_storage_that_gives_no_claims_still_gets_reports() -> None:
    """It raises at every wish for more, as when it cannot read what stands first in the queue."""
    bench = Bench(slots=2).lease()
    bench.answer(claim_of("a"))
    bench.feed(Woken(hint=True))
    bench.end(claim_of("a"))
    reported: set[str] = set()
    until = bench.now + 20
    while bench.now < until:
        if bench.has(ListClaims):
            bench.take(ListClaims)
            bench.feed(ClaimsListed([HeldClaim("a", 1, "w")]))
        elif bench.has(Exchange):
            asked = bench.take(Exchange)
            if asked.limit:
                bench.feed(ExchangeRefused("Corrupt"))
            else:
                reported |= {change.id for change in asked.changes if change.epoch}
                bench.feed(ExchangeDone(Exchanged((DONE,) * len(asked.changes), (), ())))
        else:
            bench.pass_time(0.1)
    assert reported == {"a"}


def test_a_storage_that_cannot_list_claims_still_gets_reports() -> None:
    bench = Bench(slots=2).lease()
    bench.answer(claim_of("a"))
    reported: set[str] = set()
    until = bench.now + 2 * worker.RECONCILE
    ended = False
    while bench.now < until:
        if bench.now > until - worker.RECONCILE / 2 and not ended:
            ended = True
            bench.end(claim_of("a"))
        if bench.has(ListClaims):
            bench.take(ListClaims)
            bench.feed(ListFailed())
        elif bench.has(Exchange):
            asked = bench.take(Exchange)
            reported |= {change.id for change in asked.changes}
            bench.feed(ExchangeDone(Exchanged((DONE,) * len(asked.changes), (), ())))
        else:
            bench.pass_time(0.1)
    assert reported == {"a"}


def test_a_refused_report_of_a_lost_lease_is_forgotten(bench: Bench) -> None:
    bench.answer(claim_of("a"))
    bench.end(claim_of("a"))
    bench.take(Exchange)
    bench.feed(ExchangeRefused("ValueError"))
    bench.feed(LeaseLost())
    bench.lease("s2")
    bench.pass_time(1.0)

    assert bench.take(Exchange).changes == ()


def test_what_it_runs_is_not_given_back(bench: Bench) -> None:
    bench.answer(claim_of("a"))
    bench.pass_time(worker.RECONCILE)
    bench.take(ListClaims)
    bench.feed(ClaimsListed([HeldClaim("a", 1, "w")]))
    assert not bench.has(Exchange)


def test_a_running_job_that_is_no_longer_its_own_is_interrupted(bench: Bench) -> None:
    bench.answer(claim_of("a"))
    bench.pass_time(worker.RECONCILE)
    bench.take(ListClaims)
    bench.feed(ClaimsListed([]))
    assert bench.take(Interrupt) == Interrupt(("a", 1), Interruption.LOST)
    bench.end(claim_of("a"))
    assert bench.take(Exchange).changes == ()


# --- cancels


def test_a_running_job_is_interrupted_and_reports_by_itself(bench: Bench) -> None:
    bench.answer(claim_of("a"))
    bench.feed(CancelAsked([("a", 1), ("of another", 1)]))
    assert bench.take(Interrupt) == Interrupt(("a", 1), Interruption.CANCEL)
    assert not bench.has(Interrupt)
    bench.end(claim_of("a"), Cause.CANCEL)
    assert [report_of(change) for change in bench.take(Exchange).changes] == [("a", Cause.CANCEL)]


def test_a_job_that_has_not_started_is_released(bench: Bench) -> None:
    quick(bench)
    bench.answer(claim_of("a"), claim_of("b"))
    bench.feed(CancelAsked([("b", 1)]))
    assert [report_of(change) for change in bench.take(Exchange).changes] == [("b", Cause.RELEASE)]


# --- the lease


def test_a_lost_lease_ends_every_claim(bench: Bench) -> None:
    quick(bench)
    bench.answer(claim_of("a"), claim_of("b"))
    bench.take(Run)
    bench.feed(LeaseLost())
    assert bench.take(Interrupt) == Interrupt(("a", 1), Interruption.LOST)
    bench.lease("s2")
    bench.end(claim_of("a"))
    assert bench.take(Exchange).changes == ()
    assert bench.runs() == []


def test_a_handler_that_does_not_stop_keeps_its_slot(bench: Bench) -> None:
    bench.answer(claim_of("a"))
    bench.feed(LeaseLost())
    bench.lease("s2")
    assert not bench.has(Exchange)
    bench.end(claim_of("a"))
    assert bench.take(Exchange).limit == 1


def test_claims_in_the_name_of_a_lost_server_are_not_run(bench: Bench) -> None:
    bench.take(Exchange)
    bench.feed(LeaseLost())
    bench.lease("s2")
    bench.feed(ExchangeDone(Exchanged((), (), (claim_of("a"),))))
    assert bench.runs() == []
    assert bench.take(Exchange).by.server == "s2"


def test_a_claim_that_the_storage_has_forgotten_is_not_run_beside_itself() -> None:
    bench = Bench(slots=2).lease()
    bench.answer(claim_of("a"))
    bench.take(Run)
    bench.feed(LeaseLost())  # the storage has come back without its last second, and does not know of the claim
    bench.lease("s2")

    bench.answer(claim_of("a", server="s2"), claim_of("b", server="s2"))

    assert bench.runs() == ["b"]
    assert report_of(bench.take(Exchange).changes[0]) == ("a", Cause.RELEASE)


def test_reports_of_a_lost_server_are_not_repeated(bench: Bench) -> None:
    bench.answer(claim_of("a"))
    bench.end(claim_of("a"))
    bench.take(Exchange)
    bench.feed(LeaseLost())
    bench.feed(ExchangeFailed())
    bench.lease("s2")
    bench.pass_time(1.0)
    assert bench.take(Exchange).changes == ()


def test_messages_go_back_while_there_is_no_lease(idle: Bench) -> None:
    idle.feed(LeaseLost())
    idle.feed(Received([message("a")]))
    assert idle.take(GiveBack).deliveries == (message("a"),)


# --- the end


def test_an_idle_worker_exits_at_once(bench: Bench) -> None:
    bench.answer()
    assert Exit() in bench.feed(StopAsked())
    assert bench.feed(Tick()) == []


def test_what_runs_is_finished_and_reported_first(bench: Bench) -> None:
    bench.answer(claim_of("a"))
    bench.feed(StopAsked())
    assert not bench.has(Exit)
    bench.end(claim_of("a"))
    asked = bench.answer()
    assert ([report_of(change) for change in asked.changes], asked.limit) == ([("a", Cause.SUCCEED)], 0)
    assert bench.has(Exit)


def test_what_has_not_started_is_given_back_at_once(bench: Bench) -> None:
    quick(bench)
    bench.answer(claim_of("a"), claim_of("b"))
    bench.feed(StopAsked())
    assert [report_of(change) for change in bench.take(Exchange).changes] == [("b", Cause.RELEASE)]


def test_claims_that_arrive_at_the_stop_are_given_back(bench: Bench) -> None:
    bench.feed(StopAsked())
    bench.answer(claim_of("a"))
    assert [report_of(change) for change in bench.take(Exchange).changes] == [("a", Cause.RELEASE)]
    assert bench.runs() == []


def test_messages_go_back_at_the_stop() -> None:
    bench = Bench(broker=True).lease()
    bench.feed(Received([message("a")]))
    bench.feed(StopAsked())
    assert bench.take(GiveBack).deliveries == (message("a"),)


@pytest.mark.parametrize("hurried", [True, False])
def test_after_the_grace_what_runs_is_interrupted_and_given_back(bench: Bench, *, hurried: bool) -> None:
    bench.answer(claim_of("a"))
    bench.feed(StopAsked())
    if hurried:
        bench.feed(StopAsked(hurry=True))
    else:
        bench.pass_time(5.0)
    assert bench.take(Interrupt) == Interrupt(("a", 1), Interruption.STOP)
    assert [report_of(change) for change in bench.answer().changes] == [("a", Cause.RELEASE)]
    assert bench.has(Exit)


def test_what_may_run_at_most_once_is_not_given_back_once_it_has_started() -> None:
    bench = Bench(slots=1, at_most_once=frozenset({"work"})).lease()
    quick(bench)
    bench.answer(claim_of("started"), claim_of("ready"))
    bench.feed(StopAsked(hurry=True))
    assert sorted(report_of(change) for change in bench.take(Exchange).changes) == [
        ("ready", Cause.RELEASE),
        ("started", Cause.CRASH),
    ]


def test_what_may_run_at_most_once_holds_its_slot_until_its_report_has_arrived() -> None:
    """Its worker's death before that must be told as its crash: released, it would run again."""
    bench = Bench(at_most_once=frozenset({"work"})).lease()
    bench.answer(claim_of("a"))
    bench.end(claim_of("a"))
    assert not bench.has(Settled)
    assert bench.answer().limit == 0
    assert bench.take(Settled).claims == [("a", 1)]
    assert bench.take(Exchange).limit == 1


def test_a_lost_lease_settles_what_had_ended() -> None:
    bench = Bench(at_most_once=frozenset({"work"})).lease()
    bench.answer(claim_of("a"))
    bench.feed(LeaseLost())
    bench.end(claim_of("a"))
    assert bench.take(Settled).claims == [("a", 1)]


def test_it_exits_in_the_end_though_the_storage_does_not_answer(bench: Bench) -> None:
    bench.answer(claim_of("a"))
    bench.feed(StopAsked(hurry=True))
    bench.pass_time(worker.FLUSH)
    assert bench.has(Exit)


def test_a_stop_without_a_lease_ends_at_once() -> None:
    assert Exit() in Bench().feed(StopAsked())


def test_a_lease_lost_while_draining_ends_the_wait(bench: Bench) -> None:
    bench.answer(claim_of("a"))
    bench.feed(StopAsked())
    assert Exit() in bench.feed(LeaseLost())
