"""What is decided for many jobs at once: inserts, ends and claims whose outcome does not depend on the stored row.

The decision is `later.core.lifecycle`'s, made once for a stand-in at the time 0: what comes out are the values to
write, with times as distances from now. The statements apply it to the jobs that are as the stand-in is, and to no
others.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from later.backends.postgres import arrays
from later.backends.postgres.rows import written_error
from later.core import lifecycle
from later.core.lifecycle import RULES, Cause, Change
from later.core.records import Claimant, JobRecord, Micros, NewJob, State

_SERVER: Final = "server"
_RUNNING: Final = JobRecord(
    id="",
    type="",
    queue="",
    priority=0,
    payload=b"",
    state=State.PROCESSING,
    epoch=1,
    attempt=1,
    crashes=0,
    max_crashes=1,
    created_at=0,
    state_at=0,
    server=_SERVER,
)
"""A job as its worker knows it, whose cancel was not asked for."""


class End(NamedTuple):
    """What a cause makes of every running job."""

    state: State
    reason: str
    keep: Micros
    yields: bool
    """Only when its cancel was not asked for."""
    with_result: bool


@lru_cache(maxsize=256)
def _end(cause: Cause, reason: str, keep: Micros | None) -> End | None:
    """None when the job does not end, or when it depends on the job."""
    rule = RULES[cause]
    if not rule.of_claim:
        return None
    # A crash ends a job that has had its share of them, which only its row tells.
    change = Change("", cause, reason, epoch=_RUNNING.epoch, server=_SERVER, result=b"", keep=keep)
    job = lifecycle.advance(_RUNNING, change, 0, outbox=False).job
    assert job is not None
    if (
        not job.state.ended
        or job.expires_at is None
        or (job.attempt, job.crashes) != (_RUNNING.attempt, _RUNNING.crashes)
    ):
        return None
    return End(job.state, job.reason, job.expires_at, rule.yields, job.result is not None)


class Ends(NamedTuple):
    """The changes of a call that one statement may do."""

    values: dict[str, str]
    states: dict[str, State]
    """What each job becomes, by id."""


def split(changes: Sequence[Change]) -> tuple[Ends | None, list[Change]]:
    """Ends, and all other changes in their order. Which comes first does not matter: they are of different jobs, and an
    end that would reach other jobs is left by the statement."""
    times = Counter(change.id for change in changes)
    ends: list[tuple[Change, End]] = []
    others: list[Change] = []
    for change in changes:
        whole = change.epoch is not None and change.server is not None and times[change.id] == 1
        end = _end(change.cause, change.reason, change.keep) if whole else None
        if end is None:
            others.append(change)
        else:
            ends.append((change, end))
    return (_ends(ends) if ends else None), others


def _ends(ends: list[tuple[Change, End]]) -> Ends:
    # In the order of ids, which is the order in which everybody locks.
    ends.sort(key=lambda pair: pair[0].id)
    changes = [change for change, _ in ends]
    values = {
        "ids": arrays.texts([change.id for change in changes]),
        "epochs": arrays.numbers([change.epoch for change in changes]),
        "servers": arrays.texts([change.server for change in changes]),
        "states": arrays.texts([end.state.value for _, end in ends]),
        "reasons": arrays.texts([end.reason for _, end in ends]),
        "keeps": arrays.numbers([end.keep for _, end in ends]),
        "yields": arrays.booleans([end.yields for _, end in ends]),
        "results": arrays.blobs([change.result if end.with_result else None for change, end in ends]),
        "errors": arrays.texts([None if change.error is None else written_error(change.error) for change in changes]),
    }
    return Ends(values, {change.id: end.state for change, end in ends})


def claim_values(by: Claimant) -> dict[str, str | int | None]:
    """For the fragment `claimed`."""
    enqueued = JobRecord("", "", "", 0, b"", State.ENQUEUED, 1, 0, 0, 0, 0, 0)
    claimed = lifecycle.claim(enqueued, 1, by, 0).job
    assert claimed is not None
    return {
        "to": claimed.state.value,
        "counts": claimed.attempt,
        "reason": claimed.reason,
        "server": claimed.server,
        "worker": claimed.worker,
    }


@lru_cache(maxsize=256)
def _start(delay: Micros, max_crashes: int, *, outbox: bool) -> JobRecord:
    """How a job without a parent starts, with times as distances from now."""
    new = NewJob(id="", type="", queue="", payload=b"", max_crashes=max_crashes, delay=delay)
    return lifecycle.create(new, None, 0, outbox=outbox)[0]


class Plain(NamedTuple):
    """New jobs that one statement may insert."""

    values: dict[str, str]
    starts: list[JobRecord]
    """What each starts as, but for its own id, queue and the like."""


def plain(jobs: Sequence[NewJob], *, outbox: bool) -> Plain | None:
    """None when one of the jobs has a parent, is due at a point of the storage's time, or repeats an id."""
    ids = [new.id for new in jobs]
    if len(set(ids)) < len(ids) or any(new.parent is not None or new.run_at is not None for new in jobs):
        return None
    starts = [_start(new.delay, new.max_crashes, outbox=outbox) for new in jobs]
    values = {
        "ids": arrays.texts(ids),
        "types": arrays.texts([new.type for new in jobs]),
        "queues": arrays.texts([new.queue for new in jobs]),
        "states": arrays.texts([start.state.value for start in starts]),
        "reasons": arrays.texts([start.reason for start in starts]),
        "ons": arrays.texts([new.on.value for new in jobs]),
        "epochs": arrays.numbers([start.epoch for start in starts]),
        "priorities": arrays.numbers([new.priority for new in jobs]),
        "max_crashes": arrays.numbers([start.max_crashes for start in starts]),
        "run_in": arrays.numbers([start.run_at for start in starts]),
        "publish_in": arrays.numbers([start.publish_by for start in starts]),
        "payloads": arrays.blobs([new.payload for new in jobs]),
    }
    return Plain(values, starts)
