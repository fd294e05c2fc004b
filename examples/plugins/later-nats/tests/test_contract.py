"""The certificate: what every broker has to do, tested by `later`'s own suite."""

import pytest

from later.testing import BrokerContract, MakeBroker
from later_nats import Nats
from tests.support.nats import ApartBackend


class TestNats(BrokerContract):
    scheme = "nats"

    @pytest.fixture
    def make_broker(self, nats_url: str, nats_prefix: str) -> MakeBroker:
        return ApartBackend(Nats(nats_url), nats_prefix).open_broker
