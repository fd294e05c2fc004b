"""Jobs in Redis or Valkey: shared between hosts, claimed and finished by scripts inside the server."""

from datetime import timedelta

from later.backends.redis.target import Target, parse
from later.core.errors import InvalidOption
from later.core.ports import Storage, StorageOptions


class Redis:
    """A Redis (6.2 or newer) or Valkey server, sentinel group or cluster to keep jobs in; several apps may share it.

    url: redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS (the server's certificate is verified),
        valkey:// and valkeys:// the same, redis+sentinel://HOST[:PORT],HOST[:PORT]/GROUP[/DB],
        redis+cluster://HOST[:PORT],HOST[:PORT]. Options after a `?`: ca, cert and key (files, for TLS),
        sentinel_user and sentinel_password. Special characters of a password may be percent-encoded.
    timeout: how long to wait for a connection, and for an answer, before a call raises Unavailable.

    How durable a job is depends on the server's settings: with `appendonly yes` at most the last second is lost when
    the machine dies (nothing when only Redis does), with `appendfsync always` nothing; without AOF everything since the
    last snapshot. The server must not evict: `maxmemory-policy noeviction`.

    All keys begin with `later:{NAMESPACE}`, one slot of a cluster: an app lives on one of its nodes.

    Connects at first use, in each process. Raises ConfigError, InvalidOption.
    """

    def __init__(self, url: str, *, timeout: timedelta = timedelta(seconds=5)) -> None:
        if not timedelta(0) < timeout <= timedelta(hours=1):
            raise InvalidOption(f"timeout {timeout!r} is outside 0 to 1 hour")
        self._target: Target = parse(url)
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"Redis({self._target.place})"

    def open_storage(self, options: StorageOptions) -> Storage:
        # Here, so that naming a server does not import a driver.
        from later.backends.redis.connection import Connection
        from later.backends.redis.storage import RedisStorage

        return RedisStorage(Connection(self._target, self._timeout.total_seconds()), options)
