"""What people and programs ask about jobs, each within one read transaction."""

import json
from collections.abc import Collection
from sqlite3 import Connection
from typing import Any, Final

from later.backends.sqlite.rows import first_entry, read_entry, read_jobs, read_row
from later.backends.sqlite.statements import SQL
from later.core.paging import PageKey, encode_cursor, page_key
from later.core.records import Counts, JobDetails, JobQuery, JobRecord, Page, State

_NEWEST: Final = PageKey(2**63 - 1, "")
"""Before the first page: greater than the key of any job."""


def details(connection: Connection, app: int, job_id: str) -> JobDetails | None:
    """A job with its history and children; None when there is none."""
    found = connection.execute(SQL["load_with_payload"], {"app": app, "ids": json.dumps([job_id])}).fetchone()
    if found is None:
        return None
    row = read_row(found)
    history = [read_entry(entry) for entry in connection.execute(SQL["history"], {"job": row.num})]
    children = connection.execute(SQL["children"], {"app": app, "parent": job_id})
    return JobDetails(row.job, tuple(history or [first_entry(row.job)]), tuple(child for (child,) in children))


def find(connection: Connection, app: int, query: JobQuery, after: PageKey | None) -> Page:
    """The page of `query` that follows `after`.

    Without `parent` the cost is that of reading the jobs of the asked states, newest first, until enough of them match.
    """
    after = after or _NEWEST
    values: dict[str, Any] = {
        "app": app,
        "queues": _array(query.queues),
        "types": _array(query.types),
        "after_at": after.state_at,
        "after_id": after.id,
        "limit": query.limit + 1,
    }
    found: list[JobRecord] = []
    if query.parent is not None:
        values |= {"parent": query.parent, "states": _array(query.states)}
        found = read_jobs(connection.execute(SQL["find_children"], values))
    else:
        for state in query.states or State:
            found += read_jobs(connection.execute(SQL["find_in_state"], values | {"state": state.value}))
        found.sort(key=page_key, reverse=True)
    page = found[: query.limit]
    more = len(found) > query.limit and bool(page)
    return Page(tuple(page), encode_cursor(page_key(page[-1])) if more else None)


def counts(connection: Connection, app: int) -> Counts:
    by_queue: dict[str, dict[State, int]] = {}
    for queue, state, jobs in connection.execute(SQL["counts"], {"app": app}):
        by_queue.setdefault(queue, {})[State(state)] = jobs
    return Counts(by_queue)


def _array(names: Collection[str]) -> str | None:
    return json.dumps(list(names)) if names else None
