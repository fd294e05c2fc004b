"""A server within a program: keeper and worker in this process. `later worker` is the other way to run one."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

from later.core.engine import keeper, worker
from later.core.errors import ConfigError, InvalidOption
from later.runtime.jobs import BackgroundJobs
from later.runtime.keeping import Keeping
from later.runtime.queues import check_queues, check_slots
from later.runtime.troubles import Troubles
from later.runtime.working import Working

WORKER: Final = "0"
"""The name of the only worker of such a server."""


class Running:
    """A server in this process, for the length of a `with` or `async with` block.

    Threads cannot be killed: a handler that ignores `ctx.cancelled` beyond the grace goes on running in the background
    while its job is given back, so it may then run twice at the same time. A process of its own does not do that; see
    `isolation="process"` and `later worker`.
    """

    def __init__(
        self,
        jobs: BackgroundJobs[Any, Any],
        slots: int,
        queues: tuple[str, ...] | dict[str, int],
        grace: timedelta,
    ) -> None:
        self._jobs = jobs
        self._slots = slots
        self._queues = queues
        self._grace = grace
        self._parts: tuple[Keeping, Working] | None = None
        self._hurry: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Start working; returns at once. Raises ConfigError when it has started, and the errors of the backends."""
        if self._parts is not None:
            raise ConfigError("this server runs already: call running() once for each block")
        jobs = self._jobs
        isolated = [job_type.name for job_type in jobs.registry if job_type.isolation == "process"]
        if isolated and not jobs.storage().capabilities.shared:
            raise ConfigError(
                f'{isolated[0]} has isolation="process", but the storage lives in this process and what the handler '
                "enqueues would be lost with its own: use a storage that processes share, like SQLite"
            )
        settings = worker.WorkerSettings(
            self._queues,
            self._slots,
            self._grace.total_seconds(),
            broker=jobs.broker() is not None,
            push=jobs.storage().capabilities.push,
            at_most_once=jobs.registry.at_most_once(),
        )
        keeping: Keeping
        working = Working(jobs, settings, WORKER, on_end=lambda: keeping.post(keeper.StopWanted()))
        told = _Told(working)
        keeping = Keeping(
            jobs,
            tuple(self._queues),
            self._slots,
            told,
            on_end=told.lease_lost,
            note=Troubles(jobs.broker()).note,
        )
        keeping.post(keeper.WorkerStarted(WORKER))
        working.start()
        keeping.start()
        self._parts = keeping, working

    def stop(self) -> None:
        """Stop claiming, let handlers end within the grace, give the rest back; returns when all is reported."""
        if self._parts is None:
            return
        (keeping, working), self._parts = self._parts, None
        self._hurry = lambda: working.post(worker.StopAsked(hurry=True))
        working.post(worker.StopAsked())
        try:
            working.join()
        except BaseException:
            self._hurry()  # a second Ctrl-C: give everything back now
            working.join()
            raise
        finally:
            keeping.join()
        for part in (working, keeping):
            if part.error is not None:
                raise part.error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await starting
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopping = asyncio.ensure_future(asyncio.to_thread(self.stop))
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            self._hurry()  # as above
            await stopping
            raise


class _Told:
    """Hands the keeper's news to the worker of this process."""

    def __init__(self, working: Working) -> None:
        self._working = working

    def leased(self, server: str) -> None:
        self._working.post(worker.Leased(server))

    def lease_lost(self) -> None:
        self._working.post(worker.LeaseLost())

    def cancel(self, claims: Sequence[worker.Key]) -> None:
        self._working.post(worker.CancelAsked(claims))


def running(
    jobs: BackgroundJobs[Any, Any],
    *,
    slots: int,
    queues: Sequence[str] | Mapping[str, int] | None,
    grace: timedelta,
) -> Running:
    """Check the options of `BackgroundJobs.running`. Raises InvalidOption, InvalidName, ConfigError."""
    return Running(jobs, check_slots(slots), check_queues(queues, jobs.registry), check_grace(grace))


def check_grace(grace: timedelta) -> timedelta:
    """Raises InvalidOption."""
    if not isinstance(grace, timedelta) or grace < timedelta(0):
        raise InvalidOption(f"grace {grace!r} is not a timedelta of zero or more")
    return grace
