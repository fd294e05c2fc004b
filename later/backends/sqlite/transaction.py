"""The jobs of one namespace within one write transaction."""

import json
from collections.abc import Iterable, Iterator, Sequence
from sqlite3 import Cursor
from typing import Any, Final, Protocol

from later.backends.sqlite.rows import PAYLOAD_IN_ROW, Row, added, first_entry, read_row, saved, written
from later.backends.sqlite.statements import SQL
from later.core.records import HISTORY_LIMIT, HistoryEntry, JobRecord, State
from later.core.steps import CASCADE

_WITHOUT_PAYLOAD: Final = SQL["load"]
_WITH_PAYLOAD: Final = SQL["load_with_payload"]
_AWAITED: Final = SQL["awaited"]
_AWAITING: Final = SQL["awaiting"]
_POSTPONE: Final = SQL["postpone"]
_SETTLE: Final = SQL["settle"]
_LAST_NUM: Final = SQL["last_num"]
_LAST_TICKET: Final = SQL["last_ticket"]
_ADD_JOB: Final = SQL["add_job"]
_ADD_PAYLOAD: Final = SQL["add_payload"]
_ADD_HISTORY: Final = SQL["add_history"]
_SAVE_JOB: Final = SQL["save_job"]
_TRIM_HISTORY: Final = SQL["trim_history"]
_COUNT_MORE: Final = SQL["count_more"]
_COUNT_FEWER: Final = SQL["count_fewer"]
_REMOVALS: Final = (SQL["remove_history"], SQL["remove_payload"], SQL["remove_job"])


class Executes(Protocol):
    """What is asked of a connection."""

    def execute(self, statement: str, values: Any = ..., /) -> Cursor: ...

    def executemany(self, statement: str, values: Any, /) -> Cursor: ...


