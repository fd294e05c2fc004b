"""Which cron expressions are accepted, and what they mean. The rows of docs/explanation/time.md are cases."""

import subprocess
import sys
import time
from calendar import isleap
from datetime import UTC, datetime
from itertools import islice

import pytest
from cronsim import CronSim
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from later import InvalidSchedule
from later.core.records import SECOND
from later.core.timetables import Cron, Timetable
from later.core.timetables.cron import LONGEST, MACROS
from tests.docs.markdown import ROOT
from tests.support.tables import table

PAGE = ROOT / "docs" / "explanation" / "time.md"
NEW_YEAR = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * SECOND


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param(text, shown, id=text)
        for text, _, shown in table(PAGE, "Expression", "Means", "First times from 2026 on")
    ],
)
def test_what_an_expression_means(text: str, shown: str) -> None:
    expected = [datetime.fromisoformat(one) for one in shown.split(", ")]
    fires = list(islice(Timetable(Cron(text)).iterate(NEW_YEAR - 1), len(expected)))
    assert [fire.wall for fire in fires] == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [pytest.param(text, told, id=text) for text, told in table(PAGE, "Expression", "What the error says")],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        Cron(text)
    assert told in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has 0 fields"),
        (" \t ", "has 0 fields"),
        ("*", "has 1 field:"),
        ("* " * 5_000, "has 10000 characters; the most are 500"),
        ("0 0 ² * *", "contains '²' as its character 5"),
        ("0 0 * *\u00a0*", "as its character 8"),
        ("0 0 * * *\n", r"contains '\n'"),
        ("0 0 * * \0", r"contains '\x00'"),
        ("- * * * *", "minute '-' is not understood: use 0 to 59"),
        ("5- * * * *", "minute '5-' is not understood: use 0 to 59"),
        ("1/ * * * *", "a step is a number of 1 or more"),
        ("1/2/3 * * * *", "minute '1/2/3' is not understood"),
        ("1/-2 * * * *", "minute '1/-2' is not understood"),
        ("*-5 * * * *", "minute '*-5' is not understood"),
        ("+5 * * * *", "minute '+5' is not understood"),
        ("1.5 * * * *", "minute '1.5' is not understood"),
        ("JAN * * * *", "minute 'JAN' is not understood"),
        ("0 0 * MON *", "month 'MON' is not understood"),
        ("0 0 * * L", "day of week 'L' is not understood"),
        ("0 0 L-3 * *", "day of month 'L-3' is not understood"),
        ("L * * * *", "minute 'L' is not understood"),
        ("0 0 1#2 * *", "day of month '1#2' is not understood"),
        ("0 0 * * 1#0", "day of week '1#0' is not understood"),
        ("0 0 31 2,4,6,9,11 *", "never fires"),
        ("@", "is not a macro"),
        ("@daily 5", "is not a macro"),
        ("0" * 400 + " * * * *" + " *" * 5, "has 10 fields"),
        ("9" * 400 + " * * * *", "is not understood"),
        (None, "is not a text"),
        (b"* * * * *", "is not a text"),
    ],
)
def test_what_else_is_refused(text: str, told: str) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        Cron(text)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("  0  9 * *\tmon-fri ", "0 9 * * MON-FRI"),
        ("@Daily", "@daily"),
        (" @midnight ", "@midnight"),
        ("00 09 * * *", "00 09 * * *"),
    ],
)
def test_equal_schedules_are_kept_alike(written: str, kept: str) -> None:
    assert Cron(written).text == kept
    assert Cron(kept) == Cron(written)


