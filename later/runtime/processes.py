"""What the processes that `later` starts have in common: they are spawned, leave signals to their parent, and die with
it."""

import ctypes
import multiprocessing
import os
import signal
import sys
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import SpawnProcess

STOPS: Final = (signal.SIGINT, signal.SIGTERM)
"""What a terminal or an init system sends to every process of a group."""

_PR_SET_PDEATHSIG: Final = 1


def spawn(name: str, main: "Callable[..., None]", *args: Any) -> tuple["SpawnProcess", Connection]:
    """Start a process that runs `main(*args, connection)`; returns it with this side of the connection.

    `main` begins with `obey_parent`; signals to stop are held back until then. Takes about 0.3 s in the new process,
    more when the app imports much.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=main, args=(*args, theirs), name=name)
    resource_tracker.ensure_running()  # now, because it clears the mask when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        process.start()
    except BaseException:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return process, ours


def obey_parent() -> None:
    """In a spawned process: let the parent alone decide when to stop, and end when it ends."""
    for number in STOPS:
        # Not SIG_IGN, which every program that a handler starts would inherit.
        signal.signal(number, _ignore)
    os.register_at_fork(after_in_child=_restore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    parent = multiprocessing.parent_process()
    assert parent is not None
    if sys.platform == "linux":
        # At once, and also when a handler holds the GIL. Elsewhere the closed connection has to do.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent.pid:
        os._exit(1)


def _ignore(number: int, frame: FrameType | None) -> None:
    pass


def _restore() -> None:
    """In a process that a handler forks: `multiprocessing` ends its workers by SIGTERM."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
