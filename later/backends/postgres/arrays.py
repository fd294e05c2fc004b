"""Array literals of PostgreSQL. The driver's own adaptation of lists costs a microsecond per element, which is more
than the server needs for it."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from later.core.records import Ref

_TOP_EPOCH: Final = 2**31 - 1
"""An integer of PostgreSQL."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]*")


def numbers(values: Sequence[int | None]) -> str:
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def booleans(values: Sequence[bool]) -> str:
    return "{" + ",".join(["t" if value else "f" for value in values]) + "}"


def texts(values: Sequence[str | None]) -> str:
    if not values:
        return "{}"
    present = [value for value in values if value is not None]
    if len(present) == len(values) and _PLAIN.fullmatch("".join(present)):
        return '{"' + '","'.join(present) + '"}'
    return "{" + ",".join(["NULL" if value is None else _quoted(value) for value in values]) + "}"


def blobs(values: Sequence[bytes | None]) -> str:
    return "{" + ",".join(["NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values]) + "}"


def pairs(refs: Iterable[Ref]) -> dict[str, str]:
    """The arrays of ids and epochs, in the order of ids, which is the order in which everybody locks. Without the
    references of forged messages whose epoch does not fit the column: no job has it."""
    ordered = sorted(ref for ref in refs if 0 <= ref.epoch <= _TOP_EPOCH)
    return {"ids": texts([ref.id for ref in ordered]), "epochs": numbers([ref.epoch for ref in ordered])}


def _quoted(text: str) -> str:
    escaped = storable(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def storable(text: str) -> str:
    """PostgreSQL stores UTF-8 without NUL, which has no lone surrogates either; the message of an exception may hold
    both."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
