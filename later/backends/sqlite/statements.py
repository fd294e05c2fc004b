"""The statements of `sql/`, by name."""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

_HEADING = re.compile(r"^-- (name|fragment): (\w+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)


def _load() -> dict[str, str]:
    """Every `-- name:` of the files, with each `{fragment}` put in its place. Fragments are text of those files only;
    values are always bound."""
    names: dict[str, str] = {}
    fragments: dict[str, str] = {}
    for file in (files("later.backends.sqlite") / "sql").iterdir():
        _, *parts = _HEADING.split(file.read_text("utf-8"))
        for kind, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            (names if kind == "name" else fragments)[name] = _COMMENT.sub("", text).strip()
    for name, text in fragments.items():
        names = {key: statement.replace(f"{{{name}}}", text) for key, statement in names.items()}
    return names


SQL: Final[Mapping[str, str]] = _load()
