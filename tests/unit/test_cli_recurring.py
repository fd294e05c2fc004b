"""`later recurring ...`"""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from later.core.lifecycle import Reschedule
from tests.support.shop import Shop, later_command, opened


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with opened(tmp_path, monkeypatch.chdir) as shop:
        yield shop


def put(shop: Shop, id: str = "nightly") -> None:
    payload = shop.email_payload("a@b.c")
    jitter = timedelta(minutes=5)
    shop.jobs.enqueue_recurring(id, payload, "30 2 * * *", zone="Europe/Berlin", misfire="all", jitter=jitter)


def test_a_listing_fits_a_narrow_terminal(shop: Shop) -> None:
    put(shop)
    shop.jobs.enqueue_recurring("often", shop.email_payload("x"), every=timedelta(hours=36))
    shop.jobs.recurring.trigger("often")
    shop.jobs.recurring.pause("often")
    shop.jobs.storage().reschedule([Reschedule("spoilt", 0, 0, b"?")])
    lines = shop.run("recurring", "list").stdout.splitlines()
    assert lines[0].split() == ["ID", "WHEN", "NEXT", "LAST", "STATE", "JOB", "TYPE"]
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:]] == ["nightly", "often", "spoilt"]
    assert "paused" in lines[2]
    assert "Enqueued" in lines[2]
    wide = shop.run("recurring", "list", columns=None).stdout.splitlines()
    assert "30 2 * * * Europe/Berlin" in wide[1]
    assert "every 1 day, 12:00:00" in wide[2]
    assert "put it anew, or remove it" in wide[3]


def test_none_at_all(shop: Shop) -> None:
    result = shop.run("recurring", "list")
    assert (result.stdout, result.stderr) == ("", "There are no recurring jobs.\n")
    assert json.loads(shop.run("recurring", "list", "--json").stdout) == {"recurring": [], "not_stored": []}


def test_as_json(shop: Shop) -> None:
    put(shop)
    job = json.loads(shop.run("recurring", "trigger", "nightly", "--json").stdout)["job"]
    [listed] = json.loads(shop.run("recurring", "list", "--json").stdout)["recurring"]
    shown = json.loads(shop.run("recurring", "show", "nightly", "--json").stdout)
    assert shown == listed
    assert (shown["id"], shown["cron"], shown["zone"], shown["jitter_seconds"]) == (
        "nightly",
        "30 2 * * *",
        "Europe/Berlin",
        300.0,
    )
    assert [(run["job"], run["manual"], run["state"]) for run in shown["runs"]] == [(job, True, "Enqueued")]
    assert shown["payload"] == {"address": "a@b.c"}


def test_all_about_one(shop: Shop) -> None:
    put(shop)
    job = shop.run("recurring", "trigger", "nightly").stdout.strip()
    said = shop.run("recurring", "show", "nightly").stdout
    assert max(map(len, said.splitlines())) <= 90
    for part in (
        "30 2 * * * Europe/Berlin",
        "send_email in queue default, priority 0",
        "all, 100 at most",
        "up to 0:05:00",
        "a call",
        '"address": "a@b.c"',
        f"{job}  Enqueued  by hand",
    ):
        assert part in said


def test_pause_resume_remove(shop: Shop) -> None:
    put(shop)
    assert shop.run("recurring", "pause", "nightly").stderr == "nightly is paused.\n"
    assert "paused" in shop.run("recurring", "show", "nightly").stdout
    shop.run("recurring", "resume", "nightly")
    assert not shop.jobs.recurring.get("nightly").paused
    assert shop.run("recurring", "remove", "nightly").stderr == "nightly is removed.\n"
    for command in ("show", "pause", "resume", "trigger", "remove", "next"):
        assert "no recurring job nightly" in shop.run("recurring", command, "nightly", code=1).stderr


def test_the_times_of_an_expression_need_no_app() -> None:
    given = ("recurring", "next", "0 30 2 * * *", "--tz", "Europe/Berlin", "--from", "2026-03-28", "-n", "3")
    assert later_command(*given).stdout.splitlines() == [
        "Sat 2026-03-28 02:30:00 +0100",
        "Sun 2026-03-29 03:00:00 +0200  shifted from 02:30, which does not exist that day",
        "Mon 2026-03-30 02:30:00 +0200",
    ]
    times = json.loads(later_command(*given, "--json").stdout)["times"]
    assert times[0] == {"at": "2026-03-28T02:30:00+01:00", "note": ""}
    assert len(later_command("recurring", "next", "@daily").stdout.splitlines()) == 5


def test_the_first_time_may_be_that_of_from() -> None:
    given = ("recurring", "next", "0 0 * * *", "--from", "2026-01-01T00:00:00+00:00", "-n", "1")
    assert later_command(*given).stdout == "Thu 2026-01-01 00:00:00 +0000\n"


def test_the_times_of_a_recurring_job(shop: Shop) -> None:
    put(shop)
    assert len(shop.run("recurring", "next", "nightly", "-n", "3").stdout.splitlines()) == 3
    assert "go with a cron expression" in shop.run("recurring", "next", "nightly", "--tz", "UTC", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("0 0 30 2 *",), 1, "never fires"),
        (("0 0 * * *", "--tz", "Berlin"), 1, "did you mean 'Europe/Berlin'"),
        (("0 0 * * *", "--tz", ""), 1, "zone ''"),
        (("nightly", "--tz", ""), 2, "go with a cron expression"),
        (("0 0 * * *", "--from", "soon"), 2, "is not a time like"),
        (("0 0 * * *", "-n", "501"), 2, "501"),
    ],
)
def test_what_cannot_be_foretold(arguments: tuple[str, ...], code: int, told: str) -> None:
    assert told in later_command("recurring", "next", *arguments, code=code).stderr
