"""`later jobs list` and `later jobs show`."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import ANY

import pytest

from later.core.lifecycle import Cause
from tests.support.shop import Shop, opened


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with opened(tmp_path, monkeypatch.chdir) as shop:
        yield shop


def ids(output: str) -> list[str]:
    return [line.split()[0] for line in output.splitlines()[1:]]


def test_a_listing_has_one_line_for_each_job_newest_first(shop: Shop) -> None:
    first, second = shop.email(), shop.account()

    lines = shop.run("jobs", "list").stdout.splitlines()

    assert lines[0].split() == ["ID", "STATE", "TYPE", "QUEUE", "CHANGED"]
    assert [word.partition("…")[0] for word in lines[1].split()[:4]] == [second, "Enqueued", ANY, "accounts"]
    assert "create_account".startswith(lines[1].split()[2].rstrip("…"))
    assert lines[2].split()[:4] == [first, "Enqueued", "send_email", "default"]
    assert max(map(len, lines)) <= 80


def test_a_pipe_gets_every_column_uncut(shop: Shop) -> None:
    shop.account()
    job = shop.fail("ValueError: " + "x" * 100)

    (_, line) = shop.run("jobs", "list", columns=None).stdout.splitlines()

    assert line.split()[:4] == [job, "Failed", "create_account", "accounts"]
    assert line.endswith(" 1  ValueError: " + "x" * 100)


def test_conditions_hold_together_and_repeated_ones_are_alternatives(shop: Shop) -> None:
    email, account = shop.email(), shop.account()
    failed = shop.fail()
    assert failed == account

    assert ids(shop.run("jobs", "list", "--state", "failed").stdout) == [account]
    assert ids(shop.run("jobs", "list", "--state", "Failed", "--state", "ENQUEUED").stdout) == [account, email]
    assert ids(shop.run("jobs", "list", "--type", "send_email", "--queue", "default").stdout) == [email]
    assert shop.run("jobs", "list", "--type", "send_email", "--queue", "accounts").stdout == ""


def test_children_are_listed_by_their_parent(shop: Shop) -> None:
    parent = shop.email()
    child = shop.child_of(parent)

    assert ids(shop.run("jobs", "list", "--parent", parent).stdout) == [child]


def test_a_listing_that_goes_on_says_how(shop: Shop) -> None:
    all_of_them = [shop.email() for _ in range(5)][::-1]

    result = shop.run("jobs", "list", "--limit", "3")
    hint, _, cursor = result.stderr.strip().rpartition(" ")
    rest = shop.run("jobs", "list", "--limit", "3", "--after", cursor)

    assert hint == "There are more: --after"
    assert ids(result.stdout) + ids(rest.stdout) == all_of_them
    assert rest.stderr == ""


def test_a_listing_as_json(shop: Shop) -> None:
    shop.email()
    last = shop.email("x@y.z", priority=5)

    document = json.loads(shop.run("jobs", "list", "--limit", "1", "--json").stdout)

    (job,) = document["jobs"]
    assert set(document) == {"jobs", "next"}
    assert document["next"]
    assert {key: job[key] for key in ("id", "type", "queue", "priority", "state", "parent", "on", "run_at")} == {
        "id": last,
        "type": "send_email",
        "queue": "default",
        "priority": 5,
        "state": "Enqueued",
        "parent": None,
        "on": None,
        "run_at": None,
    }
    assert datetime.fromisoformat(job["created_at"]).utcoffset() == timedelta(0)
    assert json.loads(shop.run("jobs", "list", "--state", "failed", "--json").stdout) == {"jobs": [], "next": None}


def test_an_empty_listing_says_so_beside_the_output(shop: Shop) -> None:
    assert (shop.run("jobs", "list").stdout, shop.run("jobs", "list").stderr) == ("", "There are no jobs.\n")
    assert shop.run("jobs", "list", "--state", "failed").stderr == "No jobs match.\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--after", "nonsense"), 1, "Error: the cursor is not one that a page gave"),
        (("--limit", "0"), 2, "1<=x<=1000"),
        (("--limit", "1001"), 2, "1<=x<=1000"),
        (("--state", "done"), 2, "'done' is not one of"),
    ],
)
def test_wrong_arguments_are_told(shop: Shop, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert said in shop.run("jobs", "list", *arguments, code=code).stderr


def test_a_job_is_shown_with_history_result_and_continuations(shop: Shop) -> None:
    parent = shop.email("someone@b.c")
    child = shop.child_of(parent)
    shop.end(Cause.SUCCEED, result=b'{"to": "someone@b.c"}')

    text = shop.run("jobs", "show", parent).stdout
    lines = text.splitlines()

    assert lines[0].split() == ["id", parent]
    assert lines[2].startswith("state       Succeeded since ")
    assert '"address": "someone@b.c"' in text.partition("Payload")[2].partition("Result")[0]
    assert '"to": "someone@b.c"' in text.partition("Result")[2].partition("History")[0]
    history = lines[lines.index("History") + 1 :]
    assert [line.split()[2] for line in history[:3]] == ["Enqueued", "Processing", "Succeeded"]
    assert text.endswith(f"Continuations (1)\n  {child}\n")
    assert max(map(len, lines)) <= 80
    assert f"{parent}, runs on succeeded" in shop.run("jobs", "show", child).stdout


def test_a_failed_job_is_shown_with_its_traceback(shop: Shop) -> None:
    shop.account()
    job = shop.fail("ValueError: no account today", "Traceback:\n  deep\nValueError: no account today")

    text = shop.run("jobs", "show", job).stdout

    assert "reason      ValueError: no account today" in text
    assert text.endswith("Last error\n  Traceback:\n    deep\n  ValueError: no account today\n")


def test_a_scheduled_job_is_shown_with_its_time(shop: Shop) -> None:
    job = shop.delayed(timedelta(hours=5, minutes=1))

    assert "(in 5 h)" in shop.run("jobs", "show", job).stdout


def test_a_job_whose_cancel_was_asked_for_says_so(shop: Shop) -> None:
    job = shop.email()
    shop.claim()
    shop.jobs.delete(job)

    lines = shop.run("jobs", "show", job).stdout.splitlines()
    assert ["cancel", "asked", "for;"] in [line.split()[:3] for line in lines]


def test_a_job_as_json(shop: Shop) -> None:
    shop.account("9")
    job = shop.fail()

    document = json.loads(shop.run("jobs", "show", job, "--json").stdout)

    assert document["id"] == job
    assert document["payload"] == {"id": "9"}
    assert document["result"] is None
    assert document["unreadable"] == []
    assert [entry["state"] for entry in document["history"]] == ["Enqueued", "Processing", "Failed"]
    assert document["history"][1]["server"] == "server-1"
    assert document["error"] == document["history"][-1]["error"]
    assert document["error"]["type"] == "ValueError"
    assert datetime.fromisoformat(document["history"][0]["at"]) <= datetime.now(UTC)
    listed = json.loads(shop.run("jobs", "list", "--json").stdout)["jobs"][0]
    assert set(listed) < set(document)


def test_damaged_data_does_not_hide_the_job(shop: Shop) -> None:
    job = shop.email()
    shop.end(Cause.SUCCEED, result=b"{not json")

    text = shop.run("jobs", "show", job).stdout
    document = json.loads(shop.run("jobs", "show", job, "--json").stdout)

    assert "Succeeded" in text
    assert "(" in text.partition("Result")[2].partition("History")[0]
    assert (document["result"], document["unreadable"]) == (None, ["result"])


def test_an_unknown_job_is_an_error_of_one_line(shop: Shop) -> None:
    result = shop.run("jobs", "show", "nobody", code=1)

    assert result.stdout == ""
    assert result.stderr.startswith("Error: there is no job nobody")
    assert result.stderr.count("\n") == 1


def test_what_a_job_says_cannot_command_the_terminal(shop: Shop) -> None:
    shop.account("\x1b]0;title\x07\u202e")
    job = shop.fail("Bad: \x1b[2Jgone\r\u009b5n\nsecond", "Trace\x1b[31m\n\u202eback\x00")

    shown = shop.run("jobs", "show", job).stdout
    listed = shop.run("jobs", "list", columns=None).stdout
    document = shop.run("jobs", "show", job, "--json").stdout

    for output in (shown, listed, document):
        assert not set(output) & set("\x1b\x07\u202e\r\u009b\x00")
    assert r"Bad: \x1b[2Jgone \x9b5n second" in listed
    assert len(listed.splitlines()) == 2
    assert json.loads(document)["reason"] == "Bad: \x1b[2Jgone\r\u009b5n\nsecond"
