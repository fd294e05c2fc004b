"""Asks a server how many jobs a system has recorded as done, from outside of the system."""

# The annotations of redis have gaps.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Sequence

import psycopg
import redis

from benchmarks.servers import Server


def recorded(question: Sequence[str], servers: Sequence[Server]) -> int:
    """`question`: SQL for Postgres, as one text; or a Redis command with its arguments whose answer is a number. KEYS
    stands for the number of keys that match."""
    urls = {server.kind: server.url for server in servers}
    if "postgres" in urls:
        with psycopg.connect(urls["postgres"]) as connection:
            row = connection.execute(question[0].encode()).fetchone()
        assert row is not None
        return int(row[0])
    with redis.Redis.from_url(urls["redis"]) as client:
        if question[0] == "KEYS":
            return sum(1 for _ in client.scan_iter(question[1], count=1_000))
        answer: bytes | int | None = client.execute_command(*question)
    return int(answer or 0)
