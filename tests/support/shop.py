"""A small app in a file, and the command line called on it in this process."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import click.testing

from later import BackgroundJobs
from later.cli.main import later
from later.core.lifecycle import Cause, Change
from later.core.records import SECOND, Claim, Claimant, ErrorInfo, ServerInfo
from later.runtime.target import Target

APP = """
from pydantic import BaseModel

from later import JobContext, JobsBuilder, background_job, job_type


class SendEmail(BaseModel):
    address: str


class CreateAccount(BaseModel):
    id: str


@background_job
class Jobs:
    send_email: SendEmail
    create_account: CreateAccount = job_type(queue="accounts")


def send_email(ctx: JobContext[None], payload: SendEmail) -> dict[str, str]:
    return {"to": payload.address}


def create_account(ctx: JobContext[None], payload: CreateAccount) -> None:
    raise ValueError("no account today")


jobs = (
    JobsBuilder(None, "shop", storage="sqlite:///shop.sqlite3")
    .with_send_email_handler(send_email)
    .with_create_account_handler(create_account)
    .build()
)
"""

MODULE = "shop_app"


class Shop:
    """The app of a test: its jobs, a server that does with them what the test says, and the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: BackgroundJobs[Any, Any] = Target(MODULE).load()
        self._module = sys.modules[MODULE]

    def run(self, *arguments: str, code: int = 0, typed: str = "", columns: int | None = 80) -> click.testing.Result:
        """`later ...` on this app. Fails unless the exit code is `code`; `columns` None is a pipe."""
        result = later_command(*arguments, code=code, typed=typed, columns=columns, app=MODULE)
        assert "\x1b" not in result.output
        return result

    def email(self, address: str = "a@b.c", **options: Any) -> str:
        return self.jobs.enqueue(self._module.SendEmail(address=address), **options)

    def email_payload(self, address: str) -> Any:
        return self._module.SendEmail(address=address)

    def account(self, id: str = "7", **options: Any) -> str:
        return self.jobs.enqueue(self._module.CreateAccount(id=id), **options)

    def delayed(self, delay: timedelta) -> str:
        return self.jobs.enqueue_delayed(self._module.SendEmail(address="a@b.c"), delay)

    def child_of(self, parent: str) -> str:
        return self.jobs.enqueue_continue(parent, self._module.SendEmail(address="child@b.c"))

    def claim(self, server: str = "server-1") -> Claim:
        """Take the next job, which must be there, on a server that lives for a minute."""
        storage = self.jobs.storage()
        storage.register(ServerInfo(server, None, "host-1", 4711, None, ("default", "accounts"), 8), 60 * SECOND)
        (claim,) = storage.exchange(Claimant(server, "w1"), queues=("accounts", "default"), limit=1).next
        return claim

    def end(self, cause: Cause, reason: str = "", **change: Any) -> str:
        """Take the next job and end it so. Returns its id."""
        claim = self.claim()
        wish = Change(claim.id, cause, reason, claim.epoch, "server-1", **change)
        self.jobs.storage().apply([wish])
        return claim.id

    def fail(self, reason: str = "ValueError: no account today", traceback: str = "Traceback ...\nValueError") -> str:
        kind, _, message = reason.partition(": ")
        return self.end(Cause.FAIL, reason, error=ErrorInfo(kind, message, traceback))


@contextmanager
def opened(folder: Path, chdir: Callable[[Path], None]) -> Iterator[Shop]:
    """The app in `folder`, which becomes the working directory; forgotten at the end."""
    (folder / f"{MODULE}.py").write_text(APP)
    chdir(folder)
    with forgotten(MODULE):
        shop = Shop(folder)
        shop.jobs.storage()
        yield shop
        shop.jobs.close()


@contextmanager
def forgotten(*modules: str) -> Iterator[None]:
    """Undo at the end what importing these modules does to the process."""
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path
        for module in modules:
            sys.modules.pop(module, None)


def later_command(
    *arguments: str, code: int = 0, typed: str = "", columns: int | None = 80, app: str | None = None
) -> click.testing.Result:
    environment = {"COLUMNS": None if columns is None else str(columns), "LATER_APP": app, "LATER_DEBUG": None}
    result = click.testing.CliRunner().invoke(later, arguments, input=typed, env=environment)
    assert result.exit_code == code, result.output
    return result
