"""Enqueueing: from a payload and options to a stored job. One implementation with a sync and an awaitable face."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel

from later.core.codec import Limits, encode_payload
from later.core.errors import DuplicateJob, InvalidOption, TooManyJobs, Unavailable, UndeclaredPayload, UnknownParent
from later.core.names import check_name
from later.core.records import FURTHEST, Inserted, InsertVerdict, Micros, NewJob, On
from later.core.registry import Registry
from later.runtime.connections import Connections
from later.runtime.declaration import check_priority
from later.runtime.transactions import UserConnection

OnParent: TypeAlias = On | Literal["succeeded", "failed", "deleted", "finished"]

MANY: Final = 10_000
"""Jobs that one call may store. It is one transaction, which takes about a second then; servers that cannot write their
heartbeat for longer than their lease lose it."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_ZERO: Final = timedelta(0)

_Payload_contra = TypeVar("_Payload_contra", contravariant=True)
_Payload = TypeVar("_Payload")


class Intake:
    """Checks and encodes what is to be enqueued, and has it stored."""

    def __init__(
        self,
        registry: Registry,
        limits: Limits,
        connections: Callable[[], Connections],
        new_id: Callable[[], str],
        now: Callable[[], datetime],
    ) -> None:
        self._registry = registry
        self._limits = limits
        self._connections = connections
        self._new_id = new_id
        self._now = now

    def new(
        self,
        payload: object,
        *,
        id: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        parent: str | None = None,
        on: OnParent = On.SUCCEEDED,
        delay: Micros = 0,
        run_at: Micros | None = None,
    ) -> NewJob:
        """The job that these arguments ask for; nothing is stored yet. `parent`, `delay`, `run_at` are checked.

        Raises UndeclaredPayload, NotSerializable, PayloadTooLarge, InvalidName, InvalidOption.
        """
        job_type = self._registry.by_payload(type(payload))
        if job_type is None or not isinstance(payload, BaseModel):
            raise UndeclaredPayload(self._undeclared(payload))
        if priority is not None:
            check_priority(priority)
        return NewJob(
            id=self._new_id() if id is None else check_name("id", id),
            type=job_type.name,
            queue=job_type.queue if queue is None else check_name("queue", queue),
            payload=encode_payload(payload, self._limits.payload),
            priority=job_type.priority if priority is None else priority,
            max_crashes=job_type.max_crashes,
            delay=delay,
            run_at=run_at,
            parent=parent,
            on=_check_on(on),
        )

    def store(self, jobs: Sequence[NewJob], connection: UserConnection | None = None) -> list[str]:
        """Store the jobs in one round trip and return their ids. Durable when it returns; with `connection`, in its
        transaction.

        Raises DuplicateJob, UnknownParent, UnusableConnection, and the errors of the storage.
        """
        if not jobs:
            return []
        try:
            if connection is not None:
                return _ids(jobs, self._connections().insert_within(connection, jobs))
            return _ids(jobs, self._connections().commit.insert(jobs))
        except Unavailable as error:
            error.ids = tuple(job.id for job in jobs)
            raise

    async def astore(self, jobs: Sequence[NewJob], connection: UserConnection | None = None) -> list[str]:
        """As `store`. Once it has begun, the jobs are stored whole even if the caller is cancelled; not so with
        `connection`."""
        if not jobs:
            return []
        try:
            if connection is not None:
                return _ids(jobs, await self._connections().ainsert_within(connection, jobs))
            return _ids(jobs, await self._connections().commit.ainsert(jobs))
        except Unavailable as error:
            error.ids = tuple(job.id for job in jobs)
            raise

    def _undeclared(self, payload: object) -> str:
        kind = type(payload)
        declared = ", ".join(sorted(job_type.payload.__name__ for job_type in self._registry))
        if isinstance(payload, type):
            return f"{payload.__name__} is a class: enqueue an instance of it"
        for base in kind.__mro__[1:]:
            job_type = self._registry.by_payload(base)
            if job_type is not None:
                return (
                    f"{kind.__name__} is not declared as a payload, only its base class {base.__name__} is, "
                    f"and {job_type.name} would run without what the subclass adds: declare it as a job type of its own"
                )
        return f"{kind.__name__} is not declared as a payload of a job type: declared are {declared}"

    def moment(self, at: datetime) -> Micros:
        """`at` as the storage counts time. Raises InvalidOption."""
        if not isinstance(at, datetime):
            raise InvalidOption(f"time {at!r} is not a datetime")
        if at.utcoffset() is None:
            raise InvalidOption(
                f"time {at.isoformat()} has no time zone, so it names no moment: use datetime.now(timezone.utc) + ... "
                "or .astimezone()"
            )
        since = at - _EPOCH
        if since - (self._now() - _EPOCH) > FURTHEST:
            raise InvalidOption(f"time {at.isoformat()} is more than {FURTHEST.days // 365} years away")
        return max(since, _ZERO) // _MICROSECOND


