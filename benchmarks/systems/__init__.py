"""What is measured: one module for each system, which says how to start it and what it does not guarantee.

The programs themselves run in environments of their own: those of peers are in `benchmarks/peers`.
"""

from benchmarks.systems import (
    arq,
    bare,
    bullmq,
    celery,
    dbos,
    dramatiq,
    huey,
    later,
    pgqueuer,
    procrastinate,
    rq,
    saq,
    sidekiq,
    taskiq,
)
from benchmarks.systems.system import System

SYSTEMS: tuple[System, ...] = (
    *later.SYSTEMS,
    *bare.SYSTEMS,
    *sidekiq.SYSTEMS,
    *bullmq.SYSTEMS,
    *dramatiq.SYSTEMS,
    *celery.SYSTEMS,
    *taskiq.SYSTEMS,
    *huey.SYSTEMS,
    *rq.SYSTEMS,
    *saq.SYSTEMS,
    *arq.SYSTEMS,
    *pgqueuer.SYSTEMS,
    *procrastinate.SYSTEMS,
    *dbos.SYSTEMS,
)
"""In the order of the page."""


def chosen(only: str) -> list[System]:
    """The systems that the words of `only` name: one by its whole name, or all of a family (`dramatiq`). All, without
    a word. Raises LookupError."""
    words = only.split()
    unknown = [word for word in words if not any(_named(system, word) for system in SYSTEMS)]
    if unknown:
        known = " ".join(system.name for system in SYSTEMS)
        raise LookupError(f"unknown: {' '.join(unknown)}. Known are: {known}")
    return [system for system in SYSTEMS if not words or any(_named(system, word) for word in words)]


def _named(system: System, word: str) -> bool:
    return word in {system.name, system.name.partition(":")[0]}
