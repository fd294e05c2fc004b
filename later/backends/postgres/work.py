"""The jobs of one namespace within one transaction, where decisions are made one by one."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from later.backends.postgres import arrays
from later.backends.postgres.connection import Session
from later.backends.postgres.rows import JOB_COLUMNS, Row, added, read_row, saved, written_error
from later.backends.postgres.statements import Statements
from later.backends.postgres.wire import Answer, Value
from later.core.records import HISTORY_LIMIT, HistoryEntry, JobRecord, State
from later.core.steps import CASCADE


class Work:
    """Implements `later.core.steps.Rows`.

    Every job is locked and read once and kept; what changed is written by `flush`, set by set. So a call costs one
    round trip to read and one to write, and one more per generation of continuations that it ends.
    """

    def __init__(self, session: Session, sql: Statements) -> None:
        self._session = session
        self._sql = sql
        self._rows: dict[str, Row | None] = {}
        self._added: dict[str, Row] = {}
        self._changed: dict[str, Row] = {}
        self._awaiting: dict[str, list[Row]] = {}
        self._to_tell = CASCADE
        self._told: dict[str, int] = {}
        self._untold: dict[str, int | None] = {}
        self._errors: list[Mapping[str, object]] = []
        self._counts: Counter[tuple[str, State]] = Counter()

    # steps.Rows

    def load(self, job_id: str, /) -> JobRecord | None:
        if job_id not in self._rows:
            self.lock([job_id])
        row = self._rows[job_id]
        return None if row is None else row.job

    def awaiting(self, parent: str, /) -> Iterable[JobRecord]:
        if parent not in self._awaiting:
            self._lock_awaiting(parent)
        # No change leads into Awaiting, so nothing is missing; but some may have been moved by this transaction.
        return [row.job for row in self._awaiting[parent] if row.job.state is State.AWAITING]

    def go_on(self, parent: str, told: int) -> JobRecord | None:
        """A parent that has told its children up to the number `told`, for `steps.tell`. None: nothing is left to do,
        or nothing more may be done by this transaction."""
        if not self._to_tell:
            return None
        job = self.load(parent)
        if job is None or not job.state.ended:
            self._untold[parent] = None
            return None
        self._told[parent] = told
        return job

    def add(self, job: JobRecord, entry: HistoryEntry, /) -> None:
        assert (entry.state, entry.at, entry.reason) == (job.state, job.state_at, job.reason), "told by the row"
        row = Row(0, 1, has_children=False, job=job, ended=job.state.ended)
        self._rows[job.id] = self._added[job.id] = row
        if job.parent is not None and job.parent in self._added:
            self._added[job.parent].has_children = True
        self._count(job, +1)

    def save(self, before: JobRecord, after: JobRecord, entry: HistoryEntry | None, /) -> None:
        row = self._rows[after.id]
        assert row is not None, "a job is loaded before it is saved"
        row.job = after
        if entry is not None:
            row.entries += 1
            row.news.append(entry)
            row.keeps_place = False
            if entry.error is not None:
                error = {"job": row.num, "entry": row.entries, "error": written_error(entry.error)}
                self._errors.append(error)
            # The order of the last entries is the order in which jobs get their places.
            self._changed.pop(after.id, None)
            self._count(before, -1)
            self._count(after, +1)
        self._changed[after.id] = row

    # More reading

    def lock(self, ids: Sequence[str]) -> None:
        """Lock and read these jobs, in the order of their ids."""
        with self._session.batch():
            answers = self.send_lock(ids)
        self.keep_locked(ids, answers)

    def send_lock(self, ids: Sequence[str]) -> list[Answer]:
        """The statements of `lock`, for a batch; then `keep_locked`."""
        values = {"ids": arrays.texts(sorted(set(ids)))}
        return [self._session.send(self._sql[name], values) for name in ("lock_job", "lock_ended")]

    def keep_locked(self, ids: Sequence[str], answers: Sequence[Answer]) -> None:
        missing = self._keep(ids, answers)
        # A job may have gone from the second table to the first between the two statements.
        while missing and self._exist(missing):
            with self._session.batch():
                answers = self.send_lock(missing)
            missing = self._keep(missing, answers)

    def read_for_insert(self, ids: Sequence[str], parents: Sequence[str]) -> None:
        """Read what is stored under these ids, without a lock, and the parents under which jobs are to be inserted,
        and hold those until the commit: who ends one of them comes before, and is seen, or after, and sees the
        children."""
        values = {"parents": arrays.texts(sorted(set(parents))), "ids": arrays.texts(sorted(set(ids)))}
        own = set(ids)
        missing = list(dict.fromkeys(parents))
        while True:
            with self._session.batch():
                if missing:
                    for name in ("mark_job_parents", "mark_ended_parents"):
                        self._session.send(self._sql[name], values)
                shared = [
                    self._session.send(self._sql[name], values)
                    for name in ("share_job_parents", "share_ended_parents")
                    if missing
                ]
                peeked = self._session.send(self._sql["peek"], values)
            missing = self._keep(missing, shared)
            self._rows.update(dict.fromkeys(ids))
            for columns in peeked.rows:
                row = read_row(columns[:JOB_COLUMNS], columns[JOB_COLUMNS])
                self._rows[row.job.id] = row
            # Those that are to be inserted before their children are missing rightly; others may be on the way from one
            # table to the other.
            missing = [parent for parent in missing if self._rows[parent] is not None or parent not in own]
            if not missing or not self._exist(missing):
                return

    def keep(self, answer: Answer) -> list[JobRecord]:
        """The jobs that another statement has locked and read."""
        return [self._known(read_row(columns)).job for columns in answer.rows]

    def _keep(self, ids: Iterable[str], answers: Iterable[Answer]) -> list[str]:
        for job_id in ids:
            self._rows.setdefault(job_id, None)
        for answer in answers:
            for columns in answer.rows:
                self._known(read_row(columns))
        return [job_id for job_id in dict.fromkeys(ids) if self._rows[job_id] is None]

    def _known(self, row: Row) -> Row:
        """The row as this transaction knows it already, else `row`."""
        known = self._rows.get(row.job.id)
        if known is None:
            self._rows[row.job.id] = known = row
        return known

    def _exist(self, ids: Sequence[str]) -> bool:
        return bool(self._session.rows(self._sql["which_exist"], {"ids": arrays.texts(ids)}))

    def _lock_awaiting(self, parent: str) -> None:
        """Read the Awaiting children of `parent`, and of all others whose children will be asked for, unless they are
        too many."""
        own = self._rows[parent]
        if own is None or not own.has_children:
            self._awaiting[parent] = []
            return
        after = self._told.get(parent, 0)
        parents = [parent] if parent in self._told else self._will_be_asked()
        rows = self._next_awaiting(parents, after)
        if len(rows) > self._to_tell and len(parents) > 1:
            parents = [parent]
            rows = self._next_awaiting(parents, after)
        self._awaiting.update((job_id, []) for job_id in parents)
        self._untold.update(dict.fromkeys(parents))
        if len(rows) > self._to_tell:
            del rows[self._to_tell :]
            self._untold[parent] = rows[-1].num if rows else after
        self._to_tell -= len(rows)
        for row in rows:
            self._awaiting[row.job.parent or ""].append(row)

    def _will_be_asked(self) -> list[str]:
        """Jobs that this transaction has ended and whose children nobody has asked for yet. Not those that had ended
        before: nobody would tell what was asked for."""
        known = self._awaiting.keys() | self._told.keys()
        rows = self._changed.values()
        return [row.job.id for row in rows if row.has_children and row.job.state.ended and row.job.id not in known]

    def _next_awaiting(self, parents: Sequence[str], after: int) -> list[Row]:
        """The oldest, and one more than may be told, so that it shows when there are too many."""
        values: dict[str, Value] = {"parents": arrays.texts(parents), "after": after, "limit": self._to_tell + 1}
        found = self._session.rows(self._sql["lock_awaiting"], values)
        return sorted((self._known(read_row(columns)) for columns in found), key=lambda row: row.num)

    # Writing

    def flush(self, *, last: bool = False) -> None:
        """Write what is pending, in one round trip; `last`: and commit."""
        with self._session.batch(last=last):
            self.send_writes()

    def send_writes(self) -> None:
        """The statements of `flush`, for a batch."""
        if self._added:
            rows = [added(row.job, has_children=row.has_children) for row in self._added.values()]
            self._send_rows("insert_decided", rows)
            self._session.send(self._sql["fail_on_twins"], {"ids": arrays.texts(list(self._added))})
            self._added.clear()
        self._send_rows("save", [saved(row) for row in self._changed.values()])
        self._send_rows("add_errors", self._errors)
        self._send_rows("trim_errors", self._outdated())
        self._send_rows(
            "count",
            [
                {"jobs": jobs, "queue": queue, "state": state.value}
                for (queue, state), jobs in self._counts.items()
                if jobs
            ],
        )
        untold = [(parent, told) for parent, told in self._untold.items() if told is not None]
        if untold:
            parents, told = arrays.texts([each for each, _ in untold]), arrays.numbers([each for _, each in untold])
            self._session.send(self._sql["postpone"], {"parents": parents, "told": told})
        if settled := [parent for parent, told in self._untold.items() if told is None]:
            self._session.send(self._sql["settle"], {"parents": arrays.texts(settled)})
        self._untold.clear()
        for row in self._changed.values():
            row.ended = row.job.state.ended
            row.news = []
            row.keeps_place = True
        self._changed.clear()
        self._errors.clear()
        self._counts.clear()

    def _send_rows(self, statement: str, rows: Sequence[Mapping[str, object]]) -> None:
        if rows:
            self._session.send(self._sql[statement], {"rows": json.dumps(rows)})

    def _outdated(self) -> list[dict[str, object]]:
        return [
            {"job": row.num, "entry": row.entries - HISTORY_LIMIT}
            for row in self._changed.values()
            if row.entries > HISTORY_LIMIT
        ]

    def _count(self, job: JobRecord, by: int) -> None:
        self._counts[job.queue, job.state] += by
