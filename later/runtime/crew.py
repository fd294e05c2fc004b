"""A worker process, as its supervisor sees it."""

import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from later.core.engine.worker import Key
from later.core.ports import BrokerTrouble
from later.core.troubles import unpack
from later.runtime.board import Board
from later.runtime.child import ChildOptions, child_main, receive, send
from later.runtime.loop import Lane
from later.runtime.processes import spawn
from later.runtime.target import Target

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess


class WorkerProcess:
    """Started by the constructor. Used by one thread."""

    def __init__(
        self,
        index: int,
        name: str,
        target: Target,
        queues: tuple[str, ...] | dict[str, int],
        slots: int,
        grace: float,
    ) -> None:
        self.index = index
        """Which of the server's processes it is; its successors have the same."""
        self.name = name
        self.ready = False
        """It has imported the app and opened its backends."""
        self.left = False
        """It has ended in order: it holds no claim."""
        self.given_up = False
        """Killed because the lease was lost: its claims are nobody's already."""
        self.troubles: tuple[BrokerTrouble, ...] = ()
        """What its broker connections have met, as it has told last."""
        self._started_at = time.monotonic()
        self._board = Board(slots)
        options = ChildOptions(target, name, self._board, queues, slots, grace)
        self._process: SpawnProcess
        self._process, self._connection = spawn(f"later-worker-{name}", child_main, options)
        # A process whose handler holds the GIL does not read, and must not make the supervisor wait.
        self._outbox = Lane(f"later-tell-{name}")

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def exitcode(self) -> int | None:
        return self._process.exitcode

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started_at

    @property
    def news(self) -> list[int | Connection]:
        """What becomes readable when `read` has something to do, or the process has died."""
        return [self._process.sentinel] if self.left else [self._process.sentinel, self._connection]

    def leased(self, server: str) -> None:
        self._tell({"leased": server})

    def cancel(self, claims: Sequence[Key]) -> None:
        # They are told again with each beat, and must not pile up before a process that does not read.
        if not self._outbox.behind:
            self._tell({"cancel": claims})

    def stop(self, *, hurry: bool) -> None:
        self._tell({"stop": hurry})

    def read(self) -> None:
        """Take in what the process has said; does not block while it lives."""
        try:
            while not self.left and self._connection.poll():
                message = receive(self._connection)
                self.ready |= "ready" in message
                self.left |= "left" in message
                if "troubles" in message:
                    self.troubles = unpack(message["troubles"])
        except (EOFError, OSError, ValueError):
            # It is dying. If not, nobody can tell it anything any more.
            self._process.join(1.0)
            self._process.kill()

    def kill(self) -> None:
        self._process.kill()

    def running(self) -> list[Key]:
        """After its death: the claims whose handlers had started and not ended."""
        return self._board.running()

    def clear_away(self) -> None:
        """After its death."""
        self._process.join()
        self._outbox.close()
        self._outbox.join(1.0)
        self._connection.close()

    def _tell(self, message: dict[str, object]) -> None:
        self._outbox.submit(lambda: self._send(message))

    def _send(self, message: dict[str, object]) -> None:
        with suppress(OSError):  # it has died; its sentinel tells
            send(self._connection, message)
