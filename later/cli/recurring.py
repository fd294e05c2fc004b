"""`later recurring`: look at recurring jobs, run one now, pause and remove them, foretell their times."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.text import Text

from later import NextFire, Recurring
from later.cli.options import app_option, json_option
from later.cli.output import (
    WIDE,
    Column,
    age,
    block,
    bold,
    clean,
    entries,
    iso,
    line,
    styled,
    table,
    width,
    write,
    write_json,
)
from later.cli.target import opened
from later.runtime.recurring import foretell, timetable_of


@click.group()
def recurring() -> None:
    """See recurring jobs, run them now, pause and remove them.

    They are put by enqueue_recurring, or declared in code by with_recurring.
    """


@recurring.command("list", short_help="List them, with their next time and their last run.")
@app_option
@json_option
def list_(*, app: str | None, as_json: bool) -> None:
    """List the recurring jobs, by id, with their next time and how the last run went.

    With --json: {"recurring": [...], "not_stored": [ids that the code declares and no server has stored yet]}.
    """
    with opened(app) as jobs:
        found = jobs.recurring.all()
        known = {each.id for each in found}
        missing = [id for id in jobs.recurring.declared if id not in known]
    if as_json:
        write_json({"recurring": [_document(each) for each in found], "not_stored": missing})
        return
    if found:
        _write_list(found, datetime.now(UTC))
    else:
        click.echo("There are no recurring jobs.", err=True)
    for id in missing:
        click.echo(f"{id} is declared, and stored when a server starts.", err=True)


@recurring.command(short_help="Show all about one of them.")
@app_option
@click.argument("recurring_id", metavar="ID")
@json_option
def show(*, app: str | None, recurring_id: str, as_json: bool) -> None:
    """Show one recurring job: when it fires, what it makes, its last runs, and what is wrong with it."""
    with opened(app) as jobs:
        found = jobs.recurring.get(recurring_id)
    if as_json:
        write_json(_document(found))
    else:
        _write_one(found, datetime.now(UTC))


@recurring.command(short_help="Run one now.")
@app_option
@click.argument("recurring_id", metavar="ID")
@json_option
def trigger(*, app: str | None, recurring_id: str, as_json: bool) -> None:
    """Enqueue the job of one now, paused or not. Its times stay as they are. Writes the id of the job."""
    with opened(app) as jobs:
        job = jobs.recurring.trigger(recurring_id)
    if as_json:
        write_json({"job": job})
    else:
        write(job)


@recurring.command(short_help="Let one fire no more until it is resumed.")
@app_option
@click.argument("recurring_id", metavar="ID")
def pause(*, app: str | None, recurring_id: str) -> None:
    """Let one fire no more until it is resumed."""
    with opened(app) as jobs:
        jobs.recurring.pause(recurring_id)
    click.echo(f"{recurring_id} is paused.", err=True)


@recurring.command(short_help="Let a paused one fire again.")
@app_option
@click.argument("recurring_id", metavar="ID")
def resume(*, app: str | None, recurring_id: str) -> None:
    """Let a paused one fire again, from now on. What passed meanwhile does not count as missed."""
    with opened(app) as jobs:
        jobs.recurring.resume(recurring_id)
    click.echo(f"{recurring_id} is no longer paused.", err=True)


@recurring.command(short_help="Remove one.")
@app_option
@click.argument("recurring_id", metavar="ID")
def remove(*, app: str | None, recurring_id: str) -> None:
    """Remove one. Jobs that it has made stay. One that the code declares comes back when a server starts."""
    with opened(app) as jobs:
        jobs.recurring.remove(recurring_id)
        declared = recurring_id in jobs.recurring.declared
    until = ", until a server starts: the code declares it" if declared else ""
    click.echo(f"{recurring_id} is removed{until}.", err=True)


@recurring.command("next", short_help="Tell when one fires, or a cron expression.")
@app_option
@click.argument("what", metavar="ID|CRON")
@click.option("--tz", metavar="ZONE", help="The time zone of a cron expression, like Europe/Berlin; UTC when left out.")
@click.option("--from", "start", metavar="TIME", help="From this time on (ISO 8601), instead of now.")
@click.option("-n", "number", type=click.IntRange(1, 500), default=5, show_default=True, help="How many times.")
@json_option
def next_(*, app: str | None, what: str, tz: str | None, start: str | None, number: int, as_json: bool) -> None:
    """Tell the next times of a recurring job, or of a cron expression in quotes, which needs no app.

    Days on which the clock changes are noted. --tz and --from go with an expression.
    """
    if " " in what.strip() or what.startswith("@"):
        zone = "UTC" if tz is None else tz
        timetable = timetable_of(what, {"zone": zone})
        after = _from(start, timetable.zone.info)
        fires = foretell(timetable, after - 1, number)
    elif tz is not None or start is not None:
        raise click.UsageError("--tz and --from go with a cron expression, not with an id.")
    else:
        with opened(app) as jobs:
            fires = jobs.recurring.next_fires(what, number)
    if as_json:
        write_json({"times": [{"at": fire.at.isoformat(), "note": fire.note} for fire in fires]})
    elif fires:
        _write_fires(fires)
    else:
        click.echo("It comes to no more times.", err=True)


def _from(text: str | None, zone: Any) -> int:
    """In microseconds. Without an offset it is a time by the wall clock of the zone."""
    if text is None:
        at = datetime.now(UTC)
    else:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise click.UsageError(f"--from {text!r} is not a time like 2026-03-29T00:00 or 2026-03-29.") from None
        if at.tzinfo is None:
            at = at.replace(tzinfo=zone)
    return round(at.timestamp() * 1_000_000)


def _document(found: Recurring) -> dict[str, Any]:
    return {
        "id": found.id,
        "type": found.type,
        "queue": found.queue,
        "priority": found.priority,
        "cron": found.cron,
        "every_seconds": None if found.every is None else found.every.total_seconds(),
        "zone": found.zone,
        "start": iso(found.start),
        "end": iso(found.end),
        "misfire": found.misfire.value,
        "misfire_limit": found.misfire_limit,
        "overlap": found.overlap.value,
        "jitter_seconds": found.jitter.total_seconds(),
        "retry": found.retry
        and {
            "attempts": found.retry.attempts,
            "delays_seconds": [delay.total_seconds() for delay in found.retry.delays],
        },
        "dst_gap": found.dst_gap,
        "dst_overlap": found.dst_overlap,
        "origin": found.origin.value,
        "paused": found.paused,
        "next_at": iso(found.next_at),
        "runs": [
            {"due": iso(run.due), "job": run.job, "manual": run.manual, "state": run.state and run.state.value}
            for run in found.runs
        ],
        "note": found.note,
        "note_at": iso(found.note_at),
        "problem": found.problem,
        "drift": found.drift,
        "payload": found.payload,
    }


def _write_list(found: Sequence[Recurring], now: datetime) -> None:
    """One line for each; what is wrong with one stands instead of its type, where it is seen in a narrow terminal."""
    wide = width() >= WIDE
    columns = [
        Column("ID"),
        Column("WHEN", shrinks=True),
        Column("NEXT", right=True),
        Column("LAST", right=True),
        Column("STATE"),
        Column("JOB TYPE", shrinks=True),
    ]
    rows: list[list[str | Text]] = []
    for each in found:
        last = each.runs[0] if each.runs else None
        wrong = each.problem or each.drift
        rows.append(
            [
                clean(each.id),
                _rule(each),
                "paused" if each.paused else "-" if each.next_at is None else age(each.next_at, now),
                "-" if last is None else age(last.due, now),
                "-" if last is None or last.state is None else styled(last.state),
                Text(line(wrong), "bold red") if wrong else clean(each.type),
            ]
        )
    if wide:
        columns += [Column("QUEUE", shrinks=True), Column("NOTE", shrinks=True)]
        for row, each in zip(rows, found, strict=True):
            row += [clean(each.queue), line(each.note)]
    table(columns, rows)


def _rule(found: Recurring) -> str:
    if found.every is not None:
        return f"every {found.every}"
    return f"{found.cron} {clean(found.zone)}" if found.cron else "-"


def _write_one(found: Recurring, now: datetime) -> None:
    facts: list[tuple[str, str | Text]] = [("id", clean(found.id))]
    if found.problem:
        facts.append(("problem", Text(line(found.problem, 2000), "bold red")))
    if found.type:
        facts += _facts(found, now)
    entries([(bold(name), said) for name, said in facts])
    if found.type:
        write()
        write(bold("Payload"))
        for text in json.dumps(found.payload, indent=2, ensure_ascii=False).splitlines():
            write(block(text))
    if found.runs:
        write()
        write(bold("Last runs"))
        for run in found.runs:
            state = Text("removed", "dim") if run.state is None else styled(run.state)
            write(f"  {_local(run.due)}  ", clean(run.job), "  ", state, "  by hand" if run.manual else "")


def _facts(found: Recurring, now: datetime) -> list[tuple[str, str | Text]]:
    next_at = "paused" if found.paused else "never" if found.next_at is None else _moment(found.next_at, now)
    facts: list[tuple[str, str | Text]] = [("when", _rule(found)), ("next", next_at)]
    facts += [(name, _local(at)) for name, at in (("start", found.start), ("end", found.end)) if at is not None]
    facts.append(("makes", f"{clean(found.type)} in queue {clean(found.queue)}, priority {found.priority}"))
    limit = f", {found.misfire_limit} at most" if found.misfire == "all" else ""
    facts.append(("missed times", f"{found.misfire}{limit}"))
    facts.append(("overlap", str(found.overlap)))
    if found.jitter:
        facts.append(("jitter", f"up to {found.jitter}"))
    if found.retry is not None:
        delays = ", ".join(map(str, found.retry.delays))
        facts.append(("attempts", f"{found.retry.attempts}" + (f", after {delays}" if delays else "")))
    facts.append(("clock changes", f"gap {found.dst_gap}, overlap {found.dst_overlap}"))
    put_by = "the code" if found.origin == "code" else "a call"
    facts.append(("put by", f"{put_by}, {found.drift}" if found.drift else put_by))
    if found.note and found.note_at:
        facts.append(("note", line(found.note, 2000)))
        facts.append(("noted", _moment(found.note_at, now)))
    return facts


def _write_fires(fires: Sequence[NextFire]) -> None:
    entries([(Text(_local(fire.at)), line(fire.note)) for fire in fires])


def _local(at: datetime) -> str:
    return f"{at:%a %Y-%m-%d %H:%M:%S %z}"


def _moment(at: datetime, now: datetime) -> str:
    return f"{_local(at)} ({age(at, now)})"
