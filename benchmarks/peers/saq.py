"""The job in SAQ."""

import os

from saq import Queue

from benchmarks.ledger import report
from benchmarks.producer import AsyncProducer

queue = Queue.from_url(os.environ.get("BENCH_POSTGRES") or os.environ["BENCH_REDIS"], name="bench")


async def job(_context, *, number, sent, body):
    report(number, sent)


settings = {"queue": queue, "functions": [job], "concurrency": 100, "dequeue_timeout": 1}

if __name__ == "__main__":
    AsyncProducer(send=lambda one: queue.enqueue("job", **one), connect=queue.connect).serve()
