"""What the demo shows: progress while it works; at the end the tables, and whether all is as it should be."""

import json
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from later import BackgroundJobs, Counts, Job, JobQuery, State

PENDING = (State.AWAITING, State.SCHEDULED, State.ENQUEUED, State.PROCESSING)
CLOSED = "closed."


class Journal:
    """The mail server's own record of what it answered."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> list[dict[str, Any]]:
        # The last line may be half written at this moment.
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def answers(self) -> Counter[int]:
        return Counter(entry["answer"] for entry in self.entries())

    @property
    def received(self) -> int:
        return self.answers()[250]


class Watch:
    """Progress on the terminal; line by line where there is no terminal."""

    def __init__(self, console: Console, jobs: BackgroundJobs[Any, Any], journal: Journal, mails: int) -> None:
        self._console = console
        self._jobs = jobs
        self._journal = journal
        self._mails = mails
        self._started = time.monotonic()
        self._said_at = 0.0
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(f"{self._seconds():5.1f} s  {text}", style="bold")

    def update(self) -> bool:
        """Show how things stand; True when every job has ended."""
        counts = self._jobs.counts()
        done = not any(counts.total(state) for state in PENDING)
        if self._live:
            self._live.update(self._table(counts), refresh=True)
        elif done or self._seconds() >= self._said_at + 1:
            self._said_at = self._seconds()
            self._console.print(f"{self._said_at:5.1f} s  {self._line(counts)}")
        return done

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _line(self, counts: Counts) -> str:
        queues = [
            f"{queue}: " + ", ".join(f"{number} {state}" for state, number in states.items() if number)
            for queue, states in sorted(counts.by_queue.items())
        ]
        return "; ".join([*queues, f"mails received: {self._journal.received}"])

    def _table(self, counts: Counts) -> Table:
        answers = self._journal.answers()
        states = [state for state in State if state is not State.DELETED]  # nobody deletes a job here
        table = Table(
            box=box.SIMPLE,
            caption=f"{answers[250]} of {self._mails} mails received, {answers[450]} put off by the server",
        )
        table.add_column("queue")
        for state in states:
            table.add_column(state, justify="right")
        for queue, numbers in sorted(counts.by_queue.items()):
            table.add_row(queue, *(str(numbers.get(state) or "") for state in states))
        return table


def report(
    console: Console,
    jobs: BackgroundJobs[Any, Any],
    journal: Journal,
    welcomes: dict[str, str],
    seconds: float,
    *,
    killed: bool,
) -> int:
    """Show the tables. 0 when every mail arrived, exactly once unless workers were `killed`; else 1."""
    everything = all_jobs(jobs)
    table = Table(title=f"What happened in {seconds:.1f} seconds")
    for heading in ("job type", "jobs", "attempts", "crashes", "Succeeded", "Failed", "not ended"):
        table.add_column(heading, justify="left" if heading == "job type" else "right")
    for name in sorted({job.type for job in everything}):
        of_type = [job for job in everything if job.type == name]
        states = Counter(job.state for job in of_type)
        attempts, crashes = sum(job.attempt for job in of_type), sum(job.crashes for job in of_type)
        pending = sum(states[state] for state in PENDING)
        cells = (len(of_type), attempts, crashes, states[State.SUCCEEDED], states[State.FAILED], pending)
        table.add_row(name, *map(str, cells))
    console.print(table)

    answers = journal.answers()
    mails = Table(title="What the mail server says")
    for heading in ("mails received", "put off (450)", "no such mailbox (550)"):
        mails.add_column(heading, justify="right")
    mails.add_row(*(str(answers[code]) for code in (250, 450, 550)))
    console.print(mails)

    wrong, repeated = compare(everything, journal, welcomes)
    for line in [*wrong, *repeated]:
        console.print(line, style="red" if line in wrong else "yellow")
    if wrong or (repeated and not killed):
        return 1
    if repeated:
        console.print(
            "Repeated: the worker was killed after sending and before it could report. "
            "The Message-ID is the same both times, by which a receiver can tell."
        )
    console.print("Every mail arrived that should have, and no other.", style="green")
    return 0


def all_jobs(jobs: BackgroundJobs[Any, Any]) -> list[Job]:
    page = jobs.find(JobQuery())
    found = list(page.jobs)
    while page.next:
        page = jobs.find(JobQuery(after=page.next))
        found += page.jobs
    return found


def compare(everything: list[Job], journal: Journal, welcomes: dict[str, str]) -> tuple[list[str], list[str]]:
    """The server's journal against what was enqueued: what is wrong, and what arrived more than once."""
    expected = {address: id_ for address, id_ in welcomes.items() if not address.startswith(CLOSED)}
    arrived = Counter((entry["to"], entry["message_id"]) for entry in journal.entries() if entry["answer"] == 250)
    wrong = [f"{job.id} ({job.type}) is still {job.state}" for job in everything if not job.state.ended]
    repeated = []
    for address, id_ in expected.items():
        times = arrived.pop((address, f"<{id_}@shop.example.com>"), 0)
        if times == 0:
            wrong.append(f"The mail to {address} did not arrive")
        elif times > 1:
            repeated.append(f"The mail to {address} arrived {times} times")
    wrong += [f"A mail to {address} arrived that nobody asked for" for address, _ in arrived]
    return wrong, repeated
