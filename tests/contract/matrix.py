"""`python -m tests.contract.matrix [pytest options]`: the contract of pairs, as a table of brokers and storages.

A cell says how many tests passed, and what else became of the others.
"""

import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final

import pytest

_PAIRS: Final = Path(__file__).with_name("test_pairs.py")


class Matrix:
    """A plugin of pytest that counts the outcomes of each pair."""

    def __init__(self) -> None:
        self.cells: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._pairs: dict[str, tuple[str, str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            kind = getattr(item, "cls", None)
            if kind is not None and hasattr(kind, "carries"):
                self._pairs[item.nodeid] = kind.carries, kind.keeps

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.cells[self._pairs[report.nodeid]][report.outcome] += 1

    def lines(self) -> list[str]:
        storages = sorted({storage for _, storage in self.cells})
        rows = [["broker \\ storage", *storages]]
        rows += [
            [broker, *(_said(self.cells[broker, storage]) for storage in storages)]
            for broker in sorted({broker for broker, _ in self.cells})
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _said(outcomes: Counter[str]) -> str:
    return ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items())) or "-"


def main(arguments: list[str]) -> int:
    matrix = Matrix()
    code = pytest.main(["-q", "-p", "no:xdist", str(_PAIRS), *arguments], plugins=[matrix])
    sys.stdout.write("\n" + "\n".join(matrix.lines()) + "\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
