"""Timetables: intervals, start and end, what was missed, the stored form, jitter."""

import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from later import Corrupt, InvalidSchedule, SchemaMismatch, UnknownZone
from later.core.records import FURTHEST, SECOND
from later.core.timetables import Cron, Due, Every, Gap, Overlap, Timetable, Zone, jitter
from later.core.timetables.timetable import LATEST, VERSION, micros

BERLIN = Zone("Europe/Berlin")
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def at(text: str) -> int:
    return micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


def aware(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def texts(times: tuple[int, ...]) -> list[str]:
    return [f"{datetime.fromtimestamp(one // SECOND, UTC):%d %H:%M}" for one in times]


def test_an_interval_counts_from_the_epoch() -> None:
    every = Timetable(Every(timedelta(minutes=40)))
    assert texts(every.between(at("2026-01-01"), at("2026-01-01 03:00"), 9).times) == [
        "01 00:40",
        "01 01:20",
        "01 02:00",
        "01 02:40",
    ]
    assert every.next_after(0) == 40 * MINUTE
    assert every.next_after(-1) == 0
    assert every.next_after(-41 * MINUTE) == -40 * MINUTE


def test_an_interval_counts_from_the_start_of_its_timetable_and_from_an_anchor_before_all() -> None:
    start = aware("2026-01-01 08:07")
    every = Timetable(Every(timedelta(hours=12)), start=start)
    assert texts(every.between(at("2025-01-01"), at("2026-01-02"), 9).times) == ["01 08:07", "01 20:07"]
    anchored = Timetable(Every(timedelta(hours=12), aware("2030-06-01 00:30")), start=start)
    assert texts(anchored.between(at("2025-01-01"), at("2026-01-02 12:00"), 9).times) == ["01 12:30", "02 00:30"]


def test_an_interval_takes_no_notice_of_clocks_that_change() -> None:
    every = Timetable(Every(timedelta(hours=1)), BERLIN)
    fires = list(islice(every.iterate(at("2026-10-24 23:30")), 3))
    assert [fire.at - fires[0].at for fire in fires] == [0, HOUR, 2 * HOUR]
    assert [(fire.wall.hour, fire.note) for fire in fires] == [(2, ""), (2, ""), (3, "")]


@given(
    interval=st.integers(SECOND, 400 * DAY),
    anchor=st.integers(-(2**50), 2**50),
    now=st.integers(-(2**50), 2**50),
)
@settings(derandomize=True, deadline=None, max_examples=100)
def test_an_interval_does_not_drift(interval: int, anchor: int, now: int) -> None:
    rule = Every(timedelta(microseconds=interval), aware("1970-01-01") + timedelta(microseconds=anchor))
    every = Timetable(rule)
    following = every.next_after(now)
    assert following is not None
    assert now < following <= now + interval
    assert (following - anchor) % interval == 0
    assert every.last_until(now) == following - interval
    assert every.last_until(following) == following


def test_start_is_part_of_the_time_and_end_is_not() -> None:
    nine = Timetable(Cron("0 9 * * *"), start=aware("2026-01-02 09:00"), end=aware("2026-01-04 09:00"))
    assert texts(nine.between(at("2020-01-01"), at("2030-01-01"), 9).times) == ["02 09:00", "03 09:00"]
    assert nine.next_after(at("2026-01-03 09:00")) is None
    assert nine.last_until(at("2030-01-01")) == at("2026-01-03 09:00")
    assert nine.last_until(at("2026-01-02 09:00")) == at("2026-01-02 09:00")
    assert nine.last_until(at("2026-01-02 08:59:59")) is None
    later = Timetable(
        Cron("0 9 * * *"), start=aware("2026-01-02 09:00:00.000001"), end=aware("2026-01-04 09:00:00.000001")
    )
    assert texts(later.between(at("2020-01-01"), at("2030-01-01"), 9).times) == ["03 09:00", "04 09:00"]
    every = Timetable(Every(timedelta(days=1)), start=aware("2026-01-02"), end=aware("2026-01-04"))
    assert texts(every.between(at("2020-01-01"), at("2030-01-01"), 9).times) == ["02 00:00", "03 00:00"]
    assert every.last_until(at("2026-01-01")) is None
    assert every.last_until(at("2030-01-01")) == at("2026-01-03")


def test_a_timetable_that_never_fires_between_start_and_end() -> None:
    leap = Timetable(Cron("0 0 29 2 *"), BERLIN, start=aware("2026-01-01"), end=aware("2028-01-01"))
    assert leap.next_after(at("2026-01-01")) is None
    assert leap.last_until(at("2028-01-01")) is None
    assert leap.between(at("2020-01-01"), at("2040-01-01"), 5) == Due((), more=False)


def test_what_was_missed_is_bounded_by_a_limit() -> None:
    hourly = Timetable(Cron("@hourly"))
    after, until = at("2026-01-01 09:00"), at("2026-01-01 12:00")
    assert hourly.between(after, until, 5) == Due((after + HOUR, after + 2 * HOUR, until), more=False)
    assert hourly.between(after, until, 3) == Due((after + HOUR, after + 2 * HOUR, until), more=False)
    assert hourly.between(after, until, 2) == Due((after + HOUR, after + 2 * HOUR), more=True)
    assert hourly.between(after, until, 0) == Due((), more=True)
    assert hourly.between(until, after, 5) == Due((), more=False)
    assert hourly.between(after, after + HOUR - 1, 0) == Due((), more=False)


def test_the_last_of_many_that_were_missed_costs_no_more_than_one() -> None:
    seconds = Timetable(Cron("* * * * * *"), BERLIN)
    began = time.process_time()
    for year in range(2000, 2200):
        now = at(f"{year}-07-01 12:00:00") + 999_999
        assert seconds.last_until(now) == now - 999_999
        yearly = Timetable(Cron("0 0 1 1 *"), BERLIN)
        assert yearly.last_until(now) == at(f"{year}-01-01") - HOUR
    # Three seconds of processor time for 400 questions; a year of seconds alone would take a minute.
    assert time.process_time() - began < 3


def test_nothing_fires_beyond_what_every_backend_can_store() -> None:
    for rule in (Cron("* * * * * *"), Cron("0 0 29 2 *"), Every(timedelta(days=400))):
        timetable = Timetable(rule, BERLIN)
        assert timetable.next_after(LATEST) is None
        assert timetable.next_after(LATEST - SECOND // 1000) is None
        assert timetable.next_after(10**30) is None
        last = timetable.last_until(10**30)
        assert last is not None
        assert LATEST - 10 * 400 * DAY < last <= LATEST
        assert timetable.next_after(last) is None
        assert timetable.last_until(-LATEST - 1) is None
        first = timetable.next_after(-(10**30))
        assert first is not None
        assert first >= -LATEST
        assert timetable.last_until(first) == first
        assert timetable.last_until(first - 1) is None


NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001  refused for that reason
DAILY = Cron("@daily")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"rule": "0 9 * * *"}, "neither a Cron nor an Every"),
        ({"zone": "Europe/Berlin"}, "is not a Zone"),
        ({"gap": "jump"}, "use shift or skip"),
        ({"overlap": "both"}, "use auto or once or twice"),
        ({"overlap": []}, "use auto or once or twice"),
        ({"start": NAIVE}, "add tzinfo"),
        ({"end": NAIVE}, "add tzinfo"),
        ({"start": "2026-01-01"}, "add tzinfo"),
        ({"start": 0}, "add tzinfo"),
        ({"end": datetime(9999, 12, 31, tzinfo=UTC)}, "between the years 1684 and 2255"),
        ({"end": datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-14)))}, "between the years"),
        ({"start": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))}, "between the years"),
        ({"start": aware("2026-01-02"), "end": aware("2026-01-01")}, "is not after start"),
        ({"start": aware("2026-01-02"), "end": aware("2026-01-02")}, "is not after start"),
        (
            {"start": datetime(2026, 1, 1, 12, tzinfo=ZoneInfo("Asia/Tokyo")), "end": aware("2026-01-01 03:00")},
            "is not after start",
        ),
    ],
)
def test_what_makes_no_timetable(values: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidSchedule, match=told):
        Timetable(**{"rule": DAILY, **values})


