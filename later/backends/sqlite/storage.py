"""The storage port on one SQLite file."""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from sqlite3 import Connection
from typing import Any, NamedTuple

from typing_extensions import override

from later.backends.sqlite import listing, schema, within
from later.backends.sqlite.connection import Database
from later.backends.sqlite.statements import SQL
from later.backends.sqlite.transaction import Transaction
from later.backends.sqlite.wakeup import Wakeup
from later.core import lifecycle, steps
from later.core.clock import wall_clock
from later.core.lifecycle import RULES, Cause, Change, Reschedule
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
    Joined,
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


class View(NamedTuple):
    """What a transaction works with."""

    connection: Connection
    app: int
    """The number of the namespace."""
    now: Micros

    def rows(self, statement: str, **values: object) -> list[Any]:
        """Run a named statement of the namespace at this time."""
        return self.connection.execute(SQL[statement], {"app": self.app, "now": self.now, **values}).fetchall()

    def value(self, statement: str, **values: object) -> Any:
        """The first column of the first row; None when there is no row."""
        rows = self.rows(statement, **values)
        return rows[0][0] if rows else None

    def jobs(self, *, payloads: bool = False) -> Transaction:
        return Transaction(self.connection, self.app, payloads=payloads)


class Schedules:
    """Implements `later.core.steps.Schedules`."""

    def __init__(self, view: View) -> None:
        self._view = view

    def load_schedule(self, schedule_id: str, /) -> ScheduleRecord | None:
        found = self._view.rows("schedules_by_id", ids=_list([schedule_id]))
        return ScheduleRecord(*found[0]) if found else None

    def save_schedule(self, schedule: ScheduleRecord, /) -> None:
        self._view.rows(
            "save_schedule", id=schedule.id, version=schedule.version, next_at=schedule.next_at, body=schedule.body
        )

    def remove_schedule(self, schedule_id: str, /) -> None:
        self._view.rows("remove_schedule", id=schedule_id)


class _NotLightlyError(Exception):
    """A claim that must be on the disk before its handler begins."""


