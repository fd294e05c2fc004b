"""What a job costs, stage by stage: reading what strace counts, and the part of the page."""

from collections import Counter

from benchmarks.stages import Calls, Effort, counted, text

SUMMARY = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 62.50    0.125692           3     36151           sendto
 30.00    0.060000          31      2000        12 recvfrom
  5.50    0.012000           1      9000           futex
  2.00    0.003000          30       100           fdatasync
------ ----------- ----------- --------- --------- ----------------
100.00    0.200692           5     38251        12 total
"""


def test_the_calls_of_a_summary() -> None:
    assert counted(SUMMARY) == {"sendto": 36151, "recvfrom": 2000, "fdatasync": 100}


def test_the_summary_of_nothing() -> None:
    assert counted("") == {}


def test_the_cost_of_a_job_without_what_an_idle_program_does() -> None:
    idle = Calls(Counter(sendto=10, openat=5000), Counter(fsync=1), 50)
    busy = Calls(Counter(sendto=210, openat=4990, write=100), Counter(fsync=101, sendto=300), 1_050)
    cost = busy.less(idle).per_job(100, Effort(0.5, 0.01, 30))
    assert (cost.client_time, cost.server_time, cost.waits) == (5_000, 100, 0.3)
    assert (cost.client_calls, cost.sends) == (3, 3)
    assert (cost.server_calls, cost.syncs, cost.loopback) == (4, 1, 10)


def test_the_page_has_a_table_for_each_backend() -> None:
    cost = Calls(Counter(sendto=2), Counter(fsync=2), 64_000).per_job(100, Effort(0.001, 0.01, 2))
    page = text("now", {"later:redis": {"enqueue": cost}, "later:sqlite": {"enqueue": cost}})
    assert page.startswith("now\n\n### redis\n\n| stage |")
    assert "### sqlite" in page
    assert "| enqueue | 10 | 100 | 0.02 | 0.02 | 0.02 | 0.02 | 0.02 | 640 |" in page
