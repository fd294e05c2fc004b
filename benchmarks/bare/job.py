"""The job of a bare loop: validated by pydantic, as in `later`, and run in threads."""

import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from pydantic import BaseModel

from benchmarks.ledger import report

BATCH: Final = 64
"""Jobs in one claim."""

THREADS: Final = 4

REST: Final = 0.001
"""Seconds between two looks while there is nothing to do."""

_Reference = TypeVar("_Reference")


class Noop(BaseModel):
    number: int
    sent: float
    body: str


def encode(**values: object) -> bytes:
    return Noop.model_validate(values).model_dump_json().encode()


def run(payload: bytes) -> None:
    job = Noop.model_validate_json(payload)
    report(job.number, job.sent)


class Handlers(Generic[_Reference]):
    """Threads that run jobs given in shares, and hand back what is to be finished."""

    def __init__(self) -> None:
        self._todo: queue.SimpleQueue[Sequence[tuple[_Reference, bytes]]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[list[_Reference]] = queue.SimpleQueue()
        self._shares = 0
        for _ in range(THREADS):
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            share = self._todo.get()
            for _, payload in share:
                run(payload)
            self._done.put([reference for reference, _ in share])

    @property
    def busy(self) -> bool:
        return self._shares > 0

    @property
    def room(self) -> bool:
        """For as much again as the threads are at."""
        return self._shares < THREADS * 2

    def start(self, jobs: Sequence[tuple[_Reference, bytes]]) -> None:
        size = max(1, len(jobs) // THREADS)
        for first in range(0, len(jobs), size):
            self._todo.put(jobs[first : first + size])
            self._shares += 1

    def finished(self, wait: float) -> list[_Reference]:
        """What has finished so far; waits for the first."""
        found: list[_Reference] = []
        try:
            found += self._done.get(timeout=wait)
            self._shares -= 1
            while True:
                found += self._done.get_nowait()
                self._shares -= 1
        except queue.Empty:
            return found


def until_stopped(step: Callable[[], None]) -> None:
    """Call it again and again until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    while not stop.is_set():
        step()


def drain(step: Callable[[Sequence[_Reference], int], Sequence[tuple[_Reference, bytes]]]) -> None:
    """Until SIGTERM: finish what has run and take as many more as asked for, by one `step`, and run them."""
    handlers: Handlers[_Reference] = Handlers()
    finished: list[_Reference] = []

    def turn() -> None:
        nonlocal finished
        if finished or handlers.room:
            handlers.start(step(finished, BATCH if handlers.room else 0))
            finished = []
        if handlers.busy:
            finished = handlers.finished(REST)
        else:
            time.sleep(REST)

    until_stopped(turn)
