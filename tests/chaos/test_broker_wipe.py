"""Short runs of the script, which is there for longer ones."""

from pathlib import Path

import pytest

from tests.chaos.broker_wipe import Options, run
from tests.support.rabbitmq import RabbitServer


@pytest.mark.timeout(480)
@pytest.mark.parametrize("storage", ["redis", "postgres"])
def test_no_job_is_lost_with_the_broker(
    request: pytest.FixtureRequest, tmp_path: Path, rabbitmq_server: RabbitServer, storage: str
) -> None:
    url: str = request.getfixturevalue(f"{storage}_url")
    outcome = run(Options(storage, seconds=12, producers=3, rate=80, wipes=1), rabbitmq_server, url, tmp_path)
    told = dict(outcome.table())
    assert outcome.sound, told
    assert len(outcome.outages) == 1
    assert outcome.wiped[0] > 0, told
    assert not outcome.refused, told
    assert outcome.slowest < 3, told
