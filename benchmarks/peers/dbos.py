"""The job in DBOS: a workflow on a queue. It has no bulk call."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from dbos import DBOS, DBOSClient

from benchmarks.ledger import report
from benchmarks.producer import Producer

URL = os.environ["BENCH_POSTGRES"]
OPTIONS = {
    "workflow_name": "job",
    "queue_name": "bench",
    "app_version": "bench",
    "application_name": "bench",
}


@DBOS.workflow(name="job")
def job(number, sent, body):
    report(number, sent)


def work(executor):
    DBOS(
        config={
            "name": "bench",
            "system_database_url": URL,
            "executor_id": executor,
            "application_version": "bench",
            "log_level": "ERROR",
        }
    )
    DBOS.launch()
    DBOS.register_queue("bench")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    DBOS.destroy()


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(f"worker-{sys.argv[2]}")
    else:
        command = Path(sys.executable).with_name("dbos")
        subprocess.run([command, "migrate", "--sys-db-url", URL], check=True, stdout=sys.stderr)
        client = DBOSClient(system_database_url=URL)
        Producer(send=lambda one: client.enqueue(OPTIONS, **one)).serve()
