"""A small run through the whole of it."""

from dataclasses import replace

import pytest

from benchmarks.installing import made
from benchmarks.measuring import Effort, measure
from benchmarks.systems import chosen

QUICK = Effort(jobs=400, idle=0.1, paced=20, steady=0.05)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["later:sqlite", "bare:sqlite"])
def test_a_small_run(name: str) -> None:
    [system] = chosen(name)
    run = measure(system, made(system.environment), 1, QUICK)
    assert run.failures == []
    assert run.jobs == (400 if system.bare else 470)
    wanted = {"enqueue", "bulk", "drain", "worker_cpu", "memory"}
    if not system.bare:
        wanted |= {"enqueue_threads", "enqueue_coroutines", "latency_p50", "latency_p99", "steady_p99", "idle_cpu"}
    assert wanted <= set(run.figures)
    assert all(value > 0 for name, value in run.figures.items() if name != "server_cpu")


def test_a_system_that_does_not_start_has_failed() -> None:
    [system] = chosen("later:sqlite")
    broken = replace(system, worker=("{python}", "-c", "raise SystemExit('no such luck')"))
    run = measure(broken, made(system.environment), 1, QUICK)
    assert "no such luck" in run.failures[0]


def test_a_job_that_never_ran_is_noticed() -> None:
    """The worker reports each job under the number of another."""
    [system] = chosen("bare:sqlite")
    program = (
        "from benchmarks.bare import job, on_sqlite\n"
        "job.report = lambda number, sent, report=job.report: report(max(1, number), sent)\n"
        "on_sqlite.work()"
    )
    run = measure(replace(system, worker=("{python}", "-c", program)), made(system.environment), 1, QUICK)
    assert run.failures == ["1 of 400 jobs never ran", "1 of 400 jobs ran again"]
    assert run.remarks == []


def test_of_a_system_that_repeats_it_is_told_and_does_not_count_against_its_figures() -> None:
    [system] = chosen("bare:sqlite")
    program = (
        "from benchmarks.bare import job, on_sqlite\n"
        "def twice(number, sent, report=job.report):\n"
        "    report(number, sent)\n"
        "    if number == 7: report(number, sent)\n"
        "job.report = twice\n"
        "on_sqlite.work()"
    )
    repeating = replace(system, worker=("{python}", "-c", program), repeats=True)
    run = measure(repeating, made(system.environment), 1, QUICK)
    assert run.failures == []
    assert run.remarks == ["1 of 400 jobs ran again"]
