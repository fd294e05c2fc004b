"""Reads tables of the documentation, so that their rows are test cases."""

import re
from pathlib import Path


def table(page: Path, *header: str) -> list[tuple[str, ...]]:
    """The rows of the table under this header, without the marks of code."""
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    wanted = [f"`{name}`" if name.islower() else name for name in header]
    for line in lines:
        if _cells(line) == tuple(wanted):
            next(lines)
            break
    rows: list[tuple[str, ...]] = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(tuple(cell.strip("`") for cell in _cells(line)))
    assert rows, f"{page.name} has no table {header}"
    return rows


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in re.split(r"\|", line.strip().strip("|")))
