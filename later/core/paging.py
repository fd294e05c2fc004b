"""The cursors of `Storage.find` and `Storage.unpublish`: the key of the last job of a page, opaque to callers."""

import re
from typing import NamedTuple

from later.core.errors import InvalidOption
from later.core.records import JobRecord, Micros

_RULE = re.compile(r"([0-9]{1,19})_([A-Za-z0-9_.-]{1,100})", re.ASCII)


class PageKey(NamedTuple):
    """What pages are ordered by; those of `find` the greatest first."""

    state_at: Micros
    id: str


def page_key(job: JobRecord) -> PageKey:
    return PageKey(job.state_at, job.id)


def encode_cursor(key: PageKey) -> str:
    return f"{key.state_at}_{key.id}"


def decode_cursor(cursor: str) -> PageKey:
    """The key that `encode_cursor` wrote. Raises InvalidOption for any other text."""
    match = _RULE.fullmatch(cursor)
    if match is None or int(match[1]) >= 2**63:
        raise InvalidOption("the cursor is not one that a page gave: start again without it")
    return PageKey(int(match[1]), match[2])


def first_key(after: str | None) -> PageKey:
    """Behind which an ascending walk begins."""
    return PageKey(-1, "") if after is None else decode_cursor(after)
