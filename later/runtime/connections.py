"""The open backends of one app, one set per process."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from later.core.errors import Unavailable
from later.core.ports import Broker, BrokerBackend, BrokerOptions, Storage, StorageBackend, StorageOptions, cannot_join
from later.core.records import Inserted, Joined, NewJob, Ref
from later.runtime.broker_log import BrokerLog
from later.runtime.group_commit import GroupCommit
from later.runtime.publisher import Publisher
from later.runtime.transactions import Target, UserConnection, aunwrap, unwrap

_Value = TypeVar("_Value")


class PerProcess(Generic[_Value]):
    """A value that every process makes for itself at first use, so that a fork shares nothing.

    What the parent made stays referenced in the child: were it collected there, its destructors would close the
    parent's connections (for SQLite even drop the parent's file locks).
    """

    def __init__(self, make: Callable[[], _Value]) -> None:
        self._make = make
        self._by_pid: dict[int, _Value] = {}

    def get(self) -> _Value:
        pid = os.getpid()
        value = self._by_pid.get(pid)
        # setdefault() is atomic: of two threads that come first together, both get the same value.
        return value if value is not None else self._by_pid.setdefault(pid, self._make())

    def peek(self) -> _Value | None:
        """The value of this process if it has been made."""
        return self._by_pid.get(os.getpid())


class Connections:
    """Storage, broker and what stands before them, in one process. Each is opened at first use."""

    def __init__(self, name: str, storage: StorageBackend, broker: BrokerBackend | None) -> None:
        self._name = name
        self._storage_backend = storage
        self._broker_backend = broker
        self._lock = threading.Lock()
        self._storage: Storage | None = None
        self._broker: Broker | None = None
        self.broker_log = BrokerLog()
        self._publisher = None if broker is None else Publisher(self.storage, self._open_broker, self.broker_log)
        self.commit = GroupCommit(lambda jobs: self.storage().insert(jobs), self.publish)

    def storage(self, *, create: bool = True) -> Storage:
        """The open storage, its schema current. Raises the errors of the backend; the next call tries again."""
        storage = self._storage
        if storage is not None:
            return storage
        with self._lock:
            if self._storage is None:
                options = StorageOptions(namespace=self._name, outbox=self._broker_backend is not None, create=create)
                storage = self._storage_backend.open_storage(options)
                try:
                    storage.migrate()
                except BaseException:
                    storage.close()
                    raise
                self._storage = storage
            return self._storage

    def broker(self) -> Broker | None:
        return None if self._broker_backend is None else self._open_broker()

    def publish(self, refs: Sequence[Ref]) -> None:
        """Hand refs that became Enqueued to the broker, if there is one, in the background."""
        if self._publisher is not None and refs:
            self._publisher.publish(refs)

    def insert_within(self, connection: UserConnection, jobs: Sequence[NewJob]) -> Sequence[Inserted]:
        """Store jobs in the user's transaction. They are published after its commit, where that can be known of; by the
        upkeep of the servers where not, or if this process dies before."""
        storage = self._storage_to_join()
        target = unwrap(connection)
        return self._publish_after(target, storage.insert_within(target.connection, jobs))

    async def ainsert_within(self, connection: UserConnection, jobs: Sequence[NewJob]) -> Sequence[Inserted]:
        import asyncio  # 25 ms that a program without async code need not spend

        storage = await asyncio.to_thread(self._storage_to_join)
        target = await aunwrap(connection)
        return self._publish_after(target, await storage.ainsert_within(target.connection, jobs))

    def _storage_to_join(self) -> Storage:
        try:
            storage = self.storage()
        except Unavailable as error:
            raise Unavailable(
                f"{error}. (If it is your transaction that locks it: the first use of a storage creates what it needs, "
                "outside of your transaction. Use it once before you begin, by jobs.counts() for instance)"
            ) from error
        if not storage.capabilities.transactional:
            raise cannot_join(storage)
        return storage

    def _publish_after(self, target: Target, joined: Joined) -> Sequence[Inserted]:
        refs = [each.ref for each in joined.inserted if each.ref is not None]
        if joined.committed:
            self.publish(refs)
        elif refs and self._publisher is not None and target.after_commit is not None:
            target.after_commit(lambda: self.publish(refs))
        return joined.inserted

    def close(self) -> None:
        """Publish what waits, for 2 seconds at most, and close. Everything opens again when it is used again."""
        self.commit.close()
        if self._publisher is not None:
            self._publisher.close()
        with self._lock:
            broker, self._broker = self._broker, None
            storage, self._storage = self._storage, None
        try:
            if broker is not None:
                broker.close()
        finally:
            if storage is not None:
                storage.close()

    def _open_broker(self) -> Broker:
        assert self._broker_backend is not None
        with self._lock:
            if self._broker is None:
                self._broker = self._broker_backend.open_broker(BrokerOptions(namespace=self._name))
            return self._broker