@pytest.mark.parametrize(
    ("interval", "anchor", "told"),
    [
        (timedelta(0), None, "1 s to 36525 days"),
        (timedelta(milliseconds=999), None, "1 s to 36525 days"),
        (timedelta(seconds=-5), None, "1 s to 36525 days"),
        (FURTHEST + timedelta(seconds=1), None, "1 s to 36525 days"),
        (60, None, "is not a timedelta"),
        (timedelta(hours=1), NAIVE, "anchor .* add tzinfo"),
    ],
)
def test_what_makes_no_interval(interval: Any, anchor: Any, told: str) -> None:
    with pytest.raises(InvalidSchedule, match=told):
        Every(interval, anchor)


def test_equal_timetables_are_equal_however_they_were_written() -> None:
    one = Timetable(
        Cron("0 9 * * mon"), BERLIN, Gap("skip"), start=datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))
    )
    other = Timetable(Cron(" 0  9 * * MON"), Zone("Europe/Berlin"), "skip", start=aware("2025-12-31 23:00"))  # type: ignore[arg-type]
    assert one == other
    assert hash(one) == hash(other)
    assert one.to_json() == other.to_json()


TIMES = st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1), timezones=st.timezones())  # noqa: DTZ001
TIMETABLES = st.builds(
    lambda rule, zone, gap, overlap, start, length: Timetable(
        rule, Zone(zone), gap, overlap, start, start and length and start.astimezone(UTC) + length
    ),
    st.sampled_from([Cron("30 2 * * *"), Cron("@daily"), Cron("*/5 * * * * *")])
    | st.builds(Every, st.timedeltas(timedelta(seconds=1), FURTHEST), TIMES),
    st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe"]),
    st.sampled_from(Gap),
    st.sampled_from(Overlap),
    TIMES,
    st.none() | st.timedeltas(timedelta(microseconds=1), timedelta(days=3650)),
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(TIMETABLES)
def test_the_stored_form_is_read_back_equal(timetable: Timetable) -> None:
    stored = json.loads(json.dumps(timetable.to_json()))
    assert Timetable.from_json(stored) == timetable
    assert stored["version"] == VERSION


def test_the_stored_form_stays_as_it_is() -> None:
    """A change here needs a new VERSION, and a reader for the old one."""
    timetable = Timetable(Cron("30 2 * * *"), BERLIN, end=aware("2030-01-01"))
    assert timetable.to_json() == {
        "version": 1,
        "cron": "30 2 * * *",
        "zone": "Europe/Berlin",
        "gap": "shift",
        "overlap": "auto",
        "start": None,
        "end": 1_893_456_000_000_000,
    }
    assert Timetable(Every(timedelta(minutes=90))).to_json() == {
        "version": 1,
        "every": 5_400_000_000,
        "anchor": None,
        "zone": "UTC",
        "gap": "shift",
        "overlap": "auto",
        "start": None,
        "end": None,
    }


STORED = Timetable(Cron("30 2 * * *"), BERLIN).to_json()
EVERY = Timetable(Every(timedelta(minutes=90))).to_json()


@pytest.mark.parametrize(
    "stored",
    [
        None,
        [],
        "30 2 * * *",
        {},
        {**STORED, "version": 0},
        {**STORED, "version": True},
        {**STORED, "version": "1"},
        {**STORED, "more": 1},
        {**STORED, "every": 5},
        {key: value for key, value in STORED.items() if key != "overlap"},
        {**STORED, "cron": "61 * * * *"},
        {**STORED, "cron": 5},
        {**STORED, "zone": None},
        {**STORED, "gap": "jump"},
        {**STORED, "gap": None},
        {**STORED, "overlap": {}},
        {**STORED, "start": "2026-01-01"},
        {**STORED, "start": 1.5},
        {**STORED, "start": True},
        {**STORED, "start": 2**53 + 1},
        {**STORED, "start": 10**40},
        {**STORED, "start": 5, "end": 5},
        {**EVERY, "every": 0},
        {**EVERY, "every": None},
        {**EVERY, "every": 10**30},
        {**EVERY, "anchor": "now"},
    ],
    ids=str,
)
def test_what_was_never_stored_is_not_read(stored: object) -> None:
    with pytest.raises(Corrupt, match="stored timetable"):
        Timetable.from_json(stored)


def test_the_stored_form_of_a_newer_version_is_not_guessed_at() -> None:
    with pytest.raises(SchemaMismatch, match="version 2"):
        Timetable.from_json({"version": 2, "when": "tomorrow"})


def test_a_stored_zone_that_this_machine_lacks_is_told_apart() -> None:
    with pytest.raises(UnknownZone, match="Europe/Atlantis"):
        Timetable.from_json({**STORED, "zone": "Europe/Atlantis"})


def test_jitter_is_the_same_everywhere_and_spread_evenly() -> None:
    span = timedelta(seconds=10)
    due = at("2026-01-01")
    assert jitter("report", due, span) == timedelta(seconds=1, microseconds=517_192)
    assert jitter("report", due, timedelta(0)) == timedelta(0)
    assert jitter("report", due, timedelta(microseconds=1)) in {timedelta(0), timedelta(microseconds=1)}
    delays = [jitter(f"schedule {number}", due, span) for number in range(10_000)]
    assert min(delays) >= timedelta(0)
    assert max(delays) <= span
    by_second = Counter(delay.seconds for delay in delays)
    assert set(by_second) == set(range(10))
    assert all(850 < count < 1150 for count in by_second.values())
    assert len({jitter("report", due + number * DAY, span) for number in range(100)}) == 100
