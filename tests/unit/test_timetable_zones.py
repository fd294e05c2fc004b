"""Clocks that are set forward and back, against an oracle that looks at every minute.

The oracle shares no code with `later`: it asks zoneinfo for the wall time of each minute of UTC and compares it with
plain sets of minutes, hours and weekdays. The normal run tries a sample of the changes of all clocks from 2020 to 2030;
`LATER_ZONES=all python -m pytest tests/unit/test_timetable_zones.py` tries them all (some minutes).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from itertools import islice, pairwise
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from later import InvalidSchedule, UnknownZone
from later.core.records import SECOND
from later.core.timetables import Cron, Fire, Gap, Overlap, Timetable, Zone, zones
from tests.docs.markdown import ROOT
from tests.support.tables import table

PAGE = ROOT / "docs" / "explanation" / "time.md"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
YEARS = range(2020, 2031)
GAPS = table(PAGE, "Cron", "Zone", "Day", "shift", "skip")
OVERLAPS = table(PAGE, "Cron", "Zone", "Day", "auto", "once", "twice")


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment(at: int) -> datetime:
    return EPOCH + timedelta(microseconds=at)


def fires_of(timetable: Timetable, day: date) -> list[Fire]:
    """What fires while the wall clock shows this day."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - 2 * DAY
    found: list[Fire] = []
    for fire in timetable.iterate(micros(start)):
        if fire.wall.date() > day:
            break
        if fire.wall.date() == day:
            found.append(fire)
    return found


def shown(fires: list[Fire], zone: str) -> str:
    """Wall times with the offset, as the page shows them."""
    return (
        ", ".join(
            moment(fire.at).astimezone(ZoneInfo(zone)).isoformat()[11:].replace(":00+", "+").replace(":00-", "-")
            for fire in fires
        )
        or "none"
    )


@pytest.mark.parametrize("row", GAPS, ids=" ".join)
def test_a_clock_set_forward(row: tuple[str, ...]) -> None:
    text, zone, day, shift, skip = row
    for gap, expected in (("shift", shift), ("skip", skip)):
        timetable = Timetable(Cron(text), Zone(zone), gap=Gap(gap))
        assert shown(fires_of(timetable, date.fromisoformat(day)), zone) == expected


@pytest.mark.parametrize("row", OVERLAPS, ids=" ".join)
def test_a_clock_set_back(row: tuple[str, ...]) -> None:
    text, zone, day, auto, once, twice = row
    for overlap, expected in (("auto", auto), ("once", once), ("twice", twice)):
        timetable = Timetable(Cron(text), Zone(zone), overlap=Overlap(overlap))
        assert shown(fires_of(timetable, date.fromisoformat(day)), zone) == expected


@pytest.mark.parametrize(
    ("text", "zone", "day", "notes"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-03-29", ["shifted from 02:30, which does not exist that day"]),
        ("15 30 2 * * *", "Europe/Berlin", "2026-03-29", ["shifted from 02:30:15, which does not exist that day"]),
        ("0 2-3 * * *", "Europe/Berlin", "2026-03-29", [""]),
        (
            "0 12 30 12 *",
            "Pacific/Apia",
            "2011-12-31",
            ["shifted from 2011-12-30 12:00, which does not exist that day"],
        ),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25", ["first of two 02:30 of this day"]),
        (
            "30 1-3 * * *",
            "Europe/Berlin",
            "2026-10-25",
            ["", "first of two 02:30 of this day", "second 02:30 of this day", ""],
        ),
        ("30 2 * * *", "Europe/Berlin", "2026-10-26", [""]),
    ],
)
def test_the_notes(text: str, zone: str, day: str, notes: list[str]) -> None:
    fires = fires_of(Timetable(Cron(text), Zone(zone)), date.fromisoformat(day))
    assert [fire.note for fire in fires] == notes


