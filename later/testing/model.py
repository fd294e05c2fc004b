"""The reference model: a storage that is right because it is plain. No index and no cache: it looks at every job.

Adapters are compared with it (`later.testing.machine`), and the simulator runs on it. It shares
`later.core.lifecycle` with them and nothing else.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from threading import Condition

from typing_extensions import override

from later.core import lifecycle
from later.core.clock import wall_clock
from later.core.errors import InvalidOption, UnusableConnection
from later.core.lifecycle import Cause, Change, Reschedule
from later.core.notes import check_note
from later.core.paging import encode_cursor, first_key, page_key
from later.core.ports import Storage, StorageCapabilities, StorageOptions
from later.core.records import (
    HISTORY_LIMIT,
    Applied,
    Beat,
    Claim,
    Claimant,
    Counts,
    Due,
    Exchanged,
    HeldClaim,
    HistoryEntry,
    Inserted,
    InsertVerdict,
    JobDetails,
    JobQuery,
    JobRecord,
    Joined,
    Micros,
    NewJob,
    Page,
    Promoted,
    Ref,
    Rescheduled,
    RescheduleVerdict,
    Rescued,
    ScheduleRecord,
    ServerInfo,
    ServerRecord,
    State,
    Verdict,
)


@dataclass(slots=True)
class Kept:
    """A job, its history and its turn among the Enqueued."""

    job: JobRecord
    history: list[HistoryEntry]
    turn: int


@dataclass(slots=True)
class World:
    """The jobs of one namespace, in the order in which they were inserted, and its servers."""

    jobs: dict[str, Kept] = field(default_factory=dict[str, Kept])
    servers: dict[str, ServerRecord] = field(default_factory=dict[str, ServerRecord])
    """`claims` is filled in when asked for."""
    schedules: dict[str, ScheduleRecord] = field(default_factory=dict[str, ScheduleRecord])
    turns: int = 0
    wakes: int = 0
    changed: Condition = field(default_factory=Condition)


class Model:
    """A store of reference models, one per namespace, to pass where a `StorageBackend` is wanted."""

    def __init__(self) -> None:
        self._worlds: dict[str, World] = {}

    def open_storage(self, options: StorageOptions) -> "ModelStorage":
        return ModelStorage(options, self._worlds.setdefault(options.namespace, World()))


class ModelTransaction:
    """What a connection of the user's is to the model, in a transaction."""

    def __init__(self) -> None:
        self.jobs: list[tuple[ModelStorage, NewJob]] = []

    @property
    def connection(self) -> object:
        return self

    def commit(self) -> None:
        for storage, new in self.jobs:
            storage.insert([new])
        self.jobs.clear()

    def rollback(self) -> None:
        self.jobs.clear()


