"""Apps whose handlers run in processes of their own, which import this module."""

import asyncio
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta

from later import JobContext, Retry
from tests.support.jobs import Work, jobs_of, work

CANNOT_START = "TEST_CANNOT_START"
"""While this is set in the environment, no spawned process can import the module."""

if os.environ.get(CANNOT_START) and multiprocessing.parent_process() is not None:
    os._exit(7)

PID, EXIT, KILL, SEGFAULT, HANG, RAISE, BAD_RESULT, SYS_EXIT, CONTEXT, LARGE, POOL, PROGRAM, LOOP = range(13)


def anything(ctx: JobContext[None], payload: Work) -> object:  # noqa: C901, PLR0912  a list of things to do
    """Do what `payload.n` says."""
    match payload.n:
        case 0:
            return os.getpid()
        case 1:
            os._exit(5)
        case 2:
            os.kill(os.getpid(), signal.SIGKILL)
        case 3:
            ctypes.string_at(0)
        case 4:
            threading.Event().wait()
        case 5:
            raise ValueError("no luck")
        case 6:
            return object()
        case 7:
            sys.exit(0)
        case 8:
            parent = [ctx.parent, ctx.parent_state, ctx.parent_result]
            return [ctx.job_id, ctx.epoch, ctx.attempt, *parent, ctx.queue]
        case 9:
            return payload.text[:60_000]
        case 10:
            with multiprocessing.get_context("fork").Pool(2) as pool:
                return pool.map(_square, [1, 2, 3])
        case 11:
            program = subprocess.Popen(["/bin/sleep", "60"])
            program.terminate()
            return program.wait(20)
        case _:
            pass
    return None


def _square(number: int) -> int:
    return number * number


async def loop(ctx: JobContext[None], payload: Work) -> int:
    """Which event loop runs this."""
    await asyncio.sleep(0)
    return id(asyncio.get_running_loop())


async def survive(ctx: JobContext[None], payload: Work) -> str:
    """Go on after a task has tried to end the loop."""

    async def leave() -> None:
        sys.exit(3)

    task = asyncio.create_task(leave())
    await asyncio.sleep(0.01)
    return repr(task.exception())


ANY = jobs_of(work(anything, isolation="process"))
HURRIED = jobs_of(work(anything, isolation="process", timeout=timedelta(seconds=0.3), retry=Retry(5)))
THREADED = jobs_of(work(anything))
ASYNC = jobs_of(work(loop, isolation="process"))
SURVIVING = jobs_of(work(survive, isolation="process"))