@dataclass(frozen=True)
class Plain:
    """A cron expression of sets, and the same as text."""

    minutes: frozenset[int]
    hours: frozenset[int]
    weekdays: frozenset[int]
    """ISO: Sunday is 7."""
    text: str

    def matches(self, wall: datetime) -> bool:
        return wall.minute in self.minutes and wall.hour in self.hours and wall.isoweekday() in self.weekdays

    @property
    def repeats(self) -> bool:
        return any(sign in self.text.rsplit(maxsplit=3)[0] for sign in "*-/")


def plain(minutes: str, hours: str, weekdays: str) -> Plain:
    return Plain(
        _values(minutes, 0, 59), _values(hours, 0, 23), _values(weekdays, 1, 7), f"{minutes} {hours} * * {weekdays}"
    )


def _values(field: str, low: int, high: int) -> frozenset[int]:
    """Of a star, a star with a step, or a list of numbers."""
    if field.startswith("*"):
        step = int(field[2:] or "1")
        return frozenset(range(low, high + 1, step))
    return frozenset(map(int, field.split(",")))


def minutes_of(start: datetime, end: datetime) -> Iterator[datetime]:
    while start < end:
        yield start
        start += MINUTE


@lru_cache(maxsize=4)
def walls(zone: str, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Each minute of UTC and what the wall clock shows then."""
    info = ZoneInfo(zone)
    return [(now, now.astimezone(info).replace(tzinfo=None)) for now in minutes_of(start, end)]


def oracle(cron: Plain, zone: str, start: datetime, end: datetime, gap: Gap, overlap: Overlap) -> list[int]:
    """What fires in [start, end), by looking at every minute, and at a day before it for what the clock had shown."""
    twice = overlap is Overlap.TWICE or (overlap is Overlap.AUTO and cron.repeats)
    found: list[int] = []
    seen: set[datetime] = set()
    previous: datetime | None = None
    for now, wall in walls(zone, start - 26 * HOUR, end):
        fires = cron.matches(wall) and (twice or wall not in seen)
        if gap is Gap.SHIFT and previous is not None and wall - previous > MINUTE:
            fires = fires or any(cron.matches(missing) for missing in minutes_of(previous + MINUTE, wall))
        if fires and now >= start:
            found.append(micros(now))
        seen.add(wall)
        previous = wall
    return found


def check(cron: Plain, zone: str, start: datetime, end: datetime, gap: Gap, overlap: Overlap) -> None:
    timetable = Timetable(Cron(cron.text), Zone(zone), gap, overlap)
    expected = oracle(cron, zone, start, end, gap, overlap)
    told = f"{cron.text} in {zone}, {gap}, {overlap}, from {start}"
    due = timetable.between(micros(start) - 1, micros(end) - 1, len(expected) + 1)
    assert [str(moment(at)) for at in due.times] == [str(moment(at)) for at in expected], told
    # From any point on, forward and back, without what an iteration remembers.
    for earlier, later in pairwise(expected[:: max(1, len(expected) // 12)]):
        between = (earlier + later) // 2
        following = [at for at in expected if at > between]
        past = [at for at in expected if at <= between]
        assert timetable.next_after(between) == following[0], told
        assert timetable.last_until(between) == past[-1], told
        assert timetable.last_until(later - 1) == max(at for at in expected if at < later), told
        assert timetable.last_until(later) == later, told


@cache
def zones_that_change() -> list[str]:
    months = [datetime(year, month, 1, tzinfo=UTC) for year in YEARS for month in range(1, 13)]
    names = sorted(available_timezones())
    return [name for name in names if len({moment.astimezone(ZoneInfo(name)).utcoffset() for moment in months}) > 1]


@cache
def changes(zone: str, year: int) -> list[datetime]:
    """The days (00:00 UTC) of this year in which the zone's offset changes."""
    info = ZoneInfo(zone)
    days = [datetime(year, 1, 1, tzinfo=UTC) + number * DAY for number in range(366)]
    return [day for day in days if day.astimezone(info).utcoffset() != (day + DAY).astimezone(info).utcoffset()]


PLAIN = st.builds(
    plain,
    st.sampled_from(["0", "30", "59", "*/20", "*/45", "*", "7,37"]),
    st.sampled_from(["0", "1", "2", "3", "23", "0,1,2,3", "*", "*/2", "2,3,23"]),
    st.sampled_from(["*", "7", "6,7"]),
)
POLICIES = [(gap, overlap) for gap in Gap for overlap in Overlap]


@settings(derandomize=True, deadline=None, max_examples=250)
@given(st.data(), PLAIN, st.sampled_from(POLICIES))
def test_as_the_oracle_around_the_changes_of_all_clocks(
    data: st.DataObject, cron: Plain, policy: tuple[Gap, Overlap]
) -> None:
    zone = data.draw(st.sampled_from(zones_that_change()))
    days = [day for year in YEARS for day in changes(zone, year)]
    day = data.draw(st.sampled_from(days))
    check(cron, zone, day - 3 * HOUR, day + DAY + 3 * HOUR, *policy)


@pytest.mark.skipif(os.environ.get("LATER_ZONES") != "all", reason="takes minutes; LATER_ZONES=all runs it")
@pytest.mark.timeout(3600)
def test_as_the_oracle_around_every_change() -> None:
    crons = [plain("*/20", "*", "*"), plain("30", "2", "*"), plain("0", "0,1,2,3,23", "6,7"), plain("0,59", "*/2", "*")]
    tried: set[int] = set()
    for zone in zones_that_change():
        for day in (day for year in YEARS for day in changes(zone, year)):
            start, end = day - 3 * HOUR, day + DAY + 3 * HOUR
            # Most zones share their clock with others; one of those that agree in every minute speaks for all.
            clock = hash(tuple(walls(zone, start - 26 * HOUR, end)))
            if clock not in tried:
                tried.add(clock)
                for cron in crons:
                    for policy in POLICIES:
                        check(cron, zone, start, end, *policy)
    assert len(tried) > 500


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Australia/Lord_Howe", "2024-04-06"),
        ("Australia/Lord_Howe", "2024-10-05"),
        ("Pacific/Apia", "2011-12-30"),
        ("Pacific/Kwajalein", "1993-08-20"),
        ("America/Sao_Paulo", "2018-11-04"),
        ("America/Sao_Paulo", "2018-02-18"),
        ("Asia/Beirut", "2022-03-26"),
        ("America/Juneau", "1983-10-30"),
        ("Antarctica/Troll", "2024-03-31"),
        ("Antarctica/Troll", "2024-10-27"),
        ("Europe/Dublin", "2024-10-27"),
        ("Africa/Casablanca", "2024-03-10"),
    ],
)
@pytest.mark.parametrize(
    ("gap", "overlap"), [(Gap.SHIFT, Overlap.ONCE), (Gap.SKIP, Overlap.TWICE), (Gap.SHIFT, Overlap.AUTO)]
)
def test_as_the_oracle_around_odd_changes(zone: str, day: str, gap: Gap, overlap: Overlap) -> None:
    start = datetime.fromisoformat(day).replace(tzinfo=UTC) - DAY
    for cron in (plain("*/15", "*", "*"), plain("15", "0,1,2,23", "*")):
        check(cron, zone, start, start + 3 * DAY, gap, overlap)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(PLAIN, st.sampled_from(sorted(available_timezones())), st.integers(0, 10 * 365), st.sampled_from(POLICIES))
