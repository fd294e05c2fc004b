"""The threads of a worker."""

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from later.runtime.pool import Pool
from tests.support.waiting import DEADLINE, later_threads, no_threads_left, until


@pytest.fixture
def pool_of() -> Iterator[Callable[[int], Pool]]:
    pools: list[Pool] = []

    def make(threads: int) -> Pool:
        pools.append(Pool("later-test", threads))
        return pools[-1]

    with no_threads_left():
        yield make
        for pool in pools:
            pool.close()


def threads_of_pools() -> list[str]:
    return [name for name in later_threads() if name.startswith("later-test-")]


def test_what_follows_runs_in_the_same_thread_without_waking_another(pool_of: Callable[[int], Pool]) -> None:
    pool, ended = pool_of(4), threading.Event()
    threads: list[int] = []

    def step(left: int) -> None:
        threads.append(threading.get_ident())
        if left:
            pool.follow(partial(step, left - 1))
        else:
            ended.set()

    pool.put(partial(step, 100))

    assert ended.wait(DEADLINE)
    assert len(threads) == 101
    assert len(set(threads)) == 1
    assert threads_of_pools() == ["later-test-0"]


def test_only_one_call_follows_the_others_run_at_once(pool_of: Callable[[int], Pool]) -> None:
    pool, together, ran = pool_of(3), threading.Barrier(3), threading.Semaphore(0)
    names: list[str] = []

    def meet() -> None:
        together.wait(DEADLINE)
        names.append(threading.current_thread().name)
        ran.release()

    def begin() -> None:
        for _ in range(3):
            pool.follow(meet)

    pool.put(begin)

    for _ in range(3):
        assert ran.acquire(timeout=DEADLINE)
    assert sorted(names) == ["later-test-0", "later-test-1", "later-test-2"]


def test_there_are_never_more_threads_than_allowed(pool_of: Callable[[int], Pool]) -> None:
    pool, go_on, ran = pool_of(2), threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        go_on.wait(DEADLINE)
        ran.release()

    for _ in range(10):
        pool.put(wait)
    until(lambda: len(threads_of_pools()) == 2)
    go_on.set()

    for _ in range(10):
        assert ran.acquire(timeout=DEADLINE)
    assert len(threads_of_pools()) == 2


def test_from_another_thread_it_is_as_put(pool_of: Callable[[int], Pool]) -> None:
    pool, ran = pool_of(1), threading.Event()

    pool.follow(ran.set)

    assert ran.wait(DEADLINE)


def test_what_was_given_before_the_end_still_runs(pool_of: Callable[[int], Pool]) -> None:
    pool, go_on, ran = pool_of(1), threading.Event(), threading.Semaphore(0)

    def last() -> None:
        go_on.wait(DEADLINE)
        pool.follow(ran.release)

    pool.put(last)
    pool.put(ran.release)
    pool.close()
    go_on.set()

    for _ in range(2):
        assert ran.acquire(timeout=DEADLINE)
