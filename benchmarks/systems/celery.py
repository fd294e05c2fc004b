"""Celery, with late acknowledgement and results in Redis."""

from typing import Final

from benchmarks.installing import Pinned
from benchmarks.systems.system import Group, System


def _celery(variant: str, group: Group, guarantees: str) -> System:
    return System(
        name=f"celery:{variant}",
        group=group,
        environment=Pinned("celery", ("celery", "kombu", "redis")),
        guarantees=f"{guarantees}; results for a day; no history, no validation",
        producer=("{python}", "-m", "benchmarks.peers.celery"),
        worker=(
            *("{bin}/celery", "-A", "benchmarks.peers.celery", "worker", "-c", "{processes}", "-P", "prefork"),
            *("-l", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"),
        ),
        bulk=False,
        jobs=6_000,
        recorded=("KEYS", "celery-task-meta-*"),
    )


SYSTEMS: Final = (
    _celery("rabbitmq", "rabbitmq+redis", "enqueue does not wait for RabbitMQ's confirmation; late acknowledgement"),
    _celery("redis", "redis", "late acknowledgement; a job of a dead worker returns after an hour; AOF everysec"),
)
