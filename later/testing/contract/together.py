"""What a storage promises when several threads, or processes, use it at once."""

import multiprocessing
import multiprocessing.synchronize
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from threading import Barrier, Thread
from typing import ClassVar, TypeVar

import pytest

from later.core.lifecycle import Cause, Change
from later.core.ports import Storage, StorageOptions
from later.core.records import SECOND, Claimant, InsertVerdict, On, Ref, State, Verdict
from later.testing.contract.bench import (
    BY,
    END_BY,
    Bench,
    MakeStorage,
    StorageFixtures,
    new_job,
    report,
    server_info,
)

T = TypeVar("T")

JOBS = 500
THREADS = 8
HOUR = 3_600 * SECOND
PATIENCE = 30.0
"""Seconds that nothing here should come near."""


def together(tasks: list[Callable[[Barrier], T]]) -> list[T]:
    """Run each task in a thread of its own and give what they return. They may meet at the barrier."""
    barrier = Barrier(len(tasks), timeout=PATIENCE)

    def guarded(task: Callable[[Barrier], T]) -> T:
        try:
            return task(barrier)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(len(tasks)) as pool:
        futures: list[Future[T]] = [pool.submit(guarded, task) for task in tasks]
        failures = [error for future in futures if (error := future.exception()) is not None]
        # A broken barrier only tells that another thread failed.
        for error in sorted(failures, key=lambda error: type(error).__name__ == "BrokenBarrierError"):
            raise error
        return [future.result() for future in futures]


def claim_until_empty(storage: Storage, by: Claimant, batch: int) -> list[tuple[str, int]]:
    """(id, epoch) of all claims that `by` gets, each reported as done together with the next claim."""
    got: list[tuple[str, int]] = []
    claims = storage.exchange(by, queues=["q"], limit=batch).next
    while claims:
        got += [(claim.id, claim.epoch) for claim in claims]
        reports = [Change(c.id, Cause.SUCCEED, epoch=c.epoch, server=by.server) for c in claims]
        exchanged = storage.exchange(by, reports, queues=["q"], limit=batch)
        assert {applied.verdict for applied in exchanged.applied} == {Verdict.APPLIED}
        claims = exchanged.next
    return got


class Gate:
    """Where spawned processes meet before they begin, so that none is done before another has started."""

    barrier: ClassVar["multiprocessing.synchronize.Barrier | None"] = None

    @classmethod
    def set(cls, barrier: "multiprocessing.synchronize.Barrier") -> None:
        cls.barrier = barrier


def claim_in_process(make_storage: MakeStorage, namespace: str, number: int) -> list[tuple[str, int]]:
    """Be one of several processes that claim the same jobs. Runs in a spawned process."""
    storage = make_storage(StorageOptions(namespace))
    by = Claimant(f"server-{number}", "worker")
    storage.register(server_info(by.server), HOUR)
    assert Gate.barrier is not None
    Gate.barrier.wait(PATIENCE)
    try:
        return claim_until_empty(storage, by, 5)
    finally:
        storage.close()


def insert_in_process(make_storage: MakeStorage, namespace: str, job_id: str) -> str:
    """Insert one job. Runs in a spawned process."""
    storage = make_storage(StorageOptions(namespace))
    try:
        return storage.insert([new_job(job_id)])[0].verdict
    finally:
        storage.close()


@contextmanager
def waiting(storage: Storage, queue: str) -> Generator[tuple[Thread, list[bool]]]:
    """A thread that is in `wait`, or about to be, and what it got."""
    answers: list[bool] = []
    thread = Thread(target=lambda: answers.append(storage.wait([queue], PATIENCE)))
    thread.start()
    try:
        yield thread, answers
    finally:
        while thread.is_alive():
            storage.wake()
            thread.join(0.01)


