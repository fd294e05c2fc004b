"""`python -m tests.support.tick_server URL`: a server of an app with nothing but a recurring job, until killed."""

import signal
import sys

from pydantic import BaseModel

from later import BackgroundJobs, JobContext, JobsBuilder, background_job


class Beat(BaseModel):
    pass


@background_job
class Jobs:
    beat: Beat


def beat(ctx: JobContext[None], payload: Beat) -> None:
    pass


def make_jobs(url: str) -> BackgroundJobs[None, Beat]:
    return JobsBuilder(None, "ticks", storage=url, jobs=Jobs).with_handler(Beat, beat).build()


if __name__ == "__main__":
    with make_jobs(sys.argv[1]).running(slots=2):
        signal.pause()
