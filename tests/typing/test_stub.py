"""The stub that `later stub` writes: mypy and pyright accept right programs with it, and reject wrong ones."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from later.cli.main import later

DECLARATION = '''
"""What this shop does in the background."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum

from later import JobContext, Retry, background_job, job_type
from later import JobsBuilder as JobsBuilder
from pydantic import BaseModel, Field, field_validator

MAX_SIZE = 4096


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class SendEmail(BaseModel):
    """A mail to send."""

    address: str
    body: str = "hello"
    tags: list[str] = Field(default_factory=list)

    @field_validator("address")
    @classmethod
    def has_at(cls, value: str) -> str:
        assert "@" in value
        return value


class CreateAccount(BaseModel):
    id: str
    colour: Colour = Colour.RED


class Undeclared(BaseModel):
    id: str


@dataclass
class Shop:
    name: str
    sent: list[str] = field(default_factory=list[str])


class Mailer:
    def __init__(self, host: str) -> None:
        self.host = host
        self.mails = 0

    def send(self, address: str) -> None:
        self.mails += 1


@background_job
class Jobs:
    send_email: SendEmail
    create_account: CreateAccount = job_type(queue="accounts", retry=Retry(attempts=3), timeout=timedelta(seconds=5),
                                             isolation="process")


def create_account(ctx: JobContext[Shop], payload: CreateAccount) -> str:
    return ctx.app.name + payload.id
'''

RIGHT = """
from typing import assert_type

from later import BackgroundJobs, JobContext

from shop_jobs import MAX_SIZE, Colour, CreateAccount, Jobs, JobsBuilder, Mailer, SendEmail, Shop, create_account


def send_email(ctx: JobContext[Shop], payload: SendEmail) -> int:
    ctx.app.sent.append(payload.address)
    ctx.enqueue(CreateAccount(id="8", colour=Colour.BLUE))
    return len(payload.body)


async def send_email_async(ctx: JobContext[Shop], payload: SendEmail) -> None:
    await ctx.aenqueue(CreateAccount(id="9"))


def send_anything(ctx: JobContext[object], payload: SendEmail | CreateAccount) -> None:
    print(ctx.job_id, payload)


jobs = (
    JobsBuilder(Shop("corner"), "shop", "amqp://localhost", storage="sqlite:///shop.sqlite3", jobs=Jobs)
    .with_send_email_handler(send_email)
    .with_create_account_handler(create_account)
    .build()
)
assert_type(jobs, BackgroundJobs[Shop, SendEmail | CreateAccount])
other = (
    JobsBuilder(Shop("corner"), "other")
    .with_handler(SendEmail, send_email_async)
    .with_create_account_handler(send_anything)
    .build()
)
client = JobsBuilder(None, "client").build_client()
parent: str = jobs.enqueue(SendEmail(address="a@b.c"))
jobs.enqueue_continue(parent, CreateAccount(id="7"), connection=object())
jobs.enqueue_many([SendEmail(address="a@b.c", body="hi", tags=["x"]), CreateAccount(id="7")])
client.enqueue(CreateAccount(id=str(MAX_SIZE)))
assert_type(Mailer("localhost").host, str)
assert_type(Mailer("localhost").mails, int)
"""

WRONG = """
from later import JobContext

from shop_jobs import CreateAccount, JobsBuilder, SendEmail, Shop, Undeclared, create_account
from shop_jobs import missing  # wrong


def send_email(ctx: JobContext[Shop], payload: SendEmail) -> None: ...
def without_payload(ctx: JobContext[Shop]) -> None: ...
def other_app(ctx: JobContext[int], payload: SendEmail) -> None: ...
def undeclared(ctx: JobContext[Shop], payload: Undeclared) -> None: ...


builder = JobsBuilder(Shop("corner"), "shop")
builder.with_send_email_handler(create_account)  # wrong
builder.with_send_email_handler(without_payload)  # wrong
builder.with_send_email_handler(other_app)  # wrong
builder.with_send_mail_handler(send_email)  # wrong
builder.with_handler(Undeclared, undeclared)  # wrong
builder.with_handler(CreateAccount, send_email)  # wrong
jobs = builder.build()
jobs.enqueue(Undeclared(id="7"))  # wrong
jobs.enqueue("a@b.c")  # wrong
jobs.enqueue_many([SendEmail(address="a@b.c"), Undeclared(id="7")])  # wrong
jobs.enqueue_continue("7", Undeclared(id="7"))  # wrong
jobs.app.address  # wrong
SendEmail(body="no address")  # wrong
JobsBuilder(Shop("corner"))  # wrong
JobsBuilder(Shop("corner"), "shop", 5672)  # wrong
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in (("shop_jobs", DECLARATION), ("right", RIGHT), ("wrong", WRONG)):
        (tmp_path / f"{name}.py").write_text(text)
    result = CliRunner().invoke(later, ["stub", "shop_jobs"])
    assert result.exit_code == 0, result.output
    return tmp_path


def mypy(folder: Path) -> set[tuple[str, int]]:
    (folder / "mypy.ini").write_text("[mypy]\nstrict = True\nplugins = pydantic.mypy\n")
    done = subprocess.run([sys.executable, "-m", "mypy", "."], cwd=folder, capture_output=True, text=True, check=False)
    found = re.findall(r"^(\S+?):(\d+): error:", done.stdout, re.MULTILINE)
    assert found or done.returncode == 0, done.stdout + done.stderr
    return {(file, int(line)) for file, line in found}


def pyright(folder: Path) -> set[tuple[str, int]]:
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict", "include": ["*.py", "*.pyi"]}')
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {(Path(one["file"]).name, one["range"]["start"]["line"] + 1) for one in found if one["severity"] == "error"}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("check", [mypy, pyright])
def test_right_programs_pass_and_wrong_ones_fail_line_by_line(
    folder: Path, check: Callable[[Path], set[tuple[str, int]]]
) -> None:
    wrong = {("wrong.py", number) for number, line in enumerate(WRONG.splitlines(), 1) if line.endswith("# wrong")}

    assert check(folder) == wrong


@pytest.mark.timeout(180)
@pytest.mark.parametrize("check", [mypy, pyright])
def test_without_the_stub_a_name_that_is_not_declared_passes(
    folder: Path, check: Callable[[Path], set[tuple[str, int]]]
) -> None:
    """What the stub is for: the mistakes that are found only with it."""
    (folder / "shop_jobs.pyi").unlink()
    mistake = WRONG.splitlines().index("builder.with_send_mail_handler(send_email)  # wrong") + 1

    assert ("wrong.py", mistake) not in check(folder)
