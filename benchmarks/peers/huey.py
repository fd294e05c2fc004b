"""The job in Huey."""

import os
from pathlib import Path

from huey import RedisHuey, SqliteHuey

from benchmarks.ledger import report
from benchmarks.producer import Producer

if os.environ["BENCH_HUEY"] == "sqlite":
    huey = SqliteHuey("bench", filename=str(Path(os.environ["BENCH_FOLDER"]) / "huey.sqlite3"), store_none=True)
else:
    huey = RedisHuey("bench", url=os.environ["BENCH_REDIS"], store_none=True)


@huey.task(name="job")
def job(number, sent, body):
    report(number, sent)


def produce():
    """Not in `__main__`: the worker finds the job by the name of its module."""
    Producer(send=lambda one: job(**one)).serve()
