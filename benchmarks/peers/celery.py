"""The job in Celery. Its bulk call, `group(...).apply_async()`, sends one by one."""

import os

from celery import Celery

from benchmarks.ledger import report
from benchmarks.producer import Producer

app = Celery(
    "bench", broker=os.environ.get("BENCH_AMQP") or os.environ["BENCH_REDIS"], backend=os.environ["BENCH_REDIS"]
)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=False,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=64,
    worker_send_task_events=False,
    task_default_queue="bench",
)


@app.task(name="job")
def job(number, sent, body):
    report(number, sent)


if __name__ == "__main__":
    with app.producer_pool.acquire(block=True) as producer:
        Producer(send=lambda one: job.apply_async(kwargs=one, producer=producer)).serve()