def test_as_the_oracle_on_any_day(cron: Plain, zone: str, days: int, policy: tuple[Gap, Overlap]) -> None:
    start = datetime(YEARS[0], 1, 1, tzinfo=UTC) + days * DAY
    check(cron, zone, start, start + DAY, *policy)


def test_a_day_that_came_twice() -> None:
    """Alaska changed sides of the date line in October 1867: its clocks were set back by a day."""
    zone = Zone("America/Juneau")
    first = Timetable(Cron("0 12 19 10 *"), zone, overlap=Overlap.ONCE)
    after = micros(datetime(1867, 10, 1, tzinfo=UTC))
    both = Timetable(Cron("0 12 19 10 *"), zone, overlap=Overlap.TWICE)
    assert [fire.wall.year for fire in islice(first.iterate(after), 2)] == [1867, 1868]
    fires = list(islice(both.iterate(after), 3))
    assert [fire.wall.year for fire in fires] == [1867, 1867, 1868]
    assert fires[1].at - fires[0].at == 24 * 3600 * SECOND
    assert fires[1].note == "second 12:00 of this day"


def test_times_of_the_first_pass_are_found_from_the_second_and_the_other_way_round() -> None:
    """With a rule so rare that the search would leap over the day."""
    yearly = Timetable(Cron("45 2 25 10 *"), Zone("Europe/Berlin"), overlap=Overlap.TWICE)
    first, second = (micros(datetime(2026, 10, 25, hour, 45, tzinfo=UTC)) for hour in (0, 1))
    assert yearly.last_until(second - 15 * 60 * SECOND) == first
    assert yearly.next_after(first) == second
    assert yearly.last_until(first - 1) == micros(datetime(2025, 10, 25, 0, 45, tzinfo=UTC))


