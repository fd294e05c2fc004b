"""A short version of `tests.chaos.scheduled`."""

from tests.chaos.scheduled import run


def test_it_tells_how_long_a_promotion_takes() -> None:
    assert "300 jobs due in a year" in (told := run("sqlite", 600, 300, 3.0))
    assert " 600 jobs promoted " in told
    assert " in 2 calls " in told
