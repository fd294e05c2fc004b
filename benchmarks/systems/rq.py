"""RQ with its worker that does not fork for each job."""

from typing import Final

from benchmarks.installing import Pinned
from benchmarks.systems.system import System

SYSTEMS: Final = (
    System(
        name="rq",
        group="redis",
        environment=Pinned("rq", ("rq", "redis")),
        guarantees="results for 500 s; SimpleWorker: a job that crashes takes the worker along; pickles; no history, "
        "no validation; AOF everysec",
        producer=("{python}", "-m", "benchmarks.peers.rq", "produce"),
        worker=(*("{python}", "-m", "benchmarks.peers.rq", "work"),),
        copies=True,
        jobs=4_000,
        recorded=("ZCARD", "rq:finished:bench"),
    ),
)
