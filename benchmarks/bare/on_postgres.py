"""On Postgres: finish (to the table of finished jobs) and the next claim in one pipeline, one commit."""

import os
import sys
import uuid
from collections.abc import Sequence
from typing import Final

import psycopg

from benchmarks.bare.job import drain, encode
from benchmarks.producer import Payload, Producer

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS bare_job (
    num bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id uuid NOT NULL, state text NOT NULL DEFAULT 'E',
    epoch int NOT NULL DEFAULT 1, server text, attempt int NOT NULL DEFAULT 0, payload bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(), claimed_at timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
CREATE INDEX IF NOT EXISTS bare_next ON bare_job (num) WHERE state = 'E';
CREATE TABLE IF NOT EXISTS bare_done (
    num bigint PRIMARY KEY, id uuid NOT NULL, epoch int NOT NULL, server text, attempt int NOT NULL,
    payload bytea NOT NULL, result bytea NOT NULL, created_at timestamptz, claimed_at timestamptz,
    finished_at timestamptz NOT NULL
)"""

_INSERT: Final = "INSERT INTO bare_job (id, payload) SELECT * FROM unnest(%s::uuid[], %s::bytea[])"

_FINISH: Final = """
WITH gone AS (DELETE FROM bare_job WHERE num = ANY(%s) AND state = 'P' AND server = %s
    RETURNING num, id, epoch, server, attempt, payload, created_at, claimed_at)
INSERT INTO bare_done SELECT num, id, epoch, server, attempt, payload, 'null', created_at, claimed_at, clock_timestamp()
FROM gone"""

_CLAIM: Final = """
UPDATE bare_job SET state = 'P', server = %s, attempt = attempt + 1, claimed_at = clock_timestamp()
FROM (SELECT num FROM bare_job WHERE state = 'E' ORDER BY num LIMIT %s FOR UPDATE SKIP LOCKED) AS next
WHERE bare_job.num = next.num RETURNING bare_job.num, bare_job.payload"""


class Store:
    def __init__(self) -> None:
        self._connection = psycopg.connect(os.environ["BENCH_POSTGRES"])
        self._server = uuid.uuid4().hex[:12]

    def prepare(self) -> None:
        with self._connection.transaction():
            self._connection.execute(_SCHEMA)

    def insert(self, jobs: Sequence[Payload]) -> None:
        self._connection.execute(_INSERT, ([uuid.uuid4() for _ in jobs], [encode(**job) for job in jobs]), prepare=True)
        self._connection.commit()

    def step(self, finished: Sequence[int], take: int) -> list[tuple[int, bytes]]:
        with self._connection.pipeline(), self._connection.transaction():
            if finished:
                self._connection.execute(_FINISH, (finished, self._server), prepare=True)
            if not take:
                return []
            claimed = self._connection.cursor(binary=True).execute(_CLAIM, (self._server, take), prepare=True)
        return claimed.fetchall()


def work() -> None:
    store = Store()
    drain(store.step)


def produce() -> None:
    store = Store()
    Producer(send=lambda one: store.insert([one]), send_many=store.insert, prepare=store.prepare).serve()


if __name__ == "__main__":
    work() if sys.argv[1] == "work" else produce()
