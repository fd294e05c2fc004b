"""The `later` command: the list of its commands, and what happens with an error.

A command's module is imported when the command runs or shows its own help, so that `later --help` is quick.
"""

import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import click

from later.cli.options import APP_HELP


class _Lazy(NamedTuple):
    module: str
    help: str


COMMANDS: Final = {
    "worker": _Lazy("later.cli.worker", "Run the jobs of an app, in one or more processes."),
    "dev": _Lazy("later.cli.dev", "Run a worker that restarts when the code changes."),
    "status": _Lazy("later.cli.status", "Show servers, and jobs by queue and state."),
    "jobs": _Lazy("later.cli.jobs", "List, show, requeue and delete jobs."),
    "recurring": _Lazy("later.cli.recurring", "See, run, pause and remove recurring jobs."),
    "stub": _Lazy("later.cli.stub", "Write the type stub of a module with a declaration."),
    "backends": _Lazy("later.cli.backends", "List the installed storages and brokers."),
}
"""Name, module and one line of help. The module holds the command under the command's name."""


class LaterGroup(click.Group):
    """Imports commands late, and turns errors into one line on the standard error and the exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click passes it by this name
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  as above
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name].module), cmd_name)
        assert isinstance(command, click.Command)
        _also_h(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  as above
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            raise click.exceptions.Exit(0) from None  # whoever read the output, such as `head`, has seen enough
        except Exception as error:
            raise _Failure(error) from error


def _also_h(command: click.Command) -> None:
    # click keeps the help option that a command showed first, so what its parent says is not always asked for.
    command.context_settings.setdefault("help_option_names", ["-h", "--help"])
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _also_h(inner)


class _Failure(click.ClickException):
    """An error that ends the command, told in one line."""

    def __init__(self, error: Exception) -> None:
        from later import LaterError
        from later.cli.output import line

        told = str(error)
        if not isinstance(error, LaterError):
            told = f"unexpected {type(error).__name__}: {error} (LATER_DEBUG=1 shows where)"
        super().__init__(line(told, 2000))

    def show(self, file: Any = None) -> None:
        if os.environ.get("LATER_DEBUG", "0") not in {"", "0"} and self.__cause__ is not None:
            traceback.print_exception(self.__cause__)
        else:
            super().show(file)


@click.group(cls=LaterGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-A", "--app", metavar="APP", help=APP_HELP)
@click.version_option(package_name="later-jobs", prog_name="later", message="%(prog)s %(version)s")
def later(app: str | None) -> None:
    """Background jobs: run them, see them, repair them.

    APP is where the app is: a module and the name in it (shop.tasks:jobs), or a file (app.py, app.py:jobs). With
    the module or file alone, its only app is used.

    LATER_DEBUG=1 shows the traceback of an error.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point. Exit codes: 0 done; 1 it went wrong, one line on the standard error says why; 2 it was called
    wrongly."""
    for stream in (sys.stdout, sys.stderr):
        # Somewhere in a job's text is a character that the terminal's encoding lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        later.main(args=None if arguments is None else list(arguments), prog_name="later")
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still to be written cannot be, and Python would complain at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
