"""The threads that run `def` handlers."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_End = TypeVar("_End")


class Slots(Generic[_Item, _End]):
    """Runs items in daemon threads, which are started when none is idle, up to `threads`.

    `run` must not raise. `ended` gets what it returned, in the same thread; the first item that it puts is run there
    next, so that a worker with much to do keeps its threads without waking any.
    """

    def __init__(self, threads: int, run: Callable[[_Item], _End], ended: Callable[[_Item, _End], None]) -> None:
        self._most = threads
        self._run = run
        self._ended = ended
        self._items: SimpleQueue[_Item | None] = SimpleQueue()
        """None ends a thread."""
        self._next: dict[int, _Item | None] = {}
        """By thread, of those that have just ended a run."""
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        """Threads that wait, less the items that no thread has taken yet."""

    def put(self, item: _Item) -> None:
        """From any thread; does not block."""
        thread = threading.get_ident()
        if self._next.get(thread, item) is None:
            self._next[thread] = item
            return
        with self._lock:
            self._idle -= 1
            self._items.put(item)
            if self._idle < 0 and self._threads < self._most:
                name = f"later-slot-{self._threads}"
                self._threads += 1
                threading.Thread(target=self._serve, name=name, daemon=True).start()

    def close(self) -> None:
        """Let the threads end that have nothing to do, and the others after what they run; does not wait."""
        with self._lock:
            for _ in range(self._threads):
                self._items.put(None)

    def _serve(self) -> None:
        thread, following, run, ended = threading.get_ident(), self._next, self._run, self._ended
        while True:
            with self._lock:
                self._idle += 1
            item = self._items.get()
            if item is None:
                return
            while item is not None:
                end = run(item)
                following[thread] = None
                ended(item, end)
                del end  # not kept alive by an idle thread
                item = following.pop(thread)
