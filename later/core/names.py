"""Names of apps, queues, job types and ids: one rule, so that a name is safe as a key, a table and a routing key."""

import re
from typing import Final

from later.core.errors import InvalidName

NAME_LIMIT: Final = 100
"""Characters, each of one byte."""

_RULE = re.compile(rf"[A-Za-z0-9_.-]{{1,{NAME_LIMIT}}}")


def check_name(kind: str, name: object) -> str:
    """Return `name` when it follows the rule. `kind` says in the error what was being named ("queue", "id", ...).

    Raises InvalidName.
    """
    if not isinstance(name, str) or _RULE.fullmatch(name) is None:
        shown = repr(name)
        if len(shown) > 60:
            shown = shown[:57] + "..."
        raise InvalidName(f"{kind} {shown} is not a name: use 1 to 100 of A-Z a-z 0-9 _ . -")
    return name