def test_the_segments_of_a_zone_hold_its_offsets() -> None:
    for name in ("Europe/Berlin", "Africa/Freetown", "Asia/Gaza", "America/Boa_Vista", "Africa/Casablanca"):
        zone, info = Zone(name), ZoneInfo(name)
        at = int(datetime(1935, 1, 1, tzinfo=UTC).timestamp())
        until = int(datetime(2060, 1, 1, tzinfo=UTC).timestamp())
        while at < until:
            segment = zone.segment(at)
            assert segment.start <= at < segment.end
            last = segment.end - 1
            for inside in range(max(at, segment.start), last, max(1, (last - at) // 9)):
                assert moment(inside * SECOND).astimezone(info).utcoffset() == timedelta(seconds=segment.offset)
            assert moment(last * SECOND).astimezone(info).utcoffset() == timedelta(seconds=segment.offset)
            following = zone.segment(segment.end)
            assert following.before == segment.offset
            assert following.offset == zone.offset(segment.end)
            at = segment.end


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("Berlin", "did you mean 'Europe/Berlin'?"),
        ("new york", "did you mean 'America/New_York'"),
        ("europe/berlin", "did you mean 'Europe/Berlin'"),
        ("Europe/Berln", "did you mean 'Europe/Berlin'"),
        ("utc", "did you mean"),
        ("Europe", "is not known"),
        ("", "use a name of the IANA database"),
        (".", "is not known"),
        ("../../etc/passwd", "is not known"),
        ("/usr/share/zoneinfo/Europe/Berlin", "is not known"),
        ("Europe/../Europe/Berlin", "is not known"),
        ("Europe//Berlin", "is not known"),
        ("Europe/Berlin\n", "is not known"),
        ("Europe/Berlin\0", "is not known"),
        ("zone.tab", "is not known"),
        ("tzdata.zi", "is not known"),
        ("localtime", "is not known"),
        ("posixrules", "is not known"),
        ("right/UTC", "is not known"),
        ("W. Europe Standard Time", "use a name of the IANA database"),
        ("x" * 100_000, "is not known"),
    ],
)
def test_a_zone_that_is_none(name: str, advice: str) -> None:
    with pytest.raises(UnknownZone) as caught:
        Zone(name)
    assert advice in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_zone_of_another_type() -> None:
    with pytest.raises(InvalidSchedule, match="not a text"):
        Zone(ZoneInfo("Europe/Berlin"))  # type: ignore[arg-type]


def test_a_machine_without_zones_knows_utc_and_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> ZoneInfo:
        raise ZoneInfoNotFoundError(name)

    monkeypatch.setattr(zones, "ZoneInfo", none)
    monkeypatch.setattr(zones, "available_timezones", set)
    zones._load.cache_clear()
    try:
        assert Timetable(Cron("@daily")).next_after(0) == 86_400 * SECOND
        with pytest.raises(UnknownZone, match="pip install tzdata"):
            Zone("Europe/Berlin")
    finally:
        zones._load.cache_clear()
