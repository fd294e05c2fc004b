"""Who a process is, and whether it is still there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from later.core.records import ServerInfo, ServerRecord
from later.runtime.node import dead_servers, describe_server, node, pid_started

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def _record(info: ServerInfo) -> ServerRecord:
    return ServerRecord(info, 0, 0, 0)


@linux
def test_a_process_is_known_by_its_start() -> None:
    started = pid_started(os.getpid())

    assert started is not None
    assert started.isdecimal()
    assert started == pid_started(os.getpid())
    assert pid_started(2**22 + 1) is None  # more than the largest pid


@linux
def test_a_process_is_known_whatever_its_name_is(tmp_path: Path) -> None:
    program = tmp_path / "x) R 1 (y"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([program, "60"])
    try:
        started = pid_started(process.pid)
        assert started is not None
        assert started.isdecimal()
    finally:
        process.kill()
        process.wait()


@linux
def test_a_process_that_waits_for_its_parent_has_ended() -> None:
    process = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its parent has not noticed

    assert pid_started(process.pid) is None
    process.wait()


@linux
def test_a_server_describes_its_process() -> None:
    info = describe_server("a-server", ("a", "b"), 8)

    assert (info.id, info.pid, info.queues, info.slots) == ("a-server", os.getpid(), ("a", "b"), 8)
    assert info.pid_started == pid_started(os.getpid())
    assert info.node == node() is not None


@linux
@pytest.mark.parametrize(
    ("changes", "dead"),
    [
        ({}, False),
        ({"pid_started": "1"}, True),
        ({"pid": 2**22 + 1}, True),
        ({"pid": 2**22 + 1, "node": "elsewhere"}, False),
        ({"pid": 2**22 + 1, "node": None}, False),
        ({"pid_started": None}, False),
    ],
    ids=["alive", "pid used again", "gone", "on another node", "on an unknown node", "of unknown start"],
)
def test_a_server_of_this_node_whose_process_is_gone_is_dead(changes: dict[str, object], *, dead: bool) -> None:
    alive = describe_server("a-server", (), 1)
    fields: dict[str, object] = {name: getattr(alive, name) for name in ServerInfo.__dataclass_fields__}
    info = ServerInfo(**fields | changes)  # type: ignore[arg-type]

    assert dead_servers([_record(alive), _record(info)]) == (["a-server"] if dead else [])


def test_where_there_is_no_proc_nobody_is_declared_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> bytes:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_bytes", missing)
    monkeypatch.setattr(Path, "read_text", missing)

    info = describe_server("a-server", (), 1)
    assert (info.node, info.pid_started) == (None, None)
    assert dead_servers([_record(info)]) == []
