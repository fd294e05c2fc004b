"""Servers and their worker processes: the interpreters of the engine's commands.

They execute the same commands as production; only what the commands reach is simulated. A crash may come before every
one of them.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from later.core.engine import keeper, worker
from later.core.engine.judge import End, judge
from later.core.engine.keeper import Keeper
from later.core.engine.worker import Key, Worker, WorkerSettings
from later.core.records import Claim, Claimant, Counts, ServerInfo, ServerRecord, State
from tests.simulation.faults import Fault
from tests.simulation.handlers import Handler
from tests.simulation.scheduler import Actor

if TYPE_CHECKING:
    from tests.simulation.world import World

TICKS_AT_ONCE = 50
"""A machine that asks to be woken so often in one instant is in a loop."""
SETTLING = 0.5
"""Seconds after a pause in which a server may not know yet what it has missed."""


class TickAt(Protocol):
    def __call__(self, now: float, /) -> None: ...


class Timer:
    """Ticks a machine at its `wake_at`, and notices one that never stops asking."""

    def __init__(self, server: "Server", actor: Actor, tick: TickAt) -> None:
        self._server = server
        self._actor = actor
        self._tick = tick
        self._set: float | None = None
        self._at_once = 0
        self._last = -1.0

    def arm(self, wake_at: float | None) -> None:
        if wake_at == self._set:
            return
        self._set = wake_at
        if wake_at is not None:
            delay = max(0.0, (wake_at - self._server.clock()) / self._server.rate)
            self._actor.after(delay, self._fire, wake_at)

    def _fire(self, wake_at: float) -> None:
        if self._set != wake_at:
            return
        self._set = None
        scheduler = self._actor.scheduler
        self._at_once = self._at_once + 1 if scheduler.now - self._last < 1e-6 else 0
        self._last = scheduler.now
        if self._at_once > TICKS_AT_ONCE:
            scheduler.fail(f"{self._actor.name} asks to be woken at once, again and again (wake_at {wake_at})")
        # Never earlier than asked for, whatever the rounding on the way there and back.
        self._tick(max(self._server.clock(), wake_at))


class Process(Actor):
    """A worker process: one `Worker` and its handlers."""

    def __init__(self, world: "World", server: "Server", name: str, settings: WorkerSettings) -> None:
        super().__init__(world.scheduler, name)
        self.world = world
        self.server = server
        self.slots = settings.slots
        self.machine = Worker(settings, name, world.scheduler.random(name))
        self.handlers: list[Handler] = []
        self.started: dict[Key, None] = {}
        """What the supervisor knows to have been started here."""
        self.resumed_at = -1.0
        self._claimed_as = ""
        self._leased_as: str | None = None
        self._timer = Timer(server, self, self._tick)

    def resume(self) -> None:
        self.resumed_at = self.scheduler.now
        super().resume()

    @property
    def healthy(self) -> bool:
        """Nothing keeps it from knowing what it should know about its claims."""
        server = self.server
        return (
            self.alive
            and server.alive
            and not (self.paused or server.paused)
            and self.scheduler.now - max(self.resumed_at, server.resumed_at) > SETTLING
        )

    def runs(self, job_id: str) -> bool:
        """Whether it runs the job and believes in its claim."""
        return any(key[0] == job_id for key in self.machine._running)

    def strike(self, fault: Fault) -> None:
        for key in self.machine._held:
            self.world.checker.strike(key, fault)

    def die(self) -> None:
        self.alive = False
        self.world.forget_waiter(self)
        self.scheduler.after(self.world.random.uniform(0.0, 2.0), self.world.broker.disconnect, self)

    def feed(self, event: worker.Event) -> None:
        self._feed(event, self.server.clock())

    def _tick(self, now: float) -> None:
        self._feed(worker.Tick(), now)

    def _feed(self, event: worker.Event, now: float) -> None:
        if not self.alive:
            return
        self.scheduler.note(self.name, "<-", event)
        if isinstance(event, worker.Leased):
            self._leased_as = event.server
        elif isinstance(event, worker.LeaseLost):
            self._leased_as = None
        self._interpret(self.machine.handle(event, now))

    def _interpret(self, commands: Sequence[worker.Command]) -> None:
        for command in commands:
            kind = type(command).__name__
            if self.world.weather.strikes_before(Fault.WORKER_CRASH, kind):
                self.world.checker.reached.add((f"before {kind}", Fault.WORKER_CRASH))
                self.scheduler.note(self.name, "crashes before", command)
                self.server.lose(self, Fault.WORKER_CRASH)
            if not self.alive:
                return
            self.scheduler.note(self.name, "->", command)
            self._execute(command)
        self._timer.arm(self.machine.wake_at)

    def _execute(self, command: worker.Command) -> None:
        world, storage, feed = self.world, self.world.storage, self.feed
        by = Claimant(self.server.lease or "", self.name)
        match command:
            case worker.Exchange(by, changes, refs, queues, limit):
                self._claimed_as = by.server
                world.call(
                    self,
                    ("exchange", by),
                    lambda: storage.exchange(by, changes, refs, queues, limit),
                    lambda result: feed(worker.ExchangeDone(result)),
                    lambda: feed(worker.ExchangeFailed()),
                )
            case worker.ListClaims(server):
                world.call(
                    self,
                    ("claims", by),
                    lambda: storage.claims(server),
                    lambda claims: feed(worker.ClaimsListed(claims)),
                    lambda: feed(worker.ListFailed()),
                )
            case worker.Wait(queues, timeout):
                world.wait(self, queues, timeout)
            case worker.Publish(refs):
                world.publish(self, by, refs)
            case worker.Run(claim):
                self._run(claim)
            case worker.Interrupt(key, why):
                for handler in self.handlers:
                    if handler.key == key:
                        handler.interrupt(why)
            case worker.Settled(claims):
                for key in claims:
                    self.started.pop(key, None)
            case worker.Exit():
                self.server.leaves(self)
            case _:
                self._execute_broker(command)

    def _execute_broker(self, command: worker.Command) -> None:
        broker, feed = self.world.broker, self.feed
        match command:
            case worker.Wake():
                self.world.wake(self)
            case worker.Receive(queues, limit, wait):
                broker.receive(
                    self,
                    queues,
                    limit,
                    wait,
                    lambda deliveries: feed(worker.Received(deliveries)),
                    lambda: feed(worker.ReceiveFailed()),
                )
            case worker.Ack(deliveries):
                for delivery in deliveries:
                    if not broker.is_forged(delivery):
                        self.world.checker.acks(delivery, self._claimed_as)
                broker.ack(deliveries)
            case worker.GiveBack(deliveries):
                broker.release(deliveries)
            case _:
                raise AssertionError(command)

    def _run(self, claim: Claim) -> None:
        key = (claim.id, claim.epoch)
        self.world.checker.starts(claim, self.name)
        if claim.server != self._leased_as:
            self.scheduler.fail(f"{self.name} is of server {self._leased_as} and starts {claim}")
        if len(self.handlers) >= self.slots:
            self.scheduler.fail(f"{self.name} has {self.slots} slots, all in use, and starts {key}")
        self.started[key] = None
        self.handlers.append(Handler(self.world, self, claim))

    def ended(self, handler: Handler, end: End) -> None:
        """A handler has ended: its slot is free, and the machine hears of it."""
        self.handlers.remove(handler)
        # What may run once at most counts as started until its report has arrived.
        if self.world.setup.ends_told and not handler.plan.policy.at_most_once:
            self.started.pop(handler.key, None)
        change = judge(handler.claim, handler.plan.policy, end, self.world.random)
        self.feed(worker.RunEnded(change, self.scheduler.now - handler.run.began))


class Server(Actor):
    """A supervisor with its `Keeper`, and its worker processes. Embedded: all in one process."""

    def __init__(self, world: "World", node: str, number: int, rate: float) -> None:
        super().__init__(world.scheduler, f"{node}#{number}")
        self.world = world
        self.node = node
        self.pid = number
        self.rate = rate
        self.processes: list[Process] = []
        self.lease: str | None = None
        self.stopping = False
        self.resumed_at = -1.0
        self.machine = Keeper(self._describe, world.scheduler.random(self.name), "app", broker=world.setup.broker)
        self._spawned = 0
        self._timer = Timer(self, self, self._tick)

    def clock(self) -> float:
        return 1000.0 + self.scheduler.now * self.rate

    def start(self) -> None:
        self.feed(keeper.Started())
        for _ in range(self.world.setup.processes):
            self.spawn()

    def _describe(self) -> ServerInfo:
        setup = self.world.setup
        node = self.node if setup.looks else None
        return ServerInfo(
            self.world.new_server_id(), node, self.node, self.pid, str(self.pid), setup.queue_names, setup.slots
        )

    def spawn(self) -> None:
        if self.stopping:
            return
        self._spawned += 1
        process = Process(self.world, self, f"{self.name}.{self._spawned}", self.world.setup.worker_settings())
        self.processes.append(process)
        self.feed(keeper.WorkerStarted(process.name))
        if self.lease is not None:
            self._tell(process, worker.Leased(self.lease))

    def _tell(self, process: Process, event: worker.Event) -> None:
        # What a supervisor says arrives in order: a pipe, or a queue within one process.
        process.after(0.005, process.feed, event)

    # --- ends and pauses

    def lose(self, process: Process, fault: Fault | None) -> None:
        """A worker process ends without a word."""
        if self.world.setup.embedded:
            self.crash(Fault.SERVER_CRASH if fault is None else fault)
            return
        if fault is not None:
            process.strike(fault)
        process.die()
        self.after(self.world.random.uniform(0.01, 0.5), self._reap, process)

    def _reap(self, process: Process) -> None:
        self.processes.remove(process)
        self.feed(keeper.WorkerDied(process.name, tuple(process.started)))
        if not self.stopping:
            self.after(self.world.random.uniform(0.05, 1.0), self.spawn)
        elif not self.processes:
            self.feed(keeper.StopWanted())

    def leaves(self, process: Process) -> None:
        """A worker process ends in order."""
        self.world.checker.left.add(process.name)
        process.die()
        self.after(self._moment(), self._left, process)

    def _left(self, process: Process) -> None:
        self.processes.remove(process)
        self.feed(keeper.WorkerLeft(process.name))
        if not self.processes:
            self.feed(keeper.StopWanted())

    def stop(self, fault: Fault) -> None:
        for process in self.processes:
            process.strike(fault)
            self._tell(process, worker.StopAsked(hurry=fault is Fault.HURRY))
        if not self.processes and not self.stopping:
            self.after(self._moment(), self.feed, keeper.StopWanted())
        self.stopping = True

    def crash(self, fault: Fault) -> None:
        self.scheduler.note(self.name, "crashes", fault)
        self.alive = False
        for process in self.processes:
            process.strike(fault)
            if fault is Fault.ORPHANED:
                self.scheduler.after(self.world.random.uniform(0.0, 25.0), process.die)
            else:
                process.die()
        self.world.server_gone(self)

    def resume(self) -> None:
        self.resumed_at = self.scheduler.now
        super().resume()

    # --- the keeper

    def feed(self, event: keeper.Event) -> None:
        self._feed(event, self.clock())

    def _tick(self, now: float) -> None:
        self._feed(keeper.Ticked(), now)

    def _feed(self, event: keeper.Event, now: float) -> None:
        if self.alive:
            self.scheduler.note(self.name, "<-", event)
            self._interpret(self.machine.handle(event, now))

    def _interpret(self, commands: Sequence[keeper.Command]) -> None:
        for command in commands:
            kind = type(command).__name__
            if self.world.weather.strikes_before(Fault.SUPERVISOR_CRASH, kind):
                self.world.checker.reached.add((f"before {kind}", Fault.SUPERVISOR_CRASH))
                self.scheduler.note(self.name, "crashes before", command)
                self.crash(Fault.SERVER_CRASH)
            if not self.alive:
                return
            self.scheduler.note(self.name, "->", command)
            if not self._execute_lease(command):
                self._execute_upkeep(command)
        self._timer.arm(self.machine.wake_at)

    def _execute_lease(self, command: keeper.Command) -> bool:
        world, storage, feed = self.world, self.world.storage, self.feed
        failed = keeper.LeaseCallFailed()
        match command:
            case keeper.Register(info, lease):
                world.call(
                    self,
                    ("register", Claimant(info.id, "")),
                    lambda: storage.register(info, lease),
                    lambda _: feed(keeper.Registered()),
                    lambda: feed(failed),
                )
            case keeper.Beat(server, lease):
                world.call(
                    self,
                    ("beat", Claimant(server, "")),
                    lambda: storage.beat(server, lease),
                    lambda beat: feed(keeper.Beaten(beat)),
                    lambda: feed(failed),
                )
            case keeper.Unregister(server):
                world.call(
                    self,
                    ("unregister", Claimant(server, "")),
                    lambda: storage.unregister(server),
                    lambda _: feed(keeper.Unregistered()),
                    lambda: feed(failed),
                )
            case keeper.TellLeased(server):
                self.lease = server
                for process in self.processes:
                    self._tell(process, worker.Leased(server))
            case keeper.TellLeaseLost():
                self._lease_lost()
            case keeper.TellCancels(claims):
                for process in self.processes:
                    self._tell(process, worker.CancelAsked(claims))
            case keeper.KeeperExit():
                self.alive = False
                for process in self.processes:
                    process.die()
                self.world.server_gone(self)
            case _:
                return False
        return True

    def _lease_lost(self) -> None:
        self.lease = None
        for process in list(self.processes):
            if self.world.setup.embedded:
                self._tell(process, worker.LeaseLost())
            elif process.alive:
                self.lose(process, None)

    def _execute_upkeep(self, command: keeper.Command) -> None:
        world, storage, feed = self.world, self.world.storage, self.feed
        by = Claimant(self.lease or "", "")

        def failed() -> None:
            feed(keeper.UpkeepFailed())

        match command:
            case keeper.Promote(limit):
                work_promote = lambda: storage.promote(limit)
                world.call(self, ("promote", by), work_promote, lambda r: feed(keeper.PromoteDone(r)), failed)
            case keeper.Rescue(limit, dead):
                work_rescue = lambda: storage.rescue(limit, dead)
                world.call(self, ("rescue", by), work_rescue, lambda r: feed(keeper.RescueDone(r)), failed)
            case keeper.FindUnpublished(limit, again_in):
                work_find = lambda: storage.unpublished(limit, again_in)
                world.call(self, ("unpublished", by), work_find, lambda r: feed(keeper.UnpublishedFound(r)), failed)
            case keeper.Unpublish(queues, waiting, limit, after):
                work_lost = lambda: storage.unpublish(queues, waiting, limit, after)
                world.call(self, ("unpublish", by), work_lost, lambda r: feed(keeper.Unpublished(r)), failed)
            case keeper.Compare():
                world.call(self, ("counts", by), storage.counts, self._counted, lambda: feed(keeper.CompareFailed()))
            case keeper.Prune(limit):
                work_prune = lambda: storage.prune(limit)
                world.call(self, ("prune", by), work_prune, lambda r: feed(keeper.PruneDone(r)), failed)
            case keeper.ListServers():
                world.call(self, ("servers", by), storage.servers, self._servers_listed, failed)
            case keeper.ListHeld(server):
                work_held = lambda: storage.claims(server)
                world.call(self, ("held", by), work_held, lambda r: feed(keeper.HeldListed(r)), failed)
            case keeper.Apply(changes):
                work_apply = lambda: storage.apply(changes)
                world.call(self, ("apply", by), work_apply, lambda r: feed(keeper.Applied(r)), failed)
            case worker.Publish(refs):
                world.publish(self, by, refs)
            case _:
                self._execute_tick(command, by, failed)

    def _execute_tick(self, command: keeper.Command, by: Claimant, failed: Callable[[], None]) -> None:
        world, storage, feed = self.world, self.world.storage, self.feed
        match command:
            case keeper.FindDue(limit):
                work_due = lambda: storage.due(limit)
                world.call(self, ("due", by), work_due, lambda r: feed(keeper.DueFound(r)), failed)
            case keeper.GetJobs(ids):
                work_get = lambda: storage.get(ids)
                world.call(self, ("get", by), work_get, lambda r: feed(keeper.JobsFound(r)), failed)
            case keeper.Fire(schedules):
                work_fire = lambda: storage.reschedule(schedules)
                world.call(self, ("fire", by), work_fire, lambda r: feed(keeper.Fired(r)), failed)
            case _:
                raise AssertionError(command)

    def _counted(self, counts: Counts) -> None:
        if not self.world.broker.up:
            self.feed(keeper.CompareFailed())
            return
        enqueued = {queue: jobs for queue, states in counts.by_queue.items() if (jobs := states.get(State.ENQUEUED))}
        self.feed(keeper.Compared(enqueued, self.world.broker.depth(enqueued)))

    def _servers_listed(self, servers: list[ServerRecord]) -> None:
        dead = [
            record.info.id
            for record in servers
            if record.info.node == self.node and not self.world.pid_lives(record.info.pid)
        ]
        self.feed(keeper.ServersListed(servers, dead))

    def _moment(self) -> float:
        return self.world.random.uniform(0.0, 0.01)
