"""The job in Taskiq."""

import os

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.ledger import report
from benchmarks.producer import AsyncProducer

URL = os.environ["BENCH_REDIS"]

broker = RedisStreamBroker(URL, queue_name="bench").with_result_backend(RedisAsyncResultBackend(URL))


@broker.task(task_name="job")
async def job(number: int, sent: float, body: str) -> None:
    report(number, sent)


if __name__ == "__main__":
    AsyncProducer(send=lambda one: job.kiq(**one), connect=broker.startup).serve()
