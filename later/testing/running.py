"""Runs an app's jobs in a test: in this thread, one after the other, by a clock that jumps to what is due next."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final, TypeVar

import pytest
from pydantic import BaseModel

from later.backends.memory import Memory
from later.backends.memory.storage import MemoryStorage
from later.core.clock import wall_clock
from later.core.engine.keeper import LIMIT
from later.core.errors import UndeclaredPayload
from later.core.ports import StorageOptions
from later.core.records import SECOND, Claimant, JobQuery, ServerInfo
from later.core.recurring.planning import awaited, plan_all
from later.core.timetables.timetable import micros
from later.runtime.handling import Handling, Stop
from later.runtime.jobs import BackgroundJobs
from later.runtime.log import log
from later.runtime.ticks import to_datetime
from later.testing.clock import VirtualClock

_BY: Final = Claimant("test", "0")
_LEASE: Final = 200 * 365 * 86_400 * SECOND
_MICROSECOND: Final = timedelta(microseconds=1)

_Payload = TypeVar("_Payload", bound=BaseModel)


class VirtualStorage:
    """A memory storage whose clock stands still until the test moves it, to pass to `JobsBuilder(storage=...)`."""

    def __init__(self, now: datetime | None = None) -> None:
        """now: what the clock shows at first; the real time when left out."""
        self.clock = VirtualClock(wall_clock() if now is None else micros(now))
        self._memory = Memory()
        self._unreadable: dict[str, str] = {}

    @property
    def now(self) -> datetime:
        return to_datetime(self.clock())

    def open_storage(self, options: StorageOptions) -> MemoryStorage:
        return self._memory.open_storage(replace(options, clock=self.clock))

    def run(self, jobs: BackgroundJobs[Any, Any], span: timedelta = timedelta(0), *, most: int = 10_000) -> list[str]:
        """Run what is Enqueued, then what becomes due within `span`, as if so much time passed; handlers take none.

        Retries, delays and recurring jobs come in their order, each at its time by the storage's clock, which ends
        `span` later. Async handlers and those with isolation="process" run in this thread too. Returns the ids of the
        jobs in the order in which they ran. Raises RuntimeError when more than `most` runs do not suffice.
        """
        storage = jobs.storage()
        storage.register(ServerInfo(_BY.server, None, "test", 0, None), _LEASE)
        handling, ends, ran = Handling(jobs, Random(0)), self.clock() + span // _MICROSECOND, list[str]()
        while True:
            next_in = self._upkeep(jobs)
            claims = storage.exchange(_BY, queues=sorted(jobs.counts().by_queue), limit=1).next
            for claim in claims:
                if len(ran) >= most:
                    raise RuntimeError(f"jobs do not come to an end: {most} have run, the last one is {claim.type}")
                ran.append(claim.id)
                storage.exchange(_BY, [handling.run(claim, Stop(), _run_async)])
            if claims or next_in == 0:
                continue
            if next_in is None or self.clock() + next_in > ends:
                self.clock.advance(ends - self.clock())
                return ran
            self.clock.advance(next_in)

    def enqueued(self, jobs: BackgroundJobs[Any, Any], kind: type[_Payload]) -> list[_Payload]:
        """The payloads of this type that have been enqueued, in the order in which they were, whatever has become of
        the jobs: for assertions. Raises UndeclaredPayload."""
        job_type = jobs.registry.by_payload(kind)
        if job_type is None:
            raise UndeclaredPayload(f"{kind.__name__} is not declared as a payload of a job type")
        ids: list[str] = []
        page = jobs.find(query := JobQuery(types=frozenset({job_type.name}), limit=1000))
        while True:
            ids += [job.id for job in page.jobs]
            if page.next is None:
                break
            page = jobs.find(replace(query, after=page.next))
        found = [details.job for details in jobs.storage().get(ids) if details is not None]
        found.sort(key=lambda job: (job.created_at, job.id))  # ids that `later` makes rise
        payloads = [job_type.decode(job.payload) for job in found]
        return [payload for payload in payloads if isinstance(payload, kind)]

    def _upkeep(self, jobs: BackgroundJobs[Any, Any]) -> int | None:
        """What the keeper of a server does at this moment; how long until there is more to do."""
        storage = jobs.storage()
        due = storage.due(len(storage.schedules()))  # those that cannot be read stay due, before the others
        known = {found.job.id: found.job for found in storage.get(awaited(due.schedules)) if found is not None}
        plans = plan_all(jobs.name, due.schedules, due.now, known, LIMIT)
        for schedule in plans.unreadable.keys() - self._unreadable.keys():
            log.error("recurring job %s is due and stays so: %s", schedule, plans.unreadable[schedule])
        self._unreadable = plans.unreadable
        storage.reschedule(plans.changes)
        promoted = storage.promote(LIMIT)
        if plans.changes:
            return 0
        times = [span for span in (due.next_due_in, promoted.next_due_in) if span is not None]
        return max(0, min(times)) if times else None


@pytest.fixture
def virtual_storage() -> VirtualStorage:
    """A `VirtualStorage` for one test. `from later.testing import virtual_storage` in a conftest.py makes it known."""
    return VirtualStorage()


def _run_async(handler: Coroutine[Any, Any, object]) -> object:
    return asyncio.run(handler)
