"""What handlers really did, written down outside the system under test."""

from dataclasses import dataclass, field

from later.core.engine.worker import Key


@dataclass(slots=True)
class Run:
    """One start of one handler."""

    key: Key
    server: str
    worker: str
    began: float
    ended: float | None = None
    complete: bool = False
    """The handler did all that the job is for."""
    again: bool = False
    """The handler itself asked to be run again, or nobody was there to run it."""


@dataclass(slots=True)
class Ledger:
    runs: list[Run] = field(default_factory=list[Run])
    by_key: dict[Key, list[Run]] = field(default_factory=dict[Key, list[Run]])
    by_job: dict[str, list[Run]] = field(default_factory=dict[str, list[Run]])

    def begin(self, key: Key, server: str, worker: str, now: float) -> Run:
        run = Run(key, server, worker, now)
        self.runs.append(run)
        self.by_key.setdefault(key, []).append(run)
        self.by_job.setdefault(key[0], []).append(run)
        return run

    def began(self, key: Key, worker: str | None = None) -> bool:
        return any(worker in (None, run.worker) for run in self.by_key.get(key, ()))

    def completed(self, key: Key, worker: str | None = None) -> bool:
        return any(run.complete and worker in (None, run.worker) for run in self.by_key.get(key, ()))

    def cut_short(self, key: Key) -> bool:
        """A handler was started and never ended."""
        return any(run.ended is None for run in self.by_key.get(key, ()))
