"""Names of apps, queues, job types and ids: one rule, so that a name is safe as a key, a table and a routing key."""

import re

from later.core.errors import InvalidName

_RULE = re.compile(r"[A-Za-z0-9_.-]{1,100}")


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
