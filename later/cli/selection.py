"""Which jobs a command is about: the options that select them, and the query that they make."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from later import JobQuery, State

F = TypeVar("F", bound=Callable[..., Any])

_STATES: Final = click.Choice([state.value for state in State], case_sensitive=False)


def selecting(command: F) -> F:
    """Give a command the options that `query_of` reads."""
    for option in (
        click.option("--parent", metavar="ID", help="Continuations of this job."),
        click.option("--type", "types", multiple=True, metavar="NAME", help="Of this job type; may be repeated."),
        click.option("--queue", "queues", multiple=True, metavar="NAME", help="In this queue; may be repeated."),
        click.option("--state", "states", multiple=True, type=_STATES, help="In this state; may be repeated."),
    ):
        command = option(command)
    return command


def query_of(
    states: tuple[str, ...],
    queues: tuple[str, ...],
    types: tuple[str, ...],
    parent: str | None,
    *,
    limit: int,
    after: str | None = None,
) -> JobQuery:
    return JobQuery(
        states=frozenset(State(state) for state in states),
        queues=frozenset(queues),
        types=frozenset(types),
        parent=parent,
        limit=limit,
        after=after,
    )
