"""The demo's application: accounts are created and, once that is done, a welcome mail goes out.

The four steps: payloads, the declaration, handlers, the builder. `run.py` enqueues with `jobs`; the workers
are `later worker app:jobs` in this directory.
"""

import os
import re
import smtplib
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel

from later import JobContext, JobsBuilder, Retry, background_job, job_type
from later.backends.sqlite import SQLite

# 1. Payloads: what a job needs to know, as pydantic models.


def address(text: str) -> str:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[a-z]+", text):
        raise ValueError(f"{text!r} is not an e-mail address")
    return text


Address = Annotated[str, AfterValidator(address)]


class CreateAccount(BaseModel):
    name: str
    email: Address


class SendWelcome(BaseModel):
    name: str
    email: Address


# 2. The declaration: the name of each job type, its payload and its options.


class NoSuchMailbox(Exception):
    """The mail server will never take mail for this address."""


@background_job
class Jobs:
    create_account: CreateAccount = job_type(queue="accounts")
    send_welcome: SendWelcome = job_type(
        queue="mail",
        retry=Retry(
            attempts=6,
            delays=[timedelta(seconds=1), timedelta(seconds=2), timedelta(seconds=4)],
            never_on=(NoSuchMailbox,),
        ),
    )


# 3. Handlers: plain functions. They may run twice for one job, so each makes repeating harmless.


@dataclass(frozen=True)
class App:
    """What the handlers need of the world around them; they see it as `ctx.app`."""

    accounts: Path
    mail_host: str
    mail_port: int


def create_account(ctx: JobContext[App], payload: CreateAccount) -> int:
    """Create the account, unless an earlier run of this very job did. Returns the account's number."""
    with closing(sqlite3.connect(ctx.app.accounts)) as database, database:
        database.execute(
            "INSERT INTO account (job, name, email) VALUES (?, ?, ?) ON CONFLICT (job) DO NOTHING",
            (ctx.idempotency_key, payload.name, payload.email),
        )
        row = database.execute("SELECT number FROM account WHERE job = ?", (ctx.idempotency_key,)).fetchone()
    return int(row[0])


def send_welcome(ctx: JobContext[App], payload: SendWelcome) -> None:
    """Send one mail. A second run sends the same Message-ID, by which the receiver can tell a repetition."""
    mail = EmailMessage()
    mail["Message-ID"] = f"<{ctx.idempotency_key}@shop.example.com>"
    mail["From"] = "Shop <welcome@shop.example.com>"
    mail["To"] = payload.email
    mail["Subject"] = f"Welcome, {payload.name}"
    mail.set_content(f"Hello {payload.name},\n\nyour account has the number {ctx.parent_result}.\n")
    try:
        with smtplib.SMTP(ctx.app.mail_host, ctx.app.mail_port, timeout=10) as server:
            server.send_message(mail)
    except smtplib.SMTPRecipientsRefused as refused:
        code, answer = refused.recipients[payload.email]
        if code >= 500:
            raise NoSuchMailbox(f"{code} {answer.decode()}") from refused
        raise  # 4xx: not now. Any exception is retried, as `retry` above says.


# 4. The builder puts it together. Building opens no connection, so that every program can import this module.

data = Path(os.environ.get("DEMO_DATA", Path(__file__).parent / ".data"))

jobs = (
    JobsBuilder(
        App(
            accounts=data / "accounts.sqlite3",
            mail_host="127.0.0.1",
            mail_port=int(os.environ.get("DEMO_MAIL_PORT", "8025")),
        ),
        "later-demo",
        os.environ.get("DEMO_BROKER") or None,  # no broker: workers ask the storage
        storage=os.environ.get("DEMO_STORAGE") or SQLite(data / "jobs.sqlite3"),
    )
    .with_create_account_handler(create_account)
    .with_send_welcome_handler(send_welcome)
    .build()
)
