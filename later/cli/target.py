"""Which app a command is about."""

import os
import re
import sys
import tomllib
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Final

import click

from later import BackgroundJobs, ConfigError
from later.runtime.target import Target

PYPROJECT: Final = "pyproject.toml"

_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def parse(text: str) -> Target:
    """The target that `text` names: `module`, `module:name`, `file.py` or `file.py:name`.

    Raises ConfigError when it is none of these, or the file does not exist.
    """
    place, colon, attribute = text.rpartition(":")
    if not colon:
        place, attribute = text, ""
    if colon and not _MODULE.fullmatch(attribute):
        raise ConfigError(f"{text!r} names no app: after the colon comes a name, like app:jobs or app.py:jobs")
    if place.endswith(".py") or os.sep in place:
        return Target.of_file(place, attribute)
    if not _MODULE.fullmatch(place):
        raise ConfigError(f"{text!r} names no app: give a module and a name (app:jobs) or a file (app.py)")
    return Target(place, attribute)


def resolve(given: str | None) -> Target:
    """The target that was given to the command, else to the group, else in LATER_APP, else in ./pyproject.toml.

    Raises click.UsageError when it is nowhere.
    """
    group = click.get_current_context().find_root().params.get("app")
    text = given or group or os.environ.get("LATER_APP") or _from_pyproject()
    if not text:
        raise click.UsageError(
            "Which app? Say so with -A app:jobs or -A app.py, in the variable LATER_APP, or in pyproject.toml:"
            ' app = "app:jobs" under [tool.later].'
        )
    return parse(text)


@contextmanager
def opened(given: str | None) -> "Generator[BackgroundJobs[Any, Any], None, None]":
    """The app itself, as `resolve` finds it, with its storage open; closed at the end. Raises ConfigError when there is
    no storage yet: what only looks makes none."""
    # What the app prints when it is imported does not belong into the output, which may be one JSON document.
    with redirect_stdout(sys.stderr):
        jobs = resolve(given).load()
    try:
        jobs.storage(create=False)
        yield jobs
    finally:
        jobs.close()


def _from_pyproject() -> str | None:
    try:
        document = tomllib.loads(Path(PYPROJECT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{PYPROJECT} cannot be read: {error}") from error
    match document:
        case {"tool": {"later": {"app": str(app)}}}:
            return app
        case {"tool": {"later": {"app": _}}}:
            raise ConfigError(f'{PYPROJECT}: app under [tool.later] is no text: write app = "app:jobs"')
        case _:
            return None
