"""`BackgroundJobs`: what a program holds of its jobs."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from typing_extensions import Unpack

from later.core.codec import Limits
from later.core.errors import ConfigError, InvalidOption, JobNotSucceeded, UnknownJob, WaitTimeout
from later.core.lifecycle import Cause, Change
from later.core.names import check_name
from later.core.ports import Broker, BrokerBackend, Storage, StorageBackend
from later.core.records import Counts, JobQuery, Ref, State, Verdict
from later.core.recurring import Origin
from later.core.registry import Registry
from later.runtime.broker_log import BrokerLog
from later.runtime.connections import Connections, PerProcess
from later.runtime.enqueue import Enqueuer, Intake, duration
from later.runtime.ids import new_id
from later.runtime.node import dead_servers
from later.runtime.recurring import RecurringJobs, RecurringOptions, define
from later.runtime.threads import in_thread
from later.runtime.views import Job, Page, Server, job_view, page_view, server_view

if TYPE_CHECKING:
    from later.runtime.server import Running

_App_co = TypeVar("_App_co", covariant=True)
_Payload_contra = TypeVar("_Payload_contra", contravariant=True)

GRACE: Final = timedelta(seconds=25)
"""What a stopping server gives its handlers: less than the 30 s after which Kubernetes kills."""

POLL_FIRST: Final = 0.005
POLL_LONGEST: Final = 0.25
"""Seconds between two looks at a job that is waited for: short for short jobs, then twice as long each time."""

PAGE_LARGEST: Final = 1000

MOVES: Final = 1000
"""Jobs that are requeued or deleted in one transaction."""


class BackgroundJobs(Enqueuer[_Payload_contra], Generic[_App_co, _Payload_contra]):
    """The jobs of one app: enqueue them, see them, repair them, run them. Made by `JobsBuilder`.

    Safe to use from several threads, and before and after a fork: connections open at first use, in every process its
    own. What asks the storage raises `Unavailable` when it gives no answer; the same call may then be repeated.
    The methods that begin with `a` are the same for `async` code and do not block the event loop.
    """

    def __init__(
        self,
        app: _App_co,
        name: str,
        registry: Registry,
        storage: StorageBackend,
        broker: BrokerBackend | None,
        limits: Limits,
        *,
        runs: bool,
        recurring: Sequence[tuple[str, object, str | None, RecurringOptions]] = (),
    ) -> None:
        """recurring: what the code declares, as the arguments of `enqueue_recurring`."""
        self._app = app
        self._name = name
        self._registry = registry
        self._limits = limits
        self._runs = runs
        self._connections = PerProcess(lambda: Connections(name, storage, broker))
        super().__init__(
            Intake(
                registry,
                limits,
                connections=self._connections.get,
                new_id=new_id,
                now=lambda: datetime.now(UTC),
            )
        )
        declared = {
            id: define(self._intake, id, payload, cron, options, Origin.CODE)
            for id, payload, cron, options in recurring
        }
        self._recurring = RecurringJobs(self.storage, self.publish, registry, declared)

    @property
    def app(self) -> _App_co:
        """What was given to JobsBuilder."""
        return self._app

    @property
    def name(self) -> str:
        """The app's name, its namespace in every backend."""
        return self._name

    @property
    def registry(self) -> Registry:
        """The job types, with their handlers unless this is a client."""
        return self._registry

    @property
    def runs(self) -> bool:
        """Whether handlers are registered; False for a client."""
        return self._runs

    @property
    def limits(self) -> Limits:
        return self._limits

    def storage(self, *, create: bool = True) -> Storage:
        """The storage of this process, opened now if it was not. Raises the errors of the backend; without `create`,
        ConfigError for a file that is not there."""
        return self._connections.get().storage(create=create)

    def broker(self) -> Broker | None:
        """The broker of this process, opened now if it was not; None when the app has none."""
        return self._connections.get().broker()

    @property
    def intake(self) -> Intake:
        """What checks, encodes and stores new jobs."""
        return self._intake

    @property
    def recurring(self) -> RecurringJobs:
        """The recurring jobs: see, pause, resume, trigger and remove them."""
        return self._recurring

    def enqueue_recurring(
        self, id: str, payload: _Payload_contra, cron: str | None = None, **options: Unpack[RecurringOptions]
    ) -> None:
        """Store a recurring job under `id`, or make the one of this id what the arguments say.

        cron: five fields, or six with the seconds first, such as `"0 3 * * *"`; or give `every=timedelta(...)`.

        The same arguments again change nothing, so a program may call it whenever it starts. Other times begin now, by
        the storage's clock, and what passed before does not count as missed; anything else that changes holds from the
        next job on. A pause stays. Two or three round trips.

        Raises InvalidSchedule and UnknownZone besides the errors of `enqueue`; SchemaMismatch when a newer version of
        `later` has stored the one of this id.
        """
        self._recurring.put(id, define(self._intake, id, payload, cron, options, Origin.CALL))

    async def aenqueue_recurring(
        self, id: str, payload: _Payload_contra, cron: str | None = None, **options: Unpack[RecurringOptions]
    ) -> None:
        """As `enqueue_recurring`."""
        await in_thread(self._recurring.put, id, define(self._intake, id, payload, cron, options, Origin.CALL))

    def publish(self, refs: Sequence[Ref]) -> None:
        """Hand refs that became Enqueued to the broker, in the background; nothing without a broker."""
        self._connections.get().publish(refs)

    @property
    def broker_log(self) -> BrokerLog:
        """Tells of a broker that cannot be used, for all of this process."""
        return self._connections.get().broker_log

    def get(self, id: str) -> Job:
        """The job as it is now, with history, payload and result. Raises UnknownJob."""
        details = self.storage().get([check_name("id", id)])[0]
        if details is None:
            raise _unknown(id)
        return job_view(details)

    def find(self, query: JobQuery | None = None) -> Page:
        """A page of jobs, newest state change first; without a query, of all jobs.

        Raises InvalidOption, InvalidName.
        """
        query = JobQuery() if query is None else query
        limit = query.limit
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE_LARGEST:
            raise InvalidOption(f"limit {limit!r} is not a whole number from 1 to {PAGE_LARGEST}")
        for kind, names in (("queue", query.queues), ("type", query.types)):
            for name in names:
                check_name(kind, name)
        if query.parent is not None:
            check_name("parent", query.parent)
        return page_view(self.storage().find(query))

    def counts(self) -> Counts:
        """How many jobs there are, by queue and state."""
        return self.storage().counts()

    def servers(self) -> list[Server]:
        """The servers that run this app's jobs, oldest first."""
        servers = self.storage().servers()
        gone = set(dead_servers(servers))
        return [server_view(server, gone=server.info.id in gone) for server in servers]

    def wait(self, id: str, timeout: timedelta | float | None = None) -> Job:
        """The job once it has ended (Succeeded, Failed or Deleted). `timeout` in seconds; None: wait for ever.

        Looks at once, then after 5 ms and ever more rarely, at last 4 times a second. Raises UnknownJob, WaitTimeout.
        """
        pauses = _pauses(id, timeout)
        while True:
            job = self.get(id)
            if job.state.ended:
                return job
            time.sleep(pauses(job))

    def result(self, id: str, timeout: timedelta | float | None = None) -> Any:
        """What the job's handler returned, as plain data, once it has succeeded.

        Raises JobNotSucceeded when it ended otherwise, UnknownJob, WaitTimeout.
        """
        return _result(self.wait(id, timeout))

    def requeue(self, *ids: str) -> list[Verdict]:
        """Run jobs again, now, that are Scheduled or have ended; attempts and crashes start anew.

        One round trip for each 1,000 ids; a verdict for each, in order. REFUSED: the job waits for its parent, or runs.
        Raises UnknownJob when the only id is unknown.
        """
        return self._move(ids, Cause.REQUEUE, "requeued on request")

    def reschedule(self, id: str, *, at: datetime | None = None, delay: timedelta | None = None) -> Verdict:
        """Give a Scheduled job another time: `at` (with a time zone) or `delay` from now, by the storage's clock.

        A job that waits for its next attempt keeps its attempts. `requeue` runs one now. REFUSED: it is not Scheduled.
        One round trip, two with `at`, which then is kept to within one. Raises UnknownJob, InvalidOption.
        """
        if (at is None) == (delay is None):
            raise InvalidOption("give either at=datetime(...) or delay=timedelta(...)")
        after = duration(delay) if delay is not None else 0
        if at is not None:
            after = max(0, self._intake.moment(at) - self.storage().due(0).now)
        change = Change(check_name("id", id), Cause.RESCHEDULE, "rescheduled on request", delay=after)
        [applied] = self.storage().apply([change])
        if applied.verdict is Verdict.UNKNOWN:
            raise _unknown(id)
        return applied.verdict

    async def areschedule(self, id: str, *, at: datetime | None = None, delay: timedelta | None = None) -> Verdict:
        """As `reschedule`. Cancelling the caller does not undo it."""
        return await in_thread(self.reschedule, id, at=at, delay=delay)

    def delete(self, *ids: str) -> list[Verdict]:
        """Make jobs Deleted that have not begun or have failed; ask those that run to stop (verdict REQUESTED).

        One round trip for each 1,000 ids; a verdict for each, in order. REFUSED: the job has succeeded.
        Raises UnknownJob when the only id is unknown.
        """
        return self._move(ids, Cause.DELETE, "deleted on request")

    async def aget(self, id: str) -> Job:
        return await in_thread(self.get, id)

    async def afind(self, query: JobQuery | None = None) -> Page:
        return await in_thread(self.find, query)

    async def acounts(self) -> Counts:
        return await in_thread(self.counts)

    async def aservers(self) -> list[Server]:
        return await in_thread(self.servers)

    async def await_for(self, id: str, timeout: timedelta | float | None = None) -> Job:  # noqa: ASYNC109  as `wait`
        """As `wait`."""
        import asyncio

        pauses = _pauses(id, timeout)
        while True:
            job = await self.aget(id)
            if job.state.ended:
                return job
            await asyncio.sleep(pauses(job))

    async def aresult(self, id: str, timeout: timedelta | float | None = None) -> Any:  # noqa: ASYNC109  as `wait`
        return _result(await self.await_for(id, timeout))

    async def arequeue(self, *ids: str) -> list[Verdict]:
        """As `requeue`. Cancelling the caller does not undo it."""
        return await in_thread(self.requeue, *ids)

    async def adelete(self, *ids: str) -> list[Verdict]:
        """As `delete`. Cancelling the caller does not undo it."""
        return await in_thread(self.delete, *ids)

    def running(
        self,
        slots: int = 8,
        queues: Sequence[str] | Mapping[str, int] | None = None,
        grace: timedelta = GRACE,
    ) -> "Running":
        """A server in this process, for the length of a `with` or `async with` block.

        slots: how many jobs run at the same time.
        queues: names in strict order, the jobs of the first before those of the second; or names with weights; all
            queues of the declaration when left out.
        grace: how long handlers may go on at the end of the block before they are interrupted and their jobs given
            back.

        Raises ConfigError for a client, which has no handlers.
        """
        if not self._runs:
            raise ConfigError(
                f"{self._name} was built by build_client(), which only enqueues: register handlers and use build()"
            )
        from later.runtime.server import running

        return running(self, slots=slots, queues=queues, grace=grace)

    def close(self) -> None:
        """Give this process's connections back; with a broker, publish first what waits, for 2 seconds at most.

        The object may be used again afterwards: connections then open anew.
        """
        connections = self._connections.peek()
        if connections is not None:
            connections.close()

    def __repr__(self) -> str:
        kind = "BackgroundJobs" if self._runs else "BackgroundJobs client"
        return f"<{kind} {self._name}: {', '.join(job_type.name for job_type in self._registry)}>"

    def _move(self, ids: tuple[str, ...], cause: Cause, reason: str) -> list[Verdict]:
        changes = [Change(check_name("id", job_id), cause, reason) for job_id in ids]
        verdicts: list[Verdict] = []
        for start in range(0, len(changes), MOVES):
            applied = self.storage().apply(changes[start : start + MOVES])
            self.publish([ref for each in applied for ref in each.enqueued])
            verdicts += [each.verdict for each in applied]
        if verdicts == [Verdict.UNKNOWN]:
            raise _unknown(ids[0])
        return verdicts


def _unknown(id: str) -> UnknownJob:
    return UnknownJob(f"there is no job {id}: it never existed in this app, or was removed after it ended")


def _pauses(id: str, timeout: timedelta | float | None) -> Callable[[Job], float]:
    """How long to sleep before the next look at the job that was just seen. The function raises WaitTimeout."""
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if seconds is not None and not seconds >= 0:
        raise InvalidOption(f"timeout {timeout!r} is not zero or more seconds")
    ends = None if seconds is None else time.monotonic() + seconds
    pause = POLL_FIRST / 2

    def next_pause(job: Job) -> float:
        nonlocal pause
        pause = min(pause * 2, POLL_LONGEST)
        if ends is None:
            return pause
        left = ends - time.monotonic()
        if left <= 0:
            raise WaitTimeout(f"job {id} did not end within {seconds} s: it is {job.state}; it goes on regardless")
        return min(pause, left)

    return next_pause


def _result(job: Job) -> Any:
    if job.state is not State.SUCCEEDED:
        raise JobNotSucceeded(
            f"job {job.id} has no result: it ended {job.state}; `get` tells why, `requeue` runs it again"
        )
    return job.result
