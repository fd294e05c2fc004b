"""One simulated world: a storage, a broker, servers and clients, a weather, and a checker of everything."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from random import Random
from typing import Final, TypeVar

from later.core.engine.worker import Woken, WorkerSettings
from later.core.ports import StorageOptions
from later.core.records import Claimant, Ref, State
from later.core.recurring import Definition, Misfire, Overlap
from later.core.recurring.changes import put
from later.core.timetables import Every, Timetable
from later.core.timetables.timetable import micros
from later.runtime.ticks import to_datetime
from tests.simulation.broker import SimBroker
from tests.simulation.client import Client
from tests.simulation.faults import Fault, Weather
from tests.simulation.handlers import Plan
from tests.simulation.invariants import Checker
from tests.simulation.ledger import Ledger
from tests.simulation.scheduler import Actor, Scheduler
from tests.simulation.server import Process, Server
from tests.simulation.storage import Call, Line, StorageClock, WatchedStorage

T = TypeVar("T")

PATIENCE: Final = 300.0
"""Virtual seconds, besides the runs of all handlers one after the other, in which everything ends once nothing goes
wrong any more. Far more than the sum of a lease, a reconciliation and all delays: what has not ended never will."""
SETTLE: Final = 25.0
"""Seconds after the last fault from which on nothing may be overdue."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a world consists of."""

    nodes: int = 2
    processes: int = 1
    slots: int = 2
    embedded: bool = False
    broker: bool = False
    push: bool = True
    looks: bool = True
    """Servers find dead ones of their own node."""
    ends_told: bool = True
    """The supervisor forgets what was started once it has ended."""
    weights: Mapping[str, int] | None = None
    queue_names: tuple[str, ...] = ("default",)
    grace: float = 5.0
    clients: int = 2
    jobs: int = 4
    """Of each client."""
    seconds: float = 20.0
    """How long things go wrong."""
    slow: bool = False
    """Handlers run long enough to outlive a lease."""
    short_lived: bool = False
    """Ended jobs are pruned within seconds."""
    recurring: int = 0
    """How many recurring jobs there are."""

    @classmethod
    def draw(cls, random: Random) -> "Setup":
        embedded = random.random() < 0.4
        queue_names = random.choice((("default",), ("a", "b")))
        return cls(
            nodes=random.choice((1, 2, 2, 3)),
            processes=1 if embedded else random.choice((1, 2, 3)),
            slots=random.choice((1, 2, 4)),
            embedded=embedded,
            broker=random.random() < 0.5,
            push=random.random() < 0.6,
            looks=random.random() < 0.5,
            ends_told=random.random() < 0.5,
            weights=dict.fromkeys(queue_names, 2) if random.random() < 0.3 else None,
            queue_names=queue_names,
            grace=random.choice((0.0, 2.0, 10.0)),
            clients=random.choice((1, 2)),
            jobs=random.choice((3, 8, 16)),
            seconds=random.choice((5.0, 15.0, 35.0)),
            slow=random.random() < 0.2,
            short_lived=random.random() < 0.2,
            recurring=random.choice((0, 1, 3)),
        )

    def worker_settings(self) -> WorkerSettings:
        queues = self.weights or self.queue_names
        return WorkerSettings(queues, self.slots, self.grace, self.broker, self.push, at_most_once=frozenset({"once"}))


