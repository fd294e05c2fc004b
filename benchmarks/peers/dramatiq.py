"""The job in Dramatiq. Its bulk call, `group(...).run()`, sends one by one."""

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.ledger import report
from benchmarks.producer import Producer

RESULTS = bool(os.environ.get("BENCH_RESULTS"))

broker = RabbitmqBroker(url=os.environ["BENCH_AMQP"], confirm_delivery=bool(os.environ.get("BENCH_CONFIRM")))
if RESULTS:
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend

    broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCH_REDIS"]), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="bench")
def job(number, sent, body):
    report(number, sent)


if __name__ == "__main__":
    Producer(send=lambda one: job.send(**one)).serve()