class SQLiteStorage(Storage):
    """Every call is one transaction. What may turn out to have nothing to do reads first, and then neither waits for
    the write lock nor syncs: an idle server costs a few reads."""

    capabilities = StorageCapabilities(
        durable=True, shared=True, shared_between_hosts=False, push=True, transactional=True
    )

    def __init__(self, database: Database, options: StorageOptions) -> None:
        self._database = database
        self._namespace = options.namespace
        self._outbox = options.outbox
        self._clock = options.clock or wall_clock
        self._app_num: int | None = None
        self._wakeup = Wakeup(database, self._app)

    @override
    def migrate(self) -> None:
        schema.migrate(self._database, self._clock())
        self._app()

    @override
    def close(self) -> None:
        self._wakeup.close()
        self._database.close()

    def _app(self) -> int:
        """The number of the namespace in the file; it gets one at its first use."""
        if self._app_num is None:
            name = {"name": self._namespace}
            with self._database.read() as connection:
                found = connection.execute(SQL["find_app"], name).fetchone()
            if found is None:
                with self._database.write() as connection:
                    connection.execute(SQL["add_app"], name)
                    found = connection.execute(SQL["find_app"], name).fetchone()
            self._app_num = int(found[0])
        return self._app_num

    @contextmanager
    def _reading(self) -> Generator[View]:
        app = self._app()
        with self._database.read() as connection:
            yield View(connection, app, self._clock())

    @contextmanager
    def _writing(self, *, lightly: bool = False) -> Generator[View]:
        app = self._app()
        with self._database.write(lightly=lightly) as connection:
            yield View(connection, app, self._clock())

    def _move(self, rows: Transaction, change: Change, now: Micros) -> tuple[Ref, ...]:
        return steps.move(rows, change, now, outbox=self._outbox).enqueued

    # Producing

    @override
    def insert(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        with self._writing() as view:
            inserted = self._insert(view.jobs(payloads=True), jobs, view.now)
        self._announce(any(item.ref for item in inserted))
        return inserted

    def _insert(self, rows: Transaction, jobs: Sequence[NewJob], now: Micros) -> list[Inserted]:
        rows.prefetch(wanted for new in jobs for wanted in (new.id, new.parent) if wanted is not None)
        inserted = [steps.insert(rows, new, now, outbox=self._outbox) for new in jobs]
        rows.flush()
        return inserted

    @override
    def insert_within(self, connection: object, jobs: Sequence[NewJob]) -> Joined:
        users = within.connection_of(connection)
        # Before the user's transaction: a new namespace has to write.
        app = self._app()
        with within.borrowed(users, self._database.path) as own:
            if not within.commits_by_itself(users):
                with within.joined(users, own):
                    rows = Transaction(own, app, payloads=True)
                    inserted = self._insert(rows, jobs, self._clock())
                return Joined(tuple(inserted), committed=False)
        return Joined(tuple(self.insert(jobs)), committed=True)

    # Working

    @override
    def exchange(
        self,
        by: Claimant,
        changes: Sequence[Change] = (),
        refs: Sequence[Ref] = (),
        queues: Sequence[str] = (),
        limit: int = 0,
    ) -> Exchanged:
        if changes:
            return self._turn(by, changes, refs, queues, limit)
        with self._reading() as view:
            if not _may_claim(view, by, refs, queues, limit):
                return Exchanged((), (None,) * len(refs), ())
        try:
            # Claims that a crash of the machine undoes are made again, as if their worker had died, which it has.
            return self._turn(by, changes, refs, queues, limit, lightly=True)
        except _NotLightlyError:
            return self._turn(by, changes, refs, queues, limit)

    def _turn(
        self,
        by: Claimant,
        changes: Sequence[Change],
        refs: Sequence[Ref],
        queues: Sequence[str],
        limit: int,
        *,
        lightly: bool = False,
    ) -> Exchanged:
        """lightly: see `Database.write`. Raises _NotLightlyError then, with nothing done, for a job that may not be run
        twice."""
        with self._writing(lightly=lightly) as view:
            rows = view.jobs()
            rows.prefetch(change.id for change in changes)
            # The others end a job only when its cancel was asked for or its crashes are used up: rare, and asked then.
            rows.prefetch_awaited(change.id for change in changes if RULES[change.cause].to.ended)
            applied = tuple(steps.move(rows, change, view.now, outbox=self._outbox) for change in changes)
            rows.flush()
            exchanged = Exchanged(applied, (None,) * len(refs), ())
            if _holds_lease(view, by.server):
                # A transaction of its own kind: the changes have read jobs without their payloads.
                rows = view.jobs(payloads=True)
                rows.prefetch(ref.id for ref in refs)
                by_ref = tuple(_claim(rows, rows.load(ref.id), ref.epoch, by, view.now) for ref in refs)
                batch = list(steps.next_batch(rows.ready(queues, limit), limit))
                rows.prefetch(job.parent for job in batch if job.parent is not None)
                taken = [_claim(rows, job, job.epoch, by, view.now) for job in batch]
                if lightly and any(claim is not None and _is_grave(rows, claim) for claim in (*by_ref, *taken)):
                    raise _NotLightlyError
                rows.flush()
                exchanged = Exchanged(applied, by_ref, tuple(claim for claim in taken if claim is not None))
        self._announce(any(item.enqueued for item in applied))
        return exchanged

    @override
    def wait(self, queues: Sequence[str], timeout: float) -> bool:
        return self._wakeup.wait(queues, timeout)

    @override
    def wake(self) -> None:
        self._wakeup.wake()

    def _announce(self, enqueued: bool) -> None:
        if enqueued:
            self._wakeup.enqueued()

    # Servers

    @override
    def register(self, server: ServerInfo, lease: Micros) -> None:
        with self._writing() as view:
            view.rows(
                "register",
                id=server.id,
                node=server.node,
                host=server.host,
                pid=server.pid,
                pid_started=server.pid_started,
                queues=json.dumps(server.queues),
                slots=server.slots,
                lease_until=view.now + lease,
            )

    @override
    def beat(self, server: str, lease: Micros, note: str = "") -> Beat:
        check_note(note)
        with self._writing() as view:
            if not _holds_lease(view, server):
                return Beat(alive=False, cancels=())
            view.rows("renew", server=server, lease_until=view.now + lease, note=note)
            return Beat(alive=True, cancels=tuple(view.rows("cancels", server=server)))

    @override
    def unregister(self, server: str) -> None:
        with self._writing() as view:
            view.rows("end_server", server=server)

    @override
    def servers(self) -> list[ServerRecord]:
        with self._reading() as view:
            return [
                ServerRecord(
                    ServerInfo(server_id, node, host, pid, pid_started, tuple(json.loads(queues)), slots),
                    started_at,
                    lease_until,
                    claims,
                    note,
                )
                for (
                    server_id, node, host, pid, pid_started, queues, slots, started_at, lease_until, note, claims,
                ) in view.rows("servers")
            ]  # fmt: skip

    @override
    def claims(self, server: str) -> list[HeldClaim]:
        with self._reading() as view:
            return [HeldClaim(*columns) for columns in view.rows("held", server=server)]

    # Upkeep

    @override
    def promote(self, limit: int) -> Promoted:
        with self._reading() as view:
            first = view.value("next_due")
            if (first is None or first > view.now) and not view.rows("cascades"):
                return Promoted((), None if first is None else first - view.now)
        with self._writing() as view:
            rows = view.jobs()
            due = rows.select("due", now=view.now, limit=limit)
            enqueued = [ref for job in due for ref in self._move(rows, Change(job.id, Cause.DUE), view.now)]
            for parent, told in view.rows("cascades"):
                ended = rows.go_on(parent, told)
                if ended is not None:
                    enqueued += steps.tell(rows, ended, view.now, outbox=self._outbox)
            rows.flush()
            first = view.now if view.rows("cascades") else view.value("next_due")
            promoted = Promoted(tuple(enqueued), None if first is None else first - view.now)
        self._announce(bool(enqueued))
        return promoted

    @override
    def rescue(self, limit: int, dead: Sequence[str] = ()) -> Rescued:
        accused = _list(dead)
        with self._reading() as view:
            if not view.value("has_lapsed", dead=accused):
                return Rescued((), (), 0, more=False)
        with self._writing() as view:
            view.rows("end_leases", dead=accused)
            lapsed = tuple(server for (server,) in view.rows("lapsed"))
            rows = view.jobs()
            orphaned = rows.select("orphaned", now=view.now, limit=limit + 1)
            taken = orphaned[:limit]
            enqueued = [ref for job in taken for ref in self._move(rows, steps.crash_of(job), view.now)]
            rows.flush()
            view.rows("forget_servers")
        self._announce(bool(enqueued))
        return Rescued(lapsed, tuple(enqueued), len(taken), more=len(orphaned) > limit)

    @override
    def unpublished(self, limit: int, again_in: Micros) -> list[Ref]:
        with self._reading() as view:
            if not view.value("has_unpublished"):
                return []
        with self._writing() as view:
            rows = view.jobs()
            jobs = rows.select("unpublished", now=view.now, limit=limit)
            for job in jobs:
                rows.save(job, job._replace(publish_by=view.now + again_in), None)
            rows.flush()
            return [lifecycle.ref_of(job) for job in jobs]

    @override
    def published(self, refs: Sequence[Ref]) -> None:
        with self._reading() as view:
            if not view.value("has_to_confirm", refs=_pairs(refs)):
                return
        with self._writing() as view:
            view.rows("confirm", refs=_pairs(refs))

    @override
    def unpublish(self, queues: Sequence[str], waiting: Micros, limit: int, after: str | None = None) -> str | None:
        first = first_key(after)
        with self._writing() as view:
            rows = view.jobs()
            page = rows.select("waiting", until=view.now - waiting, at=first.state_at, id=first.id, limit=limit)
            for job in page:
                if job.queue in queues and job.publish_by is None:
                    rows.save(job, job._replace(publish_by=job.state_at), None)
            rows.flush()
            return encode_cursor(page_key(page[-1])) if len(page) == limit else None

    @override
    def prune(self, limit: int) -> int:
        with self._reading() as view:
            if not view.value("has_expired"):
                return 0
        enqueued = False
        with self._writing() as view:
            rows = view.jobs()
            expired = rows.select("expired", now=view.now, limit=limit)
            for job in expired:
                if job.state is State.FAILED:
                    enqueued |= bool(self._move(rows, Change(job.id, Cause.EXPIRE), view.now))
            rows.remove(job for job in expired if job.state is not State.FAILED)
            rows.flush()
        self._announce(enqueued)
        return len(expired)

    # Schedules

    @override
    def schedules(self, ids: Sequence[str] | None = None) -> list[ScheduleRecord | None]:
        with self._reading() as view:
            if ids is None:
                return [ScheduleRecord(*columns) for columns in view.rows("schedules")]
            found = {columns[0]: ScheduleRecord(*columns) for columns in view.rows("schedules_by_id", ids=_list(ids))}
            return [found.get(schedule_id) for schedule_id in ids]

    @override
    def due(self, limit: int) -> Due:
        with self._reading() as view:
            first = (ScheduleRecord(*columns) for columns in view.rows("due_schedules", limit=max(0, limit) + 1))
            return steps.due_of(first, limit, view.now)

    @override
    def reschedule(self, changes: Sequence[Reschedule]) -> list[Rescheduled]:
        with self._writing() as view:
            rows = view.jobs(payloads=True)
            schedules = Schedules(view)
            done = [steps.reschedule(rows, schedules, change, view.now, outbox=self._outbox) for change in changes]
            rows.flush()
        self._announce(any(steps.refs_of(item) for item in done))
        return done

    # Seeing

    @override
    def get(self, ids: Sequence[str]) -> list[JobDetails | None]:
        with self._reading() as view:
            return [listing.details(view.connection, view.app, job_id) for job_id in ids]

    @override
    def find(self, query: JobQuery) -> Page:
        after = None if query.after is None else decode_cursor(query.after)
        with self._reading() as view:
            return listing.find(view.connection, view.app, query, after)

    @override
    def counts(self) -> Counts:
        with self._reading() as view:
            return listing.counts(view.connection, view.app)


def _holds_lease(view: View, server: str) -> bool:
    lease_until = view.value("lease_of", server=server)
    return lease_until is not None and steps.lease_holds(lease_until, view.now)


def _may_claim(view: View, by: Claimant, refs: Sequence[Ref], queues: Sequence[str], limit: int) -> bool:
    """Whether `by` would be given a claim now."""
    if not _holds_lease(view, by.server):
        return False
    if limit > 0 and view.value("has_ready", queues=_list(queues)):
        return True
    claimable = bool(refs) and view.value("has_claimable", refs=_pairs(refs), server=by.server, worker=by.worker)
    return bool(claimable)


def _claim(rows: Transaction, job: JobRecord | None, epoch: int, by: Claimant, now: Micros) -> Claim | None:
    if job is None:
        return None
    step = lifecycle.claim(job, epoch, by, now)
    if step.job is None:
        return None
    if step.verdict is Verdict.APPLIED:
        rows.save(job, step.job, step.entry)
    parent = None if job.parent is None else rows.load(job.parent)
    return lifecycle.claim_of(step.job, parent, now)


def _is_grave(rows: Transaction, claim: Claim) -> bool:
    """Whether the job may not be run again when its worker dies, or has seen one die."""
    job = rows.load(claim.id)
    return job is not None and (job.max_crashes == 0 or job.crashes > 0)


def _pairs(refs: Sequence[Ref]) -> str:
    return json.dumps([(ref.id, ref.epoch) for ref in refs])


def _list(values: Sequence[str]) -> str:
    return json.dumps(list(values))
