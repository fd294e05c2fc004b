"""`later backends`: what is installed to keep and to carry jobs."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

import click
from rich.text import Text

from later.cli.options import json_option
from later.cli.output import Column, bold, clean, line, table, write, write_json
from later.core.ports import BrokerCapabilities, StorageCapabilities
from later.runtime.plugins import DISTRIBUTION, InstalledBackend, installed_backends

_SHORT: Final = {"shared_between_hosts": "hosts"}
"""So that the table fits into 80 columns."""


@click.command()
@json_option
def backends(*, as_json: bool) -> None:
    """List the installed storages and brokers by the scheme of their URLs, what each can do as far as its plugin says,
    and whether it loads. What a pip extra of later would bring is "not installed"; the commands that install it stand
    below.

    Imports each of them; opens no connection. A URL may have options that change what its backend can do.

    Capabilities: "durable" survives a crash; "shared" is seen by other processes, "hosts", which is told of storages
    alone, by those of other hosts too; "push" needs no polling; "transactional" can enqueue in the caller's
    transaction; "priority" is kept. "?" means that the plugin does not say.
    """
    found = installed_backends()
    if as_json:
        write_json({"backends": [_document(backend) for backend in found]})
        return
    table(
        [
            Column("SCHEME"),
            Column("KIND"),
            Column("CAPABILITIES", wraps=True),
            Column("DISTRIBUTION", shrinks=True),
            Column("VERSION"),
            Column("STATUS"),
        ],
        [
            [
                clean(backend.scheme),
                kind,
                _words(capabilities),
                clean(backend.distribution),
                clean(backend.version),
                _status(backend),
            ]
            for backend in found
            for kind, capabilities in _kinds(backend)
        ],
    )
    missing = sorted({backend.extra for backend in found if backend.extra is not None})
    if missing:
        write()
    for extra in missing:
        schemes = ", ".join(backend.scheme for backend in found if backend.extra == extra)
        write(bold(f'pip install "{DISTRIBUTION}[{extra}]"'), f" installs what {clean(schemes)} needs")
    for backend in found:
        if backend.error is not None and backend.extra is None:
            write()
            write(bold(f"{clean(backend.scheme)}: "), line(backend.error, 2000))


def _status(backend: InstalledBackend) -> Text:
    if backend.extra is not None:
        return Text("not installed", "dim")
    return Text("loads", "green") if backend.error is None else Text("broken", "bold red")


def _kinds(backend: InstalledBackend) -> Iterator[tuple[str, StorageCapabilities | BrokerCapabilities | None]]:
    if backend.storage:
        yield "storage", backend.storage_capabilities
    if backend.broker:
        yield "broker", backend.broker_capabilities
    if not (backend.storage or backend.broker):
        yield "?", None


def _words(capabilities: StorageCapabilities | BrokerCapabilities | None) -> str:
    if capabilities is None:
        return "?"
    names = [name for name, has in asdict(capabilities).items() if has]
    if "shared_between_hosts" in names:
        names.remove("shared")  # which it says, too
    return ", ".join(_SHORT.get(name, name) for name in names) or "none"


def _document(backend: InstalledBackend) -> dict[str, object]:
    return {
        "scheme": backend.scheme,
        "distribution": backend.distribution,
        "version": backend.version,
        "loads": backend.error is None,
        "error": backend.error,
        "extra": backend.extra,
        "storage": _part(backend.storage, backend.storage_capabilities),
        "broker": _part(backend.broker, backend.broker_capabilities),
    }


def _part(offered: bool, capabilities: StorageCapabilities | BrokerCapabilities | None) -> dict[str, object] | None:
    """None: there is none. Capabilities that its plugin does not tell are null."""
    if not offered:
        return None
    return {"capabilities": None if capabilities is None else asdict(capabilities)}
