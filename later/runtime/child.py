"""A worker process, and the messages between it and its supervisor: JSON objects with one key."""

import json
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from later.core.engine.worker import CancelAsked, Event, Leased, StopAsked, WorkerSettings
from later.core.errors import LaterError
from later.core.troubles import pack
from later.runtime.board import Board
from later.runtime.log import log, show_log
from later.runtime.processes import obey_parent
from later.runtime.target import Target
from later.runtime.troubles import Troubles
from later.runtime.working import Working

TELL: Final = 1.0
"""Seconds between two looks at what the broker's connections have met; a beat, which tells it, comes more rarely."""


@dataclass(frozen=True, slots=True)
class ChildOptions:
    """What a supervisor tells a worker process when it starts it."""

    target: Target
    name: str
    board: Board
    queues: tuple[str, ...] | dict[str, int]
    slots: int
    grace: float


def send(connection: Connection, message: dict[str, object]) -> None:
    """Raises OSError when the other side is gone."""
    connection.send_bytes(json.dumps(message).encode())


def receive(connection: Connection) -> dict[str, Any]:
    """Raises EOFError or OSError when the other side is gone, ValueError for what `send` has not sent."""
    message: dict[str, Any] = json.loads(connection.recv_bytes())
    return message


def child_main(options: ChildOptions, connection: Connection) -> None:
    """The main function of a worker process; ends the process."""
    obey_parent()
    try:
        jobs = options.target.load()
        show_log()
        settings = WorkerSettings(
            options.queues,
            options.slots,
            options.grace,
            broker=jobs.broker() is not None,
            push=jobs.storage().capabilities.push,
            at_most_once=jobs.registry.at_most_once(),
        )
    except LaterError as error:
        show_log()
        log.error("a worker process cannot start: %s", error)
        os._exit(1)
    working = Working(jobs, settings, options.name, options.board)
    working.start()
    threading.Thread(target=_obey, args=(connection, working), name="later-supervised", daemon=True).start()
    send(connection, {"ready": True})
    _tell_troubles(connection, working, Troubles(jobs.broker()))
    if working.error is not None:
        os._exit(1)
    jobs.close()
    send(connection, {"left": True})
    # Handlers that ignored their interruption must not hold the process.
    os._exit(0)


def _tell_troubles(connection: Connection, working: Working, troubles: Troubles) -> None:
    """Until the worker has ended, and once more: what it meets on its way out counts as well."""
    told: object = pack(())
    ended = False
    while not ended:
        ended = working.join(TELL)
        found = pack(troubles.own())
        if found != told:
            with suppress(OSError):  # the supervisor is gone; `_obey` ends this process
                send(connection, {"troubles": found})
            told = found


def _obey(connection: Connection, working: Working) -> None:
    try:
        while True:
            event = _event(receive(connection))
            if event is not None:
                working.post(event)
    except (EOFError, OSError):
        pass  # the supervisor is gone, and with it the heartbeat: what runs here will be given to others
    except Exception:  # noqa: BLE001  a thread that ends without a word would leave the process to itself
        log.exception("a worker process ends because it does not understand its supervisor")
    os._exit(1)


def _event(message: dict[str, Any]) -> Event | None:
    match message:
        case {"leased": str(server)}:
            return Leased(server)
        case {"cancel": claims}:
            return CancelAsked([(job_id, epoch) for job_id, epoch in claims])
        case {"stop": bool(hurry)}:
            return StopAsked(hurry)
        case _:
            return None
