"""Bare loops: what the protocol's round trips cost in Python with no system around them. An upper mark."""

from typing import Final

from benchmarks.installing import Own
from benchmarks.systems.system import Group, System


def _bare(group: Group, module: str, jobs: int, guarantees: str) -> System:
    return System(
        name=f"bare:{group}",
        group=group,
        environment=Own(),
        guarantees=f"no system, only the round trips: {guarantees}; no errors, retries, leases or upkeep",
        producer=("{python}", "-m", f"benchmarks.bare.{module}", "produce"),
        worker=("{python}", "-m", f"benchmarks.bare.{module}", "work"),
        copies=True,
        jobs=jobs,
        bare=True,
    )


SYSTEMS: Final = (
    _bare("redis", "on_redis", 100_000, "finish and the next claim in one script"),
    _bare(
        "rabbitmq+redis",
        "on_rabbitmq",
        60_000,
        "one message a job, claimed by reference; finish and claim in one script",
    ),
    _bare("postgres", "on_postgres", 60_000, "finish and the next claim in one pipeline"),
    _bare("sqlite", "on_sqlite", 40_000, "finish and the next claim in one transaction, synchronous=FULL"),
)
