"""Every broker with every storage."""

from pathlib import Path
from typing import ClassVar

import pytest

from later.backends.memory import Memory
from later.backends.postgres import Postgres
from later.backends.rabbitmq import RabbitMQ
from later.backends.redis import Redis
from later.backends.sqlite import SQLite
from later.testing import MakeBroker, MakeStorage, PairContract
from tests.support.rabbitmq import ApartBrokers
from tests.support.servers import Apart


class InMemory:
    keeps: ClassVar = "memory"

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        return Memory().open_storage


class InSQLite:
    keeps: ClassVar = "sqlite"

    @pytest.fixture
    def make_storage(self, tmp_path: Path) -> MakeStorage:
        return SQLite(tmp_path / "jobs.sqlite3").open_storage


class InRedis:
    keeps: ClassVar = "redis"

    @pytest.fixture
    def make_storage(self, redis_url: str, redis_prefix: str) -> MakeStorage:
        return Apart(Redis(redis_url).open_storage, redis_prefix)


class InPostgres:
    keeps: ClassVar = "postgres"

    @pytest.fixture
    def make_storage(self, postgres_url: str, postgres_prefix: str) -> MakeStorage:
        return Apart(Postgres(postgres_url).open_storage, postgres_prefix)


class ByMemory:
    carries: ClassVar = "memory"

    @pytest.fixture
    def make_broker(self) -> MakeBroker:
        return Memory().open_broker


class ByRabbitMQ:
    carries: ClassVar = "rabbitmq"

    @pytest.fixture
    def make_broker(self, rabbitmq_url: str, rabbitmq_prefix: str) -> MakeBroker:
        return ApartBrokers(RabbitMQ(rabbitmq_url).open_broker, rabbitmq_prefix)


class TestMemoryAndMemory(ByMemory, InMemory, PairContract):
    pass


class TestMemoryAndSQLite(ByMemory, InSQLite, PairContract):
    pass


class TestMemoryAndRedis(ByMemory, InRedis, PairContract):
    pass


class TestMemoryAndPostgres(ByMemory, InPostgres, PairContract):
    pass


class TestRabbitMQAndMemory(ByRabbitMQ, InMemory, PairContract):
    pass


class TestRabbitMQAndSQLite(ByRabbitMQ, InSQLite, PairContract):
    pass


class TestRabbitMQAndRedis(ByRabbitMQ, InRedis, PairContract):
    pass


class TestRabbitMQAndPostgres(ByRabbitMQ, InPostgres, PairContract):
    pass
