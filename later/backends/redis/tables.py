"""What the scripts are told of the core: its tables, written as Lua, so that there is one of each."""

import re
from enum import Enum
from typing import Final, cast

from later.core import lifecycle
from later.core.lifecycle import KEEP, KEEPS_DEFERRAL, PUBLISH_WITHIN, RULES
from later.core.records import HISTORY_LIMIT, On, State

LETTERS: Final = {
    State.AWAITING: "a",
    State.SCHEDULED: "s",
    State.ENQUEUED: "e",
    State.PROCESSING: "p",
    State.SUCCEEDED: "S",
    State.FAILED: "F",
    State.DELETED: "D",
}
"""A state as it is stored. Capitals have ended."""

_NUMBER: Final = "%d+"
_MAYBE_NUMBER: Final = "%d*"
_NAME: Final = "[!-~]+"
_MAYBE_NAME: Final = "[!-~]*"

FIELDS: Final = {
    "STATE": f"[{''.join(LETTERS.values())}]",
    "EPOCH": _NUMBER,
    "SERVER": _MAYBE_NAME,
    "WORKER": _MAYBE_NAME,
    "STATE_AT": _NUMBER,
    "CLAIMED_AT": _MAYBE_NUMBER,  # of a usual job that has Succeeded (see lua/lib/job.lua)
    "UNTIL": _MAYBE_NUMBER,  # run_at while Scheduled, expires_at once ended
    "ATTEMPT": _NUMBER,
    "CRASHES": _NUMBER,
    "ENTRIES": _MAYBE_NUMBER,  # of the history so far, those that were dropped included; "": a usual job
    "CANCEL": "1?",  # "1": asked for
    "DEFERRED_AT": _MAYBE_NUMBER,
    "KIDS": _MAYBE_NUMBER,  # the number of the job's own last child; "" while it never had one
    "PENDING": _MAYBE_NUMBER,  # see lua/lib/move.lua
    "PARENT": _MAYBE_NAME,
    "SEQ": _MAYBE_NUMBER,  # the job's number among its parent's children
    "QUEUE": _NAME,
    "PRIORITY": "%d",
    "MAX_CRASHES": _NUMBER,
    "CREATED_AT": _NUMBER,
    "TYPE": _NAME,
    "ON": _NAME,
    "REASON": ".*",
}
"""The record of a job, in this order, with a space between two, and the pattern of each. Absent values are empty. Only
the reason, which comes last, may hold spaces."""

_NAMES: Final = list(FIELDS)
_USUAL: Final = " 0" + " " * (_NAMES.index("QUEUE") - _NAMES.index("CRASHES"))
"""What a usual job has from CRASHES to QUEUE: no crash, and nothing else."""
_USUAL_REST: Final = " ".join(list(FIELDS.values())[_NAMES.index("PRIORITY") : -1]) + " "
"""What a usual job has behind QUEUE: no reason at the end."""

_WORD: Final = re.compile(r"'[^']*'|\b([A-Z][A-Z_]*)\b")

_BLANKS: Final = [chr(number) for number in range(1, 4)]
"""What stands for a value in a reason that a script completes."""


def complete(script: str) -> str:
    """A script with the constants that the core defines, as far as it uses them.

    Those that are no tables are written where they are used, and are no locals of the script: every call makes all
    functions of its script anew, and what they share with the script costs most of it.

    RULES       cause to "sources to attempt flags" (c: counts a crash, o: only of the claim, y: yields to a cancel)
    KEEP        ended state to microseconds
    CONTINUES   parent's state and what is waited for, written together, to a cause; absent: waits on
    ..._REASON  texts with the bytes 1, 2, 3 where values go
    BAND, LINE  ranges of scores (see lua/lib/base.lua)
    USUAL_...   patterns and parts of records (see lua/lib/usual.lua)
    """
    used = set(_WORD.findall(script))
    tables = [
        f"local {name} = {_literal(value)}" for name, value in _CONSTANTS.items() if _is_table(value) and name in used
    ]
    return "\n".join([*tables, _WORD.sub(_written, script)])


def _written(word: re.Match[str]) -> str:
    value = _CONSTANTS.get(word[1]) if word[1] else None
    return word[0] if value is None or _is_table(value) else _literal(value)


def _constants() -> dict[str, object]:
    first, second, third = _BLANKS
    ended = [state for state in State if state.ended]
    continues = {(state, on): lifecycle.continuation(state, on) for state in ended for on in On}
    return {
        "RULES": {cause: _rule(rule) for cause, rule in RULES.items()},
        "KEEP": {LETTERS[state]: keep for state, keep in KEEP.items()},
        "CONTINUES": {LETTERS[state] + on: cause for (state, on), cause in continues.items() if cause is not None},
        "KEEPS_DEFERRAL": dict.fromkeys(sorted(KEEPS_DEFERRAL), 1),
        "PARENT_REASON": {LETTERS[state]: lifecycle.parent_reason(first, state) for state in ended},
        "AWAITING_REASON": lifecycle.awaiting_reason(first, second),
        "CRASH_REASON": lifecycle.crash_reason(first),
        "POISON_REASON": lifecycle.poison_reason(first, second, third),
        "CANCEL_REASON": lifecycle.cancel_reason(""),
        "CANCEL_REASON_WHY": lifecycle.cancel_reason(first),
        "PUBLISH_WITHIN": PUBLISH_WITHIN,
        "HISTORY_LIMIT": HISTORY_LIMIT,
        "LAST": len(FIELDS),
        "PATTERN": "^" + " ".join(f"({pattern})" for pattern in FIELDS.values()) + "$",
        "USUAL_READY": f"^e 1   %d+   0{_USUAL}({FIELDS['QUEUE']}) ({_USUAL_REST})$",
        "USUAL_RUNNING": f"^p 1 ({_NAME}) ({_NAME}) (%d+)   1{_USUAL}({FIELDS['QUEUE']}) ({_USUAL_REST})$",
        "USUAL_NEW": "e 1   ",
        "USUAL_UNTRIED": "   0" + _USUAL,
        "USUAL_TRIED": " 1" + _USUAL,
        "BAND": 2**50,
        "LINE": 2**49,
        **{name: number for number, name in enumerate(FIELDS, 1)},
    }


def _rule(rule: lifecycle.Rule) -> str:
    sources = "".join(sorted(LETTERS[state] for state in rule.sources))
    flags = "c" * rule.crash + "o" * rule.of_claim + "y" * rule.yields
    return f"{sources} {LETTERS[rule.to]} {rule.attempt.name.lower()} {flags}"


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _literal(value: object) -> str:
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return "{" + ", ".join(f"[{_literal(key)}] = {_literal(item)}" for key, item in items) + "}"
    if isinstance(value, int):
        return str(value)
    assert isinstance(value, str)
    text = value.value if isinstance(value, Enum) else value
    return (
        "'" + "".join(char if char.isalnum() or char in " ^$([])*.:,-" else f"\\{ord(char):03d}" for char in text) + "'"
    )


_CONSTANTS: Final = _constants()
