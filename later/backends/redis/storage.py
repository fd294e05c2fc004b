"""The storage port on one Redis or Valkey server, or on one slot of a cluster."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from typing_extensions import override

from later.backends.redis import rows, scripts
from later.backends.redis.connection import Connection
from later.backends.redis.scripts import Script
from later.backends.redis.tables import LETTERS
from later.backends.redis.wakeup import Wakeup
from later.core.errors import Corrupt, SchemaMismatch, TooManyJobs
from later.core.lifecycle import Change, Reschedule
from later.core.names import check_name
from later.core.notes import check_note
from later.core.paging import PageKey, decode_cursor, encode_cursor, page_key
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
    JobRecord,
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

_LAYOUT: Final = 2
"""The version of the keys in lua/lib/base.lua."""

_BYTES: Final = 64 * 1024 * 1024
"""The payloads that one call inserts. It is one script, so that all is stored or none, and a script blocks the server
for everybody: 10,000 jobs, the most that the core gives, for about 0.1 s with payloads of 200 bytes, and 0.4 s with as
much as this."""

_PUBLISHED: Final = 1_000
_CHANGES: Final = 500
_CLAIMS: Final = 500
_GETS: Final = 20
"""Jobs with their histories in one reply: each may have 3 MiB of errors."""

_LOOKS: Final = 1_000
"""Jobs that one call of list.lua looks at."""

_INSERTED: Final = {
    b"conflict": Inserted(InsertVerdict.CONFLICT, None, None),
    b"no parent": Inserted(InsertVerdict.NO_PARENT, None, None),
    **{
        f"{verdict} {letter}".encode(): Inserted(verdict, state, None)
        for verdict in (InsertVerdict.CREATED, InsertVerdict.EXISTS)
        for state, letter in LETTERS.items()
    },
}
_CREATED_ENQUEUED: Final = f"{InsertVerdict.CREATED} {LETTERS[State.ENQUEUED]}".encode()

_log = logging.getLogger("later.redis")

_APPLIED: Final = {
    b"unknown ": Applied(Verdict.UNKNOWN, None, ()),
    **{
        f"{verdict} {letter}".encode(): Applied(verdict, state, ())
        for verdict in Verdict
        for state, letter in LETTERS.items()
    },
}


class RedisStorage(Storage):
    """Every call is one script, and so one atomic step. But for `insert`, what exceeds the bounds above is several in a
    row, each atomic, and the rest of what the port promises holds."""

    capabilities = StorageCapabilities(durable=True, shared=True, shared_between_hosts=True, push=True)
    """`durable` as far as the server's AOF goes: see `Redis`."""

    def __init__(self, connection: Connection, options: StorageOptions) -> None:
        self._connection = connection
        self._key = f"later:{{{options.namespace}}}"
        self._outbox = int(options.outbox)
        self._clock = options.clock
        self._wakeup = Wakeup(connection, self._key, self._call)
        connection.on_fork(self._wakeup.start_anew)

    def _call(self, script: Script, args: Iterable[str | bytes | int] = (), *, once: bool = False) -> Any:
        now = "" if self._clock is None else self._clock()
        return self._connection.call(script, self._key, [now, self._outbox, *args], once=once)

    @override
    def migrate(self) -> None:
        self._connection.check_server(self._key)
        self._connection.command("SET", self._key, _LAYOUT, "NX")
        stored = self._connection.command("GET", self._key)
        if not stored or not stored.isdigit():
            raise Corrupt(
                f"the key {self._key} in Redis at {self._connection.place} holds something that later did not write"
            )
        if int(stored) != _LAYOUT:
            newer = int(stored) > _LAYOUT
            raise SchemaMismatch(
                f"the jobs in Redis at {self._connection.place} were written by {'a newer' if newer else 'an older'} "
                f"version of later (layout {int(stored)}; this one knows {_LAYOUT}): "
                + ("upgrade this program" if newer else "finish them with that version, or delete its keys")
            )

    @override
    def close(self) -> None:
        self._wakeup.close()
        self._connection.close()

    # Producing

    @override
    def insert(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        """Raises TooManyJobs for more than 64 MiB of payloads."""
        size = sum(len(job.payload) for job in jobs)
        if size > _BYTES:
            raise TooManyJobs(
                f"these payloads have {size // 2**20:,} MiB, and Redis would serve nobody else while it stores them: "
                f"call enqueue_many for parts of up to {_BYTES // 2**20} MiB"
            )
        verdicts = self._call(scripts.INSERT, [value for job in jobs for value in rows.write_new(job)])
        return _inserted(jobs, verdicts)

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
        if refs or limit > 0:
            for kind, name in (("server", by.server), ("worker", by.worker)):
                if " " in name:
                    check_name(kind, name)
        claiming = [value for ref in refs for value in (ref.id, ref.epoch)]
        claiming += dict.fromkeys(queues)
        applied: list[Applied] = []
        # Released by the change that comes next, on behalf of a caller that died.
        early: tuple[Ref, ...] = ()
        owner: int
        while True:
            part = changes[len(applied) : len(applied) + _CHANGES]
            is_last = len(applied) + len(part) == len(changes)
            now, verdicts, enqueued, owner, left, by_ref, claims = self._call(
                scripts.EXCHANGE,
                [
                    by.server,
                    by.worker,
                    max(limit, 0) if is_last else 0,
                    len(part),
                    len(refs) if is_last else 0,
                    *(value for change in part for value in rows.write_change(change)),
                    *(claiming if is_last else ()),
                ],
                # Claims whose names were lost with the answer: the worker has to look for them.
                once=is_last and limit > 0,
            )
            results: list[Applied] = [_APPLIED[verdict] for verdict in verdicts]
            for number, released in rows.read_numbered_refs(enqueued).items():
                results[number - 1] = _with_refs(results[number - 1], released)
            if results and early:
                results[0] = results[0]._replace(enqueued=early + results[0].enqueued)
                early = ()
            if left:
                rest = self._cascade(left)
                if owner <= len(results):
                    results[owner - 1] = _with_refs(results[owner - 1], rest)
                else:
                    early += rest
            applied += results
            if not left and is_last:
                return Exchanged(
                    tuple(applied),
                    tuple(rows.read_claims(by_ref, int(now))) if by_ref else (None,) * len(refs),
                    tuple(claim for claim in rows.read_claims(claims, int(now)) if claim is not None),
                )

    def _cascade(self, left: Sequence[bytes] = ()) -> tuple[Ref, ...]:
        """Let ended jobs tell the rest of their children: those in `left`, or those that a dead caller left."""
        released: tuple[Ref, ...] = ()
        while True:
            refs, left = self._call(scripts.CASCADE, left)
            released += rows.read_refs(refs)
            if not left:
                return released

    @override
    def wait(self, queues: Sequence[str], timeout: float) -> bool:
        return self._wakeup.wait(queues, timeout)

    @override
    def wake(self) -> None:
        self._wakeup.wake()

    # Servers

    @override
    def register(self, server: ServerInfo, lease: Micros) -> None:
        known = [server.node, server.host, server.pid, server.pid_started, server.queues, server.slots]
        self._call(scripts.REGISTER, [server.id, json.dumps(known), lease])

    @override
    def beat(self, server: str, lease: Micros, note: str = "") -> Beat:
        check_note(note)
        asked = self._call(scripts.BEAT, [server, lease, note])
        if asked is None:
            return Beat(alive=False, cancels=())
        pairs = zip(asked[::2], asked[1::2], strict=True)
        return Beat(alive=True, cancels=tuple((job_id.decode(), int(epoch)) for job_id, epoch in pairs))

    @override
    def unregister(self, server: str) -> None:
        self._call(scripts.UNREGISTER, [server])

    @override
    def servers(self) -> list[ServerRecord]:
        records: list[ServerRecord] = []
        for server_id, known, lease_until, claims, note in self._call(scripts.SERVERS):
            started_at, _, text = known.partition(b" ")
            node, host, pid, pid_started, queues, slots = json.loads(text)
            info = ServerInfo(server_id.decode(), node, host, pid, pid_started, tuple(queues), slots)
            records.append(ServerRecord(info, int(started_at), rows.read_score(lease_until), claims, note.decode()))
        return sorted(records, key=lambda record: (record.started_at, record.info.id))

    @override
    def claims(self, server: str) -> list[HeldClaim]:
        return [
            HeldClaim(job_id.decode(), int(epoch), worker.decode())
            for job_id, epoch, worker in self._call(scripts.CLAIMS, [server])
        ]

    # Upkeep

    @override
    def promote(self, limit: int) -> Promoted:
        """Also finishes what callers that died have left of their cascades, and looks again at unreadable jobs."""
        enqueued: tuple[Ref, ...] = ()
        while True:
            most = max(0, min(limit, _CHANGES))
            refs, next_due, todo, unreadable = self._call(scripts.PROMOTE, [most])
            for job_id in unreadable:
                self._warn(job_id)
            enqueued += rows.read_refs(refs)
            limit -= most
            if limit <= 0 or len(refs) < 4 * most:
                break
        if todo:
            enqueued += self._cascade()
        return Promoted(enqueued, int(next_due) if next_due else None)

    @override
    def rescue(self, limit: int, dead: Sequence[str] = ()) -> Rescued:
        servers: set[str] = set()
        enqueued: tuple[Ref, ...] = ()
        jobs = 0
        while True:
            most = max(0, min(limit - jobs, _CLAIMS))
            found, refs, taken, more, left = self._call(scripts.RESCUE, [most, *dead])
            servers.update(server.decode() for server in found)
            enqueued += rows.read_refs(refs)
            jobs += taken
            if left:
                enqueued += self._cascade(left)
            if not more or jobs >= limit:
                return Rescued(tuple(sorted(servers)), enqueued, jobs, bool(more))

    @override
    def unpublished(self, limit: int, again_in: Micros) -> list[Ref]:
        if limit <= 0:
            return []
        return list(rows.read_refs(self._call(scripts.UNPUBLISHED, [limit, again_in])))

    @override
    def published(self, refs: Sequence[Ref]) -> None:
        for first in range(0, len(refs), _PUBLISHED):
            part = refs[first : first + _PUBLISHED]
            self._call(scripts.PUBLISHED, [value for ref in part for value in (ref.id, ref.epoch)])

    @override
    def unpublish(self, queues: Sequence[str], waiting: Micros, limit: int, after: str | None = None) -> str | None:
        at: str | int = ""
        job_id: str = ""
        if after is not None:
            at, job_id = decode_cursor(after)
        score, last = self._call(scripts.UNPUBLISH, [at, job_id, waiting, limit, *queues])
        return encode_cursor(PageKey(rows.read_score(score), last.decode())) if score else None

    @override
    def prune(self, limit: int) -> int:
        touched = 0
        while touched < limit:
            count, _, left, more = self._call(scripts.PRUNE, [min(limit - touched, _CHANGES)])
            touched += count
            if left:
                self._cascade(left)
            if not more:
                break
        return touched

    # Schedules

    @override
    def schedules(self, ids: Sequence[str] | None = None) -> list[ScheduleRecord | None]:
        key = f"{self._key}:schedules"
        if ids is None:
            found: dict[bytes, bytes] = self._connection.command("HGETALL", key)
            return [rows.read_schedule(schedule_id, found[schedule_id]) for schedule_id in sorted(found)]
        values: list[bytes | None] = self._connection.command("HMGET", key, *ids) if ids else []
        return [
            None if value is None else rows.read_schedule(schedule_id.encode(), value)
            for schedule_id, value in zip(ids, values, strict=True)
        ]

    @override
    def due(self, limit: int) -> Due:
        now, found, following = self._call(scripts.DUE, [max(0, limit)])
        schedules = tuple(rows.read_schedule(*pair) for pair in zip(found[::2], found[1::2], strict=True))
        return Due(int(now), schedules, int(following) - int(now) if following else None)

    @override
    def reschedule(self, changes: Sequence[Reschedule]) -> list[Rescheduled]:
        """One round trip for each change."""
        return [self._reschedule(change) for change in changes]

    def _reschedule(self, change: Reschedule) -> Rescheduled:
        args = [
            change.id,
            change.version,
            "" if change.next_at is None else change.next_at,
            b"" if change.body is None else b"+" + change.body,
            len(change.jobs),
            *(value for new in change.jobs for value in rows.write_new(new)),
            *(value for wish in change.moves for value in rows.write_change(wish)),
        ]
        while True:
            match self._call(scripts.RESCHEDULE, args):
                case [b"stale"]:
                    return Rescheduled(RescheduleVerdict.STALE, (), ())
                case [b"pending", left]:
                    self._cascade(left)
                case answer:
                    _, verdicts, moved = answer
                    applied = tuple(
                        _with_refs(_APPLIED[verdict], rows.read_refs(refs) + (self._cascade(left) if left else ()))
                        for verdict, refs, left in moved
                    )
                    return Rescheduled(RescheduleVerdict.APPLIED, tuple(_inserted(change.jobs, verdicts)), applied)

    # Seeing

    @override
    def get(self, ids: Sequence[str]) -> list[JobDetails | None]:
        found: list[JobDetails | None] = []
        for first in range(0, len(ids), _GETS):
            part = ids[first : first + _GETS]
            replies = self._call(scripts.GET, part)
            found += [
                None if reply is None else rows.read_details(job_id, reply)
                for job_id, reply in zip(part, replies, strict=True)
            ]
        return found

    @override
    def find(self, query: JobQuery) -> Page:
        """Costs the reading of jobs in the asked states (with `parent`: of all children), newest first, until enough of
        them match; one call per state, per server with claims, and per thousand jobs looked at. A page is no snapshot:
        jobs that move meanwhile may be missed or met twice."""
        after = None if query.after is None else decode_cursor(query.after)
        if query.parent is not None:
            found = self._children(query, after)
        else:
            found = [
                job
                for index in self._indexes(query.states or frozenset(State))
                for job in self._walk(index, query, after)
            ]
        found.sort(key=page_key, reverse=True)
        page = found[: query.limit]
        more = len(found) > query.limit and bool(page)
        return Page(tuple(page), encode_cursor(page_key(page[-1])) if more else None)

    def _indexes(self, states: frozenset[State]) -> list[str]:
        indexes = [f"at:{LETTERS[state]}" for state in states if state is not State.PROCESSING]
        if State.PROCESSING in states:
            holders = self._connection.command("SMEMBERS", f"{self._key}:holders")
            indexes += [f"c:{server.decode()}" for server in holders]
        return indexes

    def _walk(self, index: str, query: JobQuery, after: PageKey | None) -> list[JobRecord]:
        """The first jobs of one index that match, one more than the page takes."""
        found: list[JobRecord] = []
        at: str | bytes | int = "" if after is None else after.state_at
        job_id: str | bytes = "" if after is None else after.id
        while True:
            wanted = query.limit + 1 - len(found)
            args = [index, at, job_id, wanted, _LOOKS, len(query.queues), *query.queues, *query.types]
            score, job_id, jobs = self._call(scripts.LIST, args)
            found += self._readable(jobs)
            if not score or len(found) > query.limit:
                return found
            at = rows.read_score(score)

    def _children(self, query: JobQuery, after: PageKey | None) -> list[JobRecord]:
        ids = self._connection.command("ZRANGE", f"{self._key}:k:{query.parent}", 0, -1)
        found: list[JobRecord] = []
        for first in range(0, len(ids), _LOOKS):
            found += [
                job
                for job in self._readable(self._call(scripts.RECORDS, ids[first : first + _LOOKS]))
                if _matches(job, query) and (after is None or page_key(job) < after)
            ]
        return found

    def _readable(self, jobs: Sequence[Any]) -> Iterator[JobRecord]:
        for job_id, record, publish_by in jobs:
            if record is None:
                self._warn(job_id)
            else:
                yield rows.read_job(job_id.decode(), record, publish_by)

    def _warn(self, job_id: bytes) -> None:
        """Of a job that was passed over, so that others are not held up."""
        _log.warning(
            "what Redis at %s holds as job %s is not what later wrote, and was passed over: look at the key %s:j:%s, "
            "and delete it or restore a backup; once it is readable again, the job goes on within a minute",
            self._connection.place, job_id.decode(), self._key, job_id.decode(),
        )  # fmt: skip

    @override
    def counts(self) -> Counts:
        by_queue: dict[str, dict[State, int]] = {}
        found: dict[bytes, bytes] = self._connection.command("HGETALL", f"{self._key}:n")
        for name, jobs in found.items():
            letter, _, queue = name.decode().partition(" ")
            by_queue.setdefault(queue, {})[rows.STATES[letter]] = int(jobs)
        return Counts(by_queue)


def _inserted(jobs: Sequence[NewJob], verdicts: Sequence[bytes]) -> list[Inserted]:
    return [
        Inserted(InsertVerdict.CREATED, State.ENQUEUED, Ref(job.id, 1, job.queue, job.priority))
        if verdict == _CREATED_ENQUEUED
        else _INSERTED[verdict]
        for job, verdict in zip(jobs, verdicts, strict=True)
    ]


def _with_refs(applied: Applied, refs: tuple[Ref, ...]) -> Applied:
    return applied._replace(enqueued=applied.enqueued + refs)


def _matches(job: JobRecord, query: JobQuery) -> bool:
    return (
        (not query.states or job.state in query.states)
        and (not query.queues or job.queue in query.queues)
        and (not query.types or job.type in query.types)
    )
