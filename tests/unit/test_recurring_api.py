"""Recurring jobs as a program sees them: put, look at, pause, resume, trigger, remove; declared in code."""

import inspect
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from later import (
    BackgroundJobs,
    BadPayload,
    ConfigError,
    DuplicateJob,
    InvalidName,
    InvalidOption,
    InvalidSchedule,
    JobContext,
    JobsBuilder,
    Misfire,
    Origin,
    Overlap,
    Retry,
    SchemaMismatch,
    State,
    Tick,
    Unavailable,
    UndeclaredPayload,
    UnknownSchedule,
    UnknownZone,
    background_job,
)
from later.backends.memory import Memory
from later.core.engine import keeper
from later.core.lifecycle import Reschedule
from later.core.ports import Storage, StorageOptions
from later.core.records import SECOND, ScheduleRecord
from later.core.recurring.planning import awaited, plan_all
from later.testing import VirtualClock

HOUR = timedelta(hours=1)
START = datetime(2026, 3, 28, 12, tzinfo=UTC)


class Report(BaseModel):
    kind: str = "daily"


class Narrow(BaseModel):
    kind: int


@background_job
class Jobs:
    report: Report


class Clocked:
    """A memory storage with a clock that tests move."""

    def __init__(self) -> None:
        self.clock = VirtualClock(int(START.timestamp()) * SECOND)
        self.memory = Memory()

    def open_storage(self, options: StorageOptions) -> Storage:
        return self.memory.open_storage(replace(options, clock=self.clock))

    def advance(self, span: timedelta) -> None:
        self.clock.advance(span // timedelta(microseconds=1))


def handle(ctx: JobContext[None], payload: Report) -> None: ...


@pytest.fixture
def store() -> Clocked:
    return Clocked()


def build(store: Clocked, *declared: tuple[str, str]) -> BackgroundJobs[None, Any]:
    builder = JobsBuilder(None, "app", storage=store, jobs=Jobs).with_handler(Report, handle)
    for id, cron in declared:
        builder = builder.with_recurring(id, Report(), cron)
    return builder.build()


@pytest.fixture
def jobs(store: Clocked) -> BackgroundJobs[None, Any]:
    return build(store)


def fire(jobs: BackgroundJobs[None, Any]) -> list[str]:
    """What the keeper of a server does; the ids of the jobs that came of it."""
    storage = jobs.storage()
    due = storage.due(keeper.TICKS)
    known = {each.job.id: each.job for each in storage.get(awaited(due.schedules)) if each is not None}
    plans = plan_all(jobs.name, due.schedules, due.now, known, keeper.LIMIT)
    storage.reschedule(plans.changes)
    return [job.id for change in plans.changes for job in change.jobs]


def test_it_is_put_and_shown(jobs: BackgroundJobs[None, Any]) -> None:
    jobs.enqueue_recurring(
        "nightly",
        Report(),
        "30 2 * * *",
        zone="Europe/Berlin",
        queue="slow",
        priority=4,
        misfire="all",
        misfire_limit=7,
        overlap="queue_one",
        jitter=timedelta(minutes=5),
        retry=Retry(3, delays=[timedelta(seconds=1), timedelta(minutes=2)]),
        dst_gap="skip",
        dst_overlap="twice",
        end=datetime(2027, 1, 1, tzinfo=UTC),
    )
    [shown] = jobs.recurring.all()
    assert shown == jobs.recurring.get("nightly")
    assert (shown.id, shown.type, shown.queue, shown.priority) == ("nightly", "report", "slow", 4)
    assert (shown.cron, shown.every, shown.zone, shown.payload) == (
        "30 2 * * *",
        None,
        "Europe/Berlin",
        {"kind": "daily"},
    )
    assert (shown.misfire, shown.misfire_limit, shown.overlap) == (Misfire.ALL, 7, Overlap.QUEUE_ONE)
    assert shown.retry == Retry(3, delays=(timedelta(seconds=1), timedelta(minutes=2)))
    assert (shown.jitter, shown.dst_gap, shown.dst_overlap) == (timedelta(minutes=5), "skip", "twice")
    assert (shown.origin, shown.paused, shown.problem, shown.drift) == (Origin.CALL, False, None, "")
    assert (shown.start, shown.runs, shown.note, shown.note_at) == (None, (), "", None)
    # 02:30 of the 29th does not exist in Berlin, and is skipped.
    assert shown.next_at is not None
    assert shown.next_at.isoformat() == "2026-03-30T02:30:00+02:00"
    assert repr(shown) == "<Recurring nightly: report, 30 2 * * * Europe/Berlin>"


def test_the_same_again_changes_nothing(jobs: BackgroundJobs[None, Any], store: Clocked) -> None:
    for _ in range(2):
        jobs.enqueue_recurring("nightly", Report(), every=HOUR)
        store.advance(timedelta(minutes=50))
        assert jobs.storage().schedules()[0] == jobs.storage().schedules(["nightly"])[0]
    [record] = jobs.storage().schedules()
    assert record is not None
    assert record.version == 1
    assert len(fire(jobs)) == 1


def test_other_times_begin_now(jobs: BackgroundJobs[None, Any], store: Clocked) -> None:
    jobs.enqueue_recurring("nightly", Report(), "0 0 * * *", misfire="all")
    store.advance(timedelta(minutes=40))
    jobs.enqueue_recurring("nightly", Report(), "*/10 * * * *", misfire="all")
    assert fire(jobs) == []
    assert jobs.recurring.get("nightly").next_at == START + timedelta(minutes=50)


def test_it_fires_and_tells_its_runs(jobs: BackgroundJobs[None, Any], store: Clocked) -> None:
    jobs.enqueue_recurring("nightly", Report(), "0 3 * * *", zone="Europe/Berlin")
    store.advance(timedelta(days=2))
    [id] = fire(jobs)
    job = jobs.get(id)
    assert (job.state, job.payload) == (State.ENQUEUED, {"kind": "daily"})
    assert job.recurring == Tick("nightly", datetime(2026, 3, 30, 1, tzinfo=UTC))
    shown = jobs.recurring.get("nightly")
    [run] = shown.runs
    assert (run.due.isoformat(), run.job, run.manual, run.state) == (
        "2026-03-30T03:00:00+02:00",
        id,
        False,
        State.ENQUEUED,
    )
    assert shown.note == "one time made no job: they were missed, and misfire is once"
    assert shown.note_at == START + timedelta(days=2)
    assert jobs.recurring.all() == [shown]
    assert jobs.find().jobs[0].recurring is None


def test_pause_and_resume(jobs: BackgroundJobs[None, Any], store: Clocked) -> None:
    jobs.enqueue_recurring("nightly", Report(), every=HOUR, misfire="all")
    jobs.recurring.pause("nightly")
    jobs.recurring.pause("nightly")
    shown = jobs.recurring.get("nightly")
    assert (shown.paused, shown.next_at) == (True, None)
    store.advance(5 * HOUR)
    assert fire(jobs) == []
    jobs.enqueue_recurring("nightly", Report(), every=2 * HOUR)
    assert jobs.recurring.get("nightly").paused
    jobs.recurring.resume("nightly")
    jobs.recurring.resume("nightly")
    assert fire(jobs) == []
    assert jobs.recurring.get("nightly").next_at == START + 6 * HOUR


def test_a_trigger_runs_now_and_leaves_the_schedule_alone(jobs: BackgroundJobs[None, Any], store: Clocked) -> None:
    jobs.enqueue_recurring("nightly", Report(), every=HOUR)
    jobs.recurring.pause("nightly")
    store.advance(timedelta(minutes=1))
    ids = [jobs.recurring.trigger("nightly") for _ in range(2)]
    assert [jobs.get(id).state for id in ids] == [State.ENQUEUED] * 2
    assert jobs.get(ids[0]).recurring == Tick("nightly", START + timedelta(minutes=1))
    shown = jobs.recurring.get("nightly")
    assert (shown.paused, shown.next_at) == (True, None)
    assert [(run.job, run.manual) for run in shown.runs] == [(ids[1], True), (ids[0], True)]


def losing(jobs: BackgroundJobs[None, Any], monkeypatch: pytest.MonkeyPatch, *, again: bool) -> None:
    """Lose the reply of the next change; `again`: the adapter repeats the call by itself."""
    real, lost = jobs.storage().reschedule, False

    def reschedule(changes: Any) -> Any:
        nonlocal lost
        done = real(changes)
        if lost:
            return done
        lost = True
        if again:
            return real(changes)
        raise Unavailable("no answer")

    monkeypatch.setattr(jobs.storage(), "reschedule", reschedule)


def test_a_trigger_whose_reply_was_lost(jobs: BackgroundJobs[None, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.enqueue_recurring("nightly", Report(), every=HOUR)
    losing(jobs, monkeypatch, again=True)
    jobs.recurring.trigger("nightly")
    losing(jobs, monkeypatch, again=False)
    with pytest.raises(Unavailable):
        jobs.recurring.trigger("nightly", job="mine")
    assert jobs.recurring.trigger("nightly", job="mine") == "mine"
    shown = jobs.recurring.get("nightly")
    assert [run.job == "mine" for run in shown.runs] == [True, False]
    assert jobs.counts().total(State.ENQUEUED) == 2


def test_a_trigger_does_not_adopt_the_job_of_somebody_else(jobs: BackgroundJobs[None, Any], store: Clocked) -> None:
    jobs.enqueue_recurring("nightly", Report(), every=HOUR, overlap="cancel_previous")
    id = jobs.enqueue(Report(), id="mine")
    with pytest.raises(DuplicateJob, match="the id mine is taken"):
        jobs.recurring.trigger("nightly", job=id)
    assert jobs.recurring.get("nightly").runs == ()
    store.advance(HOUR)
    fire(jobs)
    assert jobs.get(id).state is State.ENQUEUED


def test_a_removal_whose_reply_was_lost(jobs: BackgroundJobs[None, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.enqueue_recurring("nightly", Report(), every=HOUR)
    losing(jobs, monkeypatch, again=True)
    jobs.recurring.remove("nightly")
    jobs.enqueue_recurring("nightly", Report(), every=HOUR)
    losing(jobs, monkeypatch, again=False)
    with pytest.raises(Unavailable):
        jobs.recurring.remove("nightly")
    with pytest.raises(UnknownSchedule):
        jobs.recurring.remove("nightly")


def test_removal_leaves_its_jobs(jobs: BackgroundJobs[None, Any], store: Clocked) -> None:
    jobs.enqueue_recurring("nightly", Report(), every=HOUR)
    id = jobs.recurring.trigger("nightly")
    jobs.recurring.remove("nightly")
    assert jobs.recurring.all() == []
    assert jobs.get(id).state is State.ENQUEUED


@pytest.mark.parametrize("method", ["get", "pause", "resume", "trigger", "remove", "next_fires"])
def test_an_unknown_one(jobs: BackgroundJobs[None, Any], method: str) -> None:
    with pytest.raises(UnknownSchedule, match="no recurring job nobody"):
        getattr(jobs.recurring, method)("nobody")


def test_the_next_times_with_what_the_clock_does_to_them(jobs: BackgroundJobs[None, Any]) -> None:
    jobs.enqueue_recurring("nightly", Report(), "30 2 * * *", zone="Europe/Berlin")
    jobs.recurring.pause("nightly")
    fires = jobs.recurring.next_fires("nightly", 2)
    assert [(fire.at.isoformat(), fire.note) for fire in fires] == [
        ("2026-03-29T03:00:00+02:00", "shifted from 02:30, which does not exist that day"),
        ("2026-03-30T02:30:00+02:00", ""),
    ]
    for n in (0, 501):
        with pytest.raises(InvalidOption):
            jobs.recurring.next_fires("nightly", n)


@pytest.mark.parametrize(
    ("cron", "options", "error"),
    [
        (None, {}, InvalidSchedule),
        ("0 0 * * *", {"every": HOUR}, InvalidSchedule),
        ("0 0 30 2 *", {}, InvalidSchedule),
        (None, {"every": timedelta(0)}, InvalidSchedule),
        ("0 0 * * *", {"zone": "Mars/Olympus"}, UnknownZone),
        ("0 0 * * *", {"misfire": "never"}, InvalidSchedule),
        ("0 0 * * *", {"overlap": "sometimes"}, InvalidSchedule),
        ("0 0 * * *", {"dst_gap": "jump"}, InvalidSchedule),
        ("0 0 * * *", {"dst_overlap": "thrice"}, InvalidSchedule),
        ("0 0 * * *", {"jitter": timedelta(days=2)}, InvalidSchedule),
        ("0 0 * * *", {"start": datetime(2026, 1, 1)}, InvalidSchedule),  # noqa: DTZ001  that is what is wrong
        ("0 0 * * *", {"priority": 10}, InvalidOption),
        ("0 0 * * *", {"queue": "a b"}, InvalidName),
        ("0 0 * * *", {"colour": "red"}, TypeError),
        ("0 0 * * *", {"connection": None}, InvalidOption),
        ("0 0 * * *", {"end": datetime(2020, 1, 1, tzinfo=UTC)}, InvalidSchedule),
    ],
)
def test_what_cannot_be(
    jobs: BackgroundJobs[None, Any], cron: str | None, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        jobs.enqueue_recurring("nightly", Report(), cron, **options)
    with pytest.raises(InvalidName):
        jobs.enqueue_recurring("a b", Report(), "0 0 * * *")
    with pytest.raises(UndeclaredPayload):
        jobs.enqueue_recurring("nightly", Narrow(kind=1), "0 0 * * *")
    assert jobs.recurring.all() == []


def test_a_payload_or_type_that_this_program_does_not_know(store: Clocked) -> None:
    build(store).enqueue_recurring("nightly", Report(), every=HOUR)

    @background_job
    class Changed:
        report: Narrow

    @background_job
    class Others:
        other: Report

    changed = JobsBuilder(None, "app", storage=store, jobs=Changed).build_client()
    problem = changed.recurring.get("nightly").problem
    assert problem is not None
    assert "no longer validates as Narrow" in problem
    others = JobsBuilder(None, "app", storage=store, jobs=Others).build_client()
    assert others.recurring.get("nightly").problem == "job type report is not declared in this program"
    # It fires all the same: another program may know it.
    store.advance(HOUR)
    assert len(fire(others)) == 1


def garbage(jobs: BackgroundJobs[None, Any], body: bytes = b"?") -> None:
    jobs.storage().reschedule([Reschedule("bad", 0, 0, body)])


def newer(jobs: BackgroundJobs[None, Any]) -> bytes:
    jobs.enqueue_recurring("template", Report(), every=HOUR)
    [record] = jobs.storage().schedules(["template"])
    assert record is not None
    jobs.recurring.remove("template")
    return record.body.replace(b'{"version":1,"type"', b'{"version":9,"type"')


def test_one_that_cannot_be_read_is_shown_and_can_be_removed_or_replaced(jobs: BackgroundJobs[None, Any]) -> None:
    garbage(jobs)
    [shown] = jobs.recurring.all()
    assert shown.problem is not None
    assert "put it anew, or remove it" in shown.problem
    assert fire(jobs) == []
    jobs.enqueue_recurring("bad", Report(), every=HOUR)
    assert jobs.recurring.get("bad").problem is None
    jobs.recurring.remove("bad")
    garbage(jobs)
    jobs.recurring.remove("bad")
    assert jobs.recurring.all() == []


def test_one_of_a_newer_version_is_left_alone(jobs: BackgroundJobs[None, Any], store: Clocked) -> None:
    garbage(jobs, newer(jobs))
    [before] = jobs.storage().schedules()
    with pytest.raises(SchemaMismatch):
        jobs.enqueue_recurring("bad", Report(), every=HOUR)
    with pytest.raises(SchemaMismatch):
        jobs.recurring.pause("bad")
    build(store, ("bad", "0 0 * * *")).recurring.declare()
    assert jobs.storage().schedules() == [before]


# --- declared in code


def ids(jobs: BackgroundJobs[None, Any]) -> list[str]:
    return [shown.id for shown in jobs.recurring.all()]


def test_code_adds_changes_and_removes_what_code_declares(store: Clocked) -> None:
    first = build(store, ("a", "0 0 * * *"), ("b", "0 1 * * *"))
    first.enqueue_recurring("by-call", Report(), every=HOUR)
    assert first.recurring.declared == ("a", "b")
    with pytest.raises(UnknownSchedule, match="job a yet: it is declared, and stored when a server starts"):
        first.recurring.get("a")
    with pytest.raises(UnknownSchedule, match=r"no recurring job c$"):
        first.recurring.remove("c")
    first.recurring.declare()
    assert ids(first) == ["a", "b", "by-call"]
    versions = [record and record.version for record in first.storage().schedules()]
    first.recurring.declare()
    assert [record and record.version for record in first.storage().schedules()] == versions
    first.recurring.pause("b")

    second = build(store, ("b", "0 2 * * *"), ("c", "0 3 * * *"))
    drift = {shown.id: shown.drift for shown in second.recurring.all()}
    assert drift == {"a": "not declared in this program", "b": "not as this program declares it", "by-call": ""}
    second.recurring.declare()
    assert ids(second) == ["b", "by-call", "c"]
    changed = second.recurring.get("b")
    assert (changed.cron, changed.paused, changed.origin, changed.drift) == ("0 2 * * *", True, Origin.CODE, "")


def test_what_is_declared_is_checked_when_it_is_built(store: Clocked) -> None:
    builder = JobsBuilder(None, "app", storage=store, jobs=Jobs).with_handler(Report, handle)
    with pytest.raises(InvalidSchedule):
        builder.with_recurring("nightly", Report(), "never").build()
    builder = JobsBuilder(None, "app", storage=store, jobs=Jobs).with_handler(Report, handle)
    with pytest.raises(UndeclaredPayload):
        builder.with_recurring("nightly", Narrow(kind=1), "0 0 * * *").build()
    with pytest.raises(ConfigError, match="declared twice"):
        builder.with_recurring("nightly", Report(), "0 0 * * *")


def test_others_that_are_quicker_are_reckoned_with(store: Clocked, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = build(store)
    jobs.enqueue_recurring("nightly", Report(), every=HOUR)
    storage = jobs.storage()
    real = storage.reschedule
    overtaken = 3

    def overtaking(changes: Any) -> Any:
        nonlocal overtaken
        if overtaken:
            overtaken -= 1
            [record] = storage.schedules(["nightly"])
            assert isinstance(record, ScheduleRecord)
            real([Reschedule("nightly", record.version, record.next_at, record.body)])
        return real(changes)

    monkeypatch.setattr(storage, "reschedule", overtaking)
    jobs.recurring.pause("nightly")
    assert jobs.recurring.get("nightly").paused
    assert overtaken == 0


async def test_the_same_for_async_code(jobs: BackgroundJobs[None, Any]) -> None:
    await jobs.aenqueue_recurring("nightly", Report(), every=HOUR)
    recurring = jobs.recurring
    await recurring.apause("nightly")
    assert [shown.paused for shown in await recurring.aall()] == [True]
    await recurring.aresume("nightly")
    assert not (await recurring.aget("nightly")).paused
    assert (await jobs.aget(await recurring.atrigger("nightly"))).state is State.ENQUEUED
    assert len(await recurring.anext_fires("nightly", 3)) == 3
    await recurring.aremove("nightly")
    assert recurring.all() == []
    public = {name for name, _ in inspect.getmembers(type(recurring), inspect.isfunction) if not name.startswith("_")}
    sync = {name for name in public if f"a{name}" in public}
    assert public - sync - {f"a{name}" for name in sync} == {"put", "declare"}


def test_a_bad_payload_is_no_reason_to_hide_it(store: Clocked) -> None:
    jobs = build(store)
    jobs.enqueue_recurring("nightly", Report(), every=HOUR)
    id = jobs.recurring.trigger("nightly")
    job_type = jobs.registry.by_name("report")
    assert job_type is not None
    assert job_type.decode(jobs.get(id).stored_payload) == Report()
    with pytest.raises(BadPayload):
        job_type.decode(b"\x1e?")
