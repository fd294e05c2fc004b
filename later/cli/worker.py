"""`later worker`: run the jobs of an app."""

import re
from datetime import timedelta
from typing import Final, TypeAlias

import click

from later.cli.options import app_option
from later.cli.target import resolve

Queues: TypeAlias = list[str] | dict[str, int] | None

_WEIGHT: Final = re.compile(r"[1-9][0-9]{0,5}")


def parse_queues(_ctx: click.Context, _option: click.Parameter, value: str | None) -> Queues:
    """`a,b` (all of a before b) or `a=3,b=1` (three of a for one of b)."""
    if value is None:
        return None
    pairs = [part.strip().partition("=") for part in value.split(",")]
    names = [name for name, _, _ in pairs]
    if not all(names):
        raise click.BadParameter(f"{value!r} has an empty name")
    if len(set(names)) < len(names):
        raise click.BadParameter(f"{value!r} names a queue twice")
    if not any(equals for _, equals, _ in pairs):
        return names
    if not all(_WEIGHT.fullmatch(weight) for _, _, weight in pairs):
        raise click.BadParameter(f"{value!r}: give every queue a weight, a whole number of 1 or more, or give none")
    return {name: int(weight) for name, _, weight in pairs}


queues_option: Final = click.option(
    "--queues",
    callback=parse_queues,
    metavar="QUEUES",
    help="Queues to serve: high,low (all of high first) or high=3,low=1 (shares). All when left out.",
)


@click.command()
@click.argument("target", metavar="[APP]", required=False)
@app_option
@click.option(
    "--processes", type=click.IntRange(1, 512), default=1, show_default=True, help="Processes that run handlers."
)
@click.option(
    "--slots", type=click.IntRange(1, 1024), default=8, show_default=True, help="Jobs that each process runs at once."
)
@queues_option
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=25,
    show_default=True,
    metavar="SECONDS",
    help="How long jobs that run may go on after a signal to stop.",
)
@click.pass_context
def worker(
    ctx: click.Context,
    *,
    target: str | None,
    app: str | None,
    processes: int,
    slots: int,
    queues: Queues,
    grace: float,
) -> None:
    """Run the jobs of APP until a signal says stop.

    SIGTERM or Ctrl-C stops taking jobs and lets those that run finish within the grace; the rest is given back
    and runs elsewhere. A second signal gives it back at once.
    """
    if target and app:
        raise click.UsageError("Name the app once: as the argument or with -A.")
    from later.runtime import supervisor

    ctx.exit(
        supervisor.run(
            resolve(target or app),
            processes=processes,
            slots=slots,
            queues=queues,
            grace=timedelta(seconds=grace),
        )
    )
