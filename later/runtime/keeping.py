"""Runs the engine's Keeper: the lease, and the upkeep that any server may do."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Protocol

from later.core.engine import keeper as engine
from later.core.engine.worker import Key, Publish
from later.core.errors import BackendError, SchemaMismatch, StorageFull, StorageReadOnly, Unavailable
from later.core.records import State
from later.core.steps import readable
from later.runtime.ids import new_id
from later.runtime.jobs import BackgroundJobs
from later.runtime.log import log
from later.runtime.loop import Lane, Loop
from later.runtime.node import dead_servers, describe_server
from later.runtime.working import SETTLE

_OF_ALL = (Unavailable, StorageFull, StorageReadOnly, SchemaMismatch)
"""What a storage raises whatever it is asked."""


class Workers(Protocol):
    """Whom the keeper tells about the lease."""

    def leased(self, server: str) -> None: ...
    def lease_lost(self) -> None: ...
    def cancel(self, claims: Sequence[Key]) -> None: ...


class Keeping:
    """The keeper of one server."""

    def __init__(
        self,
        jobs: BackgroundJobs[Any, Any],
        queues: tuple[str, ...],
        slots: int,
        workers: Workers,
        on_end: Callable[[], None],
        note: Callable[[], str] = str,
    ) -> None:
        """on_end: called in another thread when the machine has exited, or failed on a defect. note: what a beat is to
        tell, asked for in another thread."""
        self._storage = jobs.storage()
        self._broker = jobs.broker()
        self._publish = jobs.publish
        self._declare = jobs.recurring.declare
        self._workers = workers
        self._on_end = on_end
        self._note = note
        machine = engine.Keeper(
            lambda: describe_server(new_id(), queues, slots),
            Random(),
            jobs.name,
            broker=self._broker is not None,
            declares=True,
        )
        self._loop: Loop[engine.Event, engine.Command] = Loop(
            "later-keeper", machine, engine.Ticked(), self._execute, self._end
        )
        self._lease = Lane("later-lease")
        self._upkeep = Lane("later-upkeep")
        self._compares = Lane("later-compare")
        self.post = self._loop.post
        self.start = self._loop.start
        self._loop.post(engine.Started())  # the machine's first event, whatever is posted next

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the machine has exited; False when time ran out first."""
        return self._loop.join(timeout)

    @property
    def error(self) -> BaseException | None:
        return self._loop.error

    def _execute(self, command: engine.Command) -> bool:
        match command:
            case engine.Register() | engine.Beat() | engine.Unregister():
                self._lease.submit(lambda: self._loop.post(self._guard(self._lease_call, command)))
            case engine.Compare():
                self._compares.submit(lambda: self._loop.post(self._compare()))
            case Publish(refs):
                self._publish(refs)
            case engine.TellUnreadable(schedules):
                for schedule, why in schedules.items():
                    log.error("recurring job %s is due and stays so: %s", schedule, why)
            case engine.TellLeased(server):
                self._workers.leased(server)
            case engine.TellLeaseLost():
                log.error("the server's lease is lost; its jobs are given up and it goes on under a new id")
                self._workers.lease_lost()
            case engine.TellCancels(claims):
                self._workers.cancel(claims)
            case engine.KeeperExit():
                return False
            case _:
                self._upkeep.submit(lambda: self._loop.post(self._guard(self._upkeep_call, command)))
        return True

    def _end(self) -> None:
        lanes = (self._lease, self._upkeep, self._compares)
        for lane in lanes:
            lane.close()
        for lane in lanes:
            lane.join(SETTLE)
        self._on_end()

    def _guard(self, call: Callable[[Any], engine.Event], command: engine.Command) -> engine.Event:
        try:
            return call(command)
        except BackendError as error:
            log.warning("the storage did not answer %s; trying again: %s", type(command).__name__, error)
            refused = "" if isinstance(error, _OF_ALL) else str(error)
        except Exception as error:  # noqa: BLE001  a faulty adapter must not end the server
            log.exception("the storage raised what it must not on %s; trying again", type(command).__name__)
            refused = type(error).__name__
        lease = isinstance(command, engine.Register | engine.Beat | engine.Unregister)
        return engine.LeaseCallFailed() if lease else engine.UpkeepFailed(refused)

    def _compare(self) -> engine.Event:
        assert self._broker is not None
        try:
            by_queue = self._storage.counts().by_queue
            enqueued = {queue: jobs for queue, states in by_queue.items() if (jobs := states.get(State.ENQUEUED))}
            return engine.Compared(enqueued, self._broker.depth(list(enqueued)) if enqueued else {})
        except BackendError as error:
            log.debug("cannot see whether the broker has lost messages; trying again: %s", error)
        except Exception:  # noqa: BLE001  a faulty adapter must not end the server
            log.exception("the broker or the storage raised what it must not; trying again")
        return engine.CompareFailed()

    def _lease_call(self, command: engine.LeaseCommand) -> engine.Event:
        match command:
            case engine.Register(server, lease):
                self._storage.register(server, lease)
                return engine.Registered()
            case engine.Beat(server, lease):
                return engine.Beaten(self._storage.beat(server, lease, self._note()))
            case engine.Unregister(server):
                self._storage.unregister(server)
                return engine.Unregistered()

    def _upkeep_call(self, command: engine.UpkeepCommand) -> engine.Event:
        storage = self._storage
        match command:
            case engine.Promote(limit):
                return engine.PromoteDone(storage.promote(limit))
            case engine.Rescue(limit, dead):
                rescued = storage.rescue(limit, dead)
                if rescued.jobs:  # a server that ended in good order is found here too, without claims
                    log.warning("took %d jobs back from dead servers %s", rescued.jobs, ", ".join(rescued.servers))
                return engine.RescueDone(rescued)
            case engine.FindUnpublished(limit, again_in):
                return engine.UnpublishedFound(storage.unpublished(limit, again_in))
            case engine.Unpublish(queues, waiting, limit, after):
                if after is None:
                    log.warning("the broker lacks messages of %s; their jobs are published again", ", ".join(queues))
                return engine.Unpublished(storage.unpublish(queues, waiting, limit, after))
            case engine.Prune(limit):
                return engine.PruneDone(storage.prune(limit))
            case engine.ListServers():
                servers = storage.servers()
                return engine.ServersListed(servers, dead_servers(servers))
            case engine.ListHeld(server):
                return engine.HeldListed(storage.claims(server))
            case engine.Apply(changes):
                return engine.Applied(storage.apply(changes))
            case engine.Declare():
                self._declare()
                return engine.DeclareDone()
            case engine.FindDue(limit):
                return engine.DueFound(storage.due(limit))
            case engine.GetJobs(ids):
                return engine.JobsFound(readable(storage, ids))  # one that cannot be read cannot run either
            case engine.Fire(changes):
                return engine.Fired(storage.reschedule(changes))
