"""A short version of `tests.chaos.ticks`."""

import pytest

from tests.chaos.ticks import Options, run


@pytest.mark.timeout(120)
def test_each_second_makes_one_job_while_servers_die() -> None:
    outcome = run(Options("redis", servers=3, seconds=10, pause=1.5))
    assert outcome.right, outcome
    assert outcome.kills >= 2
    assert outcome.seconds >= 8
