"""SAQ on Redis and on Postgres."""

from typing import Final

from benchmarks.installing import Pinned
from benchmarks.systems.system import Group, System


def _saq(group: Group, guarantees: str, *recorded: str) -> System:
    return System(
        name=f"saq:{group}",
        group=group,
        environment=Pinned("saq", ("saq", "redis", "psycopg")),
        guarantees=f"at least once, by a sweep of what hangs; results for 10 minutes; no history, no "
        f"validation{guarantees}",
        producer=("{python}", "-m", "benchmarks.peers.saq"),
        worker=("{bin}/saq", "benchmarks.peers.saq.settings", "--workers", "{processes}"),
        bulk=False,
        jobs=5_000,
        recorded=recorded,
        repeats=True,
    )


SYSTEMS: Final = (
    _saq("redis", "; AOF everysec", "KEYS", "saq:job:bench:*"),
    _saq("postgres", "", "SELECT count(*) FROM saq_jobs WHERE status = 'complete'"),
)
