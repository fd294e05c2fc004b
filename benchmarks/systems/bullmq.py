"""BullMQ on Node.js, which keeps done jobs unless told otherwise."""

from typing import Final

from benchmarks.installing import Node
from benchmarks.systems.system import System

SYSTEMS: Final = (
    System(
        name="bullmq",
        group="redis",
        environment=Node("bullmq", ("bullmq", "ioredis")),
        guarantees="a lock for each job, renewed by a timer in the worker: one that stalls runs twice; no history of "
        "states; no validation; AOF everysec",
        producer=("{bin}/node", "{peers}/bullmq_producer.js"),
        worker=("{bin}/node", "{peers}/bullmq_worker.js"),
        copies=True,
        jobs=60_000,
        recorded=("ZCARD", "bull:bench:completed"),
    ),
)
