"""The scripts of `lua/`, complete as the server gets them."""

from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import Final

from later.backends.redis import tables

_USES: Final = "-- uses: "


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    text: str
    sha: str
    """By which the server knows it once it has seen the text."""


def _load(name: str) -> Script:
    folder = files("later.backends.redis") / "lua"
    text = (folder / f"{name}.lua").read_text("utf-8")
    uses, body = text.split("\n", 1)
    assert uses.startswith(_USES), f"{name}.lua does not say what it uses"
    library = [(folder / "lib" / f"{part}.lua").read_text("utf-8") for part in uses.removeprefix(_USES).split()]
    whole = "\n".join([*library, body])
    # Comments cost the server memory for every script, and nobody reads them there.
    lines = [line for line in whole.splitlines() if line.strip() and not line.lstrip().startswith("--")]
    text = tables.complete("\n".join(lines))
    return Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())


WAIT: Final = _load("wait")
PASS_ON: Final = _load("pass_on")
INSERT: Final = _load("insert")
EXCHANGE: Final = _load("exchange")
CASCADE: Final = _load("cascade")
PROMOTE: Final = _load("promote")
RESCUE: Final = _load("rescue")
PRUNE: Final = _load("prune")
UNPUBLISHED: Final = _load("unpublished")
UNPUBLISH: Final = _load("unpublish")
PUBLISHED: Final = _load("published")
REGISTER: Final = _load("register")
BEAT: Final = _load("beat")
UNREGISTER: Final = _load("unregister")
SERVERS: Final = _load("servers")
CLAIMS: Final = _load("claims")
DUE: Final = _load("due")
RESCHEDULE: Final = _load("reschedule")
GET: Final = _load("get")
LIST: Final = _load("list")
RECORDS: Final = _load("records")