@pytest.mark.parametrize("macro", MACROS)
def test_a_macro_is_what_it_stands_for(macro: str) -> None:
    assert Cron(macro).fields == Cron(MACROS[macro]).fields


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("30 2 * * *", False),
        ("0,30 2,3 * * *", False),
        ("15 30 2 * * *", False),
        ("30 2 */2 1-6 MON-FRI", False),
        ("@daily", False),
        ("@hourly", True),
        ("30 * * * *", True),
        ("*/30 2 * * *", True),
        ("0-30 2 * * *", True),
        ("0 2/6 * * *", True),
        ("* 30 2 * * *", True),
    ],
)
def test_what_repeats_is_told_from_a_point_of_the_day(text: str, repeats: bool) -> None:
    assert Cron(text).repeats is repeats


def field(low: int, high: int) -> st.SearchStrategy[str]:
    value = st.integers(low, high)
    step = st.integers(1, high - low + 1)
    span = st.tuples(value, value).map(sorted)
    term = st.one_of(
        st.just("*"),
        value.map(str),
        step.map(lambda step: f"*/{step}"),
        span.map(lambda ends: f"{ends[0]}-{ends[1]}"),
        st.builds(lambda ends, step: f"{ends[0]}-{ends[1]}/{step}", span, step),
        st.builds(lambda value, step: f"{value}/{step}", value, step),
    )
    return st.lists(term, min_size=1, max_size=3).map(",".join)


EXPRESSIONS = st.builds(
    lambda *fields: " ".join(fields),
    field(0, 59),
    field(0, 59),
    field(0, 23),
    field(1, 31) | st.sampled_from(["L", "LW", "1,L"]),
    field(1, 12),
    field(0, 7) | st.sampled_from(["5L", "1#1", "7#5", "0L,3"]),
)
MOMENTS = st.integers(0, 2_000_000_000)


def accepted(text: str) -> Cron:
    try:
        return Cron(text)
    except InvalidSchedule:
        assume(condition=False)
        raise


@settings(derandomize=True, deadline=None, max_examples=150)
@given(EXPRESSIONS, MOMENTS)
def test_in_utc_it_fires_when_cronsim_says(text: str, moment: int) -> None:
    timetable = Timetable(accepted(text))
    simulated = CronSim(text, datetime.fromtimestamp(moment, UTC).replace(tzinfo=None))
    expected = [int((time - datetime(1970, 1, 1)).total_seconds()) * SECOND for time in islice(simulated, 5)]  # noqa: DTZ001
    assert [fire.at for fire in islice(timetable.iterate(moment * SECOND), 5)] == expected
    at = moment * SECOND
    for following in expected:
        assert timetable.next_after(at) == following
        at = following


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.text(max_size=30) | st.text(alphabet="0123456789*/-,#LW? JANMON", max_size=30))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        cron = Cron(text)
    except InvalidSchedule:
        return
    assert Timetable(cron).next_after(NEW_YEAR) is not None


@pytest.mark.parametrize(
    "text",
    [
        "0 0 29 2 1",
        "0 0 29 2 */1",
        "0 0 * 2 MON#5",
        "* * */20 * 1L",
        "59 59 23 31 12 *",
        "58,59 58,59 22,23 31 12 */7",
        ("*/1," * 200)[: LONGEST - 9].rstrip(",/*1") + ",1 * * * *",
        "* " * 5_000,
    ],
)
def test_no_expression_takes_long(text: str) -> None:
    # Processor time, since the machine may be busy; the worst of these takes 40 ms on an idle one.
    began = time.process_time()
    try:
        timetable = Timetable(Cron(text))
    except InvalidSchedule:
        pass
    else:
        timetable.next_after(NEW_YEAR)
        timetable.last_until(NEW_YEAR)
    assert time.process_time() - began < 1


def test_importing_later_does_not_import_cronsim() -> None:
    program = "import sys, later, later.core.timetables; print('cronsim' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_centuries_without_a_leap_day_and_the_last_year() -> None:
    after = int(datetime(2095, 1, 1, tzinfo=UTC).timestamp()) * SECOND
    years = [fire.wall.year for fire in Timetable(Cron("0 0 29 2 *")).iterate(after)]
    assert years == [year for year in range(2095, 2256) if isleap(year)]
