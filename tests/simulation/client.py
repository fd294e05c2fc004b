"""Clients: they store jobs and continuations, delete and requeue, and repeat each call until it is answered."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from later.core.lifecycle import Cause, Change
from later.core.records import SECOND, Applied, Claimant, Inserted, InsertVerdict, NewJob, On
from tests.simulation.faults import Fault
from tests.simulation.handlers import Plan
from tests.simulation.scheduler import Actor

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")

NOBODY = Claimant("", "")


class Client(Actor):
    """Does its work in one go: what it knows of are the jobs that it was told are stored."""

    def __init__(self, world: "World", name: str, jobs: int) -> None:
        super().__init__(world.scheduler, name)
        self.world = world
        self.open = 0
        """Calls that have not been answered for good."""
        self._random = world.scheduler.random(name)
        self._known: list[str] = []
        for number in range(jobs):
            self.after(self._when(), self._enqueue, f"{name}-{number}")
        if not world.weather.calm:
            for _ in range(self._random.randrange(6)):
                self.after(self._when(), self._meddle, self._random.choice((Cause.DELETE, Cause.REQUEUE)))

    def _when(self) -> float:
        return self._random.uniform(0.0, self.world.setup.seconds * 0.9)

    def _enqueue(self, job_id: str) -> None:
        random, setup, world = self._random, self.world.setup, self.world
        plan = Plan.draw(random, calm=world.weather.calm, slow=setup.slow, short_lived=setup.short_lived)
        parent = None
        if random.random() < 0.4:
            parent = random.choice(self._known) if self._known and random.random() < 0.95 else "nobody"
        new = NewJob(
            id=job_id,
            type="once" if plan.policy.at_most_once else "work",
            queue=random.choice(setup.queue_names),
            payload=job_id.encode(),
            priority=random.choice((0, 0, 5)),
            max_crashes=plan.max_crashes,
            delay=random.choice((0, 0, 0, random.randrange(10 * SECOND))),
            parent=parent,
            on=random.choice(list(On)),
        )
        world.plans[job_id] = plan
        world.checker.attempts[job_id] = plan.policy.retry.attempts
        self.open += 1
        self._insist("insert", lambda: world.storage.insert([new]), partial(self._inserted, new))

    def _inserted(self, new: NewJob, results: list[Inserted]) -> None:
        self.open -= 1
        [result] = results
        if result.verdict in (InsertVerdict.CREATED, InsertVerdict.EXISTS):
            self.world.checker.accept(new)
            self._known.append(new.id)
            if result.ref is not None and not self.world.weather.strikes(Fault.LAZY_CLIENT):
                self.world.publish(self, NOBODY, (result.ref,))
        elif result.verdict is InsertVerdict.CONFLICT or new.parent is None:
            self.scheduler.fail(f"{new} was refused: {result}")

    def _meddle(self, cause: Cause) -> None:
        if not self._known:
            return
        job_id = self._random.choice(self._known)
        self.open += 1
        work = partial(self.world.storage.apply, [Change(job_id, cause, "a client asked for it")])
        self._insist(str(cause), work, self._meddled)

    def _meddled(self, results: list[Applied]) -> None:
        self.open -= 1
        [result] = results
        if result.enqueued:
            self.world.publish(self, NOBODY, result.enqueued)

    def _insist(self, kind: str, work: Callable[[], T], done: Callable[[T], None]) -> None:
        def again() -> None:
            self.after(self._random.uniform(0.1, 2.0), self._insist, kind, work, done)

        self.world.call(self, (kind, NOBODY), work, done, again)
