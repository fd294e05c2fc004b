import pytest

from later.backends.rabbitmq import RabbitMQ
from later.testing import BrokerContract, MakeBroker
from tests.support.rabbitmq import ApartBrokers


class TestRabbitMQ(BrokerContract):
    scheme = "amqp"

    @pytest.fixture
    def make_broker(self, rabbitmq_url: str, rabbitmq_prefix: str) -> MakeBroker:
        return ApartBrokers(RabbitMQ(rabbitmq_url).open_broker, rabbitmq_prefix)


class TestQuorumQueues(BrokerContract):
    @pytest.fixture
    def make_broker(self, rabbitmq_url: str, rabbitmq_prefix: str) -> MakeBroker:
        return ApartBrokers(RabbitMQ(rabbitmq_url, quorum=True).open_broker, rabbitmq_prefix)
