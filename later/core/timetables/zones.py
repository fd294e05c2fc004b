"""Time zones as stretches of constant distance from UTC.

Instants are whole seconds since the Unix epoch, wall times whole seconds since 1970-01-01 00:00 by the wall clock:
within a segment the two differ by its offset.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from later.core.errors import InvalidSchedule, UnknownZone
from later.core.timetables.cron import shown

DAY: Final = 86_400
NEAR: Final = 3 * DAY
"""No change of a clock is felt longer than this: an offset is less than a day each way. And no zone of the database has
two changes within it, so that one day holds one at most; the nearest are 95 hours apart (Freetown in 1939)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*")
_NO_ZONES = frozenset({"Factory", "leapseconds", "localtime", "posixrules"})
"""Files among the zones that are none, or another one on each machine."""


class Segment(NamedTuple):
    """A stretch of time in which a zone's offset does not change. It may begin or end where nothing changes, as long as
    that is `NEAR` away from the instant that was asked for."""

    start: int
    end: int
    """The first instant that is no longer part of it."""
    offset: int
    before: int
    """The offset just before `start`; the same as `offset` where nothing changes."""
    seen: tuple[tuple[int, int], ...]
    """Wall times (from, until) that the clock shows again, having shown them just before `start`."""


class Change(NamedTuple):
    at: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Zone:
    """A time zone by its name in the IANA database, such as `Europe/Berlin`. `UTC` needs no database.

    Raises InvalidSchedule, UnknownZone.
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InvalidSchedule(f"time zone {shown(self.name)} is not a text: use a name such as 'Europe/Berlin'")
        _load(self.name)

    @property
    def info(self) -> tzinfo:
        return _load(self.name)

    def offset(self, instant: int) -> int:
        """Seconds by which the wall clock is ahead of UTC."""
        return _offset(_load(self.name), instant)

    def segment(self, instant: int) -> Segment:
        """The segment that holds `instant`."""
        year = _year(instant)
        changes = [change for near in (year - 1, year, year + 1) for change in _changes(self.name, near)]
        end = next((change.at for change in changes if change.at > instant), _first_of(year + 2))
        past = [change for change in changes if instant - NEAR < change.at <= instant]
        if not past:
            return Segment(instant - NEAR, end, offset := self.offset(instant), offset, ())
        start, before, offset = past[-1]
        shows = (start + offset, end + offset)
        seen = _common((start - NEAR + before, start + before), shows)
        return Segment(start, end, offset, before, seen)


def _common(one: tuple[int, int], other: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    low, high = max(one[0], other[0]), min(one[1], other[1])
    return ((low, high),) if low < high else ()


@lru_cache(maxsize=4096)
def _changes(name: str, year: int) -> tuple[Change, ...]:
    """The changes of the zone's offset in `year` (UTC), found by looking at each day: about half a millisecond."""
    zone = _load(name)
    if zone is UTC:
        return ()
    found: list[Change] = []
    known = _first_of(year) - 1
    before = _offset(zone, known)
    end = _first_of(year + 1)
    while known < end - 1:
        later = min(known + DAY, end - 1)
        after = _offset(zone, later)
        if after != before:
            low, high = known, later
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
            found.append(Change(high, before, after))
        known, before = later, after
    return tuple(found)


def _offset(zone: tzinfo, instant: int) -> int:
    offset = (_EPOCH + timedelta(seconds=instant)).astimezone(zone).utcoffset()
    assert offset is not None
    return offset // timedelta(seconds=1)


def _year(instant: int) -> int:
    return (_EPOCH + timedelta(seconds=instant)).year


def _first_of(year: int) -> int:
    return (datetime(year, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)


@lru_cache(maxsize=1024)
def _load(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    known = len(name) <= 100 and _NAME.fullmatch(name) and name not in _NO_ZONES
    if known and not name.startswith(("posix/", "right/")):
        try:
            return ZoneInfo(name)
        except (LookupError, OSError, ValueError):
            pass  # no such file, a folder, or a file without a zone in it
    raise UnknownZone(f"time zone {shown(name)} is not known{_advice(name[:100])}")


def _advice(name: str) -> str:
    from difflib import get_close_matches

    names = sorted(available_timezones())
    if not names:
        return (
            ": this machine has no time zone database. Install your system's package of it (often called tzdata), "
            "or `pip install tzdata`"
        )
    wanted = name.replace(" ", "_").casefold()
    near = [known for known in names if wanted in {known.casefold(), known.rpartition("/")[2].casefold()}]
    near += get_close_matches(name, names, n=3, cutoff=0.7)
    near = list(dict.fromkeys(near))[:3]
    if not near:
        return ": use a name of the IANA database such as 'Europe/Berlin'"
    return "; did you mean " + " or ".join(repr(one) for one in near) + "?"
