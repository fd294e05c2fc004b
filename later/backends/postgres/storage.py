"""The storage port on one PostgreSQL database."""

import asyncio
from collections.abc import Collection, Generator, Iterable, Sequence
from typing import Final, TypeVar

import psycopg
from typing_extensions import override

from later.backends.postgres import arrays, listing, schedules, schema, sets, within
from later.backends.postgres.claims import Claimed, Claims
from later.backends.postgres.connection import Database, Session
from later.backends.postgres.statements import Statements
from later.backends.postgres.wakeup import Wakeup
from later.backends.postgres.wire import Answer, Row, Value
from later.backends.postgres.within import Ask, Look, Within
from later.backends.postgres.work import Work
from later.core import steps
from later.core.errors import UnusableConnection
from later.core.lifecycle import Cause, Change, Reschedule
from later.core.notes import check_note
from later.core.paging import PageKey, decode_cursor, encode_cursor, first_key
from later.core.ports import Storage, StorageCapabilities, StorageOptions
from later.core.records import (
    Applied,
    Beat,
    Claimant,
    Counts,
    Due,
    Exchanged,
    HeldClaim,
    Inserted,
    InsertVerdict,
    JobDetails,
    JobQuery,
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

_TALLY: Final = 200
"""Rows of the tally above which they are summed up."""


_UNSETTLED: Final = 500
"""Continuations that are looked at again by one call."""

T = TypeVar("T")


class _TakenError(Exception):
    """Nothing was inserted, for one of the ids is that of a job which has ended."""


def capabilities(*, push: bool) -> StorageCapabilities:
    return StorageCapabilities(durable=True, shared=True, shared_between_hosts=True, push=push, transactional=True)


class PostgresStorage(Storage):
    """Every call is one transaction: one round trip where nothing has to be decided job by job (`sets`), otherwise
    one that locks and reads and one that writes and commits (`work`). A call that finds nothing to do writes
    nothing."""

    def __init__(self, database: Database, schema_name: str, options: StorageOptions) -> None:
        self._database = database
        self._schema = schema_name
        self._namespace = options.namespace
        self._outbox = options.outbox
        self._clock = options.clock
        self._made: Statements | None = None
        self._made_within: Within | None = None
        self._pushes = not database.pooler
        self._wakeup = Wakeup(database, self._has_ready, self._channel if self._pushes else None)
        self.capabilities = capabilities(push=self._pushes)

    @override
    def migrate(self) -> None:
        schema.migrate(self._database, self._schema)
        self._sql()

    @override
    def close(self) -> None:
        self._wakeup.close()
        self._database.close()

    def _sql(self) -> Statements:
        """The statements of the namespace, which gets its number at its first use."""
        if self._made is None:
            general = Statements(self._schema, 0)
            name = {"name": self._namespace}

            def find(session: Session) -> int:
                found = session.rows(general["find_app"], name)
                if not found:
                    session.rows(general["add_app"], name)
                    found = session.rows(general["find_app"], name)
                return int(found[0][0])

            self._made = Statements(self._schema, self._database.run(find))
        return self._made

    def _values(self, **more: Value) -> dict[str, Value]:
        """`more`, and what every statement may ask for."""
        more["now"] = None if self._clock is None else self._clock()
        return more

    def _rows(self, statement: str, **values: Value) -> list[Row]:
        """One statement that is the whole transaction."""
        sql = self._sql()
        return self._database.run(lambda session: session.rows(sql[statement], self._values(**values), last=True))

    def _now(self, session: Session) -> Micros:
        if self._clock is not None:
            return self._clock()
        [(now,)] = session.rows(self._sql()["moment"], self._values())
        return int(now)

    # Producing

    @override
    def insert(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        if not jobs:
            return []
        plain = sets.plain(jobs, outbox=self._outbox)
        return self._insert_decided(jobs) if plain is None else self._insert_plain(jobs, plain)

    def _insert_plain(self, jobs: Sequence[NewJob], plain: sets.Plain) -> list[Inserted]:
        sql = self._sql()
        started = list(zip(jobs, plain.starts, strict=True))
        queues = {new.queue for new, start in started if start.state is State.ENQUEUED}

        def work(session: Session) -> set[str]:
            try:
                with session.batch(commits=True):
                    inserted = session.send(sql["insert_plain"], self._values(**plain.values))
                    session.send(sql["fail_on_ended"], {"ids": plain.values["ids"]})
                    self._send_commit(session, queues)
            except psycopg.errors.DivisionByZero as error:
                raise _TakenError from error
            [(free,)] = inserted.rows
            return {new.id for new in jobs} if free is None else set(free)

        try:
            created = self._database.run(work)
        except _TakenError:
            return self._insert_decided(jobs)
        self._wakeup.enqueued(queues)
        # Ids that are taken: mostly by the same jobs, when a call is repeated.
        taken = [new for new in jobs if new.id not in created]
        answers = iter(self._insert_decided(taken) if taken else ())
        return [
            Inserted(
                InsertVerdict.CREATED,
                start.state,
                Ref(new.id, start.epoch, new.queue, new.priority) if start.state is State.ENQUEUED else None,
            )
            if new.id in created
            else next(answers)
            for new, start in started
        ]

    def _insert_decided(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        ids = [new.id for new in jobs]
        parents = [new.parent for new in jobs if new.parent is not None]
        sql = self._sql()

        def work(session: Session) -> list[Inserted]:
            rows = Work(session, sql)
            rows.read_for_insert(ids, parents)
            now = self._now(session)
            inserted = [steps.insert(rows, new, now, outbox=self._outbox) for new in jobs]
            self._commit(session, rows, _queues(item.ref for item in inserted))
            return inserted

        inserted = self._database.run(work)
        self._wakeup.enqueued(_queues(item.ref for item in inserted))
        return inserted

    # Within a transaction of the user's

    @override
    def insert_within(self, connection: object, jobs: Sequence[NewJob]) -> Joined:
        users = within.connection_of(connection)
        if isinstance(users, psycopg.AsyncConnection):
            raise UnusableConnection("the connection given is for async code: use the method that begins with `a`")
        if not within.commits_by_itself(users):
            return Joined(tuple(self._drive(users, self._within().insert(jobs))), committed=False)
        self._drive(users, self._within().check())
        return Joined(tuple(self.insert(jobs)), committed=True)

    @override
    async def ainsert_within(self, connection: object, jobs: Sequence[NewJob]) -> Joined:
        users = within.connection_of(connection)
        if isinstance(users, psycopg.Connection):
            return self.insert_within(users, jobs)
        made = await asyncio.to_thread(self._within)
        if not within.commits_by_itself(users):
            return Joined(tuple(await self._adrive(users, made.insert(jobs))), committed=False)
        await self._adrive(users, made.check())
        return Joined(tuple(await asyncio.to_thread(self.insert, jobs)), committed=True)

    def _within(self) -> Within:
        if self._made_within is None:
            channel = self._channel() if self._pushes else None
            self._made_within = Within(
                self._sql(), self._values, outbox=self._outbox, channel=channel, place=self._database.place
            )
        return self._made_within

    def _drive(self, connection: within.Sync, script: Generator[Ask | Look, list[Row], T]) -> T:
        try:
            step = next(script)
            while True:
                step = script.send(within.ask(connection, step) if isinstance(step, Ask) else self._look(step))
        except StopIteration as done:
            answer: T = done.value
            return answer
        except psycopg.Error as error:
            raise within.translated(error, self._database.place) from error

    async def _adrive(self, connection: within.Async, script: Generator[Ask | Look, list[Row], T]) -> T:
        try:
            step = next(script)
            while True:
                if isinstance(step, Ask):
                    rows = await within.aask(connection, step)
                else:
                    rows = await asyncio.to_thread(self._look, step)
                step = script.send(rows)
        except StopIteration as done:
            answer: T = done.value
            return answer
        except psycopg.Error as error:
            raise within.translated(error, self._database.place) from error

    def _look(self, step: Look) -> list[Row]:
        return self._database.run(lambda session: session.rows(step.query, step.values, last=True))

    def _settle(self) -> tuple[list[Ref], bool]:
        """Look again at continuations that were inserted so. Also returns whether there may be more of them."""
        sql = self._sql()

        def work(session: Session) -> tuple[list[Ref], bool]:
            rows = Work(session, sql)
            with session.batch():
                listed = session.send(sql["unsettled"], {"limit": _UNSETTLED})
                moment = session.send(sql["moment"], self._values())
            children = [child for child, _ in listed.rows]
            if not children:
                return [], False
            [(now,)] = moment.rows
            # The parents first, as for every insert and every end.
            rows.read_for_insert([], [parent for _, parent in listed.rows])
            rows.lock(children)
            enqueued = [ref for child in children for ref in steps.settle(rows, child, now, outbox=self._outbox)]
            with session.batch():
                rows.send_writes()
                session.send(sql["settled"], {"ids": arrays.texts(children)})
                self._send_commit(session, _queues(enqueued))
            return enqueued, len(children) == _UNSETTLED

        enqueued, more = self._database.run(work)
        self._wakeup.enqueued(_queues(enqueued))
        return enqueued, more

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
        claims = Claims(self._sql(), self._values(), by, refs, queues, limit)
        ends, others = sets.split(changes)
        done: dict[str, State] = {}
        if not others:
            if ends is None and not claims:
                return Exchanged((), (None,) * len(refs), ())
            done, claimed = self._end_and_claim(ends, claims)
            if len(done) == len(changes):
                return Exchanged(tuple(Applied(Verdict.APPLIED, done[change.id], ()) for change in changes), *claimed)
            # Without what is done; nothing was claimed.
            ends, others = None, [change for change in changes if change.id not in done]
        more, decided, claimed = self._decide_and_claim(ends, changes, others, claims, done)
        done |= more
        self._wakeup.enqueued(_queues(ref for item in decided for ref in item.enqueued))
        answers = iter(decided)
        applied = (
            Applied(Verdict.APPLIED, done[change.id], ()) if change.id in done else next(answers) for change in changes
        )
        return Exchanged(tuple(applied), *claimed)

    def _end_and_claim(self, ends: sets.Ends | None, claims: Claims) -> tuple[dict[str, State], Claimed]:
        """All in one round trip. Returns what the jobs have become that could be ended so; unless that is all of them,
        nothing is claimed."""
        sql = self._sql()

        def work(session: Session) -> tuple[dict[str, State], Claimed]:
            with session.batch(last=True):
                finished = None if ends is None else session.send(sql["finish"], self._values(**ends.values))
                sent = claims.send(session)
            return _done(ends, finished), claims.read(sent)

        return self._database.run(work)

    def _decide_and_claim(
        self,
        ends: sets.Ends | None,
        changes: Sequence[Change],
        others: Sequence[Change],
        claims: Claims,
        done: dict[str, State],
    ) -> tuple[dict[str, State], list[Applied], Claimed]:
        """`ends` as above; `others`, and what it left, are decided one by one. `changes` gives their order, `done` says
        what is not to be done any more."""
        sql = self._sql()
        ids = [change.id for change in others]

        def work(session: Session) -> tuple[dict[str, State], list[Applied], Claimed]:
            rows = Work(session, sql)
            with session.batch():
                finished = None if ends is None else session.send(sql["finish"], self._values(**ends.values))
                locked = rows.send_lock(ids)
                moment = session.send(sql["moment"], self._values())
            more = _done(ends, finished)
            rows.keep_locked(ids, locked)
            left = [] if ends is None else [job_id for job_id in ends.states if job_id not in more]
            if left:
                rows.lock(left)
            [(now,)] = moment.rows
            todo = [change for change in changes if change.id not in more and change.id not in done]
            decided = [steps.move(rows, change, now, outbox=self._outbox) for change in todo]
            with session.batch():
                rows.send_writes()
                if left:
                    session.send(sql["nothing_left"], {})
                sent = claims.send(session)
                self._send_commit(session, _queues(ref for item in decided for ref in item.enqueued))
            return more, decided, claims.read(sent)

        return self._database.run(work)

    def _commit(self, session: Session, rows: Work, queues: Collection[str]) -> None:
        """Write what is pending, commit, and tell who waits for jobs in these queues; one round trip."""
        with session.batch():
            rows.send_writes()
            self._send_commit(session, queues)

    def _send_commit(self, session: Session, queues: Collection[str]) -> None:
        session.commit()
        if queues and self._pushes:
            values = {"channel": self._channel(), "queues": arrays.texts(list(queues))}
            session.no_more_awaited()
            session.send(self._sql()["notify"], values)

    def _channel(self) -> str:
        return f"{self._schema}_{self._sql().app}"

    @override
    def wait(self, queues: Sequence[str], timeout: float) -> bool:
        return self._wakeup.wait(queues, timeout)

    @override
    def wake(self) -> None:
        self._wakeup.wake()

    def _has_ready(self, queues: Sequence[str]) -> bool:
        sql = self._sql()

        def look(session: Session) -> tuple[bool, bool]:
            with session.batch(last=True):
                ready = session.send(sql["has_ready"], {"queues": arrays.texts(queues)})
                unsettled = session.send(sql["has_unsettled"], {})
            return bool(ready.rows), unsettled.rows == [(True,)]

        ready, unsettled = self._database.run(look)
        # With a broker, what becomes Enqueued here would be published late: `promote` gives it to the publisher.
        return ready or (unsettled and not self._outbox and bool(self._settle()[0]))

    # Servers

    @override
    def register(self, server: ServerInfo, lease: Micros) -> None:
        self._rows(
            "register",
            id=server.id,
            node=server.node,
            host=server.host,
            pid=server.pid,
            pid_started=server.pid_started,
            queues=arrays.texts(server.queues),
            slots=server.slots,
            lease=lease,
        )

    @override
    def beat(self, server: str, lease: Micros, note: str = "") -> Beat:
        check_note(note)
        sql = self._sql()

        def work(session: Session) -> Beat:
            with session.batch(last=True):
                renewed = session.send(sql["renew"], self._values(server=server, lease=lease, note=note))
                cancels = session.send(sql["cancels"], {"server": server})
            alive = bool(renewed.rows)
            return Beat(alive, tuple((job_id, epoch) for job_id, epoch in cancels.rows) if alive else ())

        return self._database.run(work)

    @override
    def unregister(self, server: str) -> None:
        sql = self._sql()

        def work(session: Session) -> None:
            with session.batch(last=True):
                session.send(sql["end_server"], self._values(server=server))
                session.send(sql["forget_servers"], self._values(lapsed=arrays.texts([server])))

        self._database.run(work)

    @override
    def servers(self) -> list[ServerRecord]:
        return [
            ServerRecord(
                ServerInfo(server_id, node, host, pid, pid_started, tuple(queues), slots),
                started_at,
                lease_until,
                claims,
                note,
            )
            for (
                server_id, node, host, pid, pid_started, queues, slots, started_at, lease_until, note, claims,
            ) in self._rows("servers")
        ]  # fmt: skip

    @override
    def claims(self, server: str) -> list[HeldClaim]:
        return [HeldClaim(*columns) for columns in self._rows("held", server=server)]

    # Upkeep

    @override
    def promote(self, limit: int) -> Promoted:
        sql = self._sql()

        def look(session: Session) -> tuple[Micros | None, bool, bool]:
            with session.batch(last=True):
                # Here, because it is called every few seconds wherever there is work.
                session.send(sql["sum_up"], self._values(threshold=_TALLY))
                unsettled = session.send(sql["has_unsettled"], {})
                first = session.send(sql["next_due"], self._values())
                untold = session.send(sql["has_untold"], {})
            next_due_in: Micros | None
            [(next_due_in,)] = first.rows
            return next_due_in, unsettled.rows == [(True,)], untold.rows == [(True,)]

        next_due_in, unsettled, untold = self._database.run(look)
        settled, more = self._settle() if unsettled else ([], False)
        if (next_due_in is None or next_due_in > 0) and not untold:
            return Promoted(tuple(settled), 0 if more else next_due_in)

        def work(session: Session) -> Promoted:
            rows = Work(session, sql)
            with session.batch():
                due = session.send(sql["due"], self._values(limit=limit))
                untold = session.send(sql["untold"], {})
                moment = session.send(sql["moment"], self._values())
            [(now,)] = moment.rows
            enqueued = self._move_all(rows, [Change(job.id, Cause.DUE) for job in rows.keep(due)], now)
            for parent, told in untold.rows:
                ended = rows.go_on(parent, told)
                if ended is not None:
                    enqueued += steps.tell(rows, ended, now, outbox=self._outbox)
            with session.batch():
                rows.send_writes()
                following = session.send(sql["next_due"], self._values())
                left = session.send(sql["has_untold"], {})
                self._send_commit(session, _queues(enqueued))
            [(next_due_in,)] = following.rows
            return Promoted((*settled, *enqueued), 0 if more or left.rows == [(True,)] else next_due_in)

        promoted = self._database.run(work)
        self._wakeup.enqueued(_queues(promoted.enqueued))
        return promoted

    @override
    def rescue(self, limit: int, dead: Sequence[str] = ()) -> Rescued:
        accused = arrays.texts(dead)
        [(found, now)] = self._rows("has_lapsed", dead=accused)
        if not found:
            return Rescued((), (), 0, more=False)
        # One time for all statements: no lease may run out between them.
        at: dict[str, Value] = {"now": now, "dead": accused, "limit": limit + 1}
        sql = self._sql()

        def work(session: Session) -> Rescued:
            rows = Work(session, sql)
            with session.batch():
                # The first waits for locks, so that each sees what was committed before.
                session.send(sql["lock_lapsed"], at)
                session.send(sql["end_leases"], at)
                lapsed = session.send(sql["lapsed"], at)
                orphaned = session.send(sql["orphaned"], at)
            servers = [server for (server,) in lapsed.rows]
            jobs = rows.keep(orphaned)
            enqueued = self._move_all(rows, [steps.crash_of(job) for job in jobs[:limit]], now)
            with session.batch():
                rows.send_writes()
                session.send(sql["forget_servers"], {"now": now, "lapsed": arrays.texts(servers)})
                self._send_commit(session, _queues(enqueued))
            return Rescued(tuple(servers), tuple(enqueued), len(jobs[:limit]), more=len(jobs) > limit)

        rescued = self._database.run(work)
        self._wakeup.enqueued(_queues(rescued.enqueued))
        return rescued

    def _move_all(self, rows: Work, changes: Iterable[Change], now: Micros) -> list[Ref]:
        return [ref for change in changes for ref in steps.move(rows, change, now, outbox=self._outbox).enqueued]

    @override
    def unpublished(self, limit: int, again_in: Micros) -> list[Ref]:
        return [Ref(*columns) for columns in self._rows("unpublished", limit=limit, again_in=again_in)]

    @override
    def published(self, refs: Sequence[Ref]) -> None:
        if refs:
            self._rows("confirm", **arrays.pairs(refs))

    @override
    def unpublish(self, queues: Sequence[str], waiting: Micros, limit: int, after: str | None = None) -> str | None:
        first = first_key(after)
        last = self._rows(
            "unpublish",
            queues=arrays.texts(queues),
            waiting=waiting,
            limit=limit,
            after_at=first.state_at,
            after_id=first.id,
        )
        return encode_cursor(PageKey(*last[0])) if last else None

    @override
    def prune(self, limit: int) -> int:
        sql = self._sql()

        def work(session: Session) -> tuple[int, list[Ref]]:
            rows = Work(session, sql)
            with session.batch():
                expired = session.send(sql["expired"], self._values(limit=limit))
                moment = session.send(sql["moment"], self._values())
            jobs = rows.keep(expired)
            if not jobs:
                return 0, []
            [(now,)] = moment.rows
            failed = [job for job in jobs if job.state is State.FAILED]
            enqueued = self._move_all(rows, [Change(job.id, Cause.EXPIRE) for job in failed], now)
            ids = arrays.texts([job.id for job in jobs if job.state is not State.FAILED])
            with session.batch():
                removed = session.send(sql["remove"], {"ids": ids})
                rows.send_writes()
                self._send_commit(session, _queues(enqueued))
            return len(failed) + removed.rows[0][0], enqueued

        touched, enqueued = self._database.run(work)
        self._wakeup.enqueued(_queues(enqueued))
        return touched

    # Schedules

    @override
    def schedules(self, ids: Sequence[str] | None = None) -> list[ScheduleRecord | None]:
        if ids is None:
            return [schedules.read(columns) for columns in self._rows("schedules")]
        found = {
            schedule.id: schedule
            for schedule in map(schedules.read, self._rows("schedules_by_id", ids=arrays.texts(list(ids))))
        }
        return [found.get(schedule_id) for schedule_id in ids]

    @override
    def due(self, limit: int) -> Due:
        sql = self._sql()

        def work(session: Session) -> Due:
            with session.batch(last=True):
                first = session.send(sql["due_schedules"], {"limit": max(0, limit) + 1})
                moment = session.send(sql["moment"], self._values())
            [(now,)] = moment.rows
            return steps.due_of(map(schedules.read, first.rows), limit, now)

        return self._database.run(work)

    @override
    def reschedule(self, changes: Sequence[Reschedule]) -> list[Rescheduled]:
        """One transaction, of some round trips."""
        sql = self._sql()
        jobs = [new for change in changes for new in change.jobs]
        moves = [wish.id for change in changes for wish in change.moves]

        def work(session: Session) -> list[Rescheduled]:
            locked = schedules.LockedSchedules(session, sql, changes)
            rows = Work(session, sql)
            # First, because what is to be inserted is only looked at.
            if moves:
                rows.lock(moves)
            if jobs:
                rows.read_for_insert([new.id for new in jobs], [new.parent for new in jobs if new.parent is not None])
            now = self._now(session)
            done = [steps.reschedule(rows, locked, change, now, outbox=self._outbox) for change in changes]
            with session.batch():
                locked.send_writes()
                rows.send_writes()
                self._send_commit(session, _enqueued(done))
            return done

        done = self._database.run(work)
        self._wakeup.enqueued(_enqueued(done))
        return done

    # Seeing

    @override
    def get(self, ids: Sequence[str]) -> list[JobDetails | None]:
        sql = self._sql()
        return self._database.run(lambda session: listing.details(session, sql, ids))

    @override
    def find(self, query: JobQuery) -> Page:
        after = None if query.after is None else decode_cursor(query.after)
        sql = self._sql()
        return self._database.run(lambda session: listing.find(session, sql, query, after))

    @override
    def counts(self) -> Counts:
        by_queue: dict[str, dict[State, int]] = {}
        for queue, state, jobs in self._rows("counts"):
            by_queue.setdefault(queue, {})[State(state)] = jobs
        return Counts(by_queue)


def _enqueued(done: Iterable[Rescheduled]) -> set[str]:
    return _queues(ref for item in done for ref in steps.refs_of(item))


def _queues(refs: Iterable[Ref | None]) -> set[str]:
    return {ref.queue for ref in refs if ref is not None}


def _done(ends: sets.Ends | None, finished: Answer | None) -> dict[str, State]:
    """What the jobs have become that `finish` has ended."""
    if ends is None or finished is None:
        return {}
    [(left, _)] = finished.rows
    return ends.states if left is None else {job_id: ends.states[job_id] for job_id in ends.states.keys() - left}
