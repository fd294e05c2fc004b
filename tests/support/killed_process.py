"""A program that is killed between the commit of its transaction and the publishing of what it enqueued.

    python -m tests.support.killed_process NAME STORAGE-URL DATABASE-URL BROKER-URL

Prints the id of its job; dies by SIGKILL.
"""

import os
import signal
import sys
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from later import BackgroundJobs, Limits
from later.core.registry import Registry
from later.runtime.plugins import Plugins
from tests.support.jobs import Work, work


def jobs_at(name: str, storage: str, broker: str) -> BackgroundJobs[None, Any]:
    backends = Plugins()
    types = Registry([work(lambda _ctx, payload: payload.n)])
    return BackgroundJobs(None, name, types, backends.storage(storage), backends.broker(broker), Limits(), runs=True)


def main(name: str, storage: str, database: str, broker: str) -> None:
    with Session(sa.create_engine(database)) as session:
        job = jobs_at(name, storage, broker).enqueue(Work(n=7), connection=session)
        # Called when the database has committed, before anybody else hears of it.
        sa.event.listen(session, "after_commit", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        sys.stdout.write(job)
        sys.stdout.flush()
        session.commit()


if __name__ == "__main__":
    main(*sys.argv[1:])
