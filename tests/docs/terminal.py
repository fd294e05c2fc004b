"""A bash session for one page of the documentation, and a comparison of its output with what it shows."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

TIMEOUT_SECONDS = 60.0
_MARK = "--- end of the command, status"
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_VARIES = re.compile(
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)?"  # a moment
    r"|\d\d:\d\d:\d\d(?:[.,]\d+)?"  # a time of day
    r"|\b\d+(?:\.\d+)? ?(?:ms|s)\b"  # a duration
    r"|(?<=pid )\d+"
)
_ENDED = re.compile(r"bash: line \d+: +\d+ (?:Killed|Terminated) ")
_RULES = re.compile(r"[\s─━═┏┓┗┛┡┩╇┳┻┴┬└┘├┤┼╭╮╰╯╶╴-]{3,}")


class Terminal:
    """Commands run one after the other in one shell with job control, so that `cd`, `export`, `&` and
    `kill %1` work as at a terminal. At the end everything that still runs in it is killed."""

    def __init__(self, directory: Path, environment: dict[str, str] | None = None) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LATER_", "DEMO_"))}
        programs = Path(sys.executable).parent
        inherited |= {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "100",
            "LC_ALL": "C.UTF-8",
        }
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env=inherited | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.run("set -m")

    def run(self, command: str) -> tuple[list[str], int]:
        """The command's output and status. Background jobs write to the same terminal."""
        assert self._shell.stdin is not None
        script = f"{{ {command}\n}} </dev/null\nprintf '\\n{_MARK} %d\\n' $?\n"
        self._shell.stdin.write(script.encode())
        self._shell.stdin.flush()
        return self._read_to_mark(command)

    def _read_to_mark(self, command: str) -> tuple[list[str], int]:
        assert self._shell.stdout is not None
        deadline = time.monotonic() + TIMEOUT_SECONDS
        seen = b""
        while True:
            text = seen.decode(errors="replace")
            found = re.search(rf"\n?^{_MARK} (\d+)$", text, re.MULTILINE)
            if found:
                return text[: found.start()].splitlines(), int(found[1])
            ready, _, _ = select.select([self._shell.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"`{command}` did not end within {TIMEOUT_SECONDS:.0f} s. So far:\n{text}")
            chunk = os.read(self._shell.stdout.fileno(), 65536)
            if not chunk:
                raise EOFError(f"`{command}` ended the shell. So far:\n{text}")
            seen += chunk

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        try:
            self._shell.stdin.write(b'for group in $(jobs -p); do kill -9 -- "-$group"; done 2>/dev/null; exit\n')
            self._shell.stdin.close()
            self._shell.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            os.killpg(self._shell.pid, signal.SIGKILL)
            self._shell.wait()
        self._shell.stdout.close()


class Comparison:
    """Compares output with what a page shows: white space, times, durations, pids and lines of tables may
    differ, ids must only be used consistently, `...` stands for anything (alone on a line: any lines)."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def translate(self, command: str) -> str:
        """The command with the ids that the page shows replaced by those seen in this run."""
        return _ID.sub(lambda found: self._ids.get(found[0], found[0]), command)

    def same(self, shown: list[str], seen: list[str]) -> bool:
        shown = [line for line in map(_plain, shown) if line]
        seen = [line for line in map(_plain, seen) if line]
        ids = dict(self._ids)
        if not _lines_match(shown, seen, ids):
            return False
        self._ids = ids
        return True


def _plain(line: str) -> str:
    if _ENDED.match(line):
        return ""  # the shell tells of a background job when it likes
    line = _VARIES.sub("<varies>", line)
    line = _RULES.sub(" ", line.replace("│", " ").replace("┃", " "))
    return " ".join(line.split())


def _lines_match(shown: list[str], seen: list[str], ids: dict[str, str]) -> bool:
    if not shown:
        return not seen
    if shown[0] == "...":
        return any(_lines_match(shown[1:], seen[skip:], ids) for skip in range(len(seen) + 1))
    if not seen:
        return False
    before = dict(ids)
    if _line_matches(shown[0], seen[0], ids) and _lines_match(shown[1:], seen[1:], ids):
        return True
    ids.clear()
    ids.update(before)
    return False


def _line_matches(shown: str, seen: str, ids: dict[str, str]) -> bool:
    pieces = re.split(rf"({_ID.pattern}|\.\.\.)", shown)
    pattern = "".join(
        ".*" if piece == "..." else f"({_ID.pattern})" if _ID.fullmatch(piece) else re.escape(piece) for piece in pieces
    )
    found = re.fullmatch(pattern, seen)
    if found is None:
        return False
    for shown_id, seen_id in zip(filter(_ID.fullmatch, pieces), found.groups(), strict=True):
        if ids.setdefault(shown_id, seen_id) != seen_id:
            return False
    return True
