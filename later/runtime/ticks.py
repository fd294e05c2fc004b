"""Times as the storage counts them, for people; and the time of a recurring job that a job is for."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from later.core.envelope import unseal
from later.core.errors import Corrupt
from later.core.records import Micros

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Tick(NamedTuple):
    """One time of a recurring job."""

    id: str
    """Of the recurring job."""
    due: datetime
    """When the job was due (UTC), without jitter and however late it runs; when it was triggered by hand: then."""


def tick_of(stored: bytes) -> Tick | None:
    """The time that a stored payload is for. Raises Corrupt."""
    tick: Any = unseal(stored).headers.get("recurring")
    if tick is None:
        return None
    try:
        schedule, due = tick
        return Tick(str(schedule), to_datetime(due))
    except (TypeError, ValueError, OverflowError):
        raise Corrupt("a stored payload does not tell its recurring job as `later` writes it") from None


def to_datetime(at: Micros) -> datetime:
    # Through a timedelta, because fromtimestamp() goes through a float.
    return _EPOCH + timedelta(microseconds=at)
