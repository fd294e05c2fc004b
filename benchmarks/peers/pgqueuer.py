"""The job in pgqueuer, started by its API: in 1.6.0 with typer 0.29 its command line fails on its own --log-level."""

import asyncio
import json
import os
import signal
import sys

import asyncpg
import uvloop
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver

from benchmarks.ledger import report
from benchmarks.producer import AsyncProducer

URL = os.environ["BENCH_POSTGRES"]
FETCH = 100


class Client:
    async def open(self):
        self._queries = Queries(AsyncpgDriver(await asyncpg.connect(URL)))
        await self._queries.install()
        await self._queries.optimize_autovacuum()

    async def send(self, payload):
        await self._queries.enqueue("job", json.dumps(payload).encode())

    async def send_many(self, payloads):
        bodies = [json.dumps(payload).encode() for payload in payloads]
        await self._queries.enqueue(["job"] * len(bodies), bodies, [0] * len(bodies))


async def work():
    queuer = PgQueuer(AsyncpgPoolDriver(await asyncpg.create_pool(URL, min_size=5, max_size=20)))

    @queuer.entrypoint("job")
    async def job(taken):
        payload = json.loads(taken.payload)
        report(payload["number"], payload["sent"])

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queuer.shutdown.set)
    await queuer.run(batch_size=FETCH)


if __name__ == "__main__":
    if sys.argv[1] == "work":
        uvloop.run(work())
    else:
        client = Client()
        AsyncProducer(send=client.send, send_many=client.send_many, connect=client.open).serve()
