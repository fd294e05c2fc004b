"""`later status`."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typing_extensions import override

from later import BackgroundJobs
from later.backends.memory.broker import Exchange, MemoryBroker
from later.cli import status
from later.core.lifecycle import Cause
from later.core.ports import BrokerReport, BrokerState, BrokerTrouble
from later.core.records import ServerInfo
from later.core.troubles import to_note
from tests.support.shop import Shop, opened


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with opened(tmp_path, monkeypatch.chdir) as shop:
        yield shop


def test_nothing_yet(shop: Shop) -> None:
    assert shop.run("status").stdout == "No servers: nothing runs jobs now.\n\nNo jobs.\n"


def test_queues_and_states(shop: Shop) -> None:
    shop.account(), shop.email(), shop.email()
    shop.fail()
    shop.end(Cause.SUCCEED)

    lines = shop.run("status").stdout.splitlines()
    table = [line.split() for line in lines[lines.index("") + 1 :]]

    assert table[0] == ["QUEUE", "AWAIT", "SCHED", "ENQUEUED", "PROCESS", "SUCCEEDED", "FAILED", "DELETED", "OLDEST"]
    assert table[1] == ["accounts", "-", "-", "-", "-", "-", "1", "-"]
    assert table[2] == ["default", "-", "-", "1", "-", "1", "-", "-", "0", "s"]
    assert table[3] == ["total", "-", "-", "1", "-", "1", "1", "-"]
    assert max(map(len, lines)) <= 80


def test_servers_alive_and_dead(shop: Shop) -> None:
    shop.email()
    shop.claim("server-that-lives")
    shop.jobs.storage().register(ServerInfo("server-that-died", None, "host-2", 12, None, ("default",), 4), -1)

    lines = shop.run("status", columns=None).stdout.splitlines()
    servers = {line.split()[0]: line.split()[1:] for line in lines[1 : lines.index("")]}

    assert servers["server-that-lives"][:5] == ["alive", "host-1", "4711", "1/8", "default,accounts"]
    assert servers["server-that-died"][:5] == ["dead", "host-2", "12", "0/4", "default"]
    assert lines[0].endswith("STARTED")


def test_as_json(shop: Shop) -> None:
    shop.email(), shop.account()
    shop.claim()

    document = json.loads(shop.run("status", "--json").stdout)

    assert set(document) == {"servers", "queues", "total", "broker"}
    assert document["broker"] is None
    (server,) = document["servers"]
    assert (server["id"], server["alive"], server["running"], server["slots"]) == ("server-1", True, 1, 8)
    assert document["queues"]["accounts"]["jobs"]["Processing"] == 1
    assert document["queues"]["accounts"]["oldest_enqueued_at"] is None
    assert document["queues"]["default"]["jobs"]["Enqueued"] == 1
    assert datetime.fromisoformat(document["queues"]["default"]["oldest_enqueued_at"]) < datetime.now(UTC)
    assert document["total"] == {
        "Awaiting": 0,
        "Scheduled": 0,
        "Enqueued": 1,
        "Processing": 1,
        "Succeeded": 0,
        "Failed": 0,
        "Deleted": 0,
    }


def test_what_the_servers_have_met(shop: Shop) -> None:
    shop.email(), shop.email()
    shop.claim("server-1")
    shop.claim("server-2")
    found = [BrokerTrouble("connections lost", 3, 2_000_000), BrokerTrouble("evil\x1b[2J", 1, 1_000_000)]
    shop.jobs.storage().beat("server-2", 60_000_000, to_note(found))

    lines = shop.run("status").stdout.splitlines()
    assert lines[3:5] == ["", "What the broker connections of server-2 have met:"]
    assert lines[5].startswith("3 connections lost, the last ")
    assert lines[6].startswith(r"1 evil\x1b[2J, the last ")
    assert lines[7] == ""
    plain, troubled = json.loads(shop.run("status", "--json").stdout)["servers"]
    assert plain["troubles"] == []
    assert troubled["troubles"] == [
        {"what": "connections lost", "times": 3, "last_at": "1970-01-01T00:00:02.000000+00:00"},
        {"what": "evil\x1b[2J", "times": 1, "last_at": "1970-01-01T00:00:01.000000+00:00"},
    ]


class Reporting(MemoryBroker):
    """A broker whose report is made up."""

    def __init__(self, report: BrokerReport) -> None:
        super().__init__(Exchange())
        self._report = report

    @override
    def report(self, queues: Sequence[str]) -> BrokerReport:
        return self._report


DOWN = BrokerReport("amqp://shop:***@mq:5672", BrokerState.UNREACHABLE, "it refuses connections\x1b[2J: is it running?")
FINE = BrokerReport(
    "amqp://shop:***@mq:5672",
    BrokerState.CONNECTED,
    None,
    {"default": 12, "accounts": 0},
    2,
)


def test_a_broker_that_is_well(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackgroundJobs, "broker", lambda _: Reporting(FINE))
    lines = shop.run("status").stdout.splitlines()
    broker = [line.split() for line in lines[3:]]
    assert broker[1] == ["BROKER", "STATUS", "DEAD"]
    assert broker[2] == ["amqp://shop:***@mq:5672", "connected", "2"]
    assert broker[4:] == [["QUEUE", "MESSAGES"], ["accounts", "0"], ["default", "12"]]
    assert json.loads(shop.run("status", "--json").stdout)["broker"] == {
        "address": "amqp://shop:***@mq:5672",
        "state": "connected",
        "error": None,
        "messages": {"default": 12, "accounts": 0},
        "dead": 2,
    }


def test_a_broker_that_does_not_answer(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackgroundJobs, "broker", lambda _: Reporting(DOWN))
    lines = shop.run("status").stdout.splitlines()
    assert lines[5].split() == ["amqp://shop:***@mq:5672", "unreachable"]
    assert lines[6] == r"Jobs go on without it: it refuses connections\x1b[2J: is it running?"
    document = json.loads(shop.run("status", "--json").stdout)["broker"]
    assert (document["state"], document["messages"], document["dead"]) == ("unreachable", {}, None)


def test_a_long_queue_is_looked_at_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of more jobs than one page is not known; what is known is that it is older than those seen."""
    monkeypatch.setattr(status, "LOOK", 2)
    for _ in range(3):
        shop.email()

    lines = shop.run("status").stdout.splitlines()
    queue = json.loads(shop.run("status", "--json").stdout)["queues"]["default"]

    assert lines[-1].endswith("> 0 s")
    assert queue["oldest_is_older"] is True
