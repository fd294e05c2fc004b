"""Forks of the process, told to those that hold connections: both sides of one must not use the same."""

import os
from threading import Lock
from typing import Final, Protocol
from weakref import WeakSet


class Forked(Protocol):
    """The three calls come in the thread that forks, `before_fork` and then one of the others."""

    def before_fork(self) -> None: ...

    def after_fork_in_parent(self) -> None: ...

    def after_fork_in_child(self) -> None: ...


_known: Final[WeakSet[Forked]] = WeakSet()
_joining: Final = Lock()
"""Held during a fork, so that nobody joins half-way."""

_forking: Final[list[Forked]] = []


def follow_forks(each: Forked) -> None:
    """Tell `each` of forks for as long as somebody refers to it."""
    with _joining:
        _known.add(each)


def _before() -> None:
    _joining.acquire()
    _forking.extend(_known)
    for each in _forking:
        each.before_fork()


def _after_in_parent() -> None:
    for each in _forking:
        each.after_fork_in_parent()
    _after()


def _after_in_child() -> None:
    for each in _forking:
        each.after_fork_in_child()
    _after()


def _after() -> None:
    _forking.clear()
    _joining.release()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
