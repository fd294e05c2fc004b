"""Who this process is to others on the same host, and whether another one is still there.

Linux only: elsewhere a dead server is found by its lease alone.
"""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from later.core.records import ServerInfo, ServerRecord


def node() -> str | None:
    """Names this host, its present boot, and the name space in which pids mean something (a container has its own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None
    return f"{socket.gethostname()}/{boot}/{namespace}"


def pid_started(pid: int) -> str | None:
    """The kernel's start time of a process, in clock ticks since boot; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()  # the command name before may hold anything
    if fields[0] in {b"Z", b"X"}:
        return None  # ended; only waits for its parent to notice
    return fields[19].decode("ascii")  # field 22 of proc(5)


def describe_server(server: str, queues: tuple[str, ...], slots: int) -> ServerInfo:
    """This process as a server with the id `server`."""
    pid = os.getpid()
    return ServerInfo(
        id=server,
        node=node(),
        host=socket.gethostname(),
        pid=pid,
        pid_started=pid_started(pid),
        queues=queues,
        slots=slots,
    )


def dead_servers(servers: Iterable[ServerRecord]) -> list[str]:
    """The ids of those servers that ran on this node and whose process is gone."""
    here = node()
    if here is None:
        return []
    return [
        record.info.id
        for record in servers
        if record.info.node == here
        and record.info.pid_started is not None
        and pid_started(record.info.pid) != record.info.pid_started
    ]
