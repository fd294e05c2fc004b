"""`later jobs requeue` and `later jobs delete`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, assert_never

import click

from later import BackgroundJobs, JobQuery, UnknownJob, Verdict
from later.cli.options import app_option, json_option
from later.cli.output import clean, write, write_json
from later.cli.selection import query_of, selecting
from later.cli.target import opened

F = TypeVar("F", bound=Callable[..., Any])
AnyJobs: TypeAlias = BackgroundJobs[Any, Any]

BATCH: Final = 500
"""Jobs per call: few round trips, and none that holds the storage for long."""


class _Wish(NamedTuple):
    verb: str
    applied: str
    repeated: str


_REQUEUE: Final = _Wish("requeue", "requeued", "is Enqueued already")
_DELETE: Final = _Wish("delete", "deleted", "is Deleted already")


def _arguments(command: F) -> F:
    for option in (
        json_option,
        click.option("-y", "--yes", is_flag=True, help="Do not ask."),
        click.option("--all", "every", is_flag=True, help="All jobs that the conditions select, not named ones."),
        selecting,
        app_option,
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        command = option(command)
    return command


@click.command(short_help="Run jobs again.")
@_arguments
def requeue(**options: Any) -> None:
    """Run jobs again: those named, or all that are selected (--state Failed --all).

    Attempts and crashes start anew. Jobs that are Scheduled, Succeeded, Failed or Deleted can be requeued.
    """
    _repair(_REQUEUE, **options)


@click.command(short_help="Delete jobs, or ask those that run to stop.")
@_arguments
def delete(**options: Any) -> None:
    """Delete jobs: those named, or all that are selected (--state Failed --type send_email --all).

    A job that runs is asked to stop. A deleted job stays to be seen for a day, and can be requeued until then.
    """
    _repair(_DELETE, **options)


def _repair(
    wish: _Wish,
    *,
    app: str | None,
    ids: tuple[str, ...],
    states: tuple[str, ...],
    queues: tuple[str, ...],
    types: tuple[str, ...],
    parent: str | None,
    every: bool,
    yes: bool,
    as_json: bool,
) -> None:
    query = query_of(states, queues, types, parent, limit=BATCH)
    conditions = query != JobQuery(limit=BATCH)
    if every == bool(ids):
        raise click.UsageError("Name the jobs by their ids, or select them with conditions and --all.")
    if conditions != every:
        raise click.UsageError(
            "--all needs a condition, like --state Failed." if every else "Conditions go with --all, not with ids."
        )
    with opened(app) as jobs:
        chosen = list(dict.fromkeys(ids)) if ids else _select(jobs, query)
        if every and chosen and not yes:
            # The set is fixed here: what is agreed to is what happens, whatever ends or fails meanwhile.
            click.confirm(f"{wish.verb.capitalize()} {_count(len(chosen))}?", abort=True, err=True)
        outcomes: list[_Outcome] = []
        for start in range(0, len(chosen), BATCH):
            batch = _apply(wish, jobs, chosen[start : start + BATCH])
            outcomes += batch
            if not as_json:
                for outcome in batch:
                    write(f"{clean(outcome.id)}  {outcome.told}")
    if as_json:
        write_json({"jobs": [{"id": one.id, "verdict": one.verdict.value} for one in outcomes]})
    elif every:
        click.echo(_summary(wish, outcomes), err=True)
    if ids and not all(one.verdict in _DONE for one in outcomes):
        raise click.exceptions.Exit(1)


_DONE: Final = {Verdict.APPLIED, Verdict.REPEATED, Verdict.REQUESTED}


class _Outcome(NamedTuple):
    id: str
    verdict: Verdict
    told: str


def _select(jobs: AnyJobs, query: JobQuery) -> list[str]:
    ids: list[str] = []
    after: str | None = None
    while True:
        page = jobs.find(replace(query, after=after))
        ids += [job.id for job in page.jobs]
        after = page.next
        if after is None:
            return ids


def _apply(wish: _Wish, jobs: AnyJobs, ids: Sequence[str]) -> list[_Outcome]:
    ask = jobs.requeue if wish is _REQUEUE else jobs.delete
    try:
        verdicts = ask(*ids)
    except UnknownJob:
        verdicts = [Verdict.UNKNOWN] * len(ids)
    return [_Outcome(job, verdict, _told(wish, jobs, job, verdict)) for job, verdict in zip(ids, verdicts, strict=True)]


def _told(wish: _Wish, jobs: AnyJobs, job: str, verdict: Verdict) -> str:
    match verdict:
        case Verdict.APPLIED:
            return wish.applied
        case Verdict.REPEATED:
            return wish.repeated
        case Verdict.REQUESTED:
            return "is Processing; its worker was asked to stop it"
        case Verdict.UNKNOWN:
            return "does not exist"
        case Verdict.REFUSED | Verdict.FENCED:
            return f"not {wish.applied}: it is {_state(jobs, job)}"
    assert_never(verdict)


def _state(jobs: AnyJobs, job: str) -> str:
    try:
        return jobs.get(job).state.value
    except UnknownJob:
        return "gone"


def _summary(wish: _Wish, outcomes: Sequence[_Outcome]) -> str:
    if not outcomes:
        return "No jobs match."
    applied = sum(one.verdict in {Verdict.APPLIED, Verdict.REPEATED} for one in outcomes)
    asked = sum(one.verdict is Verdict.REQUESTED for one in outcomes)
    return f"{wish.applied.capitalize()} {applied} of {_count(len(outcomes))}" + (
        f", asked {asked} to stop." if asked else "."
    )


def _count(jobs: int) -> str:
    return "1 job" if jobs == 1 else f"{jobs} jobs"
