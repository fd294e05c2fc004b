"""Handlers and what they were told to do."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING

from later.core.engine.judge import Died, End, Interrupted, Policy, Raised, Refused, Returned, Unserved
from later.core.engine.worker import Interruption
from later.core.outcomes import Cancel, RetryAfter, Snooze
from later.core.records import SECOND, Claim, ErrorInfo
from later.core.retry import Retry
from tests.simulation.faults import Fault

if TYPE_CHECKING:
    from tests.simulation.server import Process
    from tests.simulation.world import World


class Act(StrEnum):
    SUCCEED = "succeed"
    RAISE = "raise"
    RETRY = "ask for a retry"
    SNOOZE = "snooze"
    CANCEL = "cancel"
    REFUSE = "have a bad payload"
    UNSERVED = "have no handler here"
    DIE = "die alone"
    CRASH = "take the process down"


@dataclass(frozen=True, slots=True)
class Step:
    """What one run does."""

    act: Act
    seconds: float
    deaf: bool = False
    """Ignores interruptions, as a thread does."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the runs of a job do, in order; the last step repeats."""

    steps: tuple[Step, ...]
    policy: Policy
    max_crashes: int

    @classmethod
    def draw(cls, random: Random, *, calm: bool, slow: bool, short_lived: bool) -> "Plan":
        acts: list[Act] = []
        if not calm and random.random() < 0.5:
            acts = random.choices(list(Act), weights=(1, 4, 1, 1, 0.5, 0.5, 1, 1, 2), k=random.randint(1, 3))
        acts.append(Act.SUCCEED)
        steps = tuple(Step(act, _duration(random, slow=slow), deaf=random.random() < 0.25) for act in acts)
        keep = random.randint(1, 20) * SECOND if short_lived else None
        delays = tuple(timedelta(seconds=random.choice((0, 0.1, 3.0))) for _ in range(2))
        attempts, max_crashes = random.choice((1, 2, 4)), random.choice((0, 1, 3))
        once = attempts == 1 and max_crashes == 0
        return cls(steps, Policy(Retry(attempts, delays), once, keep, keep, keep), max_crashes)

    def step(self, run: int) -> Step:
        return self.steps[min(run, len(self.steps) - 1)]


def _duration(random: Random, *, slow: bool) -> float:
    longest = random.choices((0.01, 0.3, 3.0, 40.0), weights=(2, 2, 2, 4) if slow else (4, 4, 2, 1))[0]
    return random.uniform(0.001, longest)


class Handler:
    """One run of a handler in its slot."""

    def __init__(self, world: "World", process: "Process", claim: Claim) -> None:
        self.world = world
        self.process = process
        self.claim = claim
        self.key = (claim.id, claim.epoch)
        self.plan = world.plan_of(claim.id)
        self._step = self.plan.step(len(world.ledger.by_job.get(claim.id, ())))
        self.run = world.ledger.begin(self.key, claim.server, process.name, world.scheduler.now)
        self._over = False
        process.after(self._step.seconds, self._finish)

    def interrupt(self, why: Interruption) -> None:
        if not self._step.deaf and not self._over:
            self._over = True
            delay = self.world.random.uniform(0.0, 0.3)
            self.process.after(delay, self._end, Interrupted(cancelled=why is Interruption.CANCEL))

    def _finish(self) -> None:
        if self._over:
            return
        self._over = True
        if self._step.act is Act.CRASH:
            self.world.scheduler.note(self.process.name, "is taken down by", self.key)
            self.process.server.lose(self.process, Fault.WORKER_CRASH)
            return
        self.run.complete = self._step.act is Act.SUCCEED
        self.run.again = self._step.act in (Act.SNOOZE, Act.UNSERVED)
        # Between the end of the handler and its report the process may die.
        self.process.after(self.world.random.uniform(0.0, 0.01), self._end, self._ends())

    def _ends(self) -> End:
        info = ErrorInfo("Error", "as planned", "")
        match self._step.act:
            case Act.SUCCEED:
                return Returned(f'"{self.claim.id}@{self.claim.epoch}"'.encode())
            case Act.RAISE:
                return Raised(RuntimeError("as planned"), info)
            case Act.RETRY:
                return Raised(RetryAfter(timedelta(seconds=1)), info)
            case Act.SNOOZE:
                return Raised(Snooze(timedelta(seconds=1)), info)
            case Act.CANCEL:
                return Raised(Cancel("as planned"), info)
            case Act.REFUSE:
                return Refused(info)
            case Act.UNSERVED:
                return Unserved(info)
            case _:
                return Died("as planned")

    def _end(self, end: End) -> None:
        self.run.ended = self.world.scheduler.now
        self.process.ended(self, end)
