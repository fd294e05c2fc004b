"""On Redis alone: insert; then finish and claim the next in one script, with state, history and index kept."""

# The annotations of redis and pika have gaps.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import os
import sys
import uuid
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import redis

from benchmarks.bare.job import drain, encode
from benchmarks.producer import Payload, Producer

INSERT: Final = """
-- ARGV: 'list' or 'broker', then id and payload of each.
local t = redis.call('TIME')
for i = 2, #ARGV, 2 do
  redis.call('HSET', '{bare}:j:' .. ARGV[i],
    's', 'E', 'e', 1, 't', 'noop', 'p', ARGV[i + 1], 'a', 0, 'h', 'E' .. t[1])
  if ARGV[1] == 'list' then redis.call('RPUSH', '{bare}:q', ARGV[i])
  else redis.call('ZADD', '{bare}:unpublished', t[1], ARGV[i]) end
end
return 1"""

STEP: Final = """
-- ARGV: server, how many to take from the list, number finished, (id, epoch, result) of each, (id, epoch) to claim.
local t = redis.call('TIME')
local now = t[1] .. '.' .. t[2]
local server, pop, n = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local done = 0
for i = 4, 3 + n * 3, 3 do
  local k = '{bare}:j:' .. ARGV[i]
  local v = redis.call('HMGET', k, 's', 'e', 'o', 'h')
  if v[1] == 'P' and v[2] == ARGV[i + 1] and v[3] == server then
    redis.call('HSET', k, 's', 'S', 'r', ARGV[i + 2], 'h', v[4] .. 'S' .. now)
    redis.call('SREM', '{bare}:c:' .. server, ARGV[i])
    redis.call('EXPIRE', k, 86400)
    redis.call('ZADD', '{bare}:z:S', t[1], ARGV[i])
    done = done + 1
  end
end
if done > 0 then redis.call('HINCRBY', '{bare}:stats', 'succeeded', done) end
local out = {}
local function claim(id, epoch)
  local k = '{bare}:j:' .. id
  local v = redis.call('HMGET', k, 's', 'e', 'p', 'a', 'h')
  if v[1] == 'E' and (epoch == nil or v[2] == epoch) then
    redis.call('HSET', k, 's', 'P', 'o', server, 'a', v[4] + 1, 'h', v[5] .. 'P' .. now .. server)
    redis.call('SADD', '{bare}:c:' .. server, id)
    if epoch then redis.call('ZREM', '{bare}:unpublished', id) end
    out[#out + 1] = id
    out[#out + 1] = v[2]
    out[#out + 1] = v[3]
  end
end
if pop > 0 then
  for _, id in ipairs(redis.call('LPOP', '{bare}:q', pop) or {}) do claim(id) end
end
for i = 4 + n * 3, #ARGV, 2 do claim(ARGV[i], ARGV[i + 1]) end
return out"""


class Reference(NamedTuple):
    id: bytes
    epoch: bytes


class Store:
    """The two scripts."""

    def __init__(self) -> None:
        client = redis.Redis.from_url(os.environ["BENCH_REDIS"])
        self._insert = client.register_script(INSERT)
        self._step = client.register_script(STEP)
        self._server = uuid.uuid4().hex[:12]

    def insert(self, jobs: Sequence[Payload], kind: str = "list") -> list[str]:
        """The ids."""
        ids = [uuid.uuid4().hex for _ in jobs]
        arguments: list[str | bytes] = [kind]
        for job_id, job in zip(ids, jobs, strict=True):
            arguments += (job_id, encode(**job))
        self._insert(args=arguments)
        return ids

    def step(
        self, finished: Sequence[Reference], claims: Iterable[Reference] = (), take: int = 0
    ) -> list[tuple[Reference, bytes]]:
        """The jobs that were claimed, with their payloads."""
        arguments: list[str | bytes | int] = [self._server, take, len(finished)]
        for reference in finished:
            arguments += (*reference, "null")
        for reference in claims:
            arguments += reference
        reply: list[bytes] = self._step(args=arguments)
        each = iter(reply)
        return [(Reference(job_id, epoch), payload) for job_id, epoch, payload in zip(each, each, each, strict=True)]


def work() -> None:
    store = Store()
    drain(lambda finished, take: store.step(finished, take=take))


def produce() -> None:
    store = Store()
    Producer(send=lambda one: store.insert([one]), send_many=store.insert).serve()


if __name__ == "__main__":
    work() if sys.argv[1] == "work" else produce()
