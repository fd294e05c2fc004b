"""Facts that travel with a job's payload, in the same column: `RS headers RS payload`.

RS is the ASCII character 0x1e, which JSON text never holds. A payload without headers is stored as it is.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

from pydantic_core import from_json, to_json

from later.core.errors import Corrupt

HEADERS_LIMIT: Final = 8 * 1024
"""Bytes."""

_MARK: Final = b"\x1e"


class Letter(NamedTuple):
    headers: dict[str, Any]
    payload: bytes


def seal(payload: bytes, headers: Mapping[str, object]) -> bytes:
    """Payload and headers as one text. The limit of the headers is the caller's to keep."""
    return b"".join((_MARK, to_json(headers), _MARK, payload)) if headers else payload


def unseal(stored: bytes) -> Letter:
    """What `seal` was given. Raises Corrupt."""
    if not stored.startswith(_MARK):
        return Letter({}, stored)
    _, head, payload = (*stored.split(_MARK, 2), b"", b"")[:3]
    try:
        headers: object = from_json(head)
    except ValueError:
        headers = None
    if not isinstance(headers, dict):
        raise Corrupt(
            "the headers before a stored payload are not a JSON object: something other than `later` wrote it"
        )
    return Letter(cast("dict[str, Any]", headers), payload)
