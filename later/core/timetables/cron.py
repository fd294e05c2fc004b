"""Cron expressions: which are accepted, and which wall times they name.

What an expression means is left to cronsim, which follows Debian's cron. This module refuses what cronsim would take
in a sense that nobody means, and says what is wrong with what cronsim refuses. cronsim never sees a zone: it is given
plain wall times, and `timetable` does the rest.

Wall times are whole seconds since 1970-01-01 00:00 by the wall clock.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from later.core.errors import InvalidSchedule

if TYPE_CHECKING:
    from cronsim import CronSim

LONGEST: Final = 500
"""Characters of an expression. Each field written out as a list of all its values has less."""

MACROS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001  a wall time has no zone
_SECOND = timedelta(seconds=1)

_FIELDS: Final = (
    ("second", 60, "0 to 59"),
    ("minute", 60, "0 to 59"),
    ("hour", 24, "0 to 23"),
    ("day of month", 31, "1 to 31, L (the last day) or LW (the last one of Monday to Friday)"),
    ("month", 12, "1 to 12 or JAN to DEC"),
    (
        "day of week",
        7,
        "0 to 7 (0 and 7 are Sunday) or SUN to SAT, 5L (the last Friday of the month) or 5#2 (the second)",
    ),
)
"""Name, number of values, and how to write one."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression: five fields, six with the seconds first, or a macro such as `@daily`.

    `text` is kept with single blanks and in capitals (a macro in small letters), so that equal schedules compare equal.

    Raises InvalidSchedule.
    """

    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", _checked(self.text))

    @property
    def fields(self) -> tuple[str, ...]:
        """The six fields, seconds first."""
        fields = tuple(MACROS.get(self.text, self.text).split())
        return fields if len(fields) == len(_FIELDS) else ("0", *fields)

    @property
    def repeats(self) -> bool:
        """Whether it names an interval ("every five minutes") rather than points of the day ("at 2:30"): a star, a
        range or a step stands in the seconds, the minutes or the hours."""
        return any(sign in field for field in self.fields[:3] for sign in "*-/")


class Ahead:
    """The wall times that an expression names, onwards from any."""

    def __init__(self, cron: Cron) -> None:
        self._text = " ".join(cron.fields)
        self._from: int | None = None
        self._found: int | None = None
        self._times: Iterator[datetime] = iter(())

    def first(self, wall: int) -> int | None:
        """The first one not before `wall`; None when there is none within 50 years.

        Asking for one time after the other is much cheaper than asking anew.
        """
        if self._from is not None and self._from <= wall and (self._found is None or wall <= self._found):
            return self._found
        if self._found is None or wall != self._found + 1:
            self._times = _simulate(self._text, EPOCH + (wall - 1) * _SECOND)
        self._from = wall
        found = next(self._times, None)
        self._found = None if found is None else (found - EPOCH) // _SECOND
        return self._found


def last(cron: Cron, wall: int) -> int | None:
    """The last wall time named by `cron` that is not after `wall`; None when there is none within 50 years."""
    found = next(_simulate(" ".join(cron.fields), EPOCH + (wall + 1) * _SECOND, reverse=True), None)
    return None if found is None else (found - EPOCH) // _SECOND


def _simulate(text: str, wall: datetime, *, reverse: bool = False) -> "CronSim":
    # Imported here: most programs that import `later` never look at a cron expression.
    from cronsim import CronSim

    return CronSim(text, wall, reverse=reverse)


def _checked(text: object) -> str:
    if not isinstance(text, str):
        raise InvalidSchedule(f"cron {shown(text)} is not a text")
    if len(text) > LONGEST:
        raise InvalidSchedule(f"cron {shown(text)} has {len(text)} characters; the most are {LONGEST}")
    odd = next((sign for sign in text if not " " <= sign <= "~" and sign != "\t"), None)
    if odd is not None:
        raise InvalidSchedule(
            f"cron {shown(text)} contains {odd!r} as its character {text.index(odd) + 1}: "
            "use digits, names, blanks and , - * / # @ only"
        )
    fields = text.upper().split()
    if fields and fields[0].startswith("@"):
        return _macro(text, " ".join(fields).lower())
    _check_fields(text, fields)
    return " ".join(fields)


def _macro(text: str, macro: str) -> str:
    if macro in MACROS:
        return macro
    if macro == "@reboot":
        hint = "it is an event and no time; enqueue the job where your program starts"
    elif macro.startswith("@every"):
        hint = "give an interval instead of a cron expression"
    else:
        hint = "use " + ", ".join(MACROS)
    raise InvalidSchedule(f"cron {shown(text)} is not a macro: {hint}")


def _check_fields(text: str, fields: list[str]) -> None:
    from cronsim import CronSimError

    if len(fields) not in {5, 6}:
        count = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
        hint = "; there is no field for the year: give the schedule an end" if len(fields) == 7 else ""
        raise InvalidSchedule(
            f"cron {shown(text)} has {count}: write five (minute, hour, day of month, month, day of week), "
            f"or six with the second first{hint}"
        )
    six = fields if len(fields) == 6 else ["0", *fields]
    for number, field in enumerate(six):
        for term in field.split(","):
            complaint = _misleading(number, term)
            if complaint is not None:
                raise _invalid_term(text, number, term, complaint)
    try:
        found = next(_simulate(" ".join(six), EPOCH), None)
    except CronSimError:
        for number, field in enumerate(six):
            for term in field.split(","):
                alone = ["*"] * 6
                alone[number] = term
                try:
                    _simulate(" ".join(alone), EPOCH)
                except CronSimError:
                    raise _invalid_term(text, number, term, _hint(number, term)) from None
        # What is right field by field and refused as a whole names a day that no month has.
        found = None
    if found is None:
        raise InvalidSchedule(
            f"cron {shown(text)} never fires: there is no such day (day of month {six[3]}, month {six[4]}, "
            f"day of week {six[5]})"
        )


def _misleading(number: int, term: str) -> str | None:
    """What to say of a term that cronsim takes but not as it is meant, or that does not reach it as a term."""
    if not term:
        return "it is empty; a comma stands between two values"
    value, slash, step = term.partition("/")
    if not slash:
        return None
    name, size, _ = _FIELDS[number]
    if value in {"L", "LW"}:
        return f"{value} is one day and takes no step"
    if step.isdecimal() and int(step) > size:
        return f"the step is larger than the {size} values of a {name}; for longer times give an interval instead"
    return None


def _hint(number: int, term: str) -> str:
    value, _, step = term.partition("/")
    low, dash, high = value.partition("-")
    if "?" in term:
        return "write * for ?"
    if step.strip("0") == "" and "/" in term:
        return "a step is a number of 1 or more"
    if number == 3 and "W" in value:
        return "of the working days only LW is known, the last one of the month"
    # The ends are right each by itself, so it is their order that is wrong.
    if dash and low and high and all(_stands_alone(number, end) for end in (low, high)):
        sunday = ", or Sunday as 7" if number == 5 else ""
        return f"a range runs upwards, and {low} comes after {high}: write two ranges{sunday}"
    return f"use {_FIELDS[number][2]}, ranges (a-b), steps (a-b/n, */n) and lists (a,b)"


def _stands_alone(number: int, term: str) -> bool:
    from cronsim import CronSimError

    alone = ["*"] * 6
    alone[number] = term
    try:
        _simulate(" ".join(alone), EPOCH)
    except CronSimError:
        return False
    return True


def _invalid_term(text: str, number: int, term: str, hint: str) -> InvalidSchedule:
    return InvalidSchedule(f"cron {shown(text)}: {_FIELDS[number][0]} {shown(term)} is not understood: {hint}")


def shown(value: object) -> str:
    """`value` for a message, cut short when it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
