"""The note of a beat: what a server tells of itself, of which storages know nothing."""

from typing import Final

from later.core.errors import InvalidOption

NOTE_LIMIT: Final = 4096
"""Bytes of UTF-8."""


def check_note(note: str) -> None:
    """Raises InvalidOption for a note that is longer than `NOTE_LIMIT`, or that some storage could not give back as it
    is: one with a zero character, or with half of a surrogate pair."""
    try:
        size = len(note.encode())
    except UnicodeEncodeError:
        raise InvalidOption("the note of a beat is no Unicode text: it has half of a surrogate pair") from None
    if size > NOTE_LIMIT:
        raise InvalidOption(f"the note of a beat has {size:,} bytes: at most {NOTE_LIMIT:,} are kept")
    if "\0" in note:
        raise InvalidOption("the note of a beat has a zero character, which Postgres cannot keep")
