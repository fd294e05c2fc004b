"""Jobs as JSON and as text."""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.text import Text

from later import Corrupt, ErrorInfo, HistoryEntry, Job, State
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
    moment,
    styled,
    table,
    width,
    write,
)


def summary(job: Job) -> dict[str, Any]:
    """The keys of a job in a listing; `document` has these and more."""
    return {
        "id": job.id,
        "type": job.type,
        "queue": job.queue,
        "priority": job.priority,
        "state": job.state.value,
        "reason": job.reason,
        "attempt": job.attempt,
        "crashes": job.crashes,
        "created_at": iso(job.created_at),
        "state_at": iso(job.state_at),
        "run_at": iso(job.run_at),
        "expires_at": iso(job.expires_at),
        "parent": job.parent,
        "on": job.on.value if job.parent else None,
        "server": job.server,
        "worker": job.worker,
        "cancel_requested": job.cancel_requested,
    }


def document(job: Job) -> dict[str, Any]:
    """All about a job. `unreadable` names what is stored but is no JSON; it is null then."""
    payload, result = _read(lambda: job.payload), _read(lambda: job.result)
    return {
        **summary(job),
        "payload": None if isinstance(payload, Corrupt) else payload,
        "result": None if isinstance(result, Corrupt) else result,
        "unreadable": [
            name for name, value in (("payload", payload), ("result", result)) if isinstance(value, Corrupt)
        ],
        "error": _error(job.error),
        "children": list(job.children),
        "history": [_entry(entry) for entry in job.history],
    }


def _entry(entry: HistoryEntry) -> dict[str, Any]:
    return {
        "state": entry.state.value,
        "at": iso(entry.at),
        "reason": entry.reason,
        "attempt": entry.attempt,
        "server": entry.server,
        "worker": entry.worker,
        "error": _error(entry.error),
    }


def _error(error: ErrorInfo | None) -> dict[str, str] | None:
    return None if error is None else {"type": error.type, "message": error.message, "traceback": error.traceback}


def write_list(jobs: Sequence[Job], now: datetime) -> None:
    """One line for each job. Attempts and the reason only where there is room: in a wide terminal, or a pipe."""
    wide = width() >= WIDE
    columns = [
        Column("ID"),
        Column("STATE"),
        Column("TYPE", shrinks=True),
        Column("QUEUE", shrinks=True),
        Column("CHANGED", right=True),
    ]
    rows: list[list[str | Text]] = [
        [clean(job.id), styled(job.state), clean(job.type), clean(job.queue), age(job.state_at, now)] for job in jobs
    ]
    if wide:
        columns += [Column("TRIES", right=True), Column("REASON", shrinks=True)]
        for row, job in zip(rows, jobs, strict=True):
            row += [str(job.attempt), line(job.reason)]
    table(columns, rows)


def write_job(job: Job, now: datetime) -> None:
    """Everything about one job: facts, payload, result, history, children, the last error."""
    facts: list[tuple[str, str | Text]] = [
        ("id", clean(job.id)),
        ("type", clean(job.type)),
        ("state", Text.assemble(styled(job.state), f" since {moment(job.state_at, now)}")),
    ]
    if job.reason:
        facts.append(("reason", line(job.reason, 2000)))
    if job.cancel_requested:
        facts.append(("cancel", "asked for; its worker has been told to stop it"))
    facts.append(("queue", f"{clean(job.queue)}, priority {job.priority}"))
    facts.append(("tries", str(job.attempt) + (f", and {job.crashes} crashed" if job.crashes else "")))
    facts.append(("created", moment(job.created_at, now)))
    if job.run_at:
        facts.append(("runs", moment(job.run_at, now)))
    if job.expires_at:
        facts.append(("kept until", moment(job.expires_at, now)))
    if job.server:
        facts.append(("server", clean(job.server) + (f", worker {clean(job.worker)}" if job.worker else "")))
    if job.parent:
        facts.append(("parent", f"{clean(job.parent)}, runs on {job.on.value}"))
    entries([(bold(name), said) for name, said in facts])
    _section("Payload", _pretty(_read(lambda: job.payload)))
    result = _read(lambda: job.result)
    if result is not None:
        _section("Result", _pretty(result))
    _write_history(job.history)
    if job.children:
        _section(f"Continuations ({len(job.children)})", job.children)
    if job.error is not None:
        error = job.error
        _section("Last error", (error.traceback or f"{error.type}: {error.message}").splitlines())


def _write_history(history: Sequence[HistoryEntry]) -> None:
    write()
    write(bold("History"))
    rows: list[tuple[Text, str | Text]] = []
    for entry in history:
        head = Text.assemble(f"{entry.at.astimezone():%Y-%m-%d %H:%M:%S}  ", styled(entry.state))
        said = line(entry.reason, 2000)
        if entry.state is State.PROCESSING:
            said = f"try {entry.attempt} by {clean(entry.server or '')}/{clean(entry.worker or '')} {said}".rstrip()
        rows.append((head, said))
    entries(rows)


def _section(title: str, lines: Iterable[str]) -> None:
    write()
    write(bold(title))
    for text in lines:
        write(block(text))


def _read(value: Callable[[], object]) -> object:
    """The value, or what is wrong with it: a job whose data is damaged is to be seen all the same."""
    try:
        return value()
    except Corrupt as error:
        return error


def _pretty(value: object) -> list[str]:
    if isinstance(value, Corrupt):
        return [f"({value})"]
    return json.dumps(value, indent=2, ensure_ascii=False).splitlines()
