"""Procrastinate."""

from typing import Final

from benchmarks.installing import Pinned
from benchmarks.systems.system import System

SYSTEMS: Final = (
    System(
        name="procrastinate",
        group="postgres",
        environment=Pinned("procrastinate", ("procrastinate", "psycopg")),
        guarantees="done jobs and their events kept; a job of a dead worker waits for a task of yours to retry it; no "
        "results, no validation",
        producer=("{python}", "-m", "benchmarks.peers.procrastinate"),
        worker=(
            "{bin}/procrastinate",
            "-a",
            "benchmarks.peers.procrastinate.app",
            "worker",
            "-q",
            "bench",
            "-c",
            "100",
        ),
        copies=True,
        jobs=3_000,
        recorded=("SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'",),
    ),
)
