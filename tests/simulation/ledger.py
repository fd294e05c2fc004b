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


@dataclass(slots=True)
class Ledger:
    runs: list[Run] = field(default_factory=list[Run])
    by_key: dict[Key, list[Run]] = field(default_factory=dict[Key, list[Run]])
    by_job: dict[str, int] = field(default_factory=dict[str, int])
    """How often a handler was started for the job."""

    def begin(self, key: Key, server: str, worker: str, now: float) -> Run:
        run = Run(key, server, worker, now)
        self.runs.append(run)
        self.by_key.setdefault(key, []).append(run)
        self.by_job[key[0]] = self.by_job.get(key[0], 0) + 1
        return run

    def began(self, key: Key, worker: str | None = None) -> bool:
        return any(worker in (None, run.worker) for run in self.by_key.get(key, ()))

    def completed(self, key: Key, worker: str | None = None) -> bool:
        return any(run.complete and worker in (None, run.worker) for run in self.by_key.get(key, ()))

    def cut_short(self, key: Key) -> bool:
        """A handler was started and never ended."""
        return any(run.ended is None for run in self.by_key.get(key, ()))
