"""pgqueuer, tuned as its guide says: 100 jobs a fetch, a connection pool, autovacuum settings, uvloop."""

from typing import Final

from benchmarks.installing import Pinned
from benchmarks.systems.system import System

SYSTEMS: Final = (
    System(
        name="pgqueuer",
        group="postgres",
        environment=Pinned("pgqueuer", ("pgqueuer", "asyncpg", "uvloop")),
        guarantees="done jobs are logged; a heartbeat for each job; no results, no validation",
        producer=("{python}", "-m", "benchmarks.peers.pgqueuer", "produce"),
        worker=("{python}", "-m", "benchmarks.peers.pgqueuer", "work"),
        copies=True,
        jobs=50_000,
        recorded=("SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'",),
    ),
)
