"""Virtual time: one thread, one heap of what happens next, and a record of what has happened."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any, NoReturn


class Violation(AssertionError):
    """Something that must never happen has happened."""


class Scheduler:
    """Time jumps to the next event. What is due at the same instant happens in the order in which it was planned."""

    def __init__(self, seed: object) -> None:
        self.seed = seed
        self.now = 0.0
        self.steps = 0
        self.trace: list[tuple[float, str, str, object]] = []
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()

    def random(self, subsystem: str) -> Random:
        """A source of its own for each subsystem: one more draw in one does not move the others."""
        return Random(f"{self.seed}/{subsystem}")

    def at(self, when: float, action: Callable[..., None], *args: object) -> None:
        heappush(self._heap, (max(when, self.now), next(self._order), action, args))

    def after(self, delay: float, action: Callable[..., None], *args: object) -> None:
        self.at(self.now + delay, action, *args)

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass to `until`, or to the moment when `done`; says whether it was `done`."""
        while not done():
            if not self._heap or self._heap[0][0] > until:
                self.now = until
                return done()
            self.now, _, action, args = heappop(self._heap)
            self.steps += 1
            action(*args)
        return True

    def note(self, who: str, what: str, about: object = "") -> None:
        self.trace.append((self.now, who, what, about))

    def fail(self, message: str) -> NoReturn:
        self.note("CHECK", message)
        raise Violation(message)

    def timeline(self) -> list[str]:
        return [f"{at:9.4f}  {who:<10} {what} {about}".rstrip() for at, who, what, about in self.trace]


class Actor:
    """Something that a crash ends and a pause holds up. What reaches it while it is paused waits for its return."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.alive = True
        self.paused = False
        self._late: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def after(self, delay: float, action: Callable[..., None], *args: object) -> None:
        self.scheduler.after(delay, self._arrive, action, args)

    def pause(self) -> None:
        self.scheduler.note(self.name, "is paused")
        self.paused = True

    def resume(self) -> None:
        self.scheduler.note(self.name, "goes on")
        self.paused = False
        late, self._late = self._late, []
        for action, args in late:
            self._arrive(action, args)

    def _arrive(self, action: Callable[..., None], args: tuple[Any, ...]) -> None:
        if self.paused:
            self._late.append((action, args))
        elif self.alive:
            action(*args)
