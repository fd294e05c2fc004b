"""Runs the engine's Worker: claims from the storage, hints from the broker, handlers in the executor."""

import threading
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from later.core.engine import worker as engine
from later.core.errors import BackendError, Corrupt
from later.runtime.board import Board
from later.runtime.broker_log import Use
from later.runtime.executor import Executor
from later.runtime.jobs import BackgroundJobs
from later.runtime.log import log
from later.runtime.loop import Lane, Loop
from later.runtime.pool import Pool

SETTLE: Final = 1.0
"""Seconds that calls under way get to return at the end."""
CALLS: Final = 3
"""The most that are under way at once: to the storage, to wait for it, and to receive from the broker."""


class Working:
    """One worker process's share of a server."""

    def __init__(
        self,
        jobs: BackgroundJobs[Any, Any],
        settings: engine.WorkerSettings,
        name: str,
        board: Board | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """on_end: called in another thread when the machine has exited, or failed on a defect."""
        self._storage = jobs.storage()
        self._broker = jobs.broker()
        self._publish = jobs.publish
        self._broker_log = jobs.broker_log
        self._on_end = on_end
        random = Random()
        self._loop: Loop[engine.Event, engine.Command] = Loop(
            f"later-worker-{name}", engine.Worker(settings, name, random), engine.Tick(), self._execute, self._end
        )
        self._pool = Pool(f"later-{name}", settings.slots + CALLS)
        self._executor = Executor(jobs, settings.slots, self._pool, self._loop.turn, random, board)
        self._answers = Lane(f"later-answer-{name}")
        self._under_way = 0
        self._returned = threading.Condition(threading.Lock())
        self._wanted = False
        """Whether the wait that was asked for last is still wanted."""
        self._ending = threading.Event()
        self.post = self._loop.post
        self.start = self._loop.start

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the machine has exited; False when time ran out first."""
        return self._loop.join(timeout)

    @property
    def error(self) -> BaseException | None:
        return self._loop.error

    def _execute(self, command: engine.Command) -> bool:
        match command:
            case engine.Run(claim):
                self._executor.run(claim)
            case engine.Exchange() | engine.ListClaims():
                self._begins()
                self._pool.follow(lambda: self._returns(self._call(command)))
            case engine.Wait(queues, timeout):
                self._wanted = True
                self._begins()
                self._pool.put(lambda: self._returns(self._wait(queues, timeout)))
            case engine.Wake():
                self._wanted = False
                self._answers.submit(self._wake)
            case engine.Receive():
                self._begins()
                self._pool.put(lambda: self._returns(self._receive(command)))
            case engine.Ack() | engine.GiveBack():
                self._answers.submit(lambda: self._answer(command))
            case engine.Publish(refs):
                self._publish(refs)
            case engine.Interrupt(key, why):
                self._executor.interrupt(key, why)
            case engine.Settled(claims):
                self._executor.settled(claims)
            case engine.Exit():
                return False
        return True

    def _begins(self) -> None:
        """A call to a backend is given to the pool."""
        with self._returned:
            self._under_way += 1

    def _returns(self, event: engine.Event) -> None:
        self._loop.turn(event)
        with self._returned:
            self._under_way -= 1
            self._returned.notify_all()

    def _call(self, command: engine.Exchange | engine.ListClaims) -> engine.Event:
        try:
            if isinstance(command, engine.ListClaims):
                return engine.ClaimsListed(self._storage.claims(command.server))
            return engine.ExchangeDone(
                self._storage.exchange(command.by, command.changes, command.refs, command.queues, command.limit)
            )
        except BackendError as error:
            log.warning("the storage did not answer; trying again: %s", error)
            refused = isinstance(error, Corrupt)
            kind = type(error).__name__
        except Exception as error:  # noqa: BLE001  a faulty adapter must not end the server
            log.exception("the storage raised what it must not; trying again")
            refused, kind = True, type(error).__name__
        if isinstance(command, engine.ListClaims):
            return engine.ListFailed()
        return engine.ExchangeRefused(kind) if refused else engine.ExchangeFailed()

    def _wake(self) -> None:
        try:
            self._storage.wake()
        except Exception as error:  # noqa: BLE001  the wait ends by itself
            log.warning("the storage did not end a wait: %s", error)

    def _wait(self, queues: Sequence[str], timeout: float) -> engine.Event:
        if not self._wanted:
            return engine.Woken(hint=False)
        try:
            return engine.Woken(self._storage.wait(queues, timeout))
        except Exception as error:  # noqa: BLE001  a hint that fails is only a missing hint
            if not self._ending.is_set():
                log.warning("the storage does not tell of new jobs; looking in %g s: %s", timeout, error)
            self._ending.wait(timeout)
            return engine.Woken(hint=False)

    def _receive(self, command: engine.Receive) -> engine.Event:
        assert self._broker is not None
        try:
            deliveries = self._broker.receive(command.queues, command.limit, command.wait)
        except BackendError as error:
            self._broker_log.failed(Use.GIVE, error)
            return engine.ReceiveFailed()
        except Exception:  # noqa: BLE001  as above
            log.exception("the broker raised what it must not; working from the storage until it answers")
            return engine.ReceiveFailed()
        self._broker_log.worked(Use.GIVE)
        return engine.Received(deliveries)

    def _answer(self, command: engine.Ack | engine.GiveBack) -> None:
        assert self._broker is not None
        try:
            if isinstance(command, engine.Ack):
                self._broker.ack(command.deliveries)
            else:
                self._broker.release(command.deliveries)
        except Exception as error:  # noqa: BLE001  a message that comes again is found to be stale
            log.warning("the broker did not take an answer: %s", error)

    def _end(self) -> None:
        try:
            self._ending.set()
            self._executor.close()
            self._pool.close()
            self._answers.close()
            self._settle()
            late = [event.deliveries for event in self._loop.unhandled() if isinstance(event, engine.Received)]
            for deliveries in filter(None, late):
                self._answer(engine.GiveBack(deliveries))
        finally:
            self._on_end()

    def _settle(self) -> None:
        """Wait for the calls under way, so that none touches a backend that its owner closes next."""
        until = time.monotonic() + SETTLE
        over = False
        while not over and time.monotonic() < until:
            # Again and again, because a call that was about to wait missed the first wake.
            self._storage.wake()
            if self._broker is not None:
                self._broker.wake()
            with self._returned:
                over = self._returned.wait_for(lambda: not self._under_way, 0.02)
        self._answers.join(max(0.0, until - time.monotonic()))
