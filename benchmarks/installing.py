"""Environments of their own for the systems, under `.bench/environments`: made at first use, and anew when what they
are made from has changed."""

import compileall
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tests.support.servers import MissingProgramError, program

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / ".bench"
_FILES: Final = ROOT / "benchmarks" / "environments"
_STAMP: Final = ".made-from"


class InstallError(Exception):
    """A system cannot be installed here. The text says why."""


@dataclass(frozen=True)
class Place:
    """Where an environment is: its interpreter, the folder of its programs, and variables that its programs need."""

    python: Path
    programs: Path
    variables: Mapping[str, str]
    versions: Mapping[str, str]


class Environment(Protocol):
    def make(self) -> Place:
        """Install what is missing. Raises InstallError, MissingProgramError."""
        ...


def _python_place(folder: Path, versions: Mapping[str, str]) -> Place:
    return Place(folder / "python", folder, {}, versions)


@dataclass(frozen=True)
class Own:
    """The project's own environment."""

    def make(self) -> Place:
        # As pip does with what it installs, here and below: compiling takes longer than the rest of an import, and
        # leaves its mark on the memory of a process.
        compileall.compile_dir(ROOT / "later", quiet=1)
        return _python_place(Path(sys.executable).parent, {})


@dataclass(frozen=True)
class Pinned:
    """Python packages, pinned in `environments/NAME.txt`. `shown`: those whose versions the page tells."""

    name: str
    shown: tuple[str, ...]

    def make(self) -> Place:
        pinned = _FILES / f"{self.name}.txt"
        folder = FOLDER / "environments" / self.name
        uv = Path(sys.executable).with_name("uv")
        with _Stamp(folder, pinned) as fresh:
            if not fresh:
                _run([str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
                python = str(folder / "bin" / "python")
                install = (str(uv), "pip", "install", "--quiet", "--no-deps", "--compile-bytecode")
                _run([*install, "--python", python, "-r", str(pinned)])
        versions = dict(
            line.split(" ")[0].split("==", 1) for line in pinned.read_text().splitlines() if "==" in line.split(" ")[0]
        )
        return _python_place(folder / "bin", {name: versions[name] for name in self.shown})


@dataclass(frozen=True)
class Node:
    """npm packages, locked in `environments/NAME/package-lock.json`."""

    name: str
    shown: tuple[str, ...]

    def make(self) -> Place:
        node = program("node", "nodejs")
        npm = program("npm", "npm")
        folder = FOLDER / "environments" / self.name
        lock = _FILES / self.name / "package-lock.json"
        with _Stamp(folder, lock) as fresh:
            if not fresh:
                shutil.copytree(_FILES / self.name, folder, dirs_exist_ok=True)
                _run([str(npm), "ci", "--silent", "--no-audit", "--no-fund"], folder)
        versions = {name: _package_version(folder / "node_modules" / name) for name in self.shown}
        versions["Node.js"] = _told([str(node), "--version"]).lstrip("v")
        return Place(Path(sys.executable), node.parent, {"NODE_PATH": str(folder / "node_modules")}, versions)


def _package_version(package: Path) -> str:
    import json

    return str(json.loads((package / "package.json").read_text())["version"])


@dataclass(frozen=True)
class Debian:
    """A program of a Debian package."""

    program: str
    package: str

    def make(self) -> Place:
        found = program(self.program, self.package)
        return Place(Path(sys.executable), found.parent, {}, {self.package: _debian_version(self.package)})


def _debian_version(package: str) -> str:
    return _told(["dpkg-query", "-W", "-f", "${Version}", package])


def _told(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class _Stamp:
    """Tells whether a folder was made from the file as it is now, and remembers at the end of the block that it was."""

    def __init__(self, folder: Path, source: Path) -> None:
        self._folder = folder
        self._stamp = folder / _STAMP
        self._digest = hashlib.sha256(source.read_bytes()).hexdigest()

    def __enter__(self) -> bool:
        fresh = self._stamp.exists() and self._stamp.read_text() == self._digest
        if not fresh:
            self._stamp.unlink(missing_ok=True)
        return fresh

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self._stamp.write_text(self._digest)


def _run(command: Sequence[str], folder: Path | None = None) -> None:
    done = subprocess.run(
        command, cwd=folder, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=os.environ
    )
    if done.returncode:
        raise InstallError(f"{Path(command[0]).name} ended with {done.returncode}: {done.stderr.strip()[-500:]}")


def made(environment: Environment) -> Place:
    """As `make`, with one kind of error. Raises InstallError."""
    try:
        return environment.make()
    except MissingProgramError as missing:
        raise InstallError(str(missing)) from missing
