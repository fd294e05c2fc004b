"""The statements of `sql/`, by name, for one schema and one namespace."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final

from later.backends.postgres.wire import Query
from later.core.records import HISTORY_LIMIT

_HEADING: Final = re.compile(r"^-- (name|fragment): (\w+)\n", re.MULTILINE)
_COMMENT: Final = re.compile(r"^ *--.*\n", re.MULTILINE)


@cache
def _texts() -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Names and fragments of all files."""
    kinds: dict[str, dict[str, str]] = {"name": {}, "fragment": {}}
    for file in (files("later.backends.postgres") / "sql").iterdir():
        _, *parts = _HEADING.split(file.read_text("utf-8"))
        for kind, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            kinds[kind][name] = _COMMENT.sub("", text).strip().removesuffix(";")
    return kinds["name"], kinds["fragment"]


class Statements:
    """`schema` and `app`, a number, and the fragments are the only text that is put in. Values are always bound."""

    def __init__(self, schema: str, app: int) -> None:
        names, fragments = _texts()
        self.app = app
        self._fragments = {
            **fragments,
            "schema": quoted(schema),
            "app": str(app),
            "history_limit": str(HISTORY_LIMIT),
        }
        self._names = names
        self._made: dict[str, Query] = {}
        self._lines: dict[int, Query] = {}

    def __getitem__(self, name: str) -> Query:
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = self._fill(self._names[name])
        return made

    def claim_next(self, queues: int) -> Query:
        """For so many queues, in strict order."""
        made = self._lines.get(queues)
        if made is None:
            made = self._lines[queues] = self._fill(
                self._names["claim_next"],
                lines=", ".join(self._of_lines("next_of_queue", queues)),
                all_lines=" UNION ALL ".join(self._of_lines("all_of_line", queues)),
            )
        return made

    def _of_lines(self, fragment: str, queues: int) -> list[str]:
        """A fragment for each of the first so many queues, the first of which is 1."""
        counts = [self._text("{count_of_line}", line=str(number)) for number in range(1, queues + 1)]
        return [
            self._text(f"{{{fragment}}}", line=str(number), taken=" + ".join(counts[: number - 1]) or "0")
            for number in range(1, queues + 1)
        ]

    def _fill(self, text: str, **more: str) -> Query:
        return query(self._text(text, **more))

    def _text(self, text: str, **more: str) -> str:
        parts = {**self._fragments, **more}
        # Fragments name fragments, at most a few levels deep.
        while (filled := _PLACE.sub(lambda match: parts[match[1]], text)) != text:
            text = filled
        return text


def quoted(schema: str) -> str:
    """As an identifier. It is of letters that need no more care."""
    return f'"{schema}"'


def query(text: str) -> Query:
    """`text` with its %(name)s numbered."""
    names = tuple(dict.fromkeys(_VALUE.findall(text)))
    numbered = _VALUE.sub(lambda match: f"${names.index(match[1]) + 1}", text)
    return Query(numbered.encode(), names)


_PLACE: Final = re.compile(r"\{(\w+)\}")
_VALUE: Final = re.compile(r"%\((\w+)\)s")
