"""What has happened to the broker connections of a server: summed, and told in the note of its beats."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from later.core.notes import NOTE_LIMIT
from later.core.ports import BrokerTrouble

LONGEST: Final = 200
"""Characters of a trouble's name; what is beyond is cut off."""
MOST: Final = 30
"""Kinds of trouble that are told of one process or server, the latest; an adapter has a dozen."""
LATEST: Final = 1 << 53
"""Times and numbers from there on are nonsense: they are no whole numbers to every reader of JSON."""


def total(parts: Iterable[Sequence[BrokerTrouble]]) -> tuple[BrokerTrouble, ...]:
    """The sum by kind, the latest first."""
    found: dict[str, BrokerTrouble] = {}
    for trouble in (trouble for part in parts for trouble in part):
        before = found.get(trouble.what, BrokerTrouble(trouble.what, 0, trouble.last_at))
        found[trouble.what] = BrokerTrouble(
            trouble.what, before.times + trouble.times, max(before.last_at, trouble.last_at)
        )
    return tuple(sorted(found.values(), key=lambda trouble: (-trouble.last_at, trouble.what)))


def pack(troubles: Sequence[BrokerTrouble]) -> list[list[object]]:
    """As JSON has it."""
    return [[trouble.what[:LONGEST], trouble.times, trouble.last_at] for trouble in troubles[:MOST]]


def unpack(packed: object) -> tuple[BrokerTrouble, ...]:
    """What `pack` has made. Leaves out what it does not understand: another version may have written it."""
    if not isinstance(packed, list):
        return ()
    items = cast(list[object], packed)
    return tuple(trouble for item in items[:MOST] if (trouble := _trouble(item)) is not None)


def to_note(troubles: Sequence[BrokerTrouble]) -> str:
    """JSON, in ASCII, or "" for none; without the oldest of those that do not fit into `NOTE_LIMIT`."""
    packed = pack(troubles)
    while packed:
        note = json.dumps({"troubles": packed}, separators=(",", ":"))
        if len(note) <= NOTE_LIMIT:
            return note
        packed.pop()
    return ""


def of_note(note: str) -> tuple[BrokerTrouble, ...]:
    """What `to_note` has made; () for anything else."""
    try:
        data: object = json.loads(note)
    except (ValueError, RecursionError):
        return ()
    return unpack(cast(dict[str, object], data).get("troubles")) if isinstance(data, dict) else ()


def _trouble(item: Any) -> BrokerTrouble | None:
    match item:
        case [str(what), int(times), int(last_at)] if 0 < times < LATEST and 0 <= last_at < LATEST:
            return BrokerTrouble(what[:LONGEST], times, last_at)
        case _:
            return None
