"""`later jobs requeue` and `later jobs delete`."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from later import State
from later.core.lifecycle import Cause
from tests.support.shop import Shop, opened


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with opened(tmp_path, monkeypatch.chdir) as shop:
        yield shop


def states(shop: Shop, *jobs: str) -> list[State]:
    return [shop.jobs.get(job).state for job in jobs]


def test_named_jobs_are_requeued_each_with_its_answer(shop: Shop) -> None:
    shop.account()
    failed = shop.fail()
    enqueued, waiting = shop.email(), shop.delayed(timedelta(hours=1))
    awaiting = shop.child_of(waiting)

    result = shop.run("jobs", "requeue", failed, enqueued, waiting, awaiting, "nobody", failed, code=1)

    assert result.stdout.splitlines() == [
        f"{failed}  requeued",
        f"{enqueued}  is Enqueued already",
        f"{waiting}  requeued",
        f"{awaiting}  not requeued: it is Awaiting",
        "nobody  does not exist",
    ]
    assert states(shop, failed, waiting, awaiting) == [State.ENQUEUED, State.ENQUEUED, State.AWAITING]


def test_named_jobs_are_deleted_each_with_its_answer(shop: Shop) -> None:
    done = shop.email()
    shop.end(Cause.SUCCEED)
    running = shop.email()
    shop.claim()
    enqueued = shop.email()

    result = shop.run("jobs", "delete", done, running, enqueued, code=1)

    assert result.stdout.splitlines() == [
        f"{done}  not deleted: it is Succeeded",
        f"{running}  is Processing; its worker was asked to stop it",
        f"{enqueued}  deleted",
    ]
    assert shop.run("jobs", "delete", running, enqueued).stdout.splitlines()[1] == f"{enqueued}  is Deleted already"


def test_the_only_named_job_is_unknown(shop: Shop) -> None:
    assert shop.run("jobs", "delete", "nobody", code=1).stdout == "nobody  does not exist\n"


def test_all_that_match_are_requeued_once_agreed_to(shop: Shop) -> None:
    shop.account("1"), shop.account("2")
    failed = [shop.fail(), shop.fail()]
    other = shop.email()
    shop.end(Cause.FAIL)

    result = shop.run("jobs", "requeue", "--state", "failed", "--type", "create_account", "--all", typed="y\n")

    assert "Requeue 2 jobs? [y/N]:" in result.stderr
    assert "Requeued 2 of 2 jobs." in result.stderr
    assert sorted(line.split()[0] for line in result.stdout.splitlines()) == sorted(failed)
    assert states(shop, *failed, other) == [State.ENQUEUED, State.ENQUEUED, State.FAILED]


@pytest.mark.parametrize("typed", ["n\n", "\n", ""])
def test_nothing_happens_without_a_yes(shop: Shop, typed: str) -> None:
    job = shop.email()

    result = shop.run("jobs", "delete", "--state", "Enqueued", "--all", typed=typed, code=1)

    assert (result.stdout, states(shop, job)) == ("", [State.ENQUEUED])


def test_many_jobs_are_deleted_unasked_with_yes(shop: Shop) -> None:
    shop.jobs.enqueue_many([shop._module.SendEmail(address=f"{n}@b.c") for n in range(1201)])

    result = shop.run("jobs", "delete", "--queue", "default", "--all", "--yes")

    assert len(result.stdout.splitlines()) == 1201
    assert result.stderr == "Deleted 1201 of 1201 jobs.\n"
    assert shop.jobs.counts().by_queue == {"default": {State.DELETED: 1201}}


def test_jobs_that_run_are_counted_as_asked(shop: Shop) -> None:
    shop.email()
    shop.claim()

    result = shop.run("jobs", "delete", "--queue", "default", "--all", "-y")

    assert result.stderr == "Deleted 0 of 1 job, asked 1 to stop.\n"


def test_no_match_asks_nothing(shop: Shop) -> None:
    result = shop.run("jobs", "delete", "--state", "Failed", "--all")

    assert (result.stdout, result.stderr) == ("", "No jobs match.\n")


def test_the_answers_as_json(shop: Shop) -> None:
    job = shop.email()

    document = json.loads(shop.run("jobs", "delete", job, "nobody", "--json", code=1).stdout)

    assert document == {"jobs": [{"id": job, "verdict": "applied"}, {"id": "nobody", "verdict": "unknown"}]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Name the jobs by their ids, or select them"),
        (("--all",), "--all needs a condition"),
        (("--state", "Failed"), "Name the jobs by their ids, or select them"),
        (("--state", "Failed", "an-id"), "Conditions go with --all"),
        (("--state", "Failed", "--all", "an-id"), "Name the jobs by their ids, or select them"),
    ],
)
@pytest.mark.parametrize("command", ["requeue", "delete"])
def test_ids_and_conditions_do_not_mix(shop: Shop, command: str, arguments: tuple[str, ...], said: str) -> None:
    assert said in shop.run("jobs", command, *arguments, code=2).stderr


def test_an_id_that_is_none_changes_nothing(shop: Shop) -> None:
    job = shop.email()

    assert "is not a name" in shop.run("jobs", "delete", job, "no id", code=1).stderr
    assert states(shop, job) == [State.ENQUEUED]
