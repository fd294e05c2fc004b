"""What a broker's message says. For every broker whose messages are bytes, built in or not.

A body is JSON, for people who look at it and for programs in other languages:

    {"v":1,"ns":"shop","id":"0192...","e":1,"p":0}

v: version of this format; ns: namespace; id and e: the job and its epoch; p: priority. The queue is not in it: it is
where the message was found. The payload stays in the storage.
"""

import json
from typing import Any, Final, cast

from later.core.errors import InvalidName
from later.core.names import check_name
from later.core.records import Ref

VERSION: Final = 1
LONGEST: Final = 512
"""Bytes of a body: twice what two names of 100 bytes and two numbers need."""

_TOP_EPOCH: Final = 2**63 - 1
_TOP_PRIORITY: Final = 9

_LACKING: Final = "it lacks what a message of later has"


class ForeignMessage(Exception):
    """Not a message of ours, or not one that this version can read."""


def encode(namespace: str, ref: Ref) -> bytes:
    """The body of the message that carries `ref`: at most `LONGEST` bytes of ASCII."""
    # Names hold nothing that JSON escapes.
    return b'{"v":1,"ns":"%b","id":"%b","e":%d,"p":%d}' % (
        namespace.encode(),
        ref.id.encode(),
        ref.epoch,
        ref.priority,
    )


def decode(namespace: str, queue: str, body: bytes) -> Ref:
    """The reference in a message from `queue`. Raises ForeignMessage, which says why in a few words and quotes nothing
    of the message."""
    if len(body) > LONGEST:
        raise ForeignMessage(f"it is longer than {LONGEST} bytes")
    try:
        content: Any = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise ForeignMessage("it is not JSON") from None
    if not isinstance(content, dict):
        raise ForeignMessage(_LACKING)
    fields = cast("dict[str, object]", content)
    match fields:
        case {"v": version} if version is True or version != VERSION:
            raise ForeignMessage("it is of another version of later")
        case {"v": _, "ns": other} if other != namespace:
            raise ForeignMessage("it is of another app")
        case {"v": _, "ns": _, "id": str(job_id), "e": int(epoch), "p": int(priority)}:
            return _checked(Ref(job_id, epoch, queue, priority))
        case _:
            raise ForeignMessage(_LACKING)


def _checked(ref: Ref) -> Ref:
    try:
        check_name("id", ref.id)
    except InvalidName:
        raise ForeignMessage("its id is not one of later's") from None
    # A JSON true is an int to Python.
    if isinstance(ref.epoch, bool) or isinstance(ref.priority, bool):
        raise ForeignMessage("it holds a true or false in place of a number")
    if not (0 <= ref.epoch <= _TOP_EPOCH and 0 <= ref.priority <= _TOP_PRIORITY):
        raise ForeignMessage("a number in it is out of range")
    return ref
