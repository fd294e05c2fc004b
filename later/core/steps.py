"""The atomic steps that every storage whose decisions run in Python has in common.

An adapter gives its rows as `Rows`, inside a lock or a transaction of its own, and calls these. Adapters that
decide in another language (a script inside the server) state the same on their own; the contract suite
compares.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

from later.core.errors import Corrupt
from later.core.lifecycle import (
    Cause,
    Change,
    Reschedule,
    advance,
    continuation,
    crash_reason,
    create,
    parent_reason,
    ref_of,
)
from later.core.ports import Storage
from later.core.records import (
    Applied,
    Due,
    HistoryEntry,
    Inserted,
    InsertVerdict,
    JobDetails,
    JobRecord,
    Micros,
    NewJob,
    Ref,
    Rescheduled,
    RescheduleVerdict,
    ScheduleRecord,
    State,
    Verdict,
)

CASCADE: Final = 1000
"""Continuations that one atomic step moves at most. More of them could hold a storage for so long that servers cannot
renew their leases, or never be done within a deadline."""


class Rows(Protocol):
    """The jobs of one namespace within one atomic step. A read sees what the same step wrote before it."""

    def load(self, job_id: str, /) -> JobRecord | None: ...

    def awaiting(self, parent: str, /) -> Iterable[JobRecord]:
        """The Awaiting children of `parent`, oldest first; where a step may hold up others, no more than are left of
        its `CASCADE`. The adapter then remembers the parent, in the same step, and `promote` goes on by `tell`."""
        ...

    def add(self, job: JobRecord, entry: HistoryEntry, /) -> None:
        """Store a job whose id is free."""
        ...

    def save(self, before: JobRecord, after: JobRecord, entry: HistoryEntry | None, /) -> None:
        """Replace a job; `entry`, if any, goes to its history, whose oldest makes room (`HISTORY_LIMIT`)."""
        ...


def insert(rows: Rows, new: NewJob, now: Micros, *, outbox: bool) -> Inserted:
    """Store one new job, or say why not. The id comes first: a repeated call may find the parent pruned."""
    old = rows.load(new.id)
    if old is not None:
        if (old.type, old.payload) == (new.type, new.payload):
            return Inserted(InsertVerdict.EXISTS, old.state, None)
        return Inserted(InsertVerdict.CONFLICT, None, None)
    parent = None if new.parent is None else rows.load(new.parent)
    if new.parent is not None and parent is None:
        return Inserted(InsertVerdict.NO_PARENT, None, None)
    job, entry = create(new, None if parent is None else parent.state, now, outbox=outbox)
    rows.add(job, entry)
    return Inserted(InsertVerdict.CREATED, job.state, ref_of(job) if job.state is State.ENQUEUED else None)


def move(rows: Rows, change: Change, now: Micros, *, outbox: bool) -> Applied:
    """Run one change and, when it ends the job, what that means for the continuations, theirs included.

    `enqueued` has the job itself or the released continuations: nearer ones first, older siblings first.
    A worklist and not recursion: a chain of continuations may be longer than the interpreter's stack. Costs
    one `awaiting` per job that ends.
    """
    job = rows.load(change.id)
    if job is None:
        return Applied(Verdict.UNKNOWN, None, ())
    step = advance(job, change, now, outbox=outbox)
    if step.job is None:
        return Applied(step.verdict, job.state, ())
    rows.save(job, step.job, step.entry)
    if step.verdict is not Verdict.APPLIED:
        return Applied(step.verdict, step.job.state, ())
    return Applied(step.verdict, step.job.state, tuple(tell(rows, step.job, now, outbox=outbox)))


def tell(rows: Rows, moved: JobRecord, now: Micros, *, outbox: bool) -> Iterator[Ref]:
    """What it means for others that `moved` has come into its state; gives what became Enqueued. Again for a job that
    had more children than one step may move; nothing for one that has not ended, since its next end will tell them."""
    work = deque([moved])
    while work:
        job = work.popleft()
        if job.state is State.ENQUEUED:
            yield ref_of(job)
        if not job.state.ended:
            continue
        # Listed before the first is moved: moving a child takes it out of what is being listed.
        for child in list(rows.awaiting(job.id)):
            cause = continuation(job.state, child.on)
            if cause is None:
                continue
            step = advance(child, Change(child.id, cause, parent_reason(job.id, job.state)), now, outbox=outbox)
            assert step.job is not None, "an Awaiting job takes every end of its parent"
            rows.save(child, step.job, step.entry)
            work.append(step.job)


def settle(rows: Rows, child_id: str, now: Micros, *, outbox: bool) -> tuple[Ref, ...]:
    """Look again at a continuation that was inserted without holding its parent. A parent that was removed meanwhile
    counts as Deleted. Returns what became Enqueued."""
    child = rows.load(child_id)
    if child is None or child.state is not State.AWAITING or child.parent is None:
        return ()
    parent = rows.load(child.parent)
    state = State.DELETED if parent is None else parent.state
    cause = continuation(state, child.on)
    if cause is None:
        return ()
    return move(rows, Change(child.id, cause, parent_reason(child.parent, state)), now, outbox=outbox).enqueued


class Schedules(Protocol):
    """The schedules of one namespace within one atomic step."""

    def load_schedule(self, schedule_id: str, /) -> ScheduleRecord | None: ...

    def save_schedule(self, schedule: ScheduleRecord, /) -> None:
        """Store a schedule, in place of the one with its id."""
        ...

    def remove_schedule(self, schedule_id: str, /) -> None: ...


def reschedule(rows: Rows, schedules: Schedules, change: Reschedule, now: Micros, *, outbox: bool) -> Rescheduled:
    """Run one change of a schedule, with its jobs and moves, or say that it is stale."""
    known = schedules.load_schedule(change.id)
    if change.version != (0 if known is None else known.version) or _lacks_parent(rows, change.jobs):
        return Rescheduled(RescheduleVerdict.STALE, (), ())
    if change.body is None:
        schedules.remove_schedule(change.id)
    else:
        schedules.save_schedule(ScheduleRecord(change.id, change.version + 1, change.next_at, change.body))
    inserted = tuple(insert(rows, new, now, outbox=outbox) for new in change.jobs)
    applied = tuple(move(rows, wish, now, outbox=outbox) for wish in change.moves)
    return Rescheduled(RescheduleVerdict.APPLIED, inserted, applied)


def _lacks_parent(rows: Rows, jobs: Iterable[NewJob]) -> bool:
    """Whether `insert` would say NO_PARENT to one of these."""
    before: set[str] = set()
    for new in jobs:
        unseen = [wanted for wanted in (new.id, new.parent) if wanted is not None and wanted not in before]
        if new.parent is not None and len(unseen) == 2 and all(rows.load(wanted) is None for wanted in unseen):
            return True
        before.add(new.id)
    return False


def refs_of(rescheduled: Rescheduled) -> list[Ref]:
    """The jobs that the change made Enqueued, to be published."""
    refs = [item.ref for item in rescheduled.inserted if item.ref is not None]
    return refs + [ref for item in rescheduled.applied for ref in item.enqueued]


def readable(storage: Storage, ids: Sequence[str]) -> list[JobDetails | None]:
    """As `Storage.get`, None also for a job that cannot be read; such a one costs a call for each halving."""
    try:
        return storage.get(ids)
    except Corrupt:
        if len(ids) == 1:
            return [None]
        middle = len(ids) // 2
        return readable(storage, ids[:middle]) + readable(storage, ids[middle:])


def due_of(schedules: Iterable[ScheduleRecord], limit: int, now: Micros) -> Due:
    """What `Storage.due` answers, where every schedule can be looked at."""
    waiting = sorted(
        (schedule.next_at, schedule.id, schedule) for schedule in schedules if schedule.next_at is not None
    )
    found = [schedule for next_at, _, schedule in waiting if next_at <= now][: max(0, limit)]
    rest = waiting[len(found) :]
    return Due(now, tuple(found), rest[0][0] - now if rest else None)


def lease_holds(lease_until: Micros, now: Micros) -> bool:
    """Whether a server may still claim. The instant `lease_until` itself belongs to the rescuer."""
    return now < lease_until


def next_batch(candidates: Iterable[JobRecord], limit: int) -> Iterator[JobRecord]:
    """Which of the Enqueued `candidates`, in the order of claims, one call may take by `limit`.

    A job that has crashed before goes alone: it ends the batch in front of it, and is the next batch. So the
    order holds. Reads one candidate at most beyond what it yields.
    """
    if limit <= 0:
        return
    for taken, job in enumerate(candidates, start=1):
        if job.crashes and taken > 1:
            return
        yield job
        if job.crashes or taken == limit:
            return


def crash_of(job: JobRecord) -> Change:
    """What a rescue does to a claim of a dead server."""
    return Change(job.id, Cause.CRASH, crash_reason(job.server), epoch=job.epoch, server=job.server)