class Transaction:
    """Implements `later.core.steps.Rows`.

    Every job is read once and kept; what changed is written by `flush`, many rows by one statement. A list that is
    selected from the database is therefore preceded by a flush, or corrected by what is kept.
    """

    def __init__(self, connection: Executes, app: int, *, payloads: bool) -> None:
        """`payloads`: load jobs with theirs; else it is b""."""
        self._connection = connection
        self._app = app
        self._load = _WITH_PAYLOAD if payloads else _WITHOUT_PAYLOAD
        self._rows: dict[str, Row | None] = {}
        self._added: dict[int, Row] = {}
        self._saved: dict[int, Row] = {}
        self._childless: set[str] = set()
        self._to_tell = CASCADE
        self._told: dict[str, int] = {}
        self._cascades: dict[str, int | None] = {}
        self._history: list[tuple[Any, ...]] = []
        self._trimmed: dict[int, int] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._tickets: dict[tuple[str, int], int] = {}
        self._last_num: int | None = None

    # steps.Rows

    def load(self, job_id: str, /) -> JobRecord | None:
        if job_id not in self._rows:
            self.prefetch([job_id])
        row = self._rows[job_id]
        return None if row is None else row.job

    def awaiting(self, parent: str, /) -> Iterable[JobRecord]:
        if parent in self._childless:
            return ()
        after = self._told.get(parent, 0)
        values = {"app": self._app, "parent": parent, "after": after, "limit": self._to_tell + 1}
        found = [self._keep(read_row(columns)) for columns in self._connection.execute(_AWAITING, values)]
        rows = found[: self._to_tell]
        self._to_tell -= len(rows)
        self._cascades[parent] = None if len(rows) == len(found) else rows[-1].num if rows else after
        # No change leads into Awaiting, so nothing is missing; but some may have been moved by this transaction.
        return [row.job for row in rows if row.job.state is State.AWAITING]

    def go_on(self, parent: str, told: int) -> JobRecord | None:
        """A parent that has told its children up to the number `told`, for `steps.tell`. None: nothing is left to do,
        or nothing more may be done by this transaction."""
        if not self._to_tell:
            return None
        job = self.load(parent)
        if job is None or not job.state.ended:
            self._cascades[parent] = None
            return None
        self._told[parent] = told
        return job

    def add(self, job: JobRecord, _entry: HistoryEntry, /) -> None:
        # The entry is `first_entry` of the job, which `save` writes.
        row = self._rows[job.id] = Row(self._next_num(), 0, self._ticket(job), job)
        self._added[row.num] = row
        self._count(job, +1)

    def save(self, before: JobRecord, after: JobRecord, entry: HistoryEntry | None, /) -> None:
        row = self._rows[after.id]
        assert row is not None, "a job is loaded before it is saved"
        row.job = after
        if row.num not in self._added:
            self._saved[row.num] = row
        if entry is None:
            return
        if row.entries == 0:
            self._history.append(written(row.num, 1, first_entry(before)))
            row.entries = 1
        row.entries += 1
        self._history.append(written(row.num, row.entries, entry))
        row.ticket = self._ticket(after)
        if row.entries > HISTORY_LIMIT:
            self._trimmed[row.num] = row.entries - HISTORY_LIMIT
        if before.state is not after.state:
            self._count(before, -1)
            self._count(after, +1)

    # More reading

    def prefetch(self, ids: Iterable[str]) -> None:
        """Read these jobs, as far as they are not known, by one statement."""
        missing = [job_id for job_id in dict.fromkeys(ids) if job_id not in self._rows]
        if missing:
            self._rows.update(dict.fromkeys(missing))
            for columns in self._connection.execute(self._load, {"app": self._app, "ids": json.dumps(missing)}):
                self._keep(read_row(columns))

    def prefetch_awaited(self, parents: Iterable[str]) -> None:
        """Learn which of these jobs have Awaiting children, by one statement."""
        self._childless.update(parents)
        values = {"app": self._app, "parents": json.dumps(list(self._childless))}
        self._childless.difference_update(parent for (parent,) in self._connection.execute(_AWAITED, values))

    def select(self, statement: str, **values: object) -> list[JobRecord]:
        """The jobs that a named statement lists, as they are after what this transaction has done."""
        self.flush()
        rows = self._connection.execute(SQL[statement], {"app": self._app, **values})
        return [self._keep(read_row(columns)).job for columns in rows]

    def ready(self, queues: Sequence[str], limit: int) -> Iterator[JobRecord]:
        """Enqueued jobs in the order of claims, at most `limit` of each queue."""
        for queue in dict.fromkeys(queues):
            yield from self.select("ready", queue=queue, limit=limit)

    # More writing

    def remove(self, jobs: Iterable[JobRecord]) -> None:
        """Delete jobs, loaded before, with all that belongs to them."""
        self.flush()
        nums: list[tuple[int]] = []
        for job in jobs:
            row = self._rows.pop(job.id)
            assert row is not None, "a job is loaded before it is removed"
            nums.append((row.num,))
            self._count(job, -1)
        for statement in _REMOVALS:
            self._connection.executemany(statement, nums)

    def flush(self) -> None:
        """Write what is pending."""
        many = self._connection.executemany
        if self._added:
            many(_ADD_JOB, [added(self._app, row) for row in self._added.values()])
            payloads = [(num, row.job.payload) for num, row in self._added.items()]
            if large := [(num, payload) for num, payload in payloads if len(payload) > PAYLOAD_IN_ROW]:
                many(_ADD_PAYLOAD, large)
            self._added.clear()
        if self._saved:
            many(_SAVE_JOB, [saved(row) for row in self._saved.values()])
            self._saved.clear()
        if self._history:
            many(_ADD_HISTORY, self._history)
            self._history.clear()
        if self._trimmed:
            many(_TRIM_HISTORY, list(self._trimmed.items()))
            self._trimmed.clear()
        if self._counts:
            # Apart, because an upsert checks the row that it would insert, and a count is never negative.
            changes = [(by, self._app, queue, state) for (queue, state), by in self._counts.items()]
            if more := [change for change in changes if change[0] > 0]:
                many(_COUNT_MORE, more)
            if fewer := [(-by, *line) for by, *line in changes if by < 0]:
                many(_COUNT_FEWER, fewer)
            self._counts.clear()
        if self._cascades:
            left = [(self._app, parent, told) for parent, told in self._cascades.items() if told is not None]
            many(_POSTPONE, left)
            many(_SETTLE, [(self._app, parent) for parent, told in self._cascades.items() if told is None])
            self._cascades.clear()

    def _keep(self, row: Row) -> Row:
        """The row as this transaction knows it already, else `row`."""
        known = self._rows.get(row.job.id)
        if known is not None:
            return known
        self._rows[row.job.id] = row
        return row

    def _next_num(self) -> int:
        last = self._last_num
        if last is None:
            (last,) = self._connection.execute(_LAST_NUM).fetchone()
        self._last_num = num = int(last) + 1
        return num

    def _ticket(self, job: JobRecord) -> int | None:
        """The next place in the job's line, when it stands in one."""
        if job.state is not State.ENQUEUED:
            return None
        line = (job.queue, job.priority)
        last = self._tickets.get(line)
        if last is None:
            found = self._connection.execute(_LAST_TICKET, (self._app, *line)).fetchone()
            last = found[0] if found else 0
        self._tickets[line] = ticket = last + 1
        return ticket

    def _count(self, job: JobRecord, by: int) -> None:
        key = (job.queue, job.state._value_)
        self._counts[key] = self._counts.get(key, 0) + by
