"""What becomes of a schedule as time passes: missed times, overlapping jobs, jitter, pauses, changes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from later.core.envelope import retry_of, seal, unseal
from later.core.errors import Corrupt, InvalidSchedule, SchemaMismatch, UnknownZone
from later.core.lifecycle import Cause, Reschedule
from later.core.records import SECOND, JobRecord, Micros, On, ScheduleRecord, State
from later.core.recurring import Definition, Misfire, Overlap, Run, Schedule, schedule_of
from later.core.recurring.changes import pause, put, resume, trigger
from later.core.recurring.planning import BATCH, TOLERANCE, awaited, plan, plan_all
from later.core.retry import Retry
from later.core.timetables import Cron, Every, Timetable, Zone

HOUR = 3600 * SECOND
START = 1_800_000_000 * SECOND  # on a full hour
HOURLY = Timetable(Cron("0 * * * *"))


def definition(**options: Any) -> Definition:
    return replace(Definition("send", b'{"n": 1}', "q", 3, 2, HOURLY), **options)


def stored(schedule: Schedule, next_at: Micros | None = None, version: int = 4) -> ScheduleRecord:
    return ScheduleRecord("nightly", version, next_at, schedule.to_body())


def planned(schedule: Schedule, now: Micros, previous: JobRecord | None = None) -> tuple[Reschedule, Schedule]:
    change = plan("app", stored(schedule), schedule, now, [] if previous is None else [previous])
    assert change.body is not None
    assert (change.id, change.version) == ("nightly", 4)
    return change, schedule_of(ScheduleRecord("nightly", 5, change.next_at, change.body))


def previous(state: State, attempt: int = 0) -> JobRecord:
    return JobRecord("old", "send", "q", 0, b"", state, 1, attempt, 0, 3, 0, 0)


def dues(change: Reschedule) -> list[int]:
    """When the jobs were due, in hours since START."""
    return [(unseal(job.payload).headers["recurring"][1] - START) // HOUR for job in change.jobs]


def test_the_hour_is_full() -> None:
    assert START % HOUR == 0


def test_a_time_makes_one_job() -> None:
    change, after = planned(Schedule(definition(), since=START), START + HOUR)
    [job] = change.jobs
    assert (job.type, job.queue, job.priority, job.max_crashes) == ("send", "q", 3, 2)
    assert unseal(job.payload) == ({"recurring": ["nightly", START + HOUR]}, b'{"n": 1}')
    assert job.run_at == START + HOUR
    assert change.next_at == START + 2 * HOUR
    assert after == Schedule(definition(), since=START + HOUR, runs=(Run(START + HOUR, job.id),))


def test_whoever_plans_the_same_time_makes_the_same_job() -> None:
    schedule = Schedule(definition(), since=START)
    jobs = {planned(schedule, START + HOUR + late)[0].jobs for late in (0, 1, SECOND, HOUR - 1)}
    assert len(jobs) == 1
    elsewhere = plan("other", stored(schedule), schedule, START + HOUR, []).jobs
    later = planned(schedule, START + 2 * HOUR)[0].jobs
    assert len({job.id for job in (*next(iter(jobs)), *elsewhere, *later)}) == 3


def test_its_retry_policy_goes_with_the_job() -> None:
    retry = Retry(3, delays=[timedelta(seconds=1), timedelta(minutes=2)])
    change, after = planned(Schedule(definition(retry=retry), since=START), START + HOUR)
    assert after.definition.retry == Retry(3, delays=(timedelta(seconds=1), timedelta(minutes=2)))
    usual = Retry(7, never_on=(KeyError,))
    assert retry_of(change.jobs[0].payload, usual) == Retry(
        3, (timedelta(seconds=1), timedelta(minutes=2)), (KeyError,)
    )
    assert retry_of(b"{}", usual) is usual


@pytest.mark.parametrize(
    "stored", [None, 3, [], [3], [0, []], [3, [-1]], [3, ["1"]], [3, 4], [3, [1], 5], [3, [2**80]]]
)
def test_a_retry_policy_that_is_garbage(stored: object) -> None:
    with pytest.raises(Corrupt):
        retry_of(seal(b"{}", {"retry": stored}), Retry())


@pytest.mark.parametrize(
    "retry", [3, Retry(never_on=(KeyError,)), Retry(only_on=(KeyError,)), Retry(per={KeyError: Retry()})]
)
def test_what_cannot_be_its_retry_policy(retry: Any) -> None:
    with pytest.raises(InvalidSchedule, match=r"^retry "):
        definition(retry=retry)


def test_a_retry_policy_stays_small() -> None:
    definition(retry=Retry(200, delays=[timedelta(seconds=1)] * 100))
    with pytest.raises(InvalidSchedule, match=r"^retry has 101 delays; the most are 100"):
        definition(retry=Retry(200, delays=[timedelta(seconds=1)] * 101))


def test_before_its_time_nothing_is_made() -> None:
    change, _ = planned(Schedule(definition(), since=START), START + HOUR - 1)
    assert (change.jobs, change.next_at) == ((), START + HOUR)


def test_a_clock_that_went_back_makes_no_time_twice() -> None:
    change, after = planned(Schedule(definition(), since=START + HOUR), START + HOUR - 5)
    assert (change.jobs, change.next_at, after.since) == ((), START + 2 * HOUR, START + HOUR)


@pytest.mark.parametrize(
    ("options", "hours_late", "seconds_late", "made", "note"),
    [
        ({}, 1, 0, [1], ""),
        ({}, 3, 0, [3], "2 times made no job: they were missed, and misfire is once"),
        ({}, 3, 1800, [3], "2 times made no job: they were missed, and misfire is once"),
        ({}, 500, 0, [500], "100 or more times made no job: they were missed, and misfire is once"),
        ({"misfire": Misfire.SKIP}, 1, 60, [1], ""),
        ({"misfire": Misfire.SKIP}, 1, 61, [], "one time made no job: they were missed, and misfire is skip"),
        ({"misfire": Misfire.SKIP}, 3, 60, [3], "2 times made no job: they were missed, and misfire is skip"),
        ({"misfire": Misfire.SKIP}, 3, 61, [], "3 times made no job: they were missed, and misfire is skip"),
        ({"misfire": Misfire.ALL}, 3, 0, [1, 2, 3], ""),
        (
            {"misfire": Misfire.ALL, "misfire_limit": 2},
            5,
            0,
            [4, 5],
            "3 times made no job: they were missed, and misfire is all",
        ),
    ],
)
def test_missed_times(options: dict[str, Any], hours_late: int, seconds_late: int, made: list[int], note: str) -> None:
    now = START + hours_late * HOUR + seconds_late * SECOND
    change, after = planned(Schedule(definition(**options), since=START), now)
    assert dues(change) == made
    assert after.note == note
    assert after.note_at == (now if note else None)
    assert after.since == now
    assert change.next_at == START + (hours_late + 1) * HOUR


def test_all_missed_times_are_made_up_for_in_steps() -> None:
    schedule = Schedule(definition(misfire=Misfire.ALL, misfire_limit=1000), since=START)
    now = START + (2 * BATCH + 5) * HOUR
    made: list[int] = []
    looks: list[Micros | None] = []
    for _ in range(3):
        change, schedule = planned(schedule, now)
        made += dues(change)
        looks.append(change.next_at)
        assert schedule.note == ""
    assert made == list(range(1, 2 * BATCH + 6))
    assert looks == [START + (BATCH + 1) * HOUR, START + (2 * BATCH + 1) * HOUR, now + HOUR]
    assert [run.due for run in schedule.runs] == [now - hours * HOUR for hours in reversed(range(10))]


def test_a_step_that_leaves_times_over_is_due_at_once() -> None:
    schedule = Schedule(definition(misfire=Misfire.ALL, misfire_limit=150), since=START)
    change, after = planned(schedule, START + 300 * HOUR)
    assert dues(change) == list(range(151, 251))
    assert change.next_at == START + 251 * HOUR
    change, after = planned(after, START + 300 * HOUR)
    assert dues(change) == list(range(251, 301))
    assert change.next_at == START + 301 * HOUR


@pytest.mark.parametrize(
    ("overlap", "state", "attempt", "made", "parent", "cancels"),
    [
        (Overlap.ALLOW, State.PROCESSING, 1, [3], None, False),
        (Overlap.ALLOW, State.ENQUEUED, 0, [3], None, False),
        (Overlap.SKIP, None, 0, [3], None, False),
        (Overlap.SKIP, State.SUCCEEDED, 1, [3], None, False),
        (Overlap.SKIP, State.FAILED, 1, [3], None, False),
        (Overlap.SKIP, State.DELETED, 0, [3], None, False),
        (Overlap.SKIP, State.PROCESSING, 1, [], None, False),
        (Overlap.SKIP, State.SCHEDULED, 1, [], None, False),
        (Overlap.SKIP, State.ENQUEUED, 0, [], None, False),
        (Overlap.QUEUE_ONE, None, 0, [3], None, False),
        (Overlap.QUEUE_ONE, State.SUCCEEDED, 1, [3], None, False),
        (Overlap.QUEUE_ONE, State.PROCESSING, 1, [3], "old", False),
        (Overlap.QUEUE_ONE, State.SCHEDULED, 2, [3], "old", False),
        (Overlap.QUEUE_ONE, State.ENQUEUED, 0, [], None, False),
        (Overlap.QUEUE_ONE, State.AWAITING, 0, [], None, False),
        (Overlap.QUEUE_ONE, State.SCHEDULED, 0, [], None, False),
        (Overlap.CANCEL_PREVIOUS, None, 0, [3], None, False),
        (Overlap.CANCEL_PREVIOUS, State.SUCCEEDED, 1, [3], None, False),
        (Overlap.CANCEL_PREVIOUS, State.FAILED, 1, [3], None, False),
        (Overlap.CANCEL_PREVIOUS, State.PROCESSING, 1, [3], None, True),
        (Overlap.CANCEL_PREVIOUS, State.ENQUEUED, 0, [3], None, True),
    ],
)
def test_overlapping_jobs(
    overlap: Overlap, state: State | None, attempt: int, made: list[int], parent: str | None, cancels: bool
) -> None:
    last = None if state is None else previous(state, attempt)
    runs = (Run(START + 2 * HOUR, "old"),)
    change, after = planned(
        Schedule(definition(overlap=overlap), since=START + 2 * HOUR, runs=runs), START + 3 * HOUR, last
    )
    assert dues(change) == made
    assert [job.parent for job in change.jobs] == [parent] * len(made)
    assert [(move.id, move.cause) for move in change.moves] == ([("old", Cause.DELETE)] if cancels else [])
    if parent:
        assert change.jobs[0].on is On.FINISHED
    assert change.next_at == START + 4 * HOUR
    assert [run.job for run in after.runs] == ["old", *(job.id for job in change.jobs)]
    if not made:
        assert after.note == f"one time made no job: overlap is {overlap}, and job old was {state}"


def test_every_job_that_has_not_ended_is_cancelled() -> None:
    states = {"a": State.PROCESSING, "b": State.SUCCEEDED, "c": State.ENQUEUED, "d": State.PROCESSING, "e": None}
    runs = tuple(Run(START + n, name, manual=name == "d") for n, name in enumerate(states))
    record = stored(Schedule(definition(overlap=Overlap.CANCEL_PREVIOUS), since=START, runs=runs), START + HOUR)
    assert awaited([record]) == list(states)
    jobs = {name: previous(state, 1)._replace(id=name) for name, state in states.items() if state is not None}
    [change] = plan_all("app", [record], START + HOUR, jobs, 100).changes
    assert [(move.id, move.cause) for move in change.moves] == [(name, Cause.DELETE) for name in "acd"]


@pytest.mark.parametrize(
    ("overlap", "state", "made", "parents"),
    [
        (Overlap.SKIP, None, [5], [None]),
        (Overlap.QUEUE_ONE, None, [4, 5], [None, "first"]),
        (Overlap.QUEUE_ONE, State.PROCESSING, [5], ["old"]),
        (Overlap.CANCEL_PREVIOUS, State.PROCESSING, [5], [None]),
    ],
)
def test_missed_times_that_may_not_overlap(
    overlap: Overlap, state: State | None, made: list[int], parents: list[str | None]
) -> None:
    wanted = definition(overlap=overlap, misfire=Misfire.ALL)
    last = None if state is None else previous(state, 1)
    change, after = planned(Schedule(wanted, since=START), START + 5 * HOUR, last)
    assert dues(change) == made
    first = change.jobs[0].id
    assert [job.parent for job in change.jobs] == [first if parent == "first" else parent for parent in parents]
    assert after.note == f"{5 - len(made)} times made no job: they were missed, and overlap is {overlap}"
    assert change.next_at == START + 6 * HOUR


@pytest.mark.parametrize("overlap", [each for each in Overlap if each is not Overlap.ALLOW])
def test_times_that_get_no_job_are_not_looked_for_one_by_one(overlap: Overlap, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Micros] = []
    last_until = Timetable.last_until

    def counted(self: Timetable, instant: Micros) -> Micros | None:
        looks.append(instant)
        return last_until(self, instant)

    monkeypatch.setattr(Timetable, "last_until", counted)
    wanted = definition(misfire=Misfire.ALL, misfire_limit=1000, overlap=overlap)
    change, _ = planned(Schedule(wanted, since=START), START + 2000 * HOUR)
    assert dues(change)[-1] == 2000
    assert len(looks) <= 3


def test_jitter_delays_the_job_and_not_the_schedule() -> None:
    wanted = definition(jitter=timedelta(minutes=10))
    late = set[int]()
    for hour in range(1, 20):
        schedule = Schedule(wanted, since=START + (hour - 1) * HOUR)
        change, _ = planned(schedule, START + hour * HOUR)
        assert planned(schedule, START + hour * HOUR + 7)[0].jobs == change.jobs
        [job] = change.jobs
        assert job.run_at is not None
        late.add(job.run_at - START - hour * HOUR)
        assert unseal(job.payload).headers["recurring"][1] == START + hour * HOUR
        assert change.next_at == START + (hour + 1) * HOUR
    assert len(late) == 19
    assert all(0 <= span <= 600 * SECOND for span in late)


def test_after_its_end_it_is_due_no_more() -> None:
    end = datetime.fromtimestamp(START // SECOND, UTC) + timedelta(hours=2)
    schedule = Schedule(definition(timetable=replace(HOURLY, end=end)), since=START)
    change, after = planned(schedule, START + HOUR)
    assert (dues(change), change.next_at) == ([1], None)
    change, _ = planned(after, START + 5 * HOUR)
    assert (dues(change), change.next_at) == ([], None)


def test_a_paused_one_makes_nothing() -> None:
    change, after = planned(Schedule(definition(), since=START, paused=True), START + HOUR)
    assert (change.jobs, change.next_at, after.paused, after.since) == ((), None, True, START)


# --- changes


def test_a_new_one_fires_after_now() -> None:
    change = put("nightly", None, None, definition(), START + 5)
    assert change is not None
    assert change.body is not None
    assert (change.version, change.next_at, change.jobs) == (0, START + HOUR, ())
    assert schedule_of(ScheduleRecord("nightly", 1, 0, change.body)) == Schedule(definition(), since=START + 5)


def test_putting_the_same_changes_nothing() -> None:
    schedule = Schedule(definition(), since=START)
    assert put("nightly", stored(schedule), schedule, definition(), START + 9 * HOUR) is None


def test_other_times_start_from_now_and_bring_no_flood() -> None:
    daily = Schedule(definition(timetable=Timetable(Cron("0 0 * * *")), misfire=Misfire.ALL), since=START - 40 * HOUR)
    secondly = definition(timetable=Timetable(Every(timedelta(seconds=1))), misfire=Misfire.ALL)
    change = put("nightly", stored(daily), daily, secondly, START)
    assert change is not None
    assert change.body is not None
    assert change.next_at == START + SECOND
    after = schedule_of(ScheduleRecord("nightly", 5, change.next_at, change.body))
    assert len(planned(after, START + 3 * SECOND)[0].jobs) == 3


def test_another_payload_leaves_the_times_alone() -> None:
    """Servers were down at three, and are started at nine with a new payload: what was missed is made up for."""
    schedule = Schedule(definition(), since=START, runs=(Run(START, "old"),))
    wanted = replace(definition(), payload=b"{}", overlap=Overlap.SKIP)
    change = put("nightly", stored(schedule, next_at=START + HOUR), schedule, wanted, START + 5 * HOUR)
    assert change is not None
    assert change.body is not None
    assert change.next_at == START + HOUR
    after = schedule_of(ScheduleRecord("nightly", 5, change.next_at, change.body))
    assert after == replace(schedule, definition=wanted)


def test_a_pause_survives_a_change() -> None:
    schedule = Schedule(definition(), since=START, paused=True)
    for wanted in (definition(timetable=Timetable(Cron("5 * * * *"))), replace(definition(), queue="other")):
        change = put("nightly", stored(schedule), schedule, wanted, START)
        assert change is not None
        assert change.body is not None
        assert change.next_at is None
        assert schedule_of(ScheduleRecord("nightly", 5, None, change.body)).paused


def test_what_passes_during_a_pause_is_not_made_up_for() -> None:
    schedule = Schedule(definition(misfire=Misfire.ALL), since=START)
    change = pause(stored(schedule), schedule)
    assert change is not None
    assert change.body is not None
    assert change.next_at is None
    record = ScheduleRecord("nightly", 5, None, change.body)
    paused = schedule_of(record)
    assert pause(record, paused) is None
    change = resume(record, paused, START + 5 * HOUR)
    assert change is not None
    assert change.body is not None
    assert change.next_at == START + 6 * HOUR
    record = ScheduleRecord("nightly", 6, None, change.body)
    assert resume(record, schedule_of(record), START + 7 * HOUR) is None
    assert dues(planned(schedule_of(record), START + 6 * HOUR)[0]) == [6]


def test_a_trigger_makes_a_job_and_moves_nothing() -> None:
    schedule = Schedule(definition(), since=START, paused=True)
    change = trigger(stored(schedule, next_at=77), schedule, "job", START + 5)
    assert change is not None
    [job] = change.jobs
    assert change.body is not None
    assert (job.id, job.run_at, unseal(job.payload).headers) == ("job", None, {"recurring": ["nightly", START + 5]})
    assert change.next_at == 77
    after = schedule_of(ScheduleRecord("nightly", 5, 77, change.body))
    assert after == replace(schedule, runs=(Run(START + 5, "job", manual=True),))
    assert trigger(ScheduleRecord("nightly", 5, 77, change.body), after, "job", START + 6) is None


def moment(hours: int) -> datetime:
    return datetime.fromtimestamp(START // SECOND, UTC) + timedelta(hours=hours)


@pytest.mark.parametrize(
    "times",
    [
        replace(HOURLY, end=moment(5)),
        replace(HOURLY, end=moment(-9)),
        replace(HOURLY, start=moment(3) + timedelta(minutes=1), end=moment(3) + timedelta(minutes=59)),
        Timetable(Cron("0 0 29 2 *"), start=moment(0), end=moment(24)),
        Timetable(Every(timedelta(hours=9), anchor=moment(0)), start=moment(1), end=moment(9)),
        Timetable(Cron("0 0 1 1 *"), start=datetime(2255, 2, 1, tzinfo=UTC)),
    ],
)
def test_times_of_which_none_is_left_are_refused(times: Timetable) -> None:
    now = START + 5 * HOUR
    with pytest.raises(InvalidSchedule, match=r"^recurring job nightly never fires: "):
        put("nightly", None, None, definition(timetable=times), now)
    known = Schedule(definition(), since=START, paused=True)
    with pytest.raises(InvalidSchedule):
        put("nightly", stored(known), known, definition(timetable=times), now)
    ended = Schedule(definition(timetable=times), since=START)
    assert put("nightly", stored(ended), ended, definition(timetable=times, queue="other"), now) is not None


@pytest.mark.parametrize(
    ("body", "paused", "runs"),
    [
        (b"garbage", False, ()),
        (b"", False, ()),
        (seal(b"", {"paused": True}), True, ()),
        (seal(b"", {"paused": "yes", "runs": [[1, "job", False]]}), False, (Run(1, "job"),)),
        (seal(b"", {"paused": True, "runs": [[1, "job", False], [2, 3, False]]}), True, ()),
        (seal(b"", {"paused": True, "runs": [[1, "job", True]]}), True, (Run(1, "job", manual=True),)),
    ],
)
def test_putting_over_something_unreadable_keeps_what_can_be_told(
    body: bytes, paused: bool, runs: tuple[Run, ...]
) -> None:
    change = put("nightly", ScheduleRecord("nightly", 4, 0, body), None, definition(), START)
    assert change is not None
    assert change.body is not None
    assert (change.version, change.next_at) == (4, None if paused else START + HOUR)
    after = schedule_of(ScheduleRecord("nightly", 5, change.next_at, change.body))
    assert after == Schedule(definition(), since=START, paused=paused, runs=runs)


# --- the stored form


def test_it_is_stored_and_read() -> None:
    schedule = Schedule(
        definition(
            timetable=Timetable(Every(timedelta(hours=1)), start=datetime(2026, 1, 1, tzinfo=UTC)),
            misfire=Misfire.ALL,
            misfire_limit=7,
            overlap=Overlap.QUEUE_ONE,
            jitter=timedelta(seconds=9),
        ),
        since=START,
        paused=True,
        runs=(Run(5, "a"), Run(6, "b", manual=True)),
        note="why",
        note_at=7,
    )
    assert schedule_of(stored(schedule)) == schedule


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\x1e{}\x1e",
        b'\x1e{"version":1}\x1e{}',
        b'\x1e{"version":"1"}\x1e{}',
        b'\x1e{"version":0}\x1e{}',
        Schedule(definition(), since=0).to_body().replace(b'"paused":false', b'"paused":0'),
        Schedule(definition(), since=0).to_body().replace(b'"misfire":"once"', b'"misfire":"never"'),
        Schedule(definition(), since=0).to_body().replace(b'"runs":[]', b'"runs":[1]'),
        Schedule(definition(), since=0).to_body().replace(b'"runs":[]', b'"runs":[[1,2,3]]'),
        Schedule(definition(), since=0).to_body().replace(b'"jitter":0', b'"jitter":1e400'),
        Schedule(definition(), since=10**30).to_body(),
        Schedule(definition(), since=0, note_at=10**30).to_body(),
        Schedule(definition(), since=0, runs=(Run(10**30, "job"),)).to_body(),
        Schedule(definition(type="no name"), since=0).to_body(),
        Schedule(definition(queue=""), since=0).to_body(),
        Schedule(definition(priority=10), since=0).to_body(),
        Schedule(definition(max_crashes=-1), since=0).to_body(),
        Schedule(definition(), since=0).to_body().replace(b"0 * * * *", b"0 0 30 2 *"),
    ],
)
def test_garbage_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt):
        schedule_of(ScheduleRecord("nightly", 1, 0, body))


def newer() -> bytes:
    return Schedule(definition(), since=0).to_body().replace(b'{"version":1,"type"', b'{"version":2,"type"')


def foreign() -> bytes:
    return Schedule(definition(), since=0).to_body().replace(b'"UTC"', b'"Mars/Olympus"')


def test_what_this_version_or_machine_cannot_read() -> None:
    with pytest.raises(SchemaMismatch, match="Upgrade"):
        schedule_of(ScheduleRecord("nightly", 1, 0, newer()))
    with pytest.raises(UnknownZone):
        schedule_of(ScheduleRecord("nightly", 1, 0, foreign()))


def test_unreadable_ones_do_not_stop_the_others() -> None:
    good = Schedule(definition(), since=START)
    bodies = {"a": newer(), "b": good.to_body(), "c": b"garbage", "d": foreign(), "e": good.to_body()}
    records = [ScheduleRecord(name, 1, START + HOUR, body) for name, body in bodies.items()]
    plans = plan_all("app", records, START + HOUR, {}, 500)
    assert [change.id for change in plans.changes] == ["b", "e"]
    assert list(plans.unreadable) == ["a", "c", "d"]
    assert not plans.more
    assert awaited(records) == []


def test_a_step_is_bounded_in_jobs() -> None:
    good = Schedule(definition(misfire=Misfire.ALL), since=START)
    records = [ScheduleRecord(name, 1, START + HOUR, good.to_body()) for name in "abc"]
    plans = plan_all("app", records, START + 60 * HOUR, {}, 100)
    assert [change.id for change in plans.changes] == ["a", "b"]
    assert plans.more


def test_only_those_that_may_not_overlap_ask_for_the_job_before() -> None:
    runs = (Run(1, "first"), Run(2, "last"))
    schedules = [
        Schedule(definition(), 0, runs=runs),
        Schedule(definition(overlap=Overlap.SKIP), 0),
        Schedule(definition(overlap=Overlap.SKIP), 0, runs=runs),
    ]
    assert awaited(map(stored, schedules)) == ["last"]


@pytest.mark.parametrize(
    ("long", "by_hand", "made"),
    [
        (State.PROCESSING, State.SUCCEEDED, 0),
        (State.PROCESSING, None, 0),
        (State.SUCCEEDED, State.PROCESSING, 0),
        (None, State.PROCESSING, 0),
        (State.SUCCEEDED, State.SUCCEEDED, 1),
        (None, None, 1),
    ],
)
def test_a_run_by_hand_does_not_hide_the_job_of_the_time(long: State | None, by_hand: State | None, made: int) -> None:
    runs = (Run(START - HOUR, "older"), Run(START, "long"), Run(START + 1, "by hand", manual=True))
    record = stored(Schedule(definition(overlap=Overlap.SKIP), since=START, runs=runs), START + HOUR)
    assert awaited([record]) == ["long", "by hand"]
    states = {"long": long, "by hand": by_hand}
    jobs = {name: previous(state, 1)._replace(id=name) for name, state in states.items() if state is not None}
    [change] = plan_all("app", [record], START + HOUR, jobs, 100).changes
    assert len(change.jobs) == made


def test_runs_by_hand_alone_are_asked_for_all() -> None:
    runs = (Run(1, "a", manual=True), Run(2, "b", manual=True))
    assert awaited([stored(Schedule(definition(overlap=Overlap.SKIP), 0, runs=runs))]) == ["a", "b"]


@pytest.mark.parametrize(
    "options",
    [
        {"misfire": "never"},
        {"overlap": "maybe"},
        {"misfire_limit": 0},
        {"misfire_limit": 1001},
        {"misfire_limit": True},
        {"jitter": timedelta(days=2)},
        {"jitter": timedelta(seconds=-1)},
        {"jitter": 5},
    ],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidSchedule):
        definition(**options)


def test_a_zone_goes_with_it() -> None:
    berlin = definition(timetable=Timetable(Cron("30 2 * * *"), Zone("Europe/Berlin")))
    change = put("nightly", None, None, berlin, 1_774_738_800 * SECOND)  # 2026-03-29 00:00 in Berlin
    assert change is not None
    assert change.next_at == 1_774_746_000 * SECOND  # 03:00, the first after the gap


def test_the_tolerance_is_a_minute() -> None:
    assert TOLERANCE == 60 * SECOND
