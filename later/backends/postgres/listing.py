"""What people and programs ask about jobs, each within one snapshot."""

from collections.abc import Collection, Sequence
from typing import Final

from later.backends.postgres import arrays
from later.backends.postgres.connection import Session
from later.backends.postgres.rows import read_history, read_row
from later.backends.postgres.statements import Statements
from later.backends.postgres.wire import Value
from later.core.paging import PageKey, encode_cursor, page_key
from later.core.records import JobDetails, JobQuery, Page, State

_NEWEST: Final = PageKey(2**63 - 1, "")
"""Before the first page: greater than the key of any job."""


def details(session: Session, sql: Statements, ids: Sequence[str]) -> list[JobDetails | None]:
    """Jobs with their history and children, in one round trip; None where there is none."""
    values = {"ids": arrays.texts(list(dict.fromkeys(ids)))}
    with session.batch(reading=True, last=True):
        found = session.send(sql["details"], values)
        noted = session.send(sql["errors"], values)
        born = session.send(sql["children"], values)
    errors: dict[int, dict[int, str]] = {}
    for num, entry, error in noted.rows:
        errors.setdefault(num, {})[entry] = error
    children: dict[str, list[str]] = {}
    for parent, child in born.rows:
        children.setdefault(parent, []).append(child)
    known: dict[str, JobDetails] = {}
    for columns in found.rows:
        *job_columns, payload, result, history = columns
        row = read_row(tuple(job_columns), payload, result)
        known[row.job.id] = JobDetails(
            row.job, read_history(history, row.entries, errors.get(row.num, {})), tuple(children.get(row.job.id, ()))
        )
    return [known.get(job_id) for job_id in ids]


def find(session: Session, sql: Statements, query: JobQuery, after: PageKey | None) -> Page:
    """The page of `query` that follows `after`.

    Without `parent` the cost is that of reading the jobs of the asked states, newest first, until enough of them match.
    """
    after = after or _NEWEST
    values: dict[str, Value] = {
        "states": arrays.texts([state.value for state in query.states or State]),
        "queues": _array(query.queues),
        "types": _array(query.types),
        "parent": query.parent,
        "after_at": after.state_at,
        "after_id": after.id,
        "limit": query.limit + 1,
    }
    statement = sql["find_in_states" if query.parent is None else "find_children"]
    with session.batch(last=True):
        session.send(sql["in_order"], {})
        answer = session.send(statement, values)
    found = sorted((read_row(columns).job for columns in answer.rows), key=page_key, reverse=True)
    page = found[: query.limit]
    more = len(found) > query.limit and bool(page)
    return Page(tuple(page), encode_cursor(page_key(page[-1])) if more else None)


def _array(names: Collection[str]) -> str | None:
    return arrays.texts(list(names)) if names else None
