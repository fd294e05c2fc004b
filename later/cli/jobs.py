"""`later jobs`: look at jobs and repair them."""

from datetime import UTC, datetime

import click

from later.cli.options import app_option, json_option
from later.cli.output import write_json
from later.cli.repair import delete, requeue
from later.cli.selection import query_of, selecting
from later.cli.target import opened
from later.cli.views import document, summary, write_job, write_list


@click.group()
def jobs() -> None:
    """List, show, requeue and delete jobs."""


@jobs.command("list")
@app_option
@selecting
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Jobs on a page.")
@click.option("--after", metavar="CURSOR", help="The page after the one that gave this cursor.")
@json_option
def list_(
    *,
    app: str | None,
    states: tuple[str, ...],
    queues: tuple[str, ...],
    types: tuple[str, ...],
    parent: str | None,
    limit: int,
    after: str | None,
    as_json: bool,
) -> None:
    """List jobs, the newest change of state first.

    The conditions hold together; of a repeated one, any. With --json: {"jobs": [...], "next": cursor or null}.
    """
    with opened(app) as app_jobs:
        page = app_jobs.find(query_of(states, queues, types, parent, limit=limit, after=after))
    if as_json:
        write_json({"jobs": [summary(job) for job in page.jobs], "next": page.next})
        return
    if not page.jobs:
        click.echo("No jobs match." if states or queues or types or parent or after else "There are no jobs.", err=True)
        return
    write_list(page.jobs, datetime.now(UTC))
    if page.next:
        click.echo(f"There are more: --after {page.next}", err=True)


@jobs.command(short_help="Show all about one job.")
@app_option
@click.argument("job_id", metavar="ID")
@json_option
def show(*, app: str | None, job_id: str, as_json: bool) -> None:
    """Show one job: its history, payload, result, continuations and last error."""
    with opened(app) as app_jobs:
        job = app_jobs.get(job_id)
    if as_json:
        write_json(document(job))
    else:
        write_job(job, datetime.now(UTC))


jobs.add_command(requeue)
jobs.add_command(delete)