class ThreadContract(StorageFixtures):
    def test_each_job_is_claimed_by_one_thread(self, bench: Bench) -> None:
        bench.add(*(new_job(f"job-{n}", priority=n % 3) for n in range(JOBS)))
        workers = [bench.serve(Claimant(f"server-{n % 2}", f"worker-{n}"), HOUR) for n in range(THREADS)]

        def task(by: Claimant, batch: int) -> Callable[[Barrier], list[tuple[str, int]]]:
            def run(barrier: Barrier) -> list[tuple[str, int]]:
                barrier.wait()
                return claim_until_empty(bench.storage, by, batch)

            return run

        got = together([task(by, n + 1) for n, by in enumerate(workers)])
        assert Counter(claim for claims in got for claim in claims) == Counter((f"job-{n}", 1) for n in range(JOBS))
        assert bench.storage.counts().by_queue == {"q": {State.SUCCEEDED: JOBS}}

    def test_each_reference_is_claimed_by_one_thread(self, bench: Bench) -> None:
        bench.add(*(new_job(f"job-{n}") for n in range(JOBS)))
        refs = [Ref(f"job-{n}", 1, "q", 0) for n in range(JOBS)]
        workers = [bench.serve(Claimant("server", f"worker-{n}"), HOUR) for n in range(THREADS)]

        def task(by: Claimant) -> Callable[[Barrier], list[str]]:
            def run(barrier: Barrier) -> list[str]:
                got: list[str] = []
                barrier.wait()
                for start in range(0, JOBS, 10):
                    claims = bench.storage.exchange(by, refs=refs[start : start + 10]).by_ref
                    got += [claim.id for claim in claims if claim is not None]
                return got

            return run

        got = together([task(by) for by in workers])
        assert Counter(job_id for claims in got for job_id in claims) == Counter(ref.id for ref in refs)

    def test_a_report_races_a_rescue(self, bench: Bench) -> None:
        """Either the job succeeded and nothing was rescued, or it was rescued and the report was fenced."""
        rounds = range(200)
        workers = [bench.serve(Claimant(f"server-{n}", "worker"), HOUR) for n in rounds]
        bench.add(*(new_job(f"job-{n}") for n in rounds))
        claims = [bench.claim(f"job-{n}", workers[n]) for n in rounds]

        def finish(barrier: Barrier) -> list[bool]:
            done: list[bool] = []
            for n in rounds:
                change = report(claims[n], Cause.SUCCEED, server=workers[n].server)
                barrier.wait()
                verdict = bench.apply(change).verdict
                assert verdict in {Verdict.APPLIED, Verdict.FENCED}
                done.append(verdict is Verdict.APPLIED)
            return done

        def rescue(barrier: Barrier) -> list[bool]:
            rescued: list[bool] = []
            for n in rounds:
                barrier.wait()
                rescued.append(bench.storage.rescue(10, [workers[n].server]).jobs == 1)
            return rescued

        done, rescued = together([finish, rescue])
        assert [not taken for taken in rescued] == done
        for n in rounds:
            details = bench.details(f"job-{n}")
            states = [entry.state for entry in details.history]
            end = State.SUCCEEDED if done[n] else State.ENQUEUED
            assert states == [State.ENQUEUED, State.PROCESSING, end]
            assert (details.job.state, details.job.crashes) == (end, 0 if done[n] else 1)

    @pytest.mark.parametrize("on", On)
    def test_a_child_is_inserted_while_its_parent_ends(self, bench: Bench, on: On) -> None:
        """It is released, or deleted, or waits on, and the same way whichever came first; never is it forgotten."""
        rounds = range(90)
        ends = [list(END_BY)[n % 3] for n in rounds]
        bench.serve(BY, HOUR)
        bench.add(*(new_job(f"parent-{n}") for n in rounds))
        claims = [bench.claim(f"parent-{n}") for n in rounds]

        def end(barrier: Barrier) -> list[list[str]]:
            released: list[list[str]] = []
            for n in rounds:
                change = report(claims[n], END_BY[ends[n]])
                barrier.wait()
                released.append([ref.id for ref in bench.move(change).enqueued])
            return released

        def insert(barrier: Barrier) -> list[list[str]]:
            released: list[list[str]] = []
            for n in rounds:
                child = new_job(f"child-{n}", parent=f"parent-{n}", on=on)
                barrier.wait()
                [inserted] = bench.storage.insert([child])
                assert inserted.verdict is InsertVerdict.CREATED
                released.append([inserted.ref.id] if inserted.ref else [])
            return released

        by_end, by_insert = together([end, insert])
        for n in rounds:
            waited_for = on is On.FINISHED or ends[n].lower() == on
            expected = State.ENQUEUED if waited_for else State.AWAITING if ends[n] is State.FAILED else State.DELETED
            assert bench.state(f"child-{n}") is expected
            assert by_end[n] + by_insert[n] == ([f"child-{n}"] if waited_for else []), "told of once"

    def test_one_id_is_inserted_by_many(self, bench: Bench) -> None:
        rounds = range(50)

        def insert(barrier: Barrier) -> list[InsertVerdict]:
            verdicts: list[InsertVerdict] = []
            for n in rounds:
                barrier.wait()
                verdicts.append(bench.storage.insert([new_job(f"job-{n}")])[0].verdict)
            return verdicts

        for verdicts in zip(*together([insert] * 4), strict=True):
            assert sorted(verdicts) == [InsertVerdict.CREATED, *[InsertVerdict.EXISTS] * 3]
        assert bench.storage.counts().by_queue == {"q": {State.ENQUEUED: len(rounds)}}

    def test_upkeep_is_done_once_by_many(self, outbox: Bench) -> None:
        """Several servers promote and publish the same jobs: each job is handed to one of them."""
        total = 200
        outbox.add(*(new_job(f"job-{n}", delay=1) for n in range(total)))
        outbox.clock.advance(1)

        def promote(barrier: Barrier) -> list[str]:
            barrier.wait()
            got: list[str] = []
            while refs := outbox.storage.promote(7).enqueued:
                got += [ref.id for ref in refs]
            return got

        def publish(barrier: Barrier) -> list[str]:
            barrier.wait()
            got: list[str] = []
            while refs := outbox.storage.unpublished(7, HOUR):
                got += [ref.id for ref in refs]
            return got

        expected = Counter(f"job-{n}" for n in range(total))
        assert Counter(job_id for got in together([promote] * 4) for job_id in got) == expected
        outbox.clock.advance(60 * SECOND)
        assert Counter(job_id for got in together([publish] * 4) for job_id in got) == expected

    def test_readers_see_whole_steps(self, bench: Bench) -> None:
        """A job's record and its history belong together in every reply."""
        bench.add(new_job("job"))
        turns = 100

        def write(barrier: Barrier) -> int:
            barrier.wait()
            for n in range(turns):
                bench.move(Change("job", Cause.REQUEUE if n % 2 else Cause.DELETE, f"turn {n}"))
            return turns

        def read(barrier: Barrier) -> int:
            barrier.wait()
            for seen in count(1):
                details = bench.details("job")
                last = details.history[-1]
                assert (details.job.state, details.job.reason) == (last.state, last.reason)
                if details.job.reason == f"turn {turns - 1}":
                    return seen
            raise AssertionError

        together([write, read])


