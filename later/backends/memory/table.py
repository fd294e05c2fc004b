"""The jobs of one namespace with their indexes. Not locked: its storage holds the lock around every step.

    ready      per queue a heap of (-priority, turn, id): Enqueued; `turn` counts entries into Enqueued
    scheduled  heap of (run_at, id)
    outbox     heap of (publish_by, id)
    expiry     heap of (expires_at, id): ended jobs that may be pruned then
    claimed    per server the ids that are Processing in its name, oldest claim first

A heap keeps the entries of jobs that have moved on; they are recognised and dropped when they come up. So
every step costs O(log n), and a move leaves one stale entry at most.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TypeAlias

from later.core.records import HISTORY_LIMIT, HistoryEntry, JobDetails, JobRecord, Micros, State

Timed: TypeAlias = list[tuple[Micros, str]]


@dataclass(slots=True)
class Row:
    job: JobRecord
    history: deque[HistoryEntry]


class Table:
    """Implements `later.core.steps.Rows`."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[State, int]] = {}
        self.claimed: dict[str, dict[str, None]] = {}
        self._rows: dict[str, Row] = {}
        # By the parent's id, whether or not that is stored still: its children, oldest first, and how many of
        # them have not ended.
        self._children: dict[str, dict[str, None]] = {}
        self._unended: Counter[str] = Counter()
        self._turns = count()
        self._ready: dict[str, list[tuple[int, int, str]]] = {}
        self._turn: dict[str, int] = {}
        self._scheduled: Timed = []
        self._outbox: Timed = []
        self._expiry: Timed = []

    # Rows

    def load(self, job_id: str) -> JobRecord | None:
        row = self._rows.get(job_id)
        return None if row is None else row.job

    def awaiting(self, parent: str) -> Iterable[JobRecord]:
        return (job for job in self.children(parent) if job.state is State.AWAITING)

    def add(self, job: JobRecord, entry: HistoryEntry) -> None:
        self._rows[job.id] = Row(job, deque([entry], maxlen=HISTORY_LIMIT))
        if job.parent is not None:
            self._children.setdefault(job.parent, {})[job.id] = None
            self._unended[job.parent] += not job.state.ended
        self._count(job, +1)
        self._index(job, entered=True)

    def save(self, before: JobRecord, after: JobRecord, entry: HistoryEntry | None) -> None:
        row = self._rows[after.id]
        row.job = after
        if entry is not None:
            row.history.append(entry)
        if before.state is not after.state:
            self._leave(before)
            self._count(before, -1)
            self._count(after, +1)
        self._index(after, entered=entry is not None)
        if before.state.ended != after.state.ended and after.parent is not None:
            self._unended[after.parent] += -1 if after.state.ended else 1
            parent = self._rows.get(after.parent)
            if parent is not None:
                self._index_expiry(parent)

    # Reading

    def details(self, job_id: str) -> JobDetails | None:
        row = self._rows.get(job_id)
        if row is None:
            return None
        return JobDetails(row.job, tuple(row.history), tuple(self._children.get(job_id, ())))

    def jobs(self) -> Iterator[JobRecord]:
        return (row.job for row in self._rows.values())

    def children(self, parent: str) -> Iterator[JobRecord]:
        return (self._rows[job_id].job for job_id in self._children.get(parent, ()))

    def enqueued(self, queues: Sequence[str]) -> Iterator[JobRecord]:
        """Enqueued jobs in the order of claims. Each is to be claimed before the next is asked for: only the
        heads of heaps are looked at."""
        for queue in queues:
            heap = self._ready.get(queue, [])
            while heap:
                _, turn, job_id = heap[0]
                if self._turn.get(job_id) == turn:
                    yield self._rows[job_id].job
                else:
                    heappop(heap)

    def has_enqueued(self, queues: Sequence[str]) -> bool:
        return any(self.counts.get(queue, {}).get(State.ENQUEUED) for queue in queues)

    def claims(self, server: str) -> Iterator[JobRecord]:
        return (self._rows[job_id].job for job_id in self.claimed.get(server, ()))

    def next_due(self) -> JobRecord | None:
        """The Scheduled job that is due first."""
        return self._head(self._scheduled, lambda row: row.job.run_at)

    def next_unpublished(self) -> JobRecord | None:
        """The Enqueued job whose `publish_by` comes first."""
        return self._head(self._outbox, lambda row: row.job.publish_by)

    def next_expired(self) -> JobRecord | None:
        """The job whose `expires_at` comes first, of those that may be pruned."""
        return self._head(self._expiry, self._prunable_at)

    # Writing

    def remove(self, job: JobRecord) -> None:
        """Forget an ended job whose children have all ended."""
        del self._rows[job.id]
        if job.parent is not None:
            siblings = self._children[job.parent]
            del siblings[job.id]
            if not siblings:
                del self._children[job.parent], self._unended[job.parent]
        self._count(job, -1)

    def _head(self, heap: Timed, key: Callable[[Row], Micros | None]) -> JobRecord | None:
        while heap:
            at, job_id = heap[0]
            row = self._rows.get(job_id)
            if row is not None and key(row) == at:
                return row.job
            heappop(heap)
        return None

    def _leave(self, job: JobRecord) -> None:
        if job.state is State.ENQUEUED:
            del self._turn[job.id]
        elif job.state is State.PROCESSING and job.server is not None:
            held = self.claimed[job.server]
            del held[job.id]
            if not held:
                del self.claimed[job.server]

    def _index(self, job: JobRecord, *, entered: bool) -> None:
        if entered:
            if job.state is State.ENQUEUED:
                self._index_ready(job)
            elif job.state is State.PROCESSING and job.server is not None:
                self.claimed.setdefault(job.server, {})[job.id] = None
            elif job.run_at is not None:
                heappush(self._scheduled, (job.run_at, job.id))
            elif job.state.ended:
                self._index_expiry(self._rows[job.id])
        if job.publish_by is not None:
            heappush(self._outbox, (job.publish_by, job.id))

    def _index_ready(self, job: JobRecord) -> None:
        self._turn[job.id] = turn = next(self._turns)
        heap = self._ready.setdefault(job.queue, [])
        heappush(heap, (-job.priority, turn, job.id))
        # With a broker jobs are claimed by reference, and nobody comes by to drop stale heads.
        if len(heap) > 64 + 2 * self.counts[job.queue][State.ENQUEUED]:
            heap[:] = [entry for entry in heap if self._turn.get(entry[2]) == entry[1]]
            heapify(heap)

    def _index_expiry(self, row: Row) -> None:
        at = self._prunable_at(row)
        if at is not None:
            heappush(self._expiry, (at, row.job.id))

    def _count(self, job: JobRecord, by: int) -> None:
        states = self.counts.setdefault(job.queue, {})
        states[job.state] = states.get(job.state, 0) + by
        if not states[job.state]:
            del states[job.state]
            if not states:
                del self.counts[job.queue]

    def _prunable_at(self, row: Row) -> Micros | None:
        """None: not ended, or kept for a child that has not ended. A Failed job is not removed yet."""
        job = row.job
        return None if self._unended.get(job.id) and job.state is not State.FAILED else job.expires_at
