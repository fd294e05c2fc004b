"""arq."""

from typing import Final

from benchmarks.installing import Pinned
from benchmarks.systems.system import System

SYSTEMS: Final = (
    System(
        name="arq",
        group="redis",
        environment=Pinned("arq", ("arq", "redis")),
        guarantees="at least once; results for an hour; pickles; finds jobs by polling, here each 50 ms; no history, "
        "no validation; AOF everysec",
        producer=("{python}", "-m", "benchmarks.peers.arq"),
        worker=("{bin}/arq", "benchmarks.peers.arq.WorkerSettings"),
        copies=True,
        bulk=False,
        jobs=4_000,
        recorded=("KEYS", "arq:result:*"),
    ),
)
