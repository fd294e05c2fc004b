"""The demo: real jobs that run, fail, are retried and continue, with a real mail server.

    python run.py           enqueue two jobs for each person of people.csv, watch two worker processes do them
    python run.py --kill    the same, but in the middle of the work every worker process is killed (kill -9)

The variable BACKEND says what keeps the jobs: sqlite (unless it says something else), redis, postgres, rabbitmq+redis,
rabbitmq+postgres. Servers are started for the demo alone, on free ports, and end with it.

Ends with status 0 only if every mail arrived that should have, and no other.
"""

import argparse
import csv
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from servers import BACKENDS, MissingProgramError, servers

HERE = Path(__file__).resolve().parent
LATER = Path(sysconfig.get_path("scripts")) / "later"
PROCESSES, SLOTS = 2, 2
DEADLINE_SECONDS = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", action="store_true", help="kill -9 every worker in the middle, start again")
    parser.add_argument("--data", type=Path, default=HERE / ".data", help="where databases and logs go")
    options = parser.parse_args()
    backend = os.environ.get("BACKEND") or "sqlite"
    if backend not in BACKENDS:
        print(f"BACKEND={backend} is unknown here: choose one of {', '.join(BACKENDS)}", file=sys.stderr)
        return 2
    console = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        status = demo(console, backend, options)
    except MissingProgramError as missing:
        print(f"BACKEND={backend} {missing}", file=sys.stderr)
        return 3
    return status


def demo(console: Console, backend: str, options: argparse.Namespace) -> int:
    with (
        fresh_directory(options.data) as data,
        servers(console, backend) as urls,
        mail_server(data / "journal.jsonl") as port,
    ):
        os.environ |= {"DEMO_DATA": str(data), "DEMO_MAIL_PORT": str(port), **urls}
        console.print(f"Mail server on 127.0.0.1:{port}; it greylists example.org.")
        status = run(console, data, kill=options.kill)
    if options.data == HERE / ".data" and not urls:
        console.print("To look around: .venv/bin/later --app examples/demo/app.py jobs list")
    return status


def run(console: Console, data: Path, *, kill: bool) -> int:
    # Imported here because app.py reads its settings from the environment, as an application does.
    from app import jobs
    from report import Journal, Watch, report

    create_account_table(data / "accounts.sqlite3")
    journal = Journal(data / "journal.jsonl")
    welcomes = enqueue_everybody(console)
    started, killed = time.monotonic(), False
    worker = Worker(data / "worker.log")
    console.print(f"Started: later worker app:jobs --processes {PROCESSES} --slots {SLOTS}")
    try:
        with Watch(console, jobs, journal, len(welcomes)) as watch:
            while not watch.update() and time.monotonic() - started < DEADLINE_SECONDS:
                if worker.ended:
                    console.print(f"The worker ended by itself:\n{worker.log.read_text()}", style="red")
                    return 1
                if kill and not killed and journal.received >= len(welcomes) // 4:
                    killed = True
                    worker.kill()
                    watch.say(f"kill -9 of every worker process, after {journal.received} mails")
                    watch.update()
                    worker = Worker(data / "worker.log")
                    watch.say("Started the worker again")
                time.sleep(0.1)
        code = worker.stop()
    finally:
        worker.kill()
    console.print(f"Stopped the worker by SIGTERM; it ended with status {code}.")
    return report(console, jobs, journal, welcomes, time.monotonic() - started, killed=killed)


def enqueue_everybody(console: Console) -> dict[str, str]:
    """Two jobs for each person: the account, and its continuation, the welcome mail, which waits until the
    account exists. A row that is no valid payload is refused here, before anything is stored.

    Returns the id of the welcome mail's job for each address.
    """
    from app import CreateAccount, SendWelcome, jobs

    welcomes: dict[str, str] = {}
    with (HERE / "people.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        for row in rows:
            try:
                account = CreateAccount(name=row["name"], email=row["email"])
            except ValidationError as error:
                console.print(
                    f"Refused line {rows.line_num}, {row['name']}: {error.errors()[0]['msg']}", style="yellow"
                )
                continue
            parent = jobs.enqueue(account)
            welcomes[account.email] = jobs.enqueue_continue(parent, SendWelcome(name=account.name, email=account.email))
    console.print(f"Enqueued {len(welcomes)} accounts, each continued by a welcome mail.")
    return welcomes


@dataclass
class Worker:
    """`later worker` as users run it, with its child processes in a process group of their own."""

    log: Path

    def __post_init__(self) -> None:
        command = [str(LATER), "worker", "app:jobs", "--processes", str(PROCESSES), "--slots", str(SLOTS)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=HERE, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        """SIGKILL to the whole process group: nobody gets to say goodbye."""
        if not self.ended:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(timeout=40)


@contextmanager
def mail_server(journal: Path) -> Iterator[int]:
    """Run the mail server; gives its port."""
    with subprocess.Popen(
        [sys.executable, HERE / "mailserver.py", journal],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise SystemExit("The mail server did not start; `make setup` installs what it needs (aiosmtpd).")
        try:
            yield int(line)
        finally:
            server.stdin.close()


@contextmanager
def fresh_directory(data: Path) -> Iterator[Path]:
    """An empty directory, kept until the next run so that one can look around in it.

    A directory that holds something else than an earlier demo is refused, not emptied.
    """
    mark = data / "demo.lock"
    if data.exists() and any(data.iterdir()) and not mark.exists():
        raise SystemExit(f"{data} is not empty and not an earlier demo's; choose another directory with --data.")
    data.mkdir(parents=True, exist_ok=True)
    with mark.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"Another demo is using {data}; choose another directory with --data.") from None
        for entry in data.iterdir():
            if entry != mark:
                entry.unlink()
        (data / ".gitignore").write_text("*\n")
        yield data.resolve()


def create_account_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(
            "CREATE TABLE account"
            " (number INTEGER PRIMARY KEY, job TEXT UNIQUE NOT NULL, name TEXT NOT NULL, email TEXT NOT NULL)"
        )


if __name__ == "__main__":
    sys.exit(main())
