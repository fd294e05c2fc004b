"""Huey with worker processes."""

from typing import Final

from benchmarks.installing import Pinned
from benchmarks.systems.system import Group, System


def _huey(group: Group, guarantees: str) -> System:
    return System(
        name=f"huey:{group}",
        group=group,
        environment=Pinned("huey", ("huey", "redis")),
        guarantees=f"a job is removed when it is taken: lost if its worker dies; {guarantees}; results kept; "
        "no history, no validation",
        producer=("{python}", "-c", "from benchmarks.peers import huey; huey.produce()"),
        worker=("{bin}/huey_consumer", "benchmarks.peers.huey.huey", "-w", "{processes}", "-k", "process", "-q"),
        variables={"BENCH_HUEY": group},
        bulk=False,
        jobs=20_000,
        recorded=("HLEN", "huey.results.bench") if group == "redis" else (),
    )


SYSTEMS: Final = (
    _huey("redis", "AOF everysec"),
    _huey("sqlite", "no fsync when enqueued or done; finds jobs by polling"),
)
