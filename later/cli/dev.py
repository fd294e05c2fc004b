"""`later dev`: a worker that restarts when the code changes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

import click
import watchfiles

from later.cli.options import app_option
from later.cli.output import clean, notice
from later.cli.target import resolve
from later.cli.worker import Queues, queues_option

GRACE: Final = 2.0
"""Seconds that running handlers get before a restart: somebody waits for it."""

HURRY: Final = 3.0
"""Seconds beyond the grace until the worker is told again, and as many until it is killed."""

LOOK: Final = 200
"""Milliseconds between two looks at the worker and for a change that belongs to the last one."""

WATCHED: Final = (".py", ".toml", ".env")
"""Endings of files that make a program. Everything else may be what its handlers write: a restart for each of those
would never end."""

IGNORED: Final = frozenset({"__pycache__", "node_modules", "site-packages", "venv", "env", "build", "dist"})
"""Folders without code of the app; those whose name starts with a dot are left out too."""


@click.command()
@click.argument("target", metavar="[APP]", required=False)
@app_option
@click.option("--slots", type=click.IntRange(1, 1024), default=8, show_default=True, help="Jobs to run at once.")
@queues_option
def dev(*, target: str | None, app: str | None, slots: int, queues: Queues) -> None:
    """Run a worker of APP, and restart it whenever a file of the app changes.

    Watches .py, .toml and .env files under the folder that the app is imported from. Jobs that a restart interrupts
    are given back and run again. A program that does not start waits for the change that repairs it. Ctrl-C ends it.
    """
    if target and app:
        raise click.UsageError("Name the app once: as the argument or with -A.")
    found = resolve(target or app)
    arguments = ["worker", str(found), "--processes", "1", "--slots", str(slots), "--grace", str(GRACE)]
    if queues:
        pairs = queues.items() if isinstance(queues, dict) else ((queue, None) for queue in queues)
        arguments += ["--queues", ",".join(queue if share is None else f"{queue}={share}" for queue, share in pairs)]
    reload(found.root, [sys.executable, "-m", "later.cli.main", *arguments])


def reload(root: Path, command: Sequence[str]) -> None:
    """Keep `command` running, anew after each change under `root`, until SIGINT, SIGTERM or SIGHUP."""
    with _Asked() as asked, _Worker(command, asked) as worker:
        _say(f"watching {root}; Ctrl-C ends")
        worker.start()
        for changes in watchfiles.watch(
            root,
            watch_filter=lambda _, path: concerns(root, path),
            step=LOOK,
            rust_timeout=LOOK,
            yield_on_timeout=True,
            stop_event=asked.once,
            ignore_permission_denied=True,
        ):
            if changes:
                _say(f"{_named(root, changes)} changed: restarting")
                worker.stop()
                worker.start()
            else:
                worker.check()
        _say("stopping")


def concerns(root: Path, path: str) -> bool:
    """Whether a change of the file `path` can change what the app under `root` does."""
    *folders, name = Path(path).relative_to(root).parts
    if any(folder.startswith(".") or folder in IGNORED for folder in folders):
        return False
    # Editors keep their locks and copies beside the file, under names that begin with a dot.
    return name == ".env" or (name.endswith(WATCHED) and not name.startswith("."))


class _Asked:
    """Counts the signals that ask to end: Ctrl-C, SIGTERM, and SIGHUP when the terminal is closed."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.once = threading.Event()
        self.times = 0

    def __enter__(self) -> Self:
        self._before = [(number, signal.signal(number, self._count)) for number in self._SIGNALS]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    def _count(self, _number: int, _frame: FrameType | None) -> None:
        self.times += 1
        self.once.set()


class _Worker:
    """The worker process. It has a process group of its own, so that Ctrl-C reaches it once, and through us."""

    def __init__(self, command: Sequence[str], asked: _Asked) -> None:
        self._command = command
        self._asked = asked
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, process_group=0)

    def check(self) -> None:
        """Tell it when the worker has ended by itself; nothing is started until the next change."""
        if self._process is not None and (code := self._process.poll()) is not None:
            self._process = None
            how = f"was killed by {_signal(-code)}" if code < 0 else f"ended with code {code}"
            _say(f"the worker {how}; waiting for a change")

    def stop(self) -> None:
        """Ask, ask again, kill: a worker that hangs must not keep the new code from running. Whoever presses Ctrl-C
        once more does not want to wait for the next step."""
        process, self._process = self._process, None
        if process is None:
            return
        for ask, patience in ((process.terminate, GRACE + HURRY), (process.terminate, HURRY), (process.kill, HURRY)):
            ask()
            times, until = self._asked.times, time.monotonic() + patience
            while self._asked.times == times and time.monotonic() < until:
                try:
                    process.wait(LOOK / 1000)
                except subprocess.TimeoutExpired:
                    continue
                return


def _named(root: Path, changes: set[Any]) -> str:
    first, *others = sorted(os.path.relpath(path, root) for _, path in changes)
    return clean(first) + (f" and {len(others)} more" if others else "")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _say(text: str) -> None:
    notice(f"{datetime.now().astimezone():%H:%M:%S}", f"later dev: {text}")
