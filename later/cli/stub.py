"""`later stub`: what type checkers are to know about a module with a declaration."""

import ast
import sys
import tokenize
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

import click

from later import ConfigError
from later.cli.output import clean
from later.cli.stubbing import stub_of

HEADER: Final = "# Made by `later stub`. Do not edit: change the module, then run it again."


@click.command()
@click.argument("module", metavar="MODULE_OR_FILE")
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 when the stub is missing or out of date.")
@click.option("-o", "--output", metavar="FILE", help="Write to this file; - is the standard output.")
def stub(*, module: str, check: bool, output: str | None) -> None:
    """Write the type stub of a module with a @background_job declaration.

    The stub (jobs.pyi beside jobs.py) gives the JobsBuilder of that module a method with_<name>_handler for every
    job type, with the type of its payload, and an enqueue that takes the declared payloads only. Import JobsBuilder
    from that module to use it. The module is read, never run.
    """
    source = _source_of(module)
    text = f"{HEADER}\n{stub_of(_parse(source), str(source))}\n"
    target = source.with_suffix(".pyi") if output is None else Path(output)
    if check:
        if output == "-":
            raise click.UsageError("--check compares with a file.")
        _check(target, text, module)
    elif output == "-":
        click.echo(text, nl=False)
    else:
        _write(target, text)


def _check(target: Path, text: str, module: str) -> None:
    if not target.is_file():
        raise ConfigError(f"{target} is missing: run `later stub {module}`")
    if not _same(target, text):
        raise ConfigError(f"{target} is out of date: run `later stub {module}`")
    click.echo(f"{clean(str(target))} is up to date.")


def _write(target: Path, text: str) -> None:
    try:
        if target.exists():
            if HEADER not in target.read_text(encoding="utf-8"):
                raise ConfigError(f"{target} was not made by `later stub`: move it away, or choose another --output")
            if _same(target, text):
                click.echo(f"{clean(str(target))} is up to date.")
                return
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    click.echo(f"{clean(str(target))} written.")


def _same(target: Path, text: str) -> bool:
    """Whether the file says what `text` says. Its layout does not count: a formatter may have been over it, and the
    version of Python that wrote it may have laid it out otherwise."""
    try:
        return ast.dump(ast.parse(target.read_bytes())) == ast.dump(ast.parse(text))
    except (SyntaxError, ValueError):
        return False


def _parse(source: Path) -> ast.Module:
    try:
        with tokenize.open(source) as file:
            return ast.parse(file.read(), str(source))
    except SyntaxError as error:
        raise ConfigError(f"{source}:{error.lineno}: SyntaxError: {error.msg}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source} cannot be read: {error}") from error


def _source_of(module: str) -> Path:
    """The file of the module, found along the import path as Python would, but without running its packages."""
    if module.endswith(".py") or "/" in module:
        return Path(module)
    places = [str(Path.cwd()), *sys.path]
    origin: str | None = None
    for name in module.split("."):
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            raise ConfigError(f"there is no module {module} in the working directory or along the import path")
        places, origin = list(spec.submodule_search_locations or []), spec.origin
    if origin is None or not origin.endswith(".py"):
        raise ConfigError(f"{module} has no Python source")
    path = Path(origin)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
