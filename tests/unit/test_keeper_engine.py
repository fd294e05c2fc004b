"""The machine that holds the lease: when it beats, when it stops trusting its lease, and what it does for the dead."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import TypeVar

import pytest

from later.core import records
from later.core.engine import keeper
from later.core.engine.keeper import (
    TRUST,
    Apply,
    Beat,
    Beaten,
    Compare,
    Compared,
    CompareFailed,
    Declare,
    DeclareDone,
    DueFound,
    FindDue,
    FindUnpublished,
    Fire,
    Fired,
    GetJobs,
    HeldListed,
    JobsFound,
    Keeper,
    KeeperExit,
    LeaseCallFailed,
    ListHeld,
    ListServers,
    Promote,
    PromoteDone,
    Prune,
    PruneDone,
    Register,
    Registered,
    Rescue,
    RescueDone,
    ServersListed,
    Started,
    StopWanted,
    TellCancels,
    TellLeased,
    TellLeaseLost,
    TellUnreadable,
    Ticked,
    Unpublish,
    Unpublished,
    UnpublishedFound,
    Unregister,
    Unregistered,
    UpkeepFailed,
    WorkerDied,
    WorkerLeft,
    WorkerStarted,
)
from later.core.engine.worker import FLUSH, Publish
from later.core.lifecycle import Cause
from later.core.records import (
    SECOND,
    Applied,
    Due,
    HeldClaim,
    Inserted,
    InsertVerdict,
    JobDetails,
    JobRecord,
    Promoted,
    Ref,
    Rescheduled,
    RescheduleVerdict,
    Rescued,
    ScheduleRecord,
    ServerInfo,
    State,
    Verdict,
)
from later.core.recurring import Definition, Overlap, Run, Schedule, schedule_of
from later.core.timetables import Every, Timetable

T = TypeVar("T")

ALIVE = Beaten(records.Beat(alive=True, cancels=()))
REF = Ref("job", 2, "q", 0)


class Bench:
    """A keeper, and a storage that answers when it is told to."""

    def __init__(self, *, broker: bool = False, declares: bool = False) -> None:
        self.now = 100.0
        self.servers = 0
        self.machine = Keeper(self._describe, Random(1), "app", broker=broker, declares=declares)
        self.out: list[keeper.Command] = []
        self.waiting: list[keeper.Command] = []
        """Commands that have not been answered."""

    def _describe(self) -> ServerInfo:
        self.servers += 1
        return ServerInfo(f"s{self.servers}", "node", "host", 1, "0")

    def feed(self, event: keeper.Event) -> list[keeper.Command]:
        self.out = self.machine.handle(event, self.now)
        self.waiting += self.out
        return self.out

    def tick(self) -> list[keeper.Command]:
        """Go on to when the machine wants to be woken."""
        assert self.machine.wake_at is not None
        self.now = max(self.now, self.machine.wake_at)
        return self.feed(Ticked())

    def take(self, kind: type[T]) -> T:
        """The oldest command of this kind that has not been answered."""
        for command in self.waiting:
            if isinstance(command, kind):
                self.waiting.remove(command)
                return command
        raise AssertionError(f"no {kind.__name__} in {self.waiting}")

    def has(self, kind: type[object]) -> bool:
        return any(isinstance(command, kind) for command in self.waiting)

    def settle(self, but: type[object] | None = None) -> None:
        """Answer all upkeep, but for one kind, with "nothing to do"."""
        while kinds := [kind for kind in QUIET if kind is not but and self.has(kind)]:
            self.take(kinds[0])
            self.feed(QUIET[kinds[0]])

    def start(self) -> "Bench":
        self.feed(Started())
        self.take(Register)
        self.feed(Registered())
        self.take(TellLeased)
        self.settle()
        return self

    def until(self, kind: type[object], *, limit: float = 1000.0) -> float:
        """Let time pass, answering all else with success, until a command of this kind comes; how long it took."""
        began = self.now
        self.settle(but=kind)
        while not self.has(kind):
            assert self.now < began + limit, f"no {kind.__name__} in {limit} s"
            if self.has(Beat):
                self.take(Beat)
                self.feed(ALIVE)
            self.tick()
            self.settle(but=kind)
        return self.now - began

    def answer(self, kind: type[keeper.Command], answer: keeper.Event) -> list[keeper.Command]:
        """Wait for a command of this kind and answer it."""
        self.until(kind)
        self.take(kind)
        return self.feed(answer)

    def lose(self) -> None:
        """Let time pass without another answer to a beat until the lease is given up."""
        while not self.has(TellLeaseLost):
            self.settle()
            self.tick()


QUIET: dict[type[keeper.Command], keeper.Event] = {
    ListServers: ServersListed((), ()),
    Rescue: RescueDone(Rescued((), (), 0, more=False)),
    Promote: PromoteDone(Promoted((), None)),
    FindDue: DueFound(Due(0, (), None)),
    FindUnpublished: UnpublishedFound(()),
    Prune: PruneDone(0),
    Compare: Compared({}, {}),
}

EMPTY = Compared({"other": 3, "q": 3}, {"q": 1, "other": 2})
"""The broker has lost messages of `q`."""


@pytest.fixture
def bench() -> Bench:
    return Bench().start()


def test_it_registers_before_anything_is_claimed() -> None:
    bench = Bench()
    bench.feed(Started())
    assert bench.take(Register).server.id == "s1"
    assert not bench.has(TellLeased)
    bench.feed(Registered())
    assert bench.take(TellLeased).server == "s1"


def test_it_beats_well_before_the_lease_runs_out(bench: Bench) -> None:
    for _ in range(5):
        assert bench.until(Beat) <= keeper.BEAT
        bench.take(Beat)
        bench.feed(ALIVE)


def test_a_failed_beat_is_repeated_soon(bench: Bench) -> None:
    bench.until(Beat)
    bench.take(Beat)
    bench.feed(LeaseCallFailed())
    assert bench.until(Beat) <= 0.1


def test_the_lease_is_trusted_from_the_sending_of_the_beat(bench: Bench) -> None:
    bench.until(Beat)
    sent_at = bench.now
    bench.now += 3.0
    bench.take(Beat)
    bench.feed(ALIVE)
    bench.until(Beat)
    bench.lose()
    assert bench.now == pytest.approx(sent_at + TRUST)


def test_a_lost_lease_means_a_new_server(bench: Bench) -> None:
    bench.until(Beat)
    bench.take(Beat)
    bench.feed(Beaten(records.Beat(alive=False, cancels=())))
    assert bench.has(TellLeaseLost)
    assert bench.take(Register).server.id == "s2"
    bench.feed(Registered())
    assert bench.take(TellLeased).server == "s2"


def test_the_answer_to_a_beat_of_a_lost_server_does_not_help_the_new_one(bench: Bench) -> None:
    bench.until(Beat)
    bench.now += TRUST
    bench.feed(Ticked())
    assert bench.has(TellLeaseLost)
    bench.feed(ALIVE)
    assert not bench.has(TellLeased)
    assert bench.take(Register).server.id == "s2"


def test_a_repeated_registration_is_trusted_from_its_first_sending() -> None:
    """Registering again does not renew: the storage may have begun the lease when it was first asked."""
    bench = Bench()
    bench.feed(Started())
    first = bench.now
    bench.take(Register)
    bench.now += 5.0
    bench.feed(LeaseCallFailed())
    bench.settle()
    bench.until(Register)
    bench.take(Register)
    bench.feed(Registered())
    bench.take(TellLeased)
    bench.until(Beat)
    bench.lose()
    assert bench.now == pytest.approx(first + TRUST)


def test_a_registration_that_was_answered_too_late_is_made_anew() -> None:
    bench = Bench()
    bench.feed(Started())
    bench.take(Register)
    bench.now += TRUST
    bench.feed(Registered())
    assert not bench.has(TellLeased)
    assert not bench.has(TellLeaseLost)
    assert bench.take(Register).server.id == "s2"
    bench.feed(Registered())
    assert bench.take(TellLeased).server == "s2"


def test_cancels_are_passed_on(bench: Bench) -> None:
    bench.until(Beat)
    bench.take(Beat)
    bench.feed(Beaten(records.Beat(alive=True, cancels=(("job", 3),))))
    assert bench.take(TellCancels).claims == (("job", 3),)


# --- dead workers


def changes(bench: Bench, *claims: HeldClaim) -> dict[str, Cause]:
    bench.take(ListHeld)
    bench.feed(HeldListed(claims))
    return {change.id: change.cause for change in bench.take(Apply).changes} if bench.has(Apply) else {}


def test_what_a_dead_worker_had_started_crashed_and_the_rest_is_released(bench: Bench) -> None:
    bench.feed(WorkerStarted("w1"))
    bench.feed(WorkerDied("w1", [("started", 1)]))
    assert changes(
        bench,
        HeldClaim("started", 1, "w1"),
        HeldClaim("claimed", 1, "w1"),
        HeldClaim("of another", 1, "w2"),
    ) == {"started": Cause.CRASH, "claimed": Cause.RELEASE}


def test_only_the_claim_that_was_started_crashed(bench: Bench) -> None:
    bench.feed(WorkerDied("w1", [("job", 1)]))
    assert changes(bench, HeldClaim("job", 2, "w1")) == {"job": Cause.RELEASE}


def test_a_listing_from_before_a_death_is_not_used_for_it(bench: Bench) -> None:
    bench.feed(WorkerDied("w1", []))
    bench.feed(WorkerDied("w2", [("b", 1)]))
    assert changes(bench, HeldClaim("a", 1, "w1"), HeldClaim("b", 1, "w2")) == {"a": Cause.RELEASE}
    bench.feed(keeper.Applied([Applied(Verdict.APPLIED, State.ENQUEUED, ())]))
    assert changes(bench, HeldClaim("b", 1, "w2")) == {"b": Cause.CRASH}


def test_reports_for_the_dead_are_repeated_until_they_arrive(bench: Bench) -> None:
    bench.feed(WorkerDied("w1", [("job", 1)]))
    assert changes(bench, HeldClaim("job", 1, "w1")) == {"job": Cause.CRASH}
    bench.feed(UpkeepFailed())
    bench.until(Apply)
    assert [change.cause for change in bench.take(Apply).changes] == [Cause.CRASH]


def test_a_failed_listing_forgets_nothing(bench: Bench) -> None:
    bench.feed(WorkerDied("w1", [("job", 1)]))
    bench.take(ListHeld)
    bench.feed(UpkeepFailed())
    bench.until(ListHeld)
    assert changes(bench, HeldClaim("job", 1, "w1")) == {"job": Cause.CRASH}


def test_claims_that_arrive_after_their_workers_death_are_found_later(bench: Bench) -> None:
    """A call of the dead worker may reach the storage after the first listing."""
    bench.feed(WorkerDied("w1", []))
    assert changes(bench) == {}
    assert bench.until(ListHeld) <= keeper.RECONCILE
    assert changes(bench, HeldClaim("late", 1, "w1")) == {"late": Cause.RELEASE}


def test_the_dead_of_long_ago_are_forgotten(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "MAX_DIED", 3)
    for number in range(10):
        bench.feed(WorkerDied(f"w{number}", [("job", number)]))
        bench.until(ListHeld)
        assert changes(bench, HeldClaim("job", number, f"w{number}")) == {"job": Cause.CRASH}
        bench.feed(keeper.Applied([Applied(Verdict.APPLIED, State.ENQUEUED, ())]))
    assert len(bench.machine._died) == 3
    bench.until(ListHeld)
    assert changes(bench, HeldClaim("late", 1, "w9")) == {"late": Cause.RELEASE}


def test_claims_of_a_worker_that_left_are_given_back(bench: Bench) -> None:
    bench.feed(WorkerLeft("w1"))
    bench.until(ListHeld)
    assert changes(bench, HeldClaim("late", 1, "w1")) == {"late": Cause.RELEASE}


def test_what_was_taken_from_the_dead_is_published() -> None:
    bench = Bench(broker=True).start()
    bench.feed(WorkerDied("w1", []))
    changes(bench, HeldClaim("job", 1, "w1"))
    bench.feed(keeper.Applied([Applied(Verdict.APPLIED, State.ENQUEUED, (REF,))]))
    assert bench.take(Publish).refs == (REF,)


# --- upkeep


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        (Rescue, keeper.RESCUE),
        (Promote, keeper.PROMOTE),
        (FindDue, keeper.TICK),
        (Prune, keeper.PRUNE),
        (ListServers, keeper.BEAT),
    ],
)
def test_each_chore_comes_up_in_time(bench: Bench, kind: type[keeper.Command], seconds: float) -> None:
    for _ in range(3):
        assert bench.until(kind) <= seconds
        bench.take(kind)
        bench.feed(QUIET[kind])


def test_republishing_needs_a_broker(bench: Bench) -> None:
    with pytest.raises(AssertionError, match="no FindUnpublished"):
        bench.until(FindUnpublished, limit=30.0)
    assert Bench(broker=True).start().until(FindUnpublished) <= keeper.REPUBLISH


def test_the_next_due_job_is_promoted_when_it_is_due(bench: Bench) -> None:
    bench.answer(Promote, PromoteDone(Promoted((), 250_000)))
    began = bench.now
    bench.answer(Promote, PromoteDone(Promoted((), None)))
    assert bench.now - began == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("kind", "full", "empty"),
    [
        (Rescue, RescueDone(Rescued((), (), 500, more=True)), QUIET[Rescue]),
        (Prune, PruneDone(keeper.LIMIT), QUIET[Prune]),
        (FindUnpublished, UnpublishedFound([REF] * keeper.LIMIT), QUIET[FindUnpublished]),
        (Promote, PromoteDone(Promoted((REF,) * keeper.LIMIT, -5)), QUIET[Promote]),
        (FindDue, DueFound(Due(0, (), -5)), QUIET[FindDue]),
    ],
)
def test_what_reached_its_limit_goes_on_at_once(
    kind: type[keeper.Command], full: keeper.Event, empty: keeper.Event
) -> None:
    bench = Bench(broker=True).start()
    bench.answer(kind, full)
    began = bench.now
    bench.answer(kind, empty)
    assert bench.now - began <= 0.01


def test_servers_found_dead_are_rescued_at_once_and_until_it_worked(bench: Bench) -> None:
    bench.answer(ListServers, ServersListed((), ("dead",)))
    assert bench.take(Rescue).dead == ("dead",)
    bench.feed(UpkeepFailed())
    bench.until(Rescue)
    assert bench.take(Rescue).dead == ("dead",)
    bench.feed(RescueDone(Rescued(("dead",), (REF,), 1, more=False)))
    bench.until(Rescue)
    assert bench.take(Rescue).dead == ()


@pytest.mark.parametrize("depth", [{}, {"q": 0}, {"q": 4, "other": 9}])
def test_what_the_broker_has_lost_is_published_again(depth: dict[str, int]) -> None:
    bench = Bench(broker=True).start()
    assert bench.until(Compare, limit=keeper.COMPARE) <= keeper.COMPARE
    bench.take(Compare)
    assert bench.feed(Compared({"q": 9, "other": 9}, depth | {"other": 5})) == [
        Unpublish(("q",), keeper.LOST_AFTER, keeper.LIMIT, None)
    ]
    bench.take(Unpublish)
    assert bench.feed(Unpublished("here")) == [Unpublish(("q",), keeper.LOST_AFTER, keeper.LIMIT, "here")]
    bench.take(Unpublish)
    bench.feed(UpkeepFailed())
    bench.until(Unpublish)
    assert bench.take(Unpublish).after == "here"
    assert bench.feed(Unpublished(None)) == [FindUnpublished(keeper.LIMIT, keeper.REPUBLISH_AGAIN)]
    bench.settle()
    began = bench.now
    bench.until(Compare)
    assert not bench.has(Unpublish)
    assert bench.now - began > keeper.COMPARE


def test_a_broker_that_has_its_messages_is_left_alone() -> None:
    bench = Bench(broker=True).start()
    for enqueued, depth in [({"q": 9}, {"q": 5}), ({}, {}), ({"q": 9}, {"q": 1_000})]:
        bench.answer(Compare, Compared(enqueued, depth))
        assert not bench.has(Unpublish)
        began = bench.now
        bench.until(Compare)
        assert bench.now - began <= keeper.COMPARE


def test_a_broker_that_keeps_losing_is_filled_ever_more_rarely() -> None:
    bench = Bench(broker=True).start()
    pauses: list[float] = []
    for _ in range(9):
        bench.answer(Compare, EMPTY)
        bench.answer(Unpublish, Unpublished(None))
        began = bench.now
        bench.until(Compare, limit=keeper.COMPARE_LONGEST)
        pauses.append(bench.now - began)
    assert pauses[0] < 2.2 * keeper.COMPARE
    assert pauses[-1] > keeper.COMPARE_LONGEST / 2
    bench.answer(Compare, Compared({"q": 1}, {"q": 1}))
    began = bench.now
    bench.until(Compare)
    assert bench.now - began <= keeper.COMPARE


def test_a_broker_that_does_not_answer_is_asked_again_soon() -> None:
    bench = Bench(broker=True).start()
    for _ in range(10):
        bench.until(Compare)
        bench.take(Compare)
        bench.feed(CompareFailed())
        began = bench.now
        bench.until(Compare)
        assert bench.now - began <= 5.0
    bench.take(Compare)
    bench.feed(EMPTY)
    assert bench.has(Unpublish)


def test_what_is_being_published_is_not_taken_for_lost() -> None:
    bench = Bench(broker=True).start()
    bench.until(Compare)
    bench.take(Compare)
    bench.answer(FindUnpublished, UnpublishedFound([REF] * keeper.LIMIT))
    bench.feed(EMPTY)
    assert not bench.has(Unpublish)


def test_without_a_broker_nothing_is_compared(bench: Bench) -> None:
    ends = bench.now + 100
    while bench.now < ends:
        bench.until(Prune)
        bench.take(Prune)
        bench.feed(PruneDone(0))
        assert not bench.has(Compare)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (Promote, PromoteDone(Promoted((REF,), None))),
        (Rescue, RescueDone(Rescued((), (REF,), 1, more=False))),
        (FindUnpublished, UnpublishedFound((REF,))),
    ],
)
def test_what_became_enqueued_is_published_if_there_is_a_broker(
    kind: type[keeper.Command], answer: keeper.Event
) -> None:
    assert Publish((REF,)) in Bench(broker=True).start().answer(kind, answer)
    if kind is not FindUnpublished:
        assert Publish((REF,)) not in Bench().start().answer(kind, answer)


def test_upkeep_that_fails_is_repeated_ever_less_often(bench: Bench) -> None:
    pauses: list[float] = []
    for _ in range(10):
        while not (found := [kind for kind in (*QUIET, ListHeld) if bench.has(kind)]):
            if bench.has(Beat):
                bench.take(Beat)
                bench.feed(ALIVE)
            bench.tick()
        failed_at = bench.now
        bench.take(found[0])
        bench.feed(UpkeepFailed())
        pauses.append(bench.machine._upkeep_after - failed_at)
    assert pauses[0] <= 0.1
    assert 2.5 <= pauses[-1] <= 5.0


def test_slow_upkeep_does_not_hold_up_the_heartbeat(bench: Bench) -> None:
    began = bench.now
    while not bench.has(Beat):
        bench.tick()
    assert any(bench.has(kind) for kind in QUIET)
    assert bench.now - began <= keeper.BEAT


# --- recurring jobs

MINUTELY = Definition("send", b"{}", "q", 0, 3, Timetable(Every(timedelta(minutes=1))))
NOW = 60_000 * SECOND


def minutely(name: str = "nightly", overlap: Overlap = Overlap.ALLOW, *runs: Run) -> ScheduleRecord:
    schedule = Schedule(replace(MINUTELY, overlap=overlap), since=NOW - 60 * SECOND, runs=runs)
    return ScheduleRecord(name, 4, NOW, schedule.to_body())


def done(verdict: RescheduleVerdict, *inserted: Inserted) -> Rescheduled:
    return Rescheduled(verdict, inserted, ())


def test_it_looks_for_due_schedules_at_once_and_when_the_next_is_due() -> None:
    bench = Bench()
    bench.feed(Started())
    bench.settle(but=FindDue)
    assert bench.has(FindDue)
    bench.answer(FindDue, DueFound(Due(NOW, (), 250_000)))
    began = bench.now
    bench.answer(FindDue, DueFound(Due(NOW, (), None)))
    assert bench.now - began == pytest.approx(0.25)


def test_a_due_schedule_is_fired_and_its_job_published() -> None:
    bench = Bench(broker=True).start()
    bench.answer(FindDue, DueFound(Due(NOW, (minutely(),), None)))
    [change] = bench.take(Fire).changes
    assert (change.id, change.version, change.next_at) == ("nightly", 4, NOW + 60 * SECOND)
    assert len(change.jobs) == 1
    created = Inserted(InsertVerdict.CREATED, State.ENQUEUED, REF)
    out = bench.feed(Fired([done(RescheduleVerdict.APPLIED, created)]))
    assert Publish((REF,)) in out


def test_what_was_fired_is_looked_at_when_it_is_due_again(bench: Bench) -> None:
    bench.answer(FindDue, DueFound(Due(NOW + 60 * SECOND - 200_000, (minutely(),), None)))
    bench.take(Fire)
    began = bench.now
    bench.feed(Fired([done(RescheduleVerdict.APPLIED)]))
    bench.answer(FindDue, DueFound(Due(NOW, (), None)))
    assert bench.now - began == pytest.approx(0.2)


def test_what_somebody_else_has_fired_is_left_alone(bench: Bench) -> None:
    bench.answer(FindDue, DueFound(Due(NOW, (minutely(),), None)))
    bench.take(Fire)
    bench.feed(Fired([done(RescheduleVerdict.STALE)]))
    bench.until(FindDue)
    assert not bench.has(Fire)


@pytest.mark.parametrize("failing", [FindDue, GetJobs, Fire])
def test_a_storage_that_does_not_answer_is_asked_from_the_start(bench: Bench, failing: type[keeper.Command]) -> None:
    found = DueFound(Due(NOW, (minutely("a", Overlap.SKIP, Run(1, "old")),), None))
    answers: dict[type[keeper.Command], keeper.Event] = {FindDue: found, GetJobs: JobsFound([None])}
    failed = False
    while True:
        kind = next((kind for kind in (FindDue, GetJobs, Fire) if bench.has(kind)), None)
        if kind is None:
            bench.until(FindDue, limit=0.2 if failed else 2.0)
            continue
        if kind is failing and not failed:
            failed = True
            bench.take(kind)
            bench.feed(UpkeepFailed())
            assert not any(bench.has(each) for each in (FindDue, GetJobs, Fire))
        elif kind is Fire:
            break
        else:
            bench.take(kind)
            bench.feed(answers[kind])
    assert failed
    assert len(bench.take(Fire).changes) == 1


def test_overlap_is_judged_by_the_job_of_the_last_run(bench: Bench) -> None:
    records_ = (minutely("a", Overlap.SKIP, Run(1, "one")), minutely("b"), minutely("c", Overlap.SKIP, Run(1, "two")))
    bench.answer(FindDue, DueFound(Due(NOW, records_, None)))
    assert bench.take(GetJobs).ids == ["one", "two"]
    running = JobRecord("one", "send", "q", 0, b"", State.PROCESSING, 1, 1, 0, 3, 0, 0)
    bench.feed(JobsFound([JobDetails(running, ()), None]))
    assert {change.id: len(change.jobs) for change in bench.take(Fire).changes} == {"a": 0, "b": 1, "c": 1}


def test_a_change_whose_predecessor_has_gone_meanwhile_is_planned_anew_at_once(bench: Bench) -> None:
    waiting = DueFound(Due(NOW, (minutely("a", Overlap.QUEUE_ONE, Run(1, "old")),), None))
    bench.answer(FindDue, waiting)
    bench.take(GetJobs)
    running = JobRecord("old", "send", "q", 0, b"", State.PROCESSING, 1, 1, 0, 3, 0, 0)
    bench.feed(JobsFound([JobDetails(running, ())]))
    [change] = bench.take(Fire).changes
    assert [job.parent for job in change.jobs] == ["old"]
    began = bench.now
    bench.feed(Fired([done(RescheduleVerdict.STALE)]))
    bench.until(FindDue)
    assert bench.now - began < 0.1
    bench.answer(FindDue, waiting)
    bench.take(GetJobs)
    bench.feed(JobsFound([None]))
    [change] = bench.take(Fire).changes
    assert [job.parent for job in change.jobs] == [None]


def test_a_change_that_the_storage_refuses_does_not_stop_the_others() -> None:
    bench = Bench(broker=True).start()
    bench.answer(FindDue, DueFound(Due(NOW, (minutely("a"), minutely("bad"), minutely("c")), None)))
    assert [change.id for change in bench.take(Fire).changes] == ["a", "bad", "c"]
    bench.feed(UpkeepFailed("it is too large"))
    assert [change.id for change in bench.take(Fire).changes] == ["a"]
    created = Inserted(InsertVerdict.CREATED, State.ENQUEUED, REF)
    assert Publish((REF,)) in bench.feed(Fired([done(RescheduleVerdict.APPLIED, created)]))
    assert [change.id for change in bench.take(Fire).changes] == ["bad"]
    bench.feed(UpkeepFailed("it is too large"))
    [instead] = bench.take(Fire).changes
    assert (instead.id, instead.version, instead.jobs, instead.moves) == ("bad", 4, (), ())
    assert instead.next_at == NOW + 60 * SECOND
    assert instead.body is not None
    told = schedule_of(ScheduleRecord("bad", 5, instead.next_at, instead.body))
    assert told.note == "its job could not be stored: it is too large"
    assert (told.since, told.runs) == (NOW - 60 * SECOND, ())
    bench.feed(Fired([done(RescheduleVerdict.APPLIED)]))
    assert [change.id for change in bench.take(Fire).changes] == ["c"]
    bench.feed(Fired([done(RescheduleVerdict.APPLIED)]))
    bench.answer(FindDue, DueFound(Due(NOW, (minutely("a"), minutely("c")), None)))
    assert len(bench.take(Fire).changes) == 2


def test_a_schedule_that_the_storage_cannot_change_at_all_is_told_and_passed_over(bench: Bench) -> None:
    bench.answer(FindDue, DueFound(Due(NOW, (minutely("bad"), minutely("b")), None)))
    bench.take(Fire)
    bench.feed(UpkeepFailed("no"))
    bench.take(Fire)
    bench.feed(UpkeepFailed("no"))
    bench.take(Fire)
    assert TellUnreadable({"bad": "no"}) in bench.feed(UpkeepFailed("no"))
    assert [change.id for change in bench.take(Fire).changes] == ["b"]


@pytest.mark.parametrize("failing", [Declare, Rescue, FindDue])
def test_what_fails_alone_neither_spins_nor_keeps_the_rest_from_its_turns(failing: type[keeper.Command]) -> None:
    bench = Bench(broker=True, declares=True).start()
    answers = {**QUIET, Declare: DeclareDone(), Beat: ALIVE, failing: UpkeepFailed("it cannot")}
    seen: Counter[type[keeper.Command]] = Counter()
    ends = bench.now + 2 * keeper.PRUNE
    while bench.now < ends:
        while bench.waiting:
            kind = type(bench.waiting.pop(0))
            seen[kind] += 1
            if kind in answers:
                bench.feed(answers[kind])
        bench.tick()
    assert 2 * keeper.PRUNE / 5 <= seen[failing] <= 2 * keeper.PRUNE / 2
    assert {Declare, Rescue, Promote, FindDue, FindUnpublished, Prune} <= seen.keys()


def test_more_schedules_than_it_can_fire_do_not_keep_it_from_the_rest() -> None:
    bench = Bench(broker=True).start()
    seen: set[type[keeper.Command]] = set()
    ends = bench.now + 2 * keeper.PRUNE
    while bench.now < ends and not {FindUnpublished, Prune} <= seen:
        bench.until(FindDue)
        bench.take(FindDue)
        bench.feed(DueFound(Due(NOW, (minutely(),), 0)))
        bench.take(Fire)
        bench.now += 0.1
        bench.feed(Fired([done(RescheduleVerdict.APPLIED)]))
        seen |= {kind for kind in (FindUnpublished, Prune) if bench.has(kind)}
    assert {FindUnpublished, Prune} <= seen


def test_unreadable_schedules_are_told_once_and_take_no_place(bench: Bench) -> None:
    garbage = tuple(ScheduleRecord(f"bad{n}", 1, NOW - n, b"?") for n in range(3))
    assert bench.answer(FindDue, DueFound(Due(NOW, (*garbage, minutely()), None)))
    assert list(bench.take(TellUnreadable).schedules) == ["bad0", "bad1", "bad2"]
    [change] = bench.take(Fire).changes
    assert change.id == "nightly"
    bench.feed(Fired([done(RescheduleVerdict.APPLIED)]))
    bench.until(FindDue)
    assert bench.take(FindDue).limit == keeper.TICKS + 3
    bench.feed(DueFound(Due(NOW, garbage, None)))
    assert not bench.has(TellUnreadable)


def test_what_the_code_declares_is_declared_once_and_until_it_worked() -> None:
    bench = Bench(declares=True)
    bench.feed(Started())
    bench.settle()
    bench.take(Declare)
    bench.feed(UpkeepFailed())
    assert bench.until(Declare, limit=1.0) <= 0.2
    bench.take(Declare)
    bench.feed(DeclareDone())
    bench.until(Prune)
    assert not bench.has(Declare)


# --- the end


def test_it_unregisters_and_exits(bench: Bench) -> None:
    bench.feed(StopWanted())
    assert bench.take(Unregister).server == "s1"
    assert bench.feed(Unregistered()) == [KeeperExit()]
    assert bench.machine.wake_at is None
    assert bench.feed(Ticked()) == []


def test_it_settles_for_its_dead_before_it_unregisters(bench: Bench) -> None:
    bench.feed(WorkerDied("w1", [("job", 1)]))
    bench.feed(StopWanted())
    assert not bench.has(Unregister)
    assert changes(bench, HeldClaim("job", 1, "w1")) == {"job": Cause.CRASH}
    bench.feed(keeper.Applied([Applied(Verdict.APPLIED, State.ENQUEUED, ())]))
    assert bench.has(Unregister)


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_it_exits_in_time_though_nothing_answers(bench: Bench, dead: int) -> None:
    for number in range(dead):
        bench.feed(WorkerDied(f"w{number}", []))
    bench.feed(StopWanted())
    began, ticks = bench.now, 0
    while not bench.has(KeeperExit):
        bench.tick()
        ticks += 1
        assert ticks < 10, "it asks to be woken at once, again and again"
    assert bench.now - began <= FLUSH


def test_it_exits_though_it_cannot_unregister(bench: Bench) -> None:
    bench.feed(StopWanted())
    bench.take(Unregister)
    assert KeeperExit() in bench.feed(LeaseCallFailed())
