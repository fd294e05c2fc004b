"""The threads of a worker: they run `def` handlers, and its calls to the backends."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeAlias

Call: TypeAlias = Callable[[], object]


class Pool:
    """Runs calls in daemon threads, which are started when none is idle, up to `threads`. Calls must not raise.

    A call may name the one that its own thread runs next (`follow`). So what an event leads to needs no other thread to
    wake up: the thread that was told of a job claims it and runs it, and one that has ended a job begins the next.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._most = threads
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        """None ends a thread."""
        self._following: dict[int, Call | None] = {}
        """By thread of the pool that runs something."""
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        """Threads that wait, less the calls that no thread has taken yet."""

    def follow(self, call: Call) -> None:
        """Run the call after the one that this thread runs, if it is the first for that; else as `put`."""
        thread = threading.get_ident()
        if self._following.get(thread, call) is None:
            self._following[thread] = call
        else:
            self.put(call)

    def put(self, call: Call) -> None:
        """Run the call in any thread. From any thread; does not block."""
        with self._lock:
            self._idle -= 1
            self._calls.put(call)
            if self._idle < 0 and self._threads < self._most:
                name = f"{self._name}-{self._threads}"
                self._threads += 1
                threading.Thread(target=self._serve, name=name, daemon=True).start()

    def close(self) -> None:
        """Let the threads end that have nothing to do, and the others after what they run; does not wait."""
        with self._lock:
            for _ in range(self._threads):
                self._calls.put(None)

    def _serve(self) -> None:
        thread, following = threading.get_ident(), self._following
        while True:
            with self._lock:
                self._idle += 1
            call = self._calls.get()
            if call is None:
                return
            while call is not None:
                following[thread] = None
                call()
                call = following.pop(thread)
