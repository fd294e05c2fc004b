"""Dramatiq."""

from typing import Final

from benchmarks.installing import Pinned
from benchmarks.systems.system import System

_ENVIRONMENT: Final = Pinned("dramatiq", ("dramatiq", "pika", "redis"))
_LACKS: Final = "a job that is not acknowledged runs again; no history, no validation"


def _dramatiq(variant: str, guarantees: str, servers: tuple[str, ...], **variables: str) -> System:
    return System(
        name=f"dramatiq:{variant}",
        group="rabbitmq+redis",
        environment=_ENVIRONMENT,
        guarantees=f"{guarantees}; {_LACKS}",
        producer=("{python}", "-m", "benchmarks.peers.dramatiq"),
        worker=("{bin}/dramatiq", "benchmarks.peers.dramatiq", "-p", "{processes}", "-t", "8"),
        servers=servers,
        variables=variables,
        bulk=False,
        jobs=20_000,
        recorded=("DBSIZE",) if "redis" in servers else (),
    )


SYSTEMS: Final = (
    _dramatiq(
        "results",
        "confirms; results in Redis for 10 minutes, stored before the acknowledgement",
        ("rabbitmq", "redis"),
        BENCH_CONFIRM="yes",
        BENCH_RESULTS="yes",
    ),
    _dramatiq("confirms", "confirms; no results", ("rabbitmq",), BENCH_CONFIRM="yes"),
    _dramatiq("unconfirmed", "what RabbitMQ did not take is lost unnoticed; no results", ("rabbitmq",)),
)
