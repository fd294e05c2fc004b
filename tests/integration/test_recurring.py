"""Recurring jobs with servers that run, on real clocks."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from threading import Lock
from typing import Any, TypeAlias

import pytest

from later import JobContext, JobsBuilder, State, background_job
from later.backends.memory import Memory
from later.backends.sqlite import SQLite
from later.core.ports import StorageBackend
from later.runtime.ticks import to_datetime
from tests.support.jobs import Work
from tests.support.waiting import until

SECONDLY = timedelta(seconds=1)


@background_job
class Jobs:
    work: Work


Build: TypeAlias = Callable[[], JobsBuilder[None, Any]]


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres", "postgres by rabbitmq"])
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Build:
    """Begins apps of one store."""
    keeps, _, carries = str(request.param).partition(" by ")
    storage: StorageBackend | str = Memory()
    name, broker = "app", None
    if keeps == "sqlite":
        storage = SQLite(tmp_path / "jobs.sqlite3")
    elif keeps != "memory":
        storage = request.getfixturevalue(f"{keeps}_url")
        name = request.getfixturevalue(f"{keeps}_prefix") + name
    if carries:
        broker = request.getfixturevalue(f"{carries}_url")
        name = request.getfixturevalue(f"{carries}_prefix") + name
    return lambda: JobsBuilder(None, name, storage=storage, broker=broker, jobs=Jobs)


def test_several_servers_make_one_job_for_each_time(build: Build) -> None:
    """Declared in the code of all of them, and looked after by all of them."""
    seen: Counter[datetime] = Counter()
    late: list[timedelta] = []
    lock = Lock()

    def handle(ctx: JobContext[None], payload: Work) -> None:
        tick = ctx.recurring
        assert tick is not None
        with lock:
            seen[tick.due] += 1
            late.append(jobs.get(ctx.job_id).created_at - tick.due)

    made = [
        build().with_handler(Work, handle).with_recurring("tick", Work(n=3), every=SECONDLY).build() for _ in range(3)
    ]
    jobs = made[0]
    with ExitStack() as servers:
        for each in made:
            servers.enter_context(each.running(slots=2))
        until(lambda: len(seen) >= 4)
    assert set(seen.values()) == {1}
    times = sorted(seen)
    assert [after - before for before, after in pairwise(times)] == [SECONDLY] * (len(times) - 1)
    assert max(late) < SECONDLY
    shown = jobs.recurring.get("tick")
    assert {run.due for run in shown.runs} >= set(times[-9:])
    assert shown.note == ""
    for each in made:
        each.close()


def test_a_server_that_starts_makes_up_for_what_was_missed(build: Build) -> None:
    def handle(ctx: JobContext[None], payload: Work) -> None: ...

    jobs = build().with_handler(Work, handle).build()
    jobs.enqueue_recurring("tick", Work(), every=SECONDLY, misfire="all", end=None)
    first = jobs.recurring.get("tick").next_at
    assert first is not None
    until(lambda: jobs.recurring.next_fires("tick", 1)[0].at > first + 2 * SECONDLY)
    with jobs.running():
        until(lambda: len(jobs.recurring.get("tick").runs) >= 4)
        jobs.recurring.pause("tick")
        until(lambda: jobs.counts().total(State.SUCCEEDED) == len(jobs.recurring.get("tick").runs))
    runs = jobs.recurring.get("tick").runs
    assert [run.due for run in reversed(runs)] == [first + n * SECONDLY for n in range(len(runs))]
    jobs.close()


@pytest.mark.parametrize("build", ["redis", "postgres"], indirect=True)
def test_clocks_of_servers_that_disagree_by_minutes_do_not_matter(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the clock of this process, in which all servers run, tells another time."""
    real, wrong = time.time_ns, Random(0)

    def some_time() -> int:
        return real() + wrong.choice((-5, -2, 0, 3, 7)) * 60 * 10**9

    seen: Counter[datetime] = Counter()
    lock = Lock()

    def handle(ctx: JobContext[None], payload: Work) -> None:
        assert ctx.recurring is not None
        with lock:
            seen[ctx.recurring.due] += 1

    made = [build().with_handler(Work, handle).with_recurring("tick", Work(), every=SECONDLY).build() for _ in range(3)]
    monkeypatch.setattr(time, "time_ns", some_time)
    monkeypatch.setattr(time, "time", lambda: some_time() / 1e9)
    began = to_datetime(real() // 1000)
    with ExitStack() as servers:
        for each in made:
            servers.enter_context(each.running(slots=2))
        until(lambda: len(seen) >= 4)
    assert set(seen.values()) == {1}
    times = sorted(seen)
    assert [after - before for before, after in pairwise(times)] == [SECONDLY] * (len(times) - 1)
    assert began <= times[0] <= times[-1] <= to_datetime(real() // 1000)
    for each in made:
        each.close()
