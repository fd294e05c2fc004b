"""What the slots of a worker process run, in memory shared with its supervisor.

The supervisor reads it after the process has died, to tell the jobs that had started, which may have killed it, from
those that had only been claimed. A write costs no system call and survives a `kill -9`.
"""

import ctypes
import struct
from multiprocessing.sharedctypes import RawArray
from typing import Final

from later.core.engine.worker import Key
from later.core.names import NAME_LIMIT, check_name

_RECORD: Final = struct.Struct("<?Bq100s")
"""taken, length of the id, epoch, id: an id has at most 100 ASCII characters."""
_SIZE: Final = _RECORD.size


class Board:
    """A record for each of `slots` slots. One process writes; its supervisor, which has made the board, reads.

    Can be handed to a process as an argument of it. Leaves nothing behind, however the processes end.
    """

    def __init__(self, slots: int) -> None:
        self._memory = RawArray(ctypes.c_char, _SIZE * slots)

    def started(self, slot: int, key: Key) -> None:
        """Raises InvalidName for an id that no storage should give."""
        id, epoch = key
        if len(id) > NAME_LIMIT or not id.isascii():
            check_name("id", id)
        memory, at = self._memory, slot * _SIZE
        _RECORD.pack_into(memory, at, False, len(id), epoch, id.encode("ascii"))
        memory[at] = b"\1"  # last: a record is whole before it counts

    def ended(self, slot: int) -> None:
        self._memory[slot * _SIZE] = b"\0"

    def running(self) -> list[Key]:
        return [
            (name[:length].decode("ascii"), epoch)
            for taken, length, epoch, name in _RECORD.iter_unpack(self._memory)
            if taken
        ]
