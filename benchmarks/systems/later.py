"""`later` itself, with the default settings of each backend."""

from typing import Final

from benchmarks.installing import Own
from benchmarks.systems.system import Group, System

_GUARANTEES: Final = "all: durable when enqueued, fenced claims, at least once, history and results kept"
_VERBS: Final = frozenset({"threads", "coroutines", "steady", "succeeded"})


def _later(group: Group, jobs: int, guarantees: str = _GUARANTEES) -> System:
    return System(
        name=f"later:{group}",
        group=group,
        environment=Own(),
        guarantees=guarantees,
        producer=("{python}", "-m", "benchmarks.later_app"),
        worker=("{bin}/later", "worker", "benchmarks.later_app:jobs", "--processes", "{processes}"),
        jobs=jobs,
        verbs=_VERBS | {"settle"} if group.startswith("rabbitmq") else _VERBS,
    )


_REDIS: Final = f"{_GUARANTEES}; of a machine that dies Redis may lose the last second (AOF everysec)"

SYSTEMS: Final = (
    _later("redis", 60_000, _REDIS),
    _later("rabbitmq+redis", 40_000, _REDIS),
    _later("postgres", 60_000),
    _later("rabbitmq+postgres", 40_000),
    _later("sqlite", 30_000),
)
