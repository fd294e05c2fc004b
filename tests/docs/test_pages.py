"""Every block of code in README.md and docs/ runs, and does what the page says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, SHOWN_ONLY, Block, anchors, blocks, commands, links, pages, servers
from tests.docs.terminal import Comparison, Terminal

PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()]
MAY_BE_SKIPPED = {
    "installs from the network",
    "runs these very tests",
    "runs for half a minute",
    "takes an hour",
    "needs Docker",
    "needs the right to trace",
    "an outline",
}
SERVERS = {"redis": "REDIS_URL", "postgres": "POSTGRES_URL", "rabbitmq": "AMQP_URL"}
"""What a page may need, by the variable that its blocks find it in."""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", PAGES)
def test_the_page_does_what_it_shows(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in servers(page):
        monkeypatch.setenv(SERVERS[name], request.getfixturevalue(f"{name}_server").url)
    comparison = Comparison()
    with Terminal(tmp_path) as terminal:
        for block in blocks(page):
            where = f"{page.relative_to(ROOT)}:{block.line}"
            if block.language == "python":
                run_python(block, tmp_path, where)
            elif block.language == "console":
                if "skip" in block.options:
                    assert block.options["skip"] in MAY_BE_SKIPPED, where
                    continue
                run_console(block, terminal, comparison, where)
            else:
                assert block.language in SHOWN_ONLY, f"{where}: what is a block of {block.language!r}?"
                if "title" in block.options:
                    write(tmp_path / block.options["title"], block.text)


def run_python(block: Block, directory: Path, where: str) -> None:
    if "skip" in block.options:
        assert block.options["skip"] in MAY_BE_SKIPPED, where
    elif "part" in block.options:
        whole = (directory / block.options["part"]).read_text(encoding="utf-8")
        assert block.text in whole, f"{where}: not a part of {block.options['part']}"
    elif "title" in block.options:
        write(directory / block.options["title"], block.text)
    else:
        done = subprocess.run(
            [sys.executable, "-c", block.text],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{where}:\n{done.stdout}{done.stderr}"


def run_console(block: Block, terminal: Terminal, comparison: Comparison, where: str) -> None:
    steps = list(commands(block))
    assert steps, f"{where}: no line begins with '$ '"
    for number, command in enumerate(steps, start=1):
        seen, status = terminal.run(comparison.translate(command.text))
        told = f"{where}: $ {command.text}\n" + "\n".join(seen)
        expected = int(block.options.get("exit", "0")) if number == len(steps) else 0
        assert status == expected, f"{told}\nstatus {status}"
        if command.shown:
            assert comparison.same(command.shown, seen), f"{told}\n--- shown:\n" + "\n".join(command.shown)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.relative_to(ROOT)}: {link}"
        if anchor:
            assert anchor in anchors(path), f"{page.relative_to(ROOT)}: {link}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    found = [ROOT / "README.md"]
    while found:
        page = found.pop()
        if page in reached:
            continue
        reached.add(page)
        targets = {link.partition("#")[0] for link in links(page)}
        found += [(page.parent / target).resolve() for target in targets if target.endswith(".md")]
    assert set(pages()) <= reached
