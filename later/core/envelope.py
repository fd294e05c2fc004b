"""Facts that travel with a job's payload, in the same column: `RS headers RS payload`.

RS is the ASCII character 0x1e, which JSON text never holds. A payload without headers is stored as it is.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple, cast

from pydantic_core import from_json, to_json

from later.core.errors import Corrupt, InvalidOption
from later.core.retry import Retry

_MARK: Final = b"\x1e"
_MICROSECOND: Final = timedelta(microseconds=1)


class Letter(NamedTuple):
    headers: dict[str, Any]
    payload: bytes


def seal(payload: bytes, headers: Mapping[str, object]) -> bytes:
    """Payload and headers as one text. The caller keeps the headers small."""
    return b"".join((_MARK, to_json(headers), _MARK, payload)) if headers else payload


def is_plain(stored: bytes) -> bool:
    """Whether it is a payload alone, without headers."""
    return not stored.startswith(_MARK)


def unseal(stored: bytes) -> Letter:
    """What `seal` was given. Raises Corrupt."""
    if is_plain(stored):
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


def write_retry(retry: Retry) -> list[object]:
    """Attempts and delays as JSON values; what goes by classes of exceptions is not stored."""
    return [retry.attempts, [delay // _MICROSECOND for delay in retry.delays]]


def read_retry(stored: Any) -> Retry:
    """What `write_retry` was given. Raises Corrupt."""
    match stored:
        case [int(attempts), [*delays]]:
            try:
                return Retry(attempts, tuple(delay * _MICROSECOND for delay in cast("list[int]", delays)))
            except (InvalidOption, TypeError, OverflowError):
                pass
        case _:
            pass
    raise Corrupt("a stored retry policy is not as `later` writes it")


def retry_of(stored: bytes, usual: Retry) -> Retry:
    """The policy that goes with a stored payload, else the usual one. Raises Corrupt."""
    headers = unseal(stored).headers
    return usual.timed_as(read_retry(headers["retry"])) if "retry" in headers else usual
