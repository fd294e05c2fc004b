"""Fixtures for all tests."""

from tests.support.postgres import postgres_prefix, postgres_server, postgres_url
from tests.support.servers import redis_prefix, redis_server, redis_url

__all__ = [
    "postgres_prefix",
    "postgres_server",
    "postgres_url",
    "redis_prefix",
    "redis_server",
    "redis_url",
]