class WaitContract(StorageFixtures):
    def test_waiting_ends_with_its_time(self, storage: Storage) -> None:
        for timeout in (0.0, 0.01):
            storage.wait(["q"], timeout)

    def test_a_job_that_became_enqueued_before_the_call_is_noticed(self, bench: Bench) -> None:
        bench.serve()
        assert bench.take() == ()
        bench.add(new_job("job"))
        assert bench.storage.wait(["other", "q"], PATIENCE)

    @pytest.mark.parametrize("way", ["insert", "release", "requeue", "continuation", "promote", "rescue", "prune"])
    def test_a_job_that_becomes_enqueued_is_noticed(self, bench: Bench, way: str) -> None:
        claim = bench.start("job")
        bench.add(
            new_job("child", parent="job"),
            new_job("due", delay=1),
            new_job("old", queue="other"),
            new_job("after-old", parent="old", on=On.DELETED),
        )
        bench.move(report(bench.claim("old"), Cause.FAIL, keep=0))
        bench.clock.advance(1)
        actions: dict[str, Callable[[], object]] = {
            "insert": lambda: bench.add(new_job("new")),
            "release": lambda: bench.move(report(claim, Cause.RELEASE)),
            "requeue": lambda: bench.storage.apply([report(claim, Cause.FAIL), Change("job", Cause.REQUEUE)]),
            "continuation": lambda: bench.move(report(claim, Cause.SUCCEED)),
            "promote": lambda: bench.storage.promote(1),
            "rescue": lambda: bench.storage.rescue(1, [BY.server]),
            "prune": lambda: bench.storage.prune(1),
        }
        started = time.monotonic()
        with waiting(bench.storage, "q") as (thread, answers):
            actions[way]()
            thread.join(PATIENCE)
        assert answers == [True]
        if bench.storage.capabilities.push:
            assert time.monotonic() - started < PATIENCE / 3

    def test_wake_ends_every_wait(self, storage: Storage) -> None:
        started = time.monotonic()
        with waiting(storage, "q"), waiting(storage, "other"):
            pass  # leaving wakes them
        assert time.monotonic() - started < PATIENCE / 3


class ProcessContract(StorageFixtures):
    """Only for storages with the capability `shared`."""

    def test_each_job_is_claimed_by_one_process(self, make_storage: MakeStorage) -> None:
        storage = make_storage(StorageOptions("processes"))
        if not storage.capabilities.shared:
            pytest.skip("not shared between processes")
        storage.migrate()
        storage.insert([new_job(f"job-{n}") for n in range(JOBS)])
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(3, spawn, initializer=Gate.set, initargs=(spawn.Barrier(3),)) as pool:
            futures = [pool.submit(claim_in_process, make_storage, "processes", n) for n in range(3)]
            got = [future.result(PATIENCE) for future in futures]
        assert Counter(claim for claims in got for claim in claims) == Counter((f"job-{n}", 1) for n in range(JOBS))
        assert storage.counts().by_queue == {"q": {State.SUCCEEDED: JOBS}}
        storage.close()

    def test_a_job_that_another_process_inserts_is_noticed(self, make_storage: MakeStorage) -> None:
        storage = make_storage(StorageOptions("processes"))
        if not storage.capabilities.shared:
            pytest.skip("not shared between processes")
        storage.migrate()
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            with waiting(storage, "q") as (thread, answers):
                assert pool.submit(insert_in_process, make_storage, "processes", "job").result(PATIENCE)
                thread.join(PATIENCE)
            assert answers == [True]
        assert storage.get(["job"]) != [None]
        storage.close()
