"""The job in arq."""

import os

from arq import create_pool
from arq.connections import RedisSettings

from benchmarks.ledger import report
from benchmarks.producer import AsyncProducer


async def job(_context, number, sent, body):
    report(number, sent)


class WorkerSettings:
    functions = (job,)
    redis_settings = RedisSettings.from_dsn(os.environ["BENCH_REDIS"])
    queue_name = "bench"
    max_jobs = 100
    poll_delay = 0.05


class Pool:
    async def open(self):
        self._pool = await create_pool(WorkerSettings.redis_settings, default_queue_name="bench")

    async def send(self, payload):
        await self._pool.enqueue_job("job", **payload)


if __name__ == "__main__":
    pool = Pool()
    AsyncProducer(send=pool.send, connect=pool.open).serve()
