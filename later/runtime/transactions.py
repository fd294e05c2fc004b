"""The user's connection, whoever wraps it, as the storage takes it: that of the driver.

SQLAlchemy and Django are looked for among the modules that the program has loaded already, never imported: what is no
instance of their classes is passed on as it is.
"""

import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from later.core.errors import LaterError, UnusableConnection

UserConnection: TypeAlias = object
"""A connection of psycopg or sqlite3, or one of SQLAlchemy or Django on top of them. Not a union of their classes:
those are not installed everywhere, and a type checker would take a class that it cannot find for Any. So the call
checks."""

AfterCommit: TypeAlias = Callable[[Callable[[], None]], None]


class Target(NamedTuple):
    connection: object
    """The driver's, in the user's transaction."""
    after_commit: AfterCommit | None
    """Has something called when the transaction has committed; None where nobody can know."""


def unwrap(given: UserConnection) -> Target:
    """What a sync caller gave. Begins the transaction, where the wrapper believes that it knows of all. Raises
    UnusableConnection."""
    if _is(given, "sqlalchemy.ext.asyncio", "AsyncConnection", "AsyncSession", "async_scoped_session"):
        raise UnusableConnection(
            f"{type(given).__name__} of SQLAlchemy is for async code: use the method that begins with `a`"
        )
    try:
        return _unwrap(given)
    except LaterError:
        raise
    except Exception as error:
        raise _refused(given, error) from error


async def aunwrap(given: UserConnection) -> Target:
    """What an async caller gave, of whichever kind."""
    wrapper: Any = given
    try:
        if _is(given, "sqlalchemy.ext.asyncio", "AsyncSession", "async_scoped_session"):
            session = wrapper() if _is(given, "sqlalchemy.ext.asyncio", "async_scoped_session") else wrapper
            connection = await session.connection()
            return Target(_of_driver(connection.sync_connection), _session_hook(session.sync_session))
        if _is(given, "sqlalchemy.ext.asyncio", "AsyncConnection"):
            if not wrapper.in_transaction():
                await wrapper.begin()
            return Target(_of_driver(wrapper.sync_connection), None)
    except LaterError:
        raise
    except Exception as error:
        raise _refused(given, error) from error
    return unwrap(given)


def _unwrap(given: UserConnection) -> Target:
    wrapper: Any = given
    if _is(given, "sqlalchemy.orm", "Session", "scoped_session"):
        session = wrapper() if _is(given, "sqlalchemy.orm", "scoped_session") else wrapper
        return Target(_of_driver(session.connection()), _session_hook(session))
    if _is(given, "sqlalchemy.engine", "Connection"):
        return Target(_of_driver(wrapper), None)
    if _is(given, "django.db.backends.utils", "CursorWrapper"):
        return _of_django(wrapper.db)
    if _is(given, "django.db.backends.base.base", "BaseDatabaseWrapper") or _is(
        given, "django.utils.connection", "ConnectionProxy"
    ):
        return _of_django(wrapper)
    return Target(given, None)


def _is(given: object, module: str, *names: str) -> bool:
    loaded = sys.modules.get(module)
    classes = [getattr(loaded, name, None) for name in names]
    return isinstance(given, tuple(each for each in classes if isinstance(each, type)))


def _refused(given: object, error: Exception) -> UnusableConnection:
    return UnusableConnection(
        f"the {type(given).__name__} given cannot be used ({type(error).__name__}): if its transaction has failed, "
        "roll it back before you enqueue"
    )


# SQLAlchemy


def _of_driver(connection: Any) -> object:
    """Below SQLAlchemy, so that nothing that it logs or rewrites holds a payload. It begins its transaction by itself
    only for statements that it sees."""
    version: str = sys.modules["sqlalchemy"].__version__
    if version.startswith(("0.", "1.")):
        raise UnusableConnection(f"this is SQLAlchemy {version}; jobs can be enqueued on connections of 2.0 or newer")
    if not connection.in_transaction():
        connection.begin()
    transaction = connection.get_nested_transaction() or connection.get_transaction()
    if not transaction.is_active:
        raise UnusableConnection("the transaction of the connection given has ended: roll it back before you enqueue")
    driver: object = connection.connection.driver_connection
    return driver


class _Pending:
    """What is to be called after the commit of a session's outermost transaction. What was stored in a savepoint that
    is rolled back stays among it: a hint at a job that does not exist does no harm."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []
        self._committed = False

    def add(self, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def after_commit(self, session: Any) -> None:
        # Also called for savepoints.
        self._committed = not session.in_nested_transaction()

    def after_transaction_end(self, _session: Any, transaction: Any) -> None:
        if transaction.parent is not None:
            return
        calls, self._calls = self._calls, []
        committed, self._committed = self._committed, False
        if committed:
            for call in calls:
                call()


_pending: Final[WeakKeyDictionary[object, _Pending]] = WeakKeyDictionary()


def _session_hook(session: Any) -> AfterCommit:
    def after_commit(call: Callable[[], None]) -> None:
        pending = _pending.get(session)
        if pending is None:
            pending = _pending[session] = _Pending()
            event: Any = sys.modules["sqlalchemy.event"]
            event.listen(session, "after_commit", pending.after_commit)
            event.listen(session, "after_transaction_end", pending.after_transaction_end)
        pending.add(call)

    return after_commit


# Django


def _of_django(wrapper: Any) -> Target:
    wrapper.ensure_connection()
    if wrapper.needs_rollback:
        raise UnusableConnection(
            "the atomic block of the Django connection given has failed: enqueue after its end, or in a block of its "
            "own around the statement that fails"
        )
    # Outside of atomic blocks, without autocommit, Django does not know of commits.
    knows = wrapper.in_atomic_block or wrapper.get_autocommit()
    return Target(wrapper.connection, wrapper.on_commit if knows else None)