class Enqueuer(Generic[_Payload_contra]):
    """The `enqueue...` methods. Every one returns the job's id, and the job is durable when it returns.

    All of them take:
    id: the job's id, for callers who want repeated calls to store one job: the same id with the same payload is
        accepted again and stores nothing new. A UUIDv7 when left out.
    queue, priority: instead of those of the job type; priority is 0 (last) to 9 (first).
    connection: store the job in the transaction of this connection (or cursor, or session), so that it is committed
        and rolled back with it; the id is returned before. For the storages SQLite and Postgres, and connections to the
        same database: of sqlite3 or psycopg, or of SQLAlchemy or Django on top of these. Costs a few round trips on
        that connection. Raises UnusableConnection, and Unsupported for other storages.

    All raise UndeclaredPayload, NotSerializable, PayloadTooLarge, DuplicateJob, InvalidName and InvalidOption; then
    nothing was stored. They raise Unavailable when the storage gave no answer for 5 seconds; whether the job was
    stored is unknown then, and the same call with the same `id` may be repeated. `error.ids` has the ids.
    """

    __slots__ = ("_intake",)

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def enqueue(
        self,
        payload: _Payload_contra,
        *,
        id: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        connection: UserConnection | None = None,
    ) -> str:
        """Store a job that may run at once."""
        new = self._intake.new(payload, id=id, queue=queue, priority=priority)
        return self._intake.store([new], connection)[0]

    def enqueue_many(
        self,
        payloads: Iterable[_Payload_contra],
        *,
        queue: str | None = None,
        priority: int | None = None,
        connection: UserConnection | None = None,
    ) -> list[str]:
        """Store a job for each payload, all or none, in one round trip; the ids are in the order of the payloads.

        Raises TooManyJobs for more than 10,000 payloads, and on Redis for more than 64 MiB of them.
        """
        new = [self._intake.new(each, queue=queue, priority=priority) for each in _several(payloads)]
        return self._intake.store(new, connection)

    def enqueue_continue(
        self,
        parent_id: str,
        payload: _Payload_contra,
        *,
        on: OnParent = On.SUCCEEDED,
        id: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        connection: UserConnection | None = None,
    ) -> str:
        """Store a job that waits until another one has ended as `on` says. Raises UnknownParent."""
        new = self._intake.new(
            payload, id=id, queue=queue, priority=priority, parent=check_name("parent id", parent_id), on=on
        )
        return self._intake.store([new], connection)[0]

    def enqueue_delayed(
        self,
        payload: _Payload_contra,
        delay: timedelta,
        *,
        id: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        connection: UserConnection | None = None,
    ) -> str:
        """Store a job that may run after `delay`, by the storage's clock. At most 100 years."""
        new = self._intake.new(payload, id=id, queue=queue, priority=priority, delay=duration(delay))
        return self._intake.store([new], connection)[0]

    def enqueue_delayed_at(
        self,
        payload: _Payload_contra,
        at: datetime,
        *,
        id: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        connection: UserConnection | None = None,
    ) -> str:
        """Store a job that may run from `at` on, a datetime with a time zone; a past one means at once."""
        new = self._intake.new(payload, id=id, queue=queue, priority=priority, run_at=self._intake.moment(at))
        return self._intake.store([new], connection)[0]

    async def aenqueue(
        self,
        payload: _Payload_contra,
        *,
        id: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        connection: UserConnection | None = None,
    ) -> str:
        """As `enqueue`. Cancelling the caller does not undo it."""
        new = self._intake.new(payload, id=id, queue=queue, priority=priority)
        return (await self._intake.astore([new], connection))[0]

    async def aenqueue_many(
        self,
        payloads: Iterable[_Payload_contra],
        *,
        queue: str | None = None,
        priority: int | None = None,
        connection: UserConnection | None = None,
    ) -> list[str]:
        """As `enqueue_many`."""
        new = [self._intake.new(each, queue=queue, priority=priority) for each in _several(payloads)]
        return await self._intake.astore(new, connection)

    async def aenqueue_continue(
        self,
        parent_id: str,
        payload: _Payload_contra,
        *,
        on: OnParent = On.SUCCEEDED,
        id: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        connection: UserConnection | None = None,
    ) -> str:
        """As `enqueue_continue`."""
        new = self._intake.new(
            payload, id=id, queue=queue, priority=priority, parent=check_name("parent id", parent_id), on=on
        )
        return (await self._intake.astore([new], connection))[0]

    async def aenqueue_delayed(
        self,
        payload: _Payload_contra,
        delay: timedelta,
        *,
        id: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        connection: UserConnection | None = None,
    ) -> str:
        """As `enqueue_delayed`."""
        new = self._intake.new(payload, id=id, queue=queue, priority=priority, delay=duration(delay))
        return (await self._intake.astore([new], connection))[0]

    async def aenqueue_delayed_at(
        self,
        payload: _Payload_contra,
        at: datetime,
        *,
        id: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        connection: UserConnection | None = None,
    ) -> str:
        """As `enqueue_delayed_at`."""
        new = self._intake.new(payload, id=id, queue=queue, priority=priority, run_at=self._intake.moment(at))
        return (await self._intake.astore([new], connection))[0]


