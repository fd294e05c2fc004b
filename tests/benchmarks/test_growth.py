"""How cost grows: a small run, and its part of the page."""

import pytest

from benchmarks.growth import Scale, backlog, handlers, scheduled
from benchmarks.growth_page import Point, text
from benchmarks.systems import chosen

TINY = Scale(0.0001)


def a_line(experiment: str, figure: str, *values: tuple[int, float]) -> list[Point]:
    return [Point(experiment, "later:redis", x, {figure: value}) for x, value in values]


@pytest.mark.parametrize(
    ("figure", "last", "verdict"),
    [
        ("drain", 91, "-9% from 1,000 to 1,000,000 | met"),
        ("drain", 200, "+100% from 1,000 to 1,000,000 | met"),
        ("drain", 89, "-11% from 1,000 to 1,000,000 | **not met**"),
        ("claim_p99", 109, "+9% from 1,000 to 1,000,000 | met"),
        ("claim_p99", 111, "+11% from 1,000 to 1,000,000 | **not met**"),
    ],
)
def test_flat_is_within_a_tenth_of_the_first(figure: str, last: float, verdict: str) -> None:
    assert verdict in text("now", a_line("backlog", figure, (1_000, 100), (1_000_000, last)), [])


def test_slots_are_to_be_busy_from_ten_milliseconds_on() -> None:
    points = a_line("handlers, async", "utilisation", (1, 20), (10, 96), (100, 94.9))
    assert "94.9 % | **not met**" in text("now", points, [])
    assert "96.0 % | met" in text("now", points[:2], [])


def test_a_failure_is_told() -> None:
    assert "- **FAILED**: backlog, later:redis: no luck" in text("now", [], ["backlog, later:redis: no\nluck"])


def test_a_point_is_read_as_it_was_written() -> None:
    [point] = a_line("backlog", "drain", (200, 1234.5))
    assert Point.of_line(point.line()) == point


def test_a_table_has_a_column_for_each_size() -> None:
    points = a_line("payload", "drain", (200, 1234.5), (1_000, 999.4))
    assert "| later:redis | 1,234 | 999 |" in text("now", points, [])


@pytest.mark.timeout(120)
def test_a_backlog_that_is_not_drained() -> None:
    [system] = chosen("later:sqlite")
    first = next(iter(backlog(system, TINY)))
    assert (first.x, set(first.figures)) == (100, {"drain", "claim_p99"})
    assert first.figures["drain"] > 0


@pytest.mark.timeout(120)
def test_scheduled_jobs_do_not_run() -> None:
    [system] = chosen("later:sqlite")
    points = iter(scheduled(system, TINY))
    assert [next(points).x, next(points).x] == [0, 100]


@pytest.mark.timeout(120)
def test_handlers_that_take_time() -> None:
    [system] = chosen("later:sqlite")
    points = iter(handlers(system, TINY))
    assert [next(points).x, next(points).x] == [0, 1]
