"""The connections of this process to Redis: opening, calling scripts, forks, and what a server must be like."""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, Final
from weakref import WeakSet

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from later.backends.redis.errors import translate
from later.backends.redis.scripts import Script
from later.backends.redis.target import Kind, Target
from later.core.errors import ConfigError, Unsupported

OLDEST: Final = (6, 2)
"""The first Redis with all commands that the scripts use."""

FAILURES: Final = (RedisError, RedisClusterException, OSError, ValueError)
"""What the driver raises. Its error about a cluster is none of its own family."""

_log = logging.getLogger("later.redis")

# The driver annotates some of its classes, and none of these.
_node: Any = ClusterNode
_sentinel: Any = Sentinel


class Connection:
    """A pool of connections per process, opened at first use. Every method may be called from any thread.

    A call whose connection ends is sent once more over a new one: servers restart. That is as safe as the caller's own
    repetition, but for calls that take something: who made them has to know that an answer was lost.
    """

    def __init__(self, target: Target, timeout: float) -> None:
        self._target = target
        self._timeout = timeout
        self._callbacks: list[Callable[[], None]] = []
        self._start()
        _connections.add(self)

    def _start(self) -> None:
        self._lock = Lock()
        self._client: Any = None
        self._idle: list[Any] = []
        """The driver's connections that scripts go through, none of them in use."""

    @property
    def place(self) -> str:
        return self._target.place

    @property
    def timeout(self) -> float:
        return self._timeout

    def call(self, script: Script, key: str, args: Sequence[str | bytes | int], *, once: bool = False) -> Any:
        """Run a script; `once`: not again when the connection ends meanwhile. Raises an error of
        `later.core.errors`."""
        try:
            return self._run("EVALSHA", script.sha, 1, key, *args, once=once)
        except NoScriptError:
            pass
        except FAILURES as error:
            raise translate(error, self.place, self._target.user) from error
        # New to this server, or it has restarted. EVAL also keeps the script for the next time.
        return self.command("EVAL", script.text, 1, key, *args, once=once)

    def command(self, *args: str | bytes | int, once: bool = False) -> Any:
        """Run a plain command; `once` as above. Raises an error of `later.core.errors`."""
        try:
            return self._send(*args, once=once)
        except FAILURES as error:
            raise translate(error, self.place, self._target.user) from error

    def _run(self, *args: str | bytes | int, once: bool) -> Any:
        """As `_send`, on a connection itself, where the server is always the same one: the way through the driver's
        client takes as long as the server does."""
        if self._target.kind is Kind.CLUSTER:
            return self._send(*args, once=once)
        try:
            return self._ask(args)
        except DriverConnectionError:
            if once:
                raise
            return self._ask(args)

    def _ask(self, args: Sequence[str | bytes | int]) -> Any:
        line = self._take()
        try:
            line.send_command(*args)
            answer = line.read_response()
        except ResponseError:
            self._idle.append(line)
            raise
        except BaseException as error:
            line.disconnect()  # its answer may still come
            if isinstance(error, FAILURES):
                self._drop_idle()  # the server that they lead to may be gone without a word
            raise
        self._idle.append(line)
        return answer

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for line in idle:
            line.disconnect()

    def _take(self) -> Any:
        """A connection for one call."""
        while True:
            try:
                line = self._idle.pop()
            except IndexError:
                return _connected(self.client())
            with suppress(*FAILURES):
                if not line.can_read():
                    return line
            line.disconnect()  # what a server says unasked is that it ends the connection

    def _send(self, *args: str | bytes | int, once: bool) -> Any:
        client = self.client()
        try:
            return client.execute_command(*args)
        except DriverConnectionError:
            if once:
                raise
            return client.execute_command(*args)

    def client(self) -> Any:
        """The driver's client of this process. Its errors are for the caller to translate."""
        with self._lock:
            if self._client is None:
                self._client = self._open()
            return self._client

    def separate(self, key: str) -> Any:
        """A new connection of the driver's, connected, for one thread's own use, to the server that holds `key`. Its
        errors are for the caller to translate, and it is the caller's to disconnect."""
        client = self.client()
        if self._target.kind is Kind.CLUSTER:
            client = client.get_redis_connection(client.get_node_from_key(key))
        return _connected(client)

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        self._drop_idle()
        if client is not None:
            client.close()

    def check_server(self, key: str) -> None:
        """Raise ConfigError or Unsupported when jobs are not safe on the server that holds `key`; warn when they are
        less safe than they could be."""
        info = self._info(key)
        version = tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:2])
        if version < OLDEST:
            raise Unsupported(
                f"Redis at {self.place} is version {info.get('redis_version')}; later needs "
                f"{'.'.join(map(str, OLDEST))} or newer, or Valkey: upgrade the server"
            )
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if policy != "noeviction":
            raise ConfigError(
                f"Redis at {self.place} has maxmemory-policy {policy}: when its memory is full it would delete jobs "
                "silently. Set `maxmemory-policy noeviction` (redis.conf or CONFIG SET), and use another server for "
                "caches"
            )
        if not int(info.get("aof_enabled", 0)):
            _log.warning(
                "Redis at %s runs without AOF: when it stops, jobs since its last snapshot are lost. "
                "Set `appendonly yes`",
                self.place,
            )

    def _info(self, key: str) -> dict[str, Any]:
        try:
            client = self.client()
            node = {"target_nodes": client.get_node_from_key(key)} if self._target.kind is Kind.CLUSTER else {}
            found: dict[str, Any] = {}
            for section in ("server", "memory", "persistence"):
                found.update(client.info(section, **node))
        except FAILURES as error:
            raise translate(error, self.place, self._target.user) from error
        return found

    def _open(self) -> Any:
        target = self._target
        options: dict[str, Any] = {
            "username": target.user,
            "password": target.password,
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            "socket_keepalive": True,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),  # `_send` does
        }
        if target.tls:
            options |= {"ssl": True, "ssl_ca_certs": target.ca, "ssl_certfile": target.cert, "ssl_keyfile": target.key}
        if target.kind is Kind.CLUSTER:
            nodes = [_node(host, port) for host, port in target.hosts]
            return RedisCluster(startup_nodes=nodes, **options)
        options["db"] = target.db
        if target.kind is Kind.SENTINEL:
            own = {"username": target.sentinel_user, "password": target.sentinel_password}
            sentinels = _sentinel(target.hosts, sentinel_kwargs=options | own | {"db": 0}, **options)
            return sentinels.master_for(target.group)
        [(host, port)] = target.hosts
        return redis.Redis(host, port, **options)

    def on_fork(self, callback: Callable[[], None]) -> None:
        """Call this in a child process before it uses the connection."""
        self._callbacks.append(callback)

    def after_fork_in_child(self) -> None:
        # The sockets are the parent's; dropping them here closes copies. The new client opens its own.
        self._start()
        for callback in self._callbacks:
            callback()


def _connected(client: Any) -> Any:
    """A new connection, as those of the client, which would count one that its own pool made for ever."""
    pool = client.connection_pool
    connection = pool.connection_class(**pool.connection_kwargs)
    connection.connect()
    return connection


_connections: WeakSet[Connection] = WeakSet()


def _after_fork_in_child() -> None:
    for connection in _connections:
        connection.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
