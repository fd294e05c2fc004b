"""Reads the Markdown of README.md and docs/ for the tests: code blocks, what their info strings say, links.

What a block's info string means:

    python title="app.py"      the block is written to that file
    python                     the block is run as a program of its own
    python part="app.py"       the block repeats lines of a file that the page has written
    console                    lines after `$ ` (continued by `> `) are run by one bash per page, in order;
                               what stands below a command is compared with its output
    console exit="1"           the block's last command ends with that status
    console skip="reason"      not run; python too
    ini, json, mermaid, pycon, text, toml    only shown; `title` writes them to a file too

`<!-- needs: redis postgres rabbitmq -->` on a page starts these for its blocks.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHOWN_ONLY = {"ini", "json", "mermaid", "text", "toml"}

_FENCE = re.compile(r"^(?P<fence>```+)(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=fence)[ ]*$", re.MULTILINE | re.DOTALL)
_OPTION = re.compile(r'(\w+)="([^"]*)"')
_NEEDS = re.compile(r"^<!-- needs: (.+) -->$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")


def pages() -> list[Path]:
    """All but the decision records, which quote code of their time."""
    documentation = (page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "decisions")
    return [ROOT / "README.md", *sorted(documentation)]


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    options: dict[str, str]
    text: str


@dataclass(frozen=True)
class Command:
    text: str
    shown: list[str]
    """The output as the page shows it; empty when it shows none."""


def blocks(page: Path) -> Iterator[Block]:
    source = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(source):
        language, _, options = match["info"].strip().partition(" ")
        line = source.count("\n", 0, match.start()) + 1
        yield Block(line, language, dict(_OPTION.findall(options)), match["text"])


def servers(page: Path) -> list[str]:
    """What the page needs for its blocks."""
    found = _NEEDS.search(page.read_text(encoding="utf-8"))
    return found[1].split() if found else []


def commands(block: Block) -> Iterator[Command]:
    text: list[str] = []
    shown: list[str] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            if text:
                yield Command("\n".join(text), shown)
            text, shown = [line[2:]], []
        elif line.startswith("> ") and text and not shown:
            text.append(line[2:])
        else:
            shown.append(line)
    if text:
        yield Command("\n".join(text), shown)


def links(page: Path) -> list[str]:
    return _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The anchors of the page's headings, as hosts of Markdown make them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
