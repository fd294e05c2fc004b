"""`System`: how to start one and what is known of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from benchmarks.installing import Environment

Group: TypeAlias = Literal["redis", "rabbitmq+redis", "postgres", "rabbitmq+postgres", "sqlite"]
"""Systems of one group are compared with each other."""


@dataclass(frozen=True)
class System:
    """
    guarantees: what it does not guarantee, or only otherwise than `later`; shown beside its figures.
    servers: which ones it needs; without it, those that the group names.
    producer, worker: command lines. `{python}` is the interpreter of its environment, `{bin}` the folder of its
        programs, `{peers}` the folder of programs in other languages, `{processes}` the number of worker processes.
    copies: the worker's command starts one process, so it is started several times.
    variables: environment variables for both.
    jobs: a backlog that takes a few seconds to drain.
    bulk: it has a call to enqueue many jobs.
    processes: worker processes; less than 2 where more need another tool.
    verbs: what more its producer can do, of those in `benchmarks.producer`.
    recorded: what to ask the server for the number of jobs that are recorded as done, see `benchmarks.recorded`; empty
        where nothing tells.
    repeats: it runs a few jobs again though nothing goes wrong, which "at least once" allows; told, and no failure.
    bare: a bare loop, of which only rates are wanted.
    """

    name: str
    group: Group
    environment: Environment
    guarantees: str
    producer: tuple[str, ...]
    worker: tuple[str, ...]
    jobs: int
    servers: tuple[str, ...] | None = None
    bulk: bool = True
    copies: bool = False
    processes: int = 2
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    verbs: frozenset[str] = frozenset()
    recorded: tuple[str, ...] = ()
    repeats: bool = False
    bare: bool = False

    def needs(self) -> tuple[str, ...]:
        """The kinds of servers."""
        if self.servers is not None:
            return self.servers
        return tuple(part for part in self.group.split("+") if part != "sqlite")
