"""An event loop that outlives what its tasks do to it."""

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

from later.runtime.log import log

_Value = TypeVar("_Value")


def run_through(
    runner: asyncio.Runner, coroutine: Coroutine[Any, Any, _Value], *, context: Context | None = None
) -> _Value:
    """What `coroutine` returns or raises, however often something else on its loop tries to end the loop.

    asyncio lets SystemExit and KeyboardInterrupt of any task or callback out of the running loop, and `loop.stop()`
    ends it too. The task has ended then, and whoever awaits it has seen why; the others are as they were and go on.
    """
    loop = runner.get_loop()
    task = loop.create_task(coroutine, context=context)
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt, RuntimeError) as error:  # RuntimeError: somebody stopped the loop
            if task.done() or loop.is_closed():
                raise
            log.error("a task of a handler, or a callback, tried to end the event loop of all: %r", error)