def _several(payloads: Iterable[_Payload] | BaseModel) -> Iterator[_Payload]:
    if isinstance(payloads, BaseModel):  # a model can be iterated, over its fields
        raise UndeclaredPayload(f"{type(payloads).__name__} is one payload: give a list of payloads, or use enqueue()")
    for number, payload in enumerate(payloads):
        if number == MANY:
            raise TooManyJobs(
                f"these are more than {MANY:,} payloads, which one transaction would have to store while all others "
                "wait: call enqueue_many for parts of them"
            )
        yield payload


def duration(delay: timedelta) -> Micros:
    """A delay that a user gives. Raises InvalidOption."""
    if not isinstance(delay, timedelta):
        raise InvalidOption(f"delay {delay!r} is not a timedelta: write timedelta(seconds=...)")
    if not _ZERO <= delay <= FURTHEST:
        raise InvalidOption(f"delay {delay.total_seconds():g} s is outside 0 to {FURTHEST.days // 365} years")
    return delay // _MICROSECOND


def _check_on(on: OnParent) -> On:
    if isinstance(on, On):
        return on
    try:
        return On(on)
    except ValueError:
        raise InvalidOption(f"on={on!r} is unknown: use one of {', '.join(map(repr, map(str, On)))}") from None


def _ids(jobs: Sequence[NewJob], inserted: Sequence[Inserted]) -> list[str]:
    for job, result in zip(jobs, inserted, strict=True):
        if result.verdict is InsertVerdict.CREATED:
            continue
        if result.verdict is InsertVerdict.CONFLICT:
            raise DuplicateJob(
                f"the id {job.id} is taken by a job of another type or with another payload: use another id, "
                "or none to get a new one"
            )
        if result.verdict is InsertVerdict.NO_PARENT:
            raise UnknownParent(
                f"there is no job {job.parent} to continue: it never existed in this app, or was removed after it ended"
            )
    return [job.id for job in jobs]
