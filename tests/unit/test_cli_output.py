"""What the commands write, piece by piece."""

import unicodedata
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from later.cli.output import Column, age, block, clean, iso, line, table

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("grüße 日本 👍", "grüße 日本 👍"),
        ("👩\u200d👩 נ\u200cנ", "👩\u200d👩 נ\u200cנ"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\tc\r\x00", r"a\nb\tc\r\x00"),
        ("\u202eabc\u2066", r"\u202eabc\u2066"),
        ("\u009b2J\x7f", r"\x9b2J\x7f"),
        ("\u2028\ud800\ue000", r"\u2028\ud800\ue000"),
    ],
)
def test_clean_makes_visible_what_a_terminal_could_obey(text: str, shown: str) -> None:
    assert clean(text) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_cleaned_controls_anything(text: str) -> None:
    assert {unicodedata.category(mark) for mark in clean(text)} & {"Cc", "Cs", "Zl", "Zp"} == set()
    assert {mark for mark in clean(text) if unicodedata.category(mark) == "Cf"} <= {"\u200c", "\u200d"}
    assert "\n" not in line(text)
    assert len(line(text, 50)) <= 50


def test_a_line_is_folded_and_cut() -> None:
    assert line("a\n  b\t c") == "a b c"
    assert line("x" * 300) == "x" * 199 + "…"


def test_a_block_keeps_its_lines() -> None:
    assert block("a\n\tb\x1b\n") == "  a\n      b\\x1b"


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        (timedelta(0), "now"),
        (timedelta(milliseconds=-900), "now"),
        (timedelta(seconds=59, milliseconds=999), "59 s ago"),
        (timedelta(seconds=90), "1 min ago"),
        (timedelta(minutes=119), "119 min ago"),
        (timedelta(hours=2), "2 h ago"),
        (timedelta(hours=47), "47 h ago"),
        (timedelta(days=2), "2 d ago"),
        (timedelta(days=-400), "in 400 d"),
        (timedelta(minutes=-3), "in 3 min"),
    ],
)
def test_ages(passed: timedelta, said: str) -> None:
    assert age(NOW - passed, NOW) == said


def test_times_for_programs_are_utc_and_of_one_length() -> None:
    east = datetime.fromisoformat("2026-03-01T14:00:00+02:00")

    assert iso(east) == "2026-03-01T12:00:00.000000+00:00"
    assert iso(None) is None


def test_a_table_cuts_what_may_be_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "30")

    table([Column("ID"), Column("NAME", shrinks=True), Column("N", right=True)], [["0123456789", "日本語" * 5, "7"]])

    assert capsys.readouterr().out.splitlines() == [
        "ID          NAME             N",
        "0123456789  日本語日本語日…  7",
    ]


def test_an_id_is_never_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "20")

    table([Column("ID"), Column("NAME", shrinks=True)], [["i" * 30, "n" * 30]])

    assert capsys.readouterr().out.splitlines()[1] == "i" * 30 + "  " + "n" * 7 + "…"
