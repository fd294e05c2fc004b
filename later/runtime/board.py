"""What the slots of a worker process run, in memory shared with its supervisor.

The supervisor reads it after the process has died, to tell the jobs that had started, which may have killed it, from
those that had only been claimed. A write costs no system call and survives a `kill -9`.
"""

import ctypes
import struct
from multiprocessing.sharedctypes import RawArray
from typing import Final

from later.core.engine.worker import Key
from later.core.names import check_name

_RECORD: Final = struct.Struct("<?Bq100s")
"""taken, length of the id, epoch, id: an id has at most 100 ASCII characters."""


class Board:
    """A record for each of `slots` slots. One process writes; its supervisor, which has made the board, reads.

    Can be handed to a process as an argument of it. Leaves nothing behind, however the processes end.
    """

    def __init__(self, slots: int) -> None:
        self._memory = RawArray(ctypes.c_char, _RECORD.size * slots)

    def started(self, slot: int, key: Key) -> None:
        """Raises InvalidName for an id that no storage should give."""
        name = check_name("id", key[0]).encode("ascii")
        at = slot * _RECORD.size
        _RECORD.pack_into(self._memory, at, False, len(name), key[1], name)
        self._memory[at] = b"\1"  # last: a record is whole before it counts

    def ended(self, slot: int) -> None:
        self._memory[slot * _RECORD.size] = b"\0"

    def running(self) -> list[Key]:
        return [
            (name[:length].decode("ascii"), epoch)
            for taken, length, epoch, name in _RECORD.iter_unpack(self._memory)
            if taken
        ]