class World:
    """Everything in it is drawn from `seed`, unless it is given."""

    def __init__(self, seed: object, setup: Setup | None = None, weather: Weather | None = None) -> None:
        self.scheduler = scheduler = Scheduler(seed)
        self.random = scheduler.random("world")
        self.setup = Setup.draw(scheduler.random("setup")) if setup is None else setup
        self.weather = Weather.draw(scheduler.random("weather")) if weather is None else weather
        self.ledger = Ledger()
        self.plans: dict[str, Plan] = {}
        self.checker = Checker(scheduler, self.weather, self.ledger, self._holders)
        drifts = Fault.CLOCK_DRIFT in self.weather.odds
        self._rates = {f"n{number}": self._rate(drifts=drifts) for number in range(self.setup.nodes)}
        self.clock = StorageClock(scheduler, self._rate(drifts=drifts))
        options = StorageOptions("simulation", outbox=self.setup.broker, clock=self.clock)
        self.storage = WatchedStorage(options, self.checker)
        self.checker.storage = self.storage
        self.line = Line(scheduler, self.weather)
        self.broker = SimBroker(scheduler, self.weather, self.checker.strike_message)
        self.servers: dict[str, Server] = {}
        self._booted: list[Server] = []
        self._server_ids = count(1)
        self._waiters: dict[Process, tuple[int, Sequence[str]]] = {}
        self._waits = count(1)
        self._turns = 0
        for node in self._rates:
            self.boot(node)
        jobs = self.setup.jobs
        self._recur(scheduler.random("recurring"))
        self.clients = [Client(self, f"c{number}", jobs) for number in range(self.setup.clients)]
        for fault in self.weather.planned():
            scheduler.at(self.random.uniform(0.0, self.setup.seconds), self._happen, fault)

    def _recur(self, random: Random) -> None:
        """Recurring jobs that fire while things go wrong, and miss no time in the end."""
        now = self.clock()
        end = to_datetime(now) + timedelta(seconds=self.setup.seconds)
        for number in range(self.setup.recurring):
            wanted = Definition(
                type="work",
                payload=b"",
                queue=random.choice(self.setup.queue_names),
                priority=0,
                max_crashes=3,
                timetable=Timetable(Every(timedelta(seconds=random.choice((1, 2, 5)))), end=end),
                misfire=Misfire.ALL,
                misfire_limit=1000,
                overlap=Overlap.ALLOW if self.weather.calm else random.choice(list(Overlap)),
            )
            if wanted.timetable.next_after(now) is None:
                continue  # the run is shorter than the interval
            change = put(f"r{number}", None, None, wanted, now)
            assert change is not None
            self.storage.reschedule([change])
            if wanted.overlap is Overlap.ALLOW:
                self.checker.recurring[change.id] = set(wanted.timetable.between(now, micros(end), 1000).times)

    def plan_of(self, job_id: str) -> Plan:
        """What the runs of a job do; those of recurring jobs are made up when they first run."""
        if job_id not in self.plans:
            random, setup = self.scheduler.random(job_id), self.setup
            while True:
                plan = Plan.draw(random, calm=self.weather.calm, slow=setup.slow, short_lived=setup.short_lived)
                if not plan.policy.at_most_once:
                    break
            self.plans[job_id] = plan
            self.checker.attempts[job_id] = plan.policy.retry.attempts
        return self.plans[job_id]

    def _rate(self, *, drifts: bool) -> float:
        # Two clocks differ by at most a twentieth; the engine's margin is for a fifteenth.
        return self.random.uniform(0.98, 1.02) if drifts else 1.0

    # --- the run

    def run(self) -> None:
        """Let things go wrong for a while, then let everything end. Raises Violation."""
        self.scheduler.run(self.setup.seconds)
        self._clear_up()
        calm_from = self.scheduler.now + SETTLE
        runs = sum(step.seconds for plan in self.plans.values() for step in plan.steps)
        limit = self.scheduler.now + PATIENCE + 2 * runs
        while self.scheduler.now < limit and not self._settled():
            self.scheduler.run(self.scheduler.now + 2.0)
            if self.scheduler.now > calm_from:
                self.checker.check_calm()
        self.checker.check_end()
        # Whatever still comes in from before must not change anything any more.
        self.scheduler.run(self.scheduler.now + 2.0)
        self._check_effort()
        if self.weather.calm:
            self.checker.check_that_nothing_happened(self.setup.nodes * self.setup.processes)

    def _settled(self) -> bool:
        waits = any(schedule and schedule.next_at is not None for schedule in self.storage.schedules())
        return not waits and not any(client.open for client in self.clients) and self.checker.settled()

    def _clear_up(self) -> None:
        self.scheduler.note("world", "nothing goes wrong from here on")
        self.weather.over = True
        self.line.away = False
        self.line.cut_off.clear()
        self.broker.come_up()
        for node, server in list(self.servers.items()):
            for actor in (server, *server.processes):
                if actor.paused:
                    actor.resume()
            if not server.alive:
                self.boot(node)

    def _check_effort(self) -> None:
        machines = self.setup.nodes * (1 + self.setup.processes)
        allowed = 500 + 15 * machines * self.scheduler.now + 150 * len(self.plans)
        if self.scheduler.steps > allowed:
            self.scheduler.fail(f"{self.scheduler.steps} steps where {allowed:.0f} are plenty: a busy loop")

    # --- servers

    def boot(self, node: str) -> None:
        before = self.servers.get(node)
        if before is not None and before.alive:
            return
        server = Server(self, node, len(self._booted), self._rates[node])
        self._booted.append(server)
        self.servers[node] = server
        server.start()

    def server_gone(self, server: Server) -> None:
        if self.weather.over:
            self.scheduler.after(0.5, self.boot, server.node)
        elif self.random.random() < 0.7:
            self.scheduler.after(self.random.uniform(0.1, 20.0), self.boot, server.node)

    def pid_lives(self, pid: int) -> bool:
        return self._booted[pid].alive

    def new_server_id(self) -> str:
        return f"s{next(self._server_ids)}"

    def _holders(self, job_id: str) -> Iterator[str]:
        for server in self._booted:
            for process in server.processes:
                if process.healthy and process.runs(job_id):
                    yield process.name

    # --- what commands reach

    def call(
        self,
        actor: Actor,
        about: tuple[str, Claimant],
        work: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[], None],
    ) -> None:
        def effect(call: Call) -> T:
            self.checker.called(call)
            answer = work()
            fault = f" [{call.fault}]" if call.fault else ""
            self.scheduler.note("storage", f"{call.kind} for {call.actor}{fault}", answer)
            self.checker.answered(answer)
            if self.storage.world.turns != self._turns:
                self._turns = self.storage.world.turns
                self._wake_waiters()
            return answer

        self.line.call(actor, about, effect, done, failed)

    def publish(self, actor: Actor, by: Claimant, refs: Sequence[Ref]) -> None:
        actor.after(self.random.uniform(0.0, 0.02), self._publish, actor, by, refs)

    def _publish(self, actor: Actor, by: Claimant, refs: Sequence[Ref]) -> None:
        if self.setup.broker and self.broker.publish(refs):
            self.call(
                actor,
                ("published", by),
                lambda: self.storage.published(refs),
                lambda _: None,
                lambda: None,
            )

    def wait(self, process: Process, queues: Sequence[str], timeout: float) -> None:
        """`Storage.wait`, or a sleep when the storage cannot be reached."""
        number = next(self._waits)
        self._waiters[process] = (number, queues)
        if self.setup.push and self.line.reaches(process) and self._has_enqueued(queues):
            self._wake(process)
        else:
            process.after(timeout, self._wait_over, process, number)

    def _wait_over(self, process: Process, number: int) -> None:
        waiting, queues = self._waiters.get(process, (0, ()))
        if waiting == number:
            del self._waiters[process]
            process.feed(Woken(hint=not self.setup.push and self._has_enqueued(queues)))

    def _wake(self, process: Process) -> None:
        del self._waiters[process]
        process.after(self.random.uniform(0.0, 0.01), process.feed, Woken(hint=True))

    def _wake_waiters(self) -> None:
        if self.setup.push:
            for process, (_, queues) in list(self._waiters.items()):
                if self._has_enqueued(queues) and not self.weather.strikes(Fault.LOST_WAKE):
                    self._wake(process)

    def wake(self, process: Process) -> None:
        """`Storage.wake`"""
        if process in self._waiters:
            self._wake(process)

    def forget_waiter(self, process: Process) -> None:
        self._waiters.pop(process, None)

    def _has_enqueued(self, queues: Sequence[str]) -> bool:
        return any(job.state is State.ENQUEUED and job.queue in queues for job in self.storage.jobs())

    # --- incidents

    def _happen(self, fault: Fault) -> None:
        server = self.random.choice(list(self.servers.values()))
        self.scheduler.note("world", fault, server.name)
        self.weather.saw(fault)
        if not self._happen_to_server(fault, server):
            self._happen_to_all(fault)

    def _happen_to_server(self, fault: Fault, server: Server) -> bool:
        random = self.random
        match fault:
            case Fault.SERVER_CRASH:
                server.crash(fault)
            case Fault.ORPHANED:
                server.crash(Fault.SERVER_CRASH if self.setup.embedded else fault)
            case Fault.STOP | Fault.HURRY:
                server.stop(fault)
            case Fault.CUT_OFF:
                actors: list[Actor] = [server, *server.processes]
                for process in server.processes:
                    process.strike(fault)
                if random.random() < 0.5:
                    actors = random.sample(actors, 1)
                names = {actor.name for actor in actors}
                self.line.cut_off |= names
                self.scheduler.after(random.choice((3.0, 20.0, 40.0)), self.line.cut_off.difference_update, names)
            case Fault.SERVER_PAUSE | Fault.KEEPER_PAUSE | Fault.WORKER_PAUSE:
                self._pause(fault, server)
            case _:
                return False
        return True

    def _pause(self, fault: Fault, server: Server) -> None:
        actors: list[Actor] = [server, *server.processes]
        if not self.setup.embedded:
            if fault is Fault.KEEPER_PAUSE:
                actors = [server]
            elif fault is Fault.WORKER_PAUSE:
                actors = self.random.sample(actors[1:], min(1, len(server.processes)))
        for process in server.processes:
            process.strike(fault)
        until = self.scheduler.now + self.random.choice((0.5, 5.0, 16.0, 30.0))
        for actor in actors:
            if actor.alive and not actor.paused:
                actor.pause()
                self.scheduler.at(until, self._resume, actor)

    def _resume(self, actor: Actor) -> None:
        if actor.paused:
            actor.resume()

    def _happen_to_all(self, fault: Fault) -> None:
        random = self.random
        seconds = random.uniform(1.0, 20.0)
        match fault:
            case Fault.OUTAGE:
                self.line.away = True
                self.scheduler.after(seconds, self.line.come_back)
            case Fault.CLOCK_JUMP:
                self.clock.jump(random.choice((-30.0, -5.0, 5.0, 30.0)))
            case Fault.BROKER_DOWN | Fault.BROKER_WIPED:
                self.broker.go_down(wiped=fault is Fault.BROKER_WIPED)
                self.scheduler.after(seconds, self.broker.come_up)
            case Fault.MESSAGE_FORGED:
                for _ in range(random.randint(1, 5)):
                    self._forge()
            case Fault.FORGOT:
                self.storage.save_all()
                self.scheduler.after(random.uniform(0.1, 1.0), self._forget)
            case _:
                raise AssertionError(fault)

    def _forge(self) -> None:
        """A message that nobody published."""
        jobs = self.storage.jobs()
        queue = self.random.choice(self.setup.queue_names)
        if not jobs or self.random.random() < 0.3:
            ref = Ref("nobody", self.random.randrange(3), queue, 0)
        else:
            job = self.random.choice(jobs)
            ref = Ref(job.id, job.epoch + self.random.choice((-1, 0, 0, 1)), queue, 9)
        self.checker.strike_message(ref, Fault.MESSAGE_FORGED)
        self.broker.forge(ref)

    def _forget(self) -> None:
        self.scheduler.note("world", "the storage forgets its last moment")
        self.storage.forget()
        self.checker.forget()
