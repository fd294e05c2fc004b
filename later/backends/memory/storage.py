"""Jobs in this process's memory: for tests, and for work that may be lost with the process."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import nlargest, nsmallest
from threading import Condition

from typing_extensions import override

from later.backends.memory.table import Table
from later.core import lifecycle, steps
from later.core.clock import wall_clock
from later.core.lifecycle import Cause, Change, Reschedule
from later.core.notes import check_note
from later.core.paging import decode_cursor, encode_cursor, first_key, page_key
from later.core.ports import Storage, StorageCapabilities, StorageOptions
from later.core.records import (
    Beat,
    Claim,
    Claimant,
    Counts,
    Due,
    Exchanged,
    HeldClaim,
    Inserted,
    JobDetails,
    JobQuery,
    JobRecord,
    Micros,
    NewJob,
    Page,
    Promoted,
    Ref,
    Rescheduled,
    Rescued,
    ScheduleRecord,
    ServerInfo,
    ServerRecord,
    State,
    Verdict,
)


@dataclass(slots=True)
class Server:
    info: ServerInfo
    started_at: Micros
    lease_until: Micros
    note: str = ""


@dataclass(slots=True)
class Namespace:
    """What all storages that were opened with one namespace of one `Memory` share."""

    table: Table = field(default_factory=Table)
    servers: dict[str, Server] = field(default_factory=dict[str, Server])
    schedules: dict[str, ScheduleRecord] = field(default_factory=dict[str, ScheduleRecord])
    changed: Condition = field(default_factory=Condition)
    """Its lock guards everything here. Notified when a job became Enqueued, and by `wake`."""
    wakes: int = 0

    # steps.Schedules

    def load_schedule(self, schedule_id: str, /) -> ScheduleRecord | None:
        return self.schedules.get(schedule_id)

    def save_schedule(self, schedule: ScheduleRecord, /) -> None:
        self.schedules[schedule.id] = schedule

    def remove_schedule(self, schedule_id: str, /) -> None:
        self.schedules.pop(schedule_id, None)


class MemoryStorage(Storage):
    capabilities = StorageCapabilities(durable=False, shared=False, shared_between_hosts=False, push=True)

    def __init__(self, namespace: Namespace, options: StorageOptions) -> None:
        self._namespace = namespace
        self._table = namespace.table
        self._servers = namespace.servers
        self._changed = namespace.changed
        self._clock = options.clock or wall_clock
        self._outbox = options.outbox

    @override
    def migrate(self) -> None:
        """There is no schema."""

    @override
    def close(self) -> None:
        """There are no connections; what is stored stays until the process ends."""

    @override
    def insert(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        with self._changed:
            now = self._clock()
            inserted = [steps.insert(self._table, new, now, outbox=self._outbox) for new in jobs]
            self._notify(any(item.ref for item in inserted))
            return inserted

    @override
    def exchange(
        self,
        by: Claimant,
        changes: Sequence[Change] = (),
        refs: Sequence[Ref] = (),
        queues: Sequence[str] = (),
        limit: int = 0,
    ) -> Exchanged:
        with self._changed:
            now = self._clock()
            applied = tuple(steps.move(self._table, change, now, outbox=self._outbox) for change in changes)
            self._notify(any(item.enqueued for item in applied))
            server = self._servers.get(by.server)
            if server is None or not steps.lease_holds(server.lease_until, now):
                return Exchanged(applied, (None,) * len(refs), ())
            by_ref = tuple(self._claim(self._table.load(ref.id), ref.epoch, by, now) for ref in refs)
            batch = steps.next_batch(self._table.enqueued(queues), limit)
            taken = (self._claim(job, job.epoch, by, now) for job in batch)
            return Exchanged(applied, by_ref, tuple(claim for claim in taken if claim is not None))

    def _claim(self, job: JobRecord | None, epoch: int, by: Claimant, now: Micros) -> Claim | None:
        if job is None:
            return None
        step = lifecycle.claim(job, epoch, by, now)
        if step.job is None:
            return None
        if step.verdict is Verdict.APPLIED:
            self._table.save(job, step.job, step.entry)
        parent = None if job.parent is None else self._table.load(job.parent)
        return lifecycle.claim_of(step.job, parent, now)

    @override
    def wait(self, queues: Sequence[str], timeout: float) -> bool:
        with self._changed:
            wakes = self._namespace.wakes
            return self._changed.wait_for(
                lambda: self._table.has_enqueued(queues) or self._namespace.wakes != wakes, timeout
            )

    @override
    def wake(self) -> None:
        with self._changed:
            self._namespace.wakes += 1
            self._changed.notify_all()

    def _notify(self, enqueued: bool) -> None:
        if enqueued:
            self._changed.notify_all()

    @override
    def register(self, server: ServerInfo, lease: Micros) -> None:
        with self._changed:
            now = self._clock()
            self._servers.setdefault(server.id, Server(server, now, now + lease))

    @override
    def beat(self, server: str, lease: Micros, note: str = "") -> Beat:
        check_note(note)
        with self._changed:
            now = self._clock()
            found = self._servers.get(server)
            if found is None or not steps.lease_holds(found.lease_until, now):
                return Beat(alive=False, cancels=())
            found.lease_until, found.note = now + lease, note
            held = self._table.claims(server)
            return Beat(alive=True, cancels=tuple((job.id, job.epoch) for job in held if job.cancel_requested))

    @override
    def unregister(self, server: str) -> None:
        with self._changed:
            self._servers.pop(server, None)

    @override
    def servers(self) -> list[ServerRecord]:
        with self._changed:
            claimed = self._table.claimed
            records = [
                ServerRecord(
                    server.info, server.started_at, server.lease_until, len(claimed.get(server_id, ())), server.note
                )
                for server_id, server in self._servers.items()
            ]
        return sorted(records, key=lambda record: (record.started_at, record.info.id))

    @override
    def claims(self, server: str) -> list[HeldClaim]:
        with self._changed:
            return [HeldClaim(job.id, job.epoch, job.worker or "") for job in self._table.claims(server)]

    @override
    def promote(self, limit: int) -> Promoted:
        with self._changed:
            now = self._clock()
            enqueued: list[Ref] = []
            due = self._table.next_due()
            while due is not None and due.run_at is not None and due.run_at <= now and len(enqueued) < limit:
                enqueued += steps.move(self._table, Change(due.id, Cause.DUE), now, outbox=self._outbox).enqueued
                due = self._table.next_due()
            self._notify(bool(enqueued))
            next_due_in = None if due is None or due.run_at is None else due.run_at - now
            return Promoted(tuple(enqueued), next_due_in)

    @override
    def rescue(self, limit: int, dead: Sequence[str] = ()) -> Rescued:
        with self._changed:
            now = self._clock()
            for server_id in dead:
                if server_id in self._servers:
                    self._servers[server_id].lease_until = min(self._servers[server_id].lease_until, now)
            lapsed = {
                server_id
                for server_id, server in self._servers.items()
                if not steps.lease_holds(server.lease_until, now)
            }
            lapsed |= self._table.claimed.keys() - self._servers.keys()
            claims = [job for server in lapsed for job in self._table.claims(server)]
            claims.sort(key=lambda job: (job.state_at, job.id))
            enqueued: list[Ref] = []
            for job in claims[:limit]:
                enqueued += steps.move(self._table, steps.crash_of(job), now, outbox=self._outbox).enqueued
            for server_id in lapsed - self._table.claimed.keys():
                self._servers.pop(server_id, None)
            self._notify(bool(enqueued))
            return Rescued(tuple(sorted(lapsed)), tuple(enqueued), len(claims[:limit]), len(claims) > limit)

    @override
    def unpublished(self, limit: int, again_in: Micros) -> list[Ref]:
        with self._changed:
            now = self._clock()
            refs: list[Ref] = []
            while len(refs) < limit:
                job = self._table.next_unpublished()
                if job is None or job.publish_by is None or job.publish_by > now:
                    break
                refs.append(lifecycle.ref_of(job))
                self._table.save(job, job._replace(publish_by=now + again_in), None)
            return refs

    @override
    def published(self, refs: Sequence[Ref]) -> None:
        with self._changed:
            for ref in refs:
                job = self._table.load(ref.id)
                if job is not None and job.state is State.ENQUEUED and job.epoch == ref.epoch:
                    self._table.save(job, job._replace(publish_by=None), None)

    @override
    def unpublish(self, queues: Sequence[str], waiting: Micros, limit: int, after: str | None = None) -> str | None:
        first = first_key(after)
        with self._changed:
            until = self._clock() - waiting
            jobs = (job for job in self._table.jobs() if job.state is State.ENQUEUED and job.state_at <= until)
            page = nsmallest(limit, (job for job in jobs if page_key(job) > first), key=page_key)
            for job in page:
                if job.queue in queues and job.publish_by is None:
                    self._table.save(job, job._replace(publish_by=job.state_at), None)
            return encode_cursor(page_key(page[-1])) if len(page) == limit else None

    @override
    def schedules(self, ids: Sequence[str] | None = None) -> list[ScheduleRecord | None]:
        with self._changed:
            known = self._namespace.schedules
            return [known.get(schedule_id) for schedule_id in (sorted(known) if ids is None else ids)]

    @override
    def due(self, limit: int) -> Due:
        with self._changed:
            return steps.due_of(self._namespace.schedules.values(), limit, self._clock())

    @override
    def reschedule(self, changes: Sequence[Reschedule]) -> list[Rescheduled]:
        with self._changed:
            now = self._clock()
            done = [
                steps.reschedule(self._table, self._namespace, change, now, outbox=self._outbox) for change in changes
            ]
            self._notify(any(steps.refs_of(item) for item in done))
            return done

    @override
    def get(self, ids: Sequence[str]) -> list[JobDetails | None]:
        with self._changed:
            return [self._table.details(job_id) for job_id in ids]

    @override
    def find(self, query: JobQuery) -> Page:
        """Looks at every job (with `parent`: at every child): memory holds what a person may page through."""
        after = None if query.after is None else decode_cursor(query.after)
        with self._changed:
            jobs = self._table.jobs() if query.parent is None else self._table.children(query.parent)
            matching = (
                job
                for job in jobs
                if (not query.states or job.state in query.states)
                and (not query.queues or job.queue in query.queues)
                and (not query.types or job.type in query.types)
                and (after is None or page_key(job) < after)
            )
            found = nlargest(query.limit + 1, matching, key=page_key)
        page = tuple(job._replace(payload=b"", result=None) for job in found[: query.limit])
        more = len(found) > query.limit
        return Page(page, encode_cursor(page_key(page[-1])) if more else None)

    @override
    def counts(self) -> Counts:
        with self._changed:
            return Counts({queue: dict(states) for queue, states in self._table.counts.items()})

    @override
    def prune(self, limit: int) -> int:
        with self._changed:
            now = self._clock()
            touched = 0
            enqueued = False
            while touched < limit:
                job = self._table.next_expired()
                if job is None or job.expires_at is None or job.expires_at > now:
                    break
                touched += 1
                if job.state is State.FAILED:
                    change = Change(job.id, Cause.EXPIRE)
                    enqueued |= bool(steps.move(self._table, change, now, outbox=self._outbox).enqueued)
                else:
                    self._table.remove(job)
            self._notify(enqueued)
            return touched
