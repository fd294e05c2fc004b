"""Fixtures for all tests."""

from tests.support.servers import redis_prefix, redis_server, redis_url

__all__ = [
    "redis_prefix",
    "redis_server",
    "redis_url",
]
