"""The job in Procrastinate."""

import os

import procrastinate

from benchmarks.ledger import report
from benchmarks.producer import AsyncProducer

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["BENCH_POSTGRES"]))


@app.task(queue="bench", name="job")
async def job(number, sent, body):
    report(number, sent)


async def connect():
    await app.open_async()
    await app.schema_manager.apply_schema_async()


if __name__ == "__main__":
    AsyncProducer(
        send=lambda one: job.defer_async(**one),
        send_many=lambda many: job.batch_defer_async(*many),
        connect=connect,
    ).serve()
