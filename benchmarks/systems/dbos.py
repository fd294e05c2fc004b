"""DBOS: workflows on a queue in Postgres."""

from typing import Final

from benchmarks.installing import Pinned
from benchmarks.systems.system import System

SYSTEMS: Final = (
    System(
        name="dbos",
        group="postgres",
        environment=Pinned("dbos", ("dbos", "psycopg")),
        guarantees="workflows, results kept; those of a dead process wait until that process starts again; polls each "
        "second, its default; no validation",
        producer=("{python}", "-m", "benchmarks.peers.dbos", "produce"),
        worker=("{python}", "-m", "benchmarks.peers.dbos", "work", "{number}"),
        copies=True,
        bulk=False,
        jobs=3_000,
        recorded=("SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'",),
    ),
)
