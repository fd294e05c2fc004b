"""Taskiq on a Redis stream."""

from typing import Final

from benchmarks.installing import Pinned
from benchmarks.systems.system import System

SYSTEMS: Final = (
    System(
        name="taskiq",
        group="redis",
        environment=Pinned("taskiq", ("taskiq", "taskiq-redis", "redis")),
        guarantees="acknowledged after the run; results kept; no history; parameters are validated; AOF everysec",
        producer=("{python}", "-m", "benchmarks.peers.taskiq"),
        worker=(
            *("{bin}/taskiq", "worker", "benchmarks.peers.taskiq:broker", "-w", "{processes}"),
            *("--log-level", "ERROR", "--max-async-tasks", "100"),
        ),
        bulk=False,
        jobs=15_000,
        recorded=("KEYS", "?" * 32),
    ),
)
