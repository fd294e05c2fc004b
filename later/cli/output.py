"""What the commands write: for people, readable in 80 columns and when piped; for programs, one JSON document."""

import json
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import zip_longest
from typing import Final, TextIO

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from later import State

STYLES: Final = {
    State.AWAITING: "dim",
    State.SCHEDULED: "cyan",
    State.ENQUEUED: "blue",
    State.PROCESSING: "yellow",
    State.SUCCEEDED: "green",
    State.FAILED: "bold red",
    State.DELETED: "dim",
}

_JOINERS: Final = "\u200c\u200d"
"""Part of the spelling of Persian and Indic words and of emoji; they do not move anything on the screen."""

UNLIMITED: Final = 10_000

WIDE: Final = 110
"""Columns from which on listings show more than what fits 80."""


def clean(text: str, *, keep: str = "") -> str:
    """`text` with everything that a terminal could obey made visible: control characters, escapes, and the marks that
    reorder text. What a job says about itself came from elsewhere. `keep`: control characters to leave, like newline.
    """
    return "".join(
        mark
        if mark in keep or mark in _JOINERS or unicodedata.category(mark) not in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
        else mark.encode("unicode_escape", "surrogatepass").decode("ascii")
        for mark in text
    )


def line(text: str, limit: int = 200) -> str:
    """`text` on one line: white space folded, then as `clean`, then cut to `limit` characters."""
    folded = clean(" ".join(text.split()))
    return folded if len(folded) <= limit else f"{folded[: limit - 1]}…"


def block(text: str, indent: str = "  ") -> str:
    """`text` over several lines, each indented; as `clean` otherwise."""
    return "\n".join(indent + clean(part.expandtabs(4)) for part in text.rstrip().split("\n"))


def write(*parts: str | Text) -> None:
    """One line to the standard output. Colour only where that is a terminal which wants it (NO_COLOR, TERM)."""
    _console(sys.stdout).print(Text.assemble(*parts))


def write_json(document: object) -> None:
    """One JSON document. ASCII only, so that nothing in it is a command to a terminal either."""
    click.echo(json.dumps(document, indent=2))


def bold(text: str) -> Text:
    return Text(text, "bold")


def styled(state: State) -> Text:
    return Text(state.value, STYLES[state])


@lru_cache(maxsize=1)
def _console(file: TextIO) -> Console:
    return Console(file=file, highlight=False, markup=False, emoji=False, soft_wrap=True)


def width() -> int:
    """Columns to fill: COLUMNS, or those of the terminal, or no limit where the output goes to a program."""
    return shutil.get_terminal_size((UNLIMITED, 24)).columns


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    right: bool = False
    shrinks: bool = False
    """May be cut, with an ellipsis, where the table is too wide. An id never is: it is there to be copied."""
    wraps: bool = False
    """Goes on below itself, where the table is too wide, instead of being cut."""


def table(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]]) -> None:
    """Columns two spaces apart, no lines: each row is one line of text for grep, awk and a pair of eyes alike, unless a
    cell wraps."""
    cells = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    widths = [
        max([cell_len(column.title), *(cell_len(row[place].plain) for row in cells)])
        for place, column in enumerate(columns)
    ]
    _shrink(columns, widths, width())
    head = [bold(column.title) for column in columns]
    for row in [head, *cells]:
        parts = [
            cell.wrap(_console(sys.stdout), cells) if column.wraps and cells else [cell]
            for cell, column, cells in zip(row, columns, widths, strict=True)
        ]
        for below in zip_longest(*parts, fillvalue=Text()):
            text = Text("  ").join(map(_fit, below, columns, widths))
            text.rstrip()
            write(text)


def entries(rows: Sequence[tuple[Text, str | Text]]) -> None:
    """What stands at the left of each row, padded, and what there is to say of it, which goes on below itself where it
    is longer than the line."""
    left = max((cell_len(head.plain) for head, _ in rows), default=0)
    for head, said in rows:
        lead = Text.assemble(head, " " * (left + 2 - cell_len(head.plain)))
        for part in _wrapped(said, width() - left - 2):
            text = Text.assemble(lead, part)
            text.rstrip()
            write(text)
            lead = Text(" " * (left + 2))


def _wrapped(said: str | Text, room: int) -> Iterable[Text]:
    text = Text(said) if isinstance(said, str) else said
    return text.wrap(_console(sys.stdout), max(room, 20)) or [Text()]


_LEAST: Final = 8
"""Columns that a shrinking cell keeps: less would tell nothing."""


def _shrink(columns: Sequence[Column], widths: list[int], room: int) -> None:
    """Take what the table is too wide from the shrinking columns, always from the widest."""
    excess = sum(widths) + 2 * (len(widths) - 1) - room
    shrinking = [place for place, column in enumerate(columns) if column.shrinks or column.wraps]
    while excess > 0 and shrinking:
        widest = max(shrinking, key=lambda place: widths[place])
        if widths[widest] <= max(_LEAST, cell_len(columns[widest].title)):
            return
        widths[widest] -= 1
        excess -= 1


def _fit(cell: Text, column: Column, cells: int) -> Text:
    length = cell_len(cell.plain)
    if length > cells:
        return Text(set_cell_size(cell.plain, cells - 1) + "…", cell.style)
    space = " " * (cells - length)
    return Text.assemble(space, cell) if column.right else Text.assemble(cell, space)


def moment(at: datetime, now: datetime) -> str:
    """The local time with its zone and how long ago that was."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S %Z} ({age(at, now)})"


def age(at: datetime, now: datetime) -> str:
    """How far away it is: "3 min ago", "in 2 h", "now"; whole units, rounded down."""
    passed = now - at
    if abs(passed) < timedelta(seconds=1):
        return "now"
    return f"{span(passed)} ago" if passed > timedelta(0) else f"in {span(-passed)}"


def span(duration: timedelta) -> str:
    seconds = int(duration.total_seconds())
    for unit, size, least in (("d", 86_400, 2 * 86_400), ("h", 3_600, 2 * 3_600), ("min", 60, 60)):
        if seconds >= least:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def iso(at: datetime | None) -> str | None:
    """ISO 8601 in UTC, always with microseconds, so that texts compare as the times do."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="microseconds")


def notice(when: str, text: str) -> None:
    """A line of a command that goes on running, on the standard error."""
    console = Console(file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(Text.assemble((when, "dim"), " ", (text, "cyan")))
