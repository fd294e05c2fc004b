"""Fixtures for all tests."""

from tests.support.missing import pytest_runtest_call, pytest_runtest_setup
from tests.support.nats import nats_prefix, nats_process, nats_server, nats_url
from tests.support.postgres import postgres_prefix, postgres_server, postgres_url
from tests.support.rabbitmq import (
    pytest_collection_modifyitems,
    rabbitmq_prefix,
    rabbitmq_process,
    rabbitmq_server,
    rabbitmq_url,
)
from tests.support.servers import redis_prefix, redis_server, redis_url

__all__ = [
    "nats_prefix",
    "nats_process",
    "nats_server",
    "nats_url",
    "postgres_prefix",
    "postgres_server",
    "postgres_url",
    "pytest_collection_modifyitems",
    "pytest_runtest_call",
    "pytest_runtest_setup",
    "rabbitmq_prefix",
    "rabbitmq_process",
    "rabbitmq_server",
    "rabbitmq_url",
    "redis_prefix",
    "redis_server",
    "redis_url",
]
