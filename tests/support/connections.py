"""Connections of users, as the storage contract asks for them."""

from dataclasses import dataclass
from typing import Protocol


class Connection(Protocol):
    def commit(self) -> None: ...

    def rollback(self) -> None: ...


@dataclass(frozen=True)
class Users:
    """A connection of a driver of the DB-API, in a transaction."""

    connection: Connection

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()
