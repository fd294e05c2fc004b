"""The reference is complete and up to date with the code."""

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest

import later
from docs.generate import API_GROUPS, BACKENDS, DOCS, filled, public_errors
from later import BackgroundJobs, ConfigError, LaterError, Limits, State, job_type
from later.cli.main import later as command_line
from later.core.codec import KIB
from later.core.engine import keeper, worker
from later.core.engine.judge import DEFER, DEFER_FOR
from later.core.lifecycle import DAY, KEEP, RULES
from later.core.records import FURTHEST, HISTORY_LIMIT, SECOND, JobQuery
from later.core.registry import JobType
from later.core.retry import LONGEST, Retry
from later.core.steps import CASCADE
from later.runtime.enqueue import MANY
from later.runtime.group_commit import DEADLINE
from later.runtime.jobs import MOVES, PAGE_LARGEST
from tests.docs.markdown import ROOT, blocks


def page(name: str) -> str:
    return (DOCS / "reference" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in sorted(DOCS.rglob("*.md"))])
def test_generated_parts_are_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == filled(path), "run: python docs/generate.py"


def test_the_generator_agrees() -> None:
    done = subprocess.run(
        [sys.executable, DOCS / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_is_in_the_api_page_or_an_error() -> None:
    grouped = {name for names in API_GROUPS.values() for name in names}
    assert grouped - set(BACKENDS) | public_errors() == set(later.__all__)
    assert all(f"### {name}\n" in page("api.md") for name in grouped)


def test_every_error_is_told_with_what_to_do() -> None:
    told = set(re.findall(r"^\| `(\w+)` \| \S", page("errors.md"), re.MULTILINE))
    groups = {kind.__name__ for kind in LaterError.__subclasses__()} - {ConfigError.__name__}
    assert told | groups | {LaterError.__name__} == public_errors()


def test_every_state_and_cause_is_told() -> None:
    text = page("states.md")
    assert all(f"| {state} | " in text for state in State)
    assert all(f"| {cause} | " in text for cause in RULES)


def test_every_command_and_option_is_told() -> None:
    text = page("command-line.md")

    def check(command: click.Command, name: str) -> None:
        assert f"# {name}\n" in text
        section = text.split(f"# {name}\n")[1].split("\n#")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert all(option in section for option in parameter.opts), (name, parameter.opts)
        if isinstance(command, click.Group):
            context = click.Context(command)
            for child in command.list_commands(context):
                found = command.get_command(context, child)
                assert found is not None
                check(found, f"{name} {child}")

    check(command_line, "later")


def test_every_default_is_told() -> None:
    text = page("limits.md")

    def told(name: str, *values: object) -> bool:
        row = re.search(rf"^\| [^|]*{re.escape(name)}[^|]*\|(.*)$", text, re.MULTILINE)
        return row is not None and all(str(value) in row[1] for value in values)

    defaults = {name: parameter.default for name, parameter in inspect.signature(job_type).parameters.items()}
    declared = {field.name for field in fields(JobType)} - {"name", "payload", "handler", "is_async"}
    assert set(defaults) == declared
    assert all(told(f"`{name}`") for name in defaults)
    assert told("`queue`", defaults["queue"])
    assert told("`priority`", defaults["priority"])
    assert told("`isolation`", defaults["isolation"])
    assert told("`max_crashes`", defaults["max_crashes"])
    assert told("`retry`", f"{Retry().attempts} attempts", f"{LONGEST.days} days")
    for state in KEEP:
        days = KEEP[state] // DAY
        assert told(f"`keep_{state.lower()}`", f"{days} day"), state

    for limit in fields(Limits):
        assert isinstance(limit.default, int)
        assert told(f"`{limit.name}`", f"{limit.default // KIB} KiB")

    running = inspect.signature(BackgroundJobs.running).parameters
    assert told("`slots`", running["slots"].default)
    assert told("`grace`", f"{running['grace'].default.total_seconds():.0f} s")
    assert told("Lease", f"{keeper.LEASE // SECOND} s")
    assert told("Heartbeat", f"{keeper.BEAT:.0f} s")
    assert told("Look for dead", f"{keeper.RESCUE:.0f} s")
    assert told("Jobs claimed ahead", f"{worker.AHEAD_SECONDS} s", worker.MAX_AHEAD)
    assert told("Enqueue gives up", f"{DEADLINE:.0f} s")
    assert told("no worker here knows", f"{DEFER.seconds} s", f"{DEFER_FOR.seconds // 3600} h")
    assert told("Delay of a job", f"{FURTHEST.days // 365} years")
    assert told("History", HISTORY_LIMIT)
    assert told("Payloads of one `enqueue_many`", f"{MANY:,}")
    assert told("Ids of one `requeue`", f"{MOVES:,}")
    assert told("releases at once", f"{CASCADE:,}")
    assert told("Jobs on a page", JobQuery().limit, PAGE_LARGEST)


def test_the_quickstart_is_the_file_in_examples() -> None:
    (shown,) = [block for block in blocks(ROOT / "README.md") if block.options.get("title") == "quickstart.py"]
    assert shown.text == (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