class ModelStorage(Storage):
    capabilities = StorageCapabilities(
        durable=False, shared=False, shared_between_hosts=False, push=True, transactional=True
    )

    def __init__(self, options: StorageOptions, world: World | None = None) -> None:
        """`world`: shared with other storages of the same namespace; None: a new one."""
        self._world = World() if world is None else world
        self._lock = self._world.changed
        self._now = options.clock or wall_clock
        self._outbox = options.outbox

    @override
    def migrate(self) -> None:
        pass

    @override
    def close(self) -> None:
        pass

    @override
    def insert(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        with self._lock:
            return [self._insert(new) for new in jobs]

    @override
    def insert_within(self, connection: object, jobs: Sequence[NewJob]) -> Joined:
        if not isinstance(connection, ModelTransaction):
            raise UnusableConnection(f"a {type(connection).__name__} is no ModelTransaction")
        with self._lock:
            # What the commit would make of it now.
            jobs_now = {job_id: replace(kept) for job_id, kept in self._world.jobs.items()}
            as_of_now = type(self)(StorageOptions("", outbox=self._outbox, clock=self._now), World(jobs_now))
        as_of_now.insert([new for _, new in connection.jobs])
        inserted = as_of_now.insert(jobs)
        connection.jobs += [
            (self, new) for new, item in zip(jobs, inserted, strict=True) if item.verdict is InsertVerdict.CREATED
        ]
        return Joined(tuple(inserted), committed=False)

    def _insert(self, new: NewJob) -> Inserted:
        old = self._load(new.id)
        if old is not None and (old.type, old.payload) == (new.type, new.payload):
            return Inserted(InsertVerdict.EXISTS, old.state, None)
        if old is not None:
            return Inserted(InsertVerdict.CONFLICT, None, None)
        parent_state = None
        if new.parent is not None:
            parent = self._load(new.parent)
            if parent is None:
                return Inserted(InsertVerdict.NO_PARENT, None, None)
            parent_state = parent.state
        job, entry = lifecycle.create(new, parent_state, self._now(), outbox=self._outbox)
        self._world.jobs[job.id] = Kept(job, [], 0)
        self._keep(job, entry)
        return Inserted(InsertVerdict.CREATED, job.state, lifecycle.ref_of(job) if _enqueued(job) else None)

    @override
    def exchange(
        self,
        by: Claimant,
        changes: Sequence[Change] = (),
        refs: Sequence[Ref] = (),
        queues: Sequence[str] = (),
        limit: int = 0,
    ) -> Exchanged:
        with self._lock:
            applied = tuple(self._apply(change) for change in changes)
            if not self._holds_lease(by.server):
                return Exchanged(applied, tuple(None for _ in refs), ())
            by_ref = tuple(self._claim(ref.id, ref.epoch, by) for ref in refs)
            batch: list[Claim] = []
            while len(batch) < limit:
                job = self._next(queues)
                if job is None or (job.crashes > 0 and batch):
                    break
                claim = self._claim(job.id, job.epoch, by)
                assert claim is not None
                batch.append(claim)
                if job.crashes > 0:
                    break
            return Exchanged(applied, by_ref, tuple(batch))

    def _next(self, queues: Sequence[str]) -> JobRecord | None:
        """The Enqueued job that is to be claimed first."""
        for queue in queues:
            kept = [k for k in self._world.jobs.values() if _enqueued(k.job) and k.job.queue == queue]
            if kept:
                return min(kept, key=lambda k: (-k.job.priority, k.turn)).job
        return None

    def _claim(self, job_id: str, epoch: int, by: Claimant) -> Claim | None:
        job = self._load(job_id)
        if job is None:
            return None
        step = lifecycle.claim(job, epoch, by, self._now())
        if step.job is None:
            return None
        self._keep(step.job, step.entry)
        parent = None if job.parent is None else self._load(job.parent)
        return lifecycle.claim_of(step.job, parent, self._now())

    def _apply(self, change: Change) -> Applied:
        job = self._load(change.id)
        if job is None:
            return Applied(Verdict.UNKNOWN, None, ())
        step = lifecycle.advance(job, change, self._now(), outbox=self._outbox)
        if step.job is None:
            return Applied(step.verdict, job.state, ())
        self._keep(step.job, step.entry)
        refs: list[Ref] = []
        moved = [step.job] if step.verdict is Verdict.APPLIED else []
        for parent in moved:  # grows while it is gone through
            if _enqueued(parent):
                refs.append(lifecycle.ref_of(parent))
            for child in self._children(parent.id) if parent.state.ended else ():
                cause = lifecycle.continuation(parent.state, child.on)
                if child.state is State.AWAITING and cause is not None:
                    reason = lifecycle.parent_reason(parent.id, parent.state)
                    released = lifecycle.advance(
                        child, Change(child.id, cause, reason), self._now(), outbox=self._outbox
                    )
                    assert released.job is not None
                    self._keep(released.job, released.entry)
                    moved.append(released.job)
        return Applied(step.verdict, step.job.state, tuple(refs))

    @override
    def wait(self, queues: Sequence[str], timeout: float) -> bool:
        with self._lock:
            wakes = self._world.wakes
            return self._lock.wait_for(lambda: self._next(queues) is not None or self._world.wakes != wakes, timeout)

    @override
    def wake(self) -> None:
        with self._lock:
            self._world.wakes += 1
            self._lock.notify_all()

    @override
    def register(self, server: ServerInfo, lease: Micros) -> None:
        with self._lock:
            if server.id not in self._world.servers:
                now = self._now()
                self._world.servers[server.id] = ServerRecord(server, now, now + lease, 0)

    @override
    def beat(self, server: str, lease: Micros, note: str = "") -> Beat:
        check_note(note)
        with self._lock:
            if not self._holds_lease(server):
                return Beat(alive=False, cancels=())
            self._set_lease(server, self._now() + lease)
            self._world.servers[server] = self._world.servers[server]._replace(note=note)
            held = _oldest_first(self._held_by(server))
            return Beat(alive=True, cancels=tuple((job.id, job.epoch) for job in held if job.cancel_requested))

    @override
    def unregister(self, server: str) -> None:
        with self._lock:
            self._world.servers.pop(server, None)

    @override
    def servers(self) -> list[ServerRecord]:
        with self._lock:
            records = [
                record._replace(claims=len(self._held_by(server))) for server, record in self._world.servers.items()
            ]
            return sorted(records, key=lambda record: (record.started_at, record.info.id))

    @override
    def claims(self, server: str) -> list[HeldClaim]:
        with self._lock:
            return [HeldClaim(job.id, job.epoch, job.worker or "") for job in _oldest_first(self._held_by(server))]

    @override
    def promote(self, limit: int) -> Promoted:
        with self._lock:
            scheduled = self._timed(lambda job: job.run_at)
            refs: list[Ref] = []
            for at, job_id in scheduled[:limit]:
                if at <= self._now():
                    refs += self._apply(Change(job_id, Cause.DUE)).enqueued
            later = self._timed(lambda job: job.run_at)
            return Promoted(tuple(refs), later[0][0] - self._now() if later else None)

    @override
    def rescue(self, limit: int, dead: Sequence[str] = ()) -> Rescued:
        with self._lock:
            for server in dead:
                if self._holds_lease(server):
                    self._set_lease(server, self._now())
            known = {*self._world.servers, *(j.server or "" for j in self._jobs() if _processing(j))}
            lapsed = {server for server in known if not self._holds_lease(server)}
            claims = _oldest_first(job for server in lapsed for job in self._held_by(server))
            refs: list[Ref] = []
            for job in claims[:limit]:
                reason = lifecycle.crash_reason(job.server)
                crash = Change(job.id, Cause.CRASH, reason, epoch=job.epoch, server=job.server)
                refs += self._apply(crash).enqueued
            for server in lapsed:
                if not self._held_by(server):
                    self._world.servers.pop(server, None)
            return Rescued(tuple(sorted(lapsed)), tuple(refs), len(claims[:limit]), len(claims) > limit)

    @override
    def unpublished(self, limit: int, again_in: Micros) -> list[Ref]:
        with self._lock:
            refs: list[Ref] = []
            for at, job_id in self._timed(lambda job: job.publish_by)[:limit]:
                job = self._world.jobs[job_id].job
                if at <= self._now():
                    self._keep(job._replace(publish_by=self._now() + again_in))
                    refs.append(lifecycle.ref_of(job))
            return refs

    @override
    def published(self, refs: Sequence[Ref]) -> None:
        with self._lock:
            for ref in refs:
                job = self._load(ref.id)
                if job is not None and _enqueued(job) and job.epoch == ref.epoch:
                    self._keep(job._replace(publish_by=None))

    @override
    def unpublish(self, queues: Sequence[str], waiting: Micros, limit: int, after: str | None = None) -> str | None:
        first = first_key(after)
        with self._lock:
            until = self._now() - waiting
            jobs = [kept.job for kept in self._world.jobs.values() if _enqueued(kept.job)]
            keys = sorted(page_key(job) for job in jobs if job.state_at <= until and page_key(job) > first)[:limit]
            for key in keys:
                job = self._world.jobs[key.id].job
                if job.queue in queues and job.publish_by is None:
                    self._keep(job._replace(publish_by=job.state_at))
            return encode_cursor(keys[-1]) if len(keys) == limit else None

    @override
    def schedules(self, ids: Sequence[str] | None = None) -> list[ScheduleRecord | None]:
        with self._lock:
            known = self._world.schedules
            return [known.get(schedule_id) for schedule_id in (sorted(known) if ids is None else ids)]

    @override
    def due(self, limit: int) -> Due:
        with self._lock:
            now = self._now()
            waiting = sorted((s.next_at, s.id) for s in self._world.schedules.values() if s.next_at is not None)
            found = [schedule_id for at, schedule_id in waiting if at <= now][:limit]
            later = [at - now for at, schedule_id in waiting if schedule_id not in found]
            return Due(
                now, tuple(self._world.schedules[schedule_id] for schedule_id in found), min(later, default=None)
            )

    @override
    def reschedule(self, changes: Sequence[Reschedule]) -> list[Rescheduled]:
        with self._lock:
            return [self._reschedule(change) for change in changes]

    def _reschedule(self, change: Reschedule) -> Rescheduled:
        known = self._world.schedules.get(change.id)
        version = 0 if known is None else known.version
        if version != change.version or self._lacks_parent(change.jobs):
            return Rescheduled(RescheduleVerdict.STALE, (), ())
        self._world.schedules.pop(change.id, None)
        if change.body is not None:
            self._world.schedules[change.id] = ScheduleRecord(change.id, version + 1, change.next_at, change.body)
        inserted = tuple(self._insert(new) for new in change.jobs)
        return Rescheduled(RescheduleVerdict.APPLIED, inserted, tuple(self._apply(wish) for wish in change.moves))

    def _lacks_parent(self, jobs: Sequence[NewJob]) -> bool:
        there = set(self._world.jobs)
        for new in jobs:
            if new.parent is not None and new.id not in there and new.parent not in there:
                return True
            there.add(new.id)
        return False

    @override
    def get(self, ids: Sequence[str]) -> list[JobDetails | None]:
        with self._lock:
            return [self._details(job_id) for job_id in ids]

    def _details(self, job_id: str) -> JobDetails | None:
        kept = self._world.jobs.get(job_id)
        if kept is None:
            return None
        return JobDetails(kept.job, tuple(kept.history), tuple(child.id for child in self._children(job_id)))

    @override
    def find(self, query: JobQuery) -> Page:
        after = None if query.after is None else _read_cursor(query.after)
        with self._lock:
            jobs = [
                job
                for job in self._jobs()
                if (not query.states or job.state in query.states)
                and (not query.queues or job.queue in query.queues)
                and (not query.types or job.type in query.types)
                and (query.parent is None or job.parent == query.parent)
                and (after is None or (job.state_at, job.id) < after)
            ]
        jobs.sort(key=lambda job: (job.state_at, job.id), reverse=True)
        page = [job._replace(payload=b"", result=None) for job in jobs[: query.limit]]
        more = len(jobs) > query.limit
        return Page(tuple(page), f"{page[-1].state_at}:{page[-1].id}" if more else None)

    @override
    def counts(self) -> Counts:
        with self._lock:
            by_queue: dict[str, dict[State, int]] = {}
            for job in self._jobs():
                states = by_queue.setdefault(job.queue, {})
                states[job.state] = states.get(job.state, 0) + 1
            return Counts(by_queue)

    @override
    def prune(self, limit: int) -> int:
        with self._lock:
            expired = [
                job_id
                for at, job_id in self._timed(lambda job: None if self._needed(job) else job.expires_at)
                if at <= self._now()
            ]
            for job_id in expired[:limit]:
                if self._world.jobs[job_id].job.state is State.FAILED:
                    self._apply(Change(job_id, Cause.EXPIRE))
                else:
                    del self._world.jobs[job_id]
            return len(expired[:limit])

    def _needed(self, job: JobRecord) -> bool:
        """Whether a job that has ended is kept for a child. A Failed one is not: it is not removed yet."""
        return job.state is not State.FAILED and any(not child.state.ended for child in self._children(job.id))

    def _jobs(self) -> list[JobRecord]:
        return [kept.job for kept in self._world.jobs.values()]

    def _load(self, job_id: str) -> JobRecord | None:
        kept = self._world.jobs.get(job_id)
        return None if kept is None else kept.job

    def _keep(self, job: JobRecord, entry: HistoryEntry | None = None) -> None:
        kept = self._world.jobs[job.id]
        kept.job = job
        if entry is not None:
            kept.history = [*kept.history, entry][-HISTORY_LIMIT:]
            if _enqueued(job):
                self._world.turns += 1
                kept.turn = self._world.turns
                self._lock.notify_all()

    def _children(self, parent: str) -> list[JobRecord]:
        return [job for job in self._jobs() if job.parent == parent]

    def _held_by(self, server: str) -> list[JobRecord]:
        return [job for job in self._jobs() if _processing(job) and job.server == server]

    def _holds_lease(self, server: str) -> bool:
        record = self._world.servers.get(server)
        return record is not None and self._now() < record.lease_until

    def _set_lease(self, server: str, until: Micros) -> None:
        self._world.servers[server] = self._world.servers[server]._replace(lease_until=until)

    def _timed(self, key: Callable[[JobRecord], Micros | None]) -> list[tuple[Micros, str]]:
        """(time, id) of the jobs that have this time, earliest first."""
        times = ((key(job), job.id) for job in self._jobs())
        return sorted((at, job_id) for at, job_id in times if at is not None)


def _enqueued(job: JobRecord) -> bool:
    return job.state is State.ENQUEUED


def _processing(job: JobRecord) -> bool:
    return job.state is State.PROCESSING


def _oldest_first(jobs: Iterable[JobRecord]) -> list[JobRecord]:
    return sorted(jobs, key=lambda job: (job.state_at, job.id))


def _read_cursor(cursor: str) -> tuple[Micros, str]:
    at, colon, job_id = cursor.partition(":")
    if not (colon and at.isascii() and at.isdigit()):
        raise InvalidOption("the cursor is not one that a page gave")
    return int(at), job_id
