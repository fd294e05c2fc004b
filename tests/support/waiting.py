"""Waiting for what another thread or process does, by looking until a deadline."""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

_Value = TypeVar("_Value")

DEADLINE = 50.0
"""Seconds after which a test gives up. Long, because the machine may be busy; tests that pass never wait for it."""


def until(look: Callable[[], _Value], what: str = "", seconds: float = DEADLINE) -> _Value:
    """The first true value of `look`; fails the test when it does not come."""
    ends = time.monotonic() + seconds
    while not (value := look()):
        if time.monotonic() > ends:
            raise AssertionError(f"not within {seconds:g} s: {what or look}")
        time.sleep(0.005)
    return value


def later_threads() -> list[str]:
    """The names of the threads that servers have started and that have not ended."""
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("later-")]
    return sorted(name for name in names if not name.startswith(("later-enqueue", "later-publisher")))


@contextmanager
def no_threads_left() -> Iterator[None]:
    """The block leaves none of its threads behind."""
    before = later_threads()
    yield
    try:
        until(lambda: len(later_threads()) <= len(before))
    except AssertionError:
        raise AssertionError(f"threads to be again {before}, not\n{_stacks()}") from None


def _stacks() -> str:
    """Where each of the threads is, so that a failure tells whose it is."""
    frames = sys._current_frames()
    return "\n".join(
        f"{thread.name}:\n{''.join(traceback.format_stack(frames[thread.ident]))}"
        for thread in threading.enumerate()
        if thread.name in later_threads() and thread.ident in frames
    )
