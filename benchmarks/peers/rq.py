"""The job in RQ."""

import os
import sys

from redis import Redis
from rq import Queue, SimpleWorker

from benchmarks.ledger import report
from benchmarks.producer import Producer

JOB = "benchmarks.peers.rq.job"


def job(number, sent, body):
    report(number, sent)


def produce(queue):
    Producer(
        send=lambda one: queue.enqueue(JOB, kwargs=one),
        send_many=lambda many: queue.enqueue_many([Queue.prepare_data(JOB, kwargs=one) for one in many]),
    ).serve()


if __name__ == "__main__":
    connection = Redis.from_url(os.environ["BENCH_REDIS"])
    if sys.argv[1] == "work":
        SimpleWorker(["bench"], connection=connection).work(logging_level="WARNING")
    else:
        produce(Queue("bench", connection=connection))
