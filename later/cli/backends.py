"""`later backends`: what is installed to keep and to carry jobs."""

import click
from rich.text import Text

from later.cli.options import json_option
from later.cli.output import Column, bold, clean, line, table, write, write_json
from later.runtime.plugins import installed_backends


@click.command()
@json_option
def backends(*, as_json: bool) -> None:
    """List the installed storages and brokers by the scheme of their URLs, and whether they load.

    Imports each of them; opens no connection.
    """
    found = installed_backends()
    if as_json:
        write_json(
            {
                "backends": [
                    {
                        "scheme": backend.scheme,
                        "distribution": backend.distribution,
                        "version": backend.version,
                        "loads": backend.error is None,
                        "error": backend.error,
                    }
                    for backend in found
                ]
            }
        )
        return
    table(
        [Column("SCHEME"), Column("DISTRIBUTION"), Column("VERSION"), Column("STATUS")],
        [
            [
                clean(backend.scheme),
                clean(backend.distribution),
                clean(backend.version),
                Text("loads", "green") if backend.error is None else Text("broken", "bold red"),
            ]
            for backend in found
        ],
    )
    for backend in found:
        if backend.error is not None:
            write()
            write(bold(f"{clean(backend.scheme)}: "), line(backend.error, 2000))
