"""`later status`: which servers live, how many jobs there are, and how the broker is."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import click
from rich.text import Text

from later import BackgroundJobs, Counts, JobQuery, Server, State
from later.cli.options import app_option, json_option
from later.cli.output import STYLES, WIDE, Column, age, clean, iso, line, span, table, width, write, write_json
from later.cli.target import opened
from later.core.ports import BrokerReport, BrokerState

LOOK: Final = 200
"""How many waiting jobs of a queue are looked at for the oldest: one page, so that a long queue costs no more."""


class _Oldest(NamedTuple):
    """Since when the oldest Enqueued job of a queue waits; or, when more wait than were looked at, a job that waits
    less long than the oldest."""

    since: datetime
    exact: bool


@click.command()
@app_option
@json_option
def status(*, app: str | None, as_json: bool) -> None:
    """Show which servers live, the jobs by queue and state, and how the broker is.

    A server is dead when it has not been heard of for the time of its lease; its jobs run again elsewhere. OLDEST is
    how long the oldest Enqueued job of a queue has been waiting, ">" when it is longer than that.

    A claimed job is Processing (PROCESS), also while it waits in its worker for a slot: short jobs are claimed ahead,
    up to 64 for each worker process, so that there may be more than slots (BUSY 10/8).

    What the connections of a server to the broker have met and healed is told below the servers, as the last heartbeat
    of each has told it: how often in all its processes, and when last.

    The broker is asked from here: whether it answers within 5 seconds and lets this app in, whether it takes messages,
    how many wait in each queue, and how many were set aside because they could not be read (DEAD). One that does not
    answer, or does not let the app in, is told with the reason, and is no failure of this command: jobs go on
    without it.
    """
    with opened(app) as jobs:
        servers = jobs.servers()
        counts = jobs.counts()
        oldest = {
            queue: found
            for queue, states in counts.by_queue.items()
            if states.get(State.ENQUEUED) and (found := _oldest(jobs, queue))
        }
        broker = jobs.broker()
        report = None if broker is None else broker.report(sorted(counts.by_queue))
    now = datetime.now(UTC)
    if as_json:
        write_json(_document(servers, counts, oldest, now) | {"broker": report and _broker_document(report)})
        return
    _write_servers(servers, now)
    write()
    _write_queues(counts, oldest, now)
    if report is not None:
        write()
        _write_broker(report)


def _oldest(jobs: BackgroundJobs[Any, Any], queue: str) -> _Oldest | None:
    page = jobs.find(JobQuery(states=frozenset({State.ENQUEUED}), queues=frozenset({queue}), limit=LOOK))
    return _Oldest(page.jobs[-1].state_at, page.next is None) if page.jobs else None


def _document(
    servers: Sequence[Server], counts: Counts, oldest: Mapping[str, _Oldest], now: datetime
) -> dict[str, Any]:
    return {
        "servers": [
            {
                "id": server.id,
                "alive": _alive(server, now),
                "host": server.host,
                "pid": server.pid,
                "queues": list(server.queues),
                "slots": server.slots,
                "running": server.claims,
                "started_at": iso(server.started_at),
                "lease_until": iso(server.lease_until),
                "troubles": [
                    {"what": trouble.what, "times": trouble.times, "last_at": iso(trouble.last_at)}
                    for trouble in server.troubles
                ],
            }
            for server in servers
        ],
        "queues": {
            queue: {
                "jobs": {state.value: states.get(state, 0) for state in State},
                "oldest_enqueued_at": iso(oldest[queue].since) if queue in oldest else None,
                "oldest_is_older": queue in oldest and not oldest[queue].exact,
            }
            for queue, states in sorted(counts.by_queue.items())
        },
        "total": {state.value: counts.total(state) for state in State},
    }


def _broker_document(report: BrokerReport) -> dict[str, Any]:
    return {
        "address": report.address,
        "state": report.state.value,
        "error": report.error,
        "messages": dict(report.depth),
        "dead": report.dead,
    }


def _alive(server: Server, now: datetime) -> bool:
    return server.lease_until > now and not server.gone


def _write_servers(servers: Sequence[Server], now: datetime) -> None:
    if not servers:
        write("No servers: nothing runs jobs now.")
        return
    columns = [
        Column("SERVER"),
        Column("STATUS"),
        Column("HOST", shrinks=True),
        Column("PID", right=True),
        Column("BUSY", right=True),
        Column("QUEUES", shrinks=True),
    ]
    rows: list[list[str | Text]] = [
        [
            clean(server.id),
            Text("alive", "green") if _alive(server, now) else Text("dead", "bold red"),
            clean(server.host),
            str(server.pid),
            f"{server.claims}/{server.slots}",
            clean(",".join(server.queues)) or "all",
        ]
        for server in servers
    ]
    if width() >= WIDE:
        columns.append(Column("STARTED", right=True))
        for row, server in zip(rows, servers, strict=True):
            row.append(age(server.started_at, now))
    table(columns, rows)
    for server in servers:
        if server.troubles:
            write()
            write(f"What the broker connections of {clean(server.id)} have met:")
        for trouble in server.troubles:
            write(f"{trouble.times} {line(trouble.what, 200)}, the last {age(trouble.last_at, now)}")


def _write_queues(counts: Counts, oldest: Mapping[str, _Oldest], now: datetime) -> None:
    if not counts.by_queue:
        write("No jobs.")
        return
    columns = [
        Column("QUEUE", shrinks=True),
        *(Column(_HEADS.get(state, state.upper()), right=True) for state in State),
        Column("OLDEST", right=True),
    ]
    rows: list[list[str | Text]] = [
        [clean(queue), *(_number(state, states.get(state, 0)) for state in State), _waiting(oldest.get(queue), now)]
        for queue, states in sorted(counts.by_queue.items())
    ]
    if len(rows) > 1:
        rows.append(["total", *(_number(state, counts.total(state)) for state in State), ""])
    table(columns, rows)


_HEALTH: Final = {
    BrokerState.CONNECTED: "green",
    BrokerState.BLOCKED: "bold yellow",
    BrokerState.UNREACHABLE: "bold red",
    BrokerState.MISCONFIGURED: "bold red",
}


def _write_broker(report: BrokerReport) -> None:
    table(
        [Column("BROKER", shrinks=True), Column("STATUS"), Column("DEAD", right=True)],
        [
            [
                clean(report.address),
                Text(report.state.value, _HEALTH[report.state]),
                "" if report.dead is None else str(report.dead),
            ]
        ],
    )
    if report.error is not None:
        write(f"Jobs go on without it: {line(report.error, 1000)}")
    if report.depth:
        write()
        table(
            [Column("QUEUE", shrinks=True), Column("MESSAGES", right=True)],
            [[clean(queue), str(number)] for queue, number in sorted(report.depth.items())],
        )


_HEADS: Final = {State.AWAITING: "AWAIT", State.SCHEDULED: "SCHED", State.PROCESSING: "PROCESS"}
"""Shortened, so that the table fits 80 columns."""


def _number(state: State, jobs: int) -> Text:
    return Text(str(jobs), STYLES[state]) if jobs else Text("-", "dim")


def _waiting(oldest: _Oldest | None, now: datetime) -> str:
    if oldest is None:
        return ""
    return f"{'' if oldest.exact else '> '}{span(max(now - oldest.since, timedelta(0)))}"
