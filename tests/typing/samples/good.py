"""What a typed program may write: no type checker says a word."""

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import assert_type

from pydantic import BaseModel

from later import (
    BackgroundJobs,
    Cancel,
    Job,
    JobContext,
    JobsBuilder,
    Misfire,
    NextFire,
    On,
    Recurring,
    Retry,
    RetryAfter,
    Tick,
    background_job,
    job_type,
)


class App:
    mailbox: str = "out"


class SendEmail(BaseModel):
    address: str


class CreateAccount(BaseModel):
    id: str


@background_job
class Jobs:
    send_email: SendEmail
    create_account: CreateAccount = job_type(queue="accounts", retry=Retry(attempts=3))


def send_email(ctx: JobContext[App], payload: SendEmail) -> int | RetryAfter:
    assert_type(ctx.app, App)
    ctx.enqueue(CreateAccount(id=ctx.job_id))
    ctx.enqueue_continue(ctx.job_id, CreateAccount(id="7"), on=On.FINISHED)
    if ctx.attempt == 1:
        return RetryAfter(timedelta(seconds=1))
    if ctx.app.mailbox:
        raise Cancel("no")
    return len(payload.address)


async def create_account(ctx: JobContext[App], payload: CreateAccount) -> None:
    await ctx.aenqueue(SendEmail(address=payload.id))


def any_model(ctx: JobContext[object], payload: BaseModel) -> None: ...


jobs = (
    JobsBuilder(App(), "app", "memory://", storage="memory://", jobs=Jobs)
    .with_handler(SendEmail, send_email)
    .with_handler(CreateAccount, create_account)
    .build()
)
assert_type(jobs, BackgroundJobs[App, SendEmail | CreateAccount])
assert_type(jobs.app, App)

# Handlers may take more than they get.
JobsBuilder(App(), "app").with_handler(SendEmail, any_model).with_handler(CreateAccount, lambda _ctx, _payload: None)

# By name, without the stub that `later stub` writes: it runs, but payloads are not checked.
loose = (
    JobsBuilder(App(), "app").with_send_email_handler(send_email).with_create_account_handler(create_account).build()
)
assert_type(loose.app, App)
loose.enqueue(SendEmail(address="a@b.c"))


def only_emails(some: BackgroundJobs[App, SendEmail]) -> str:
    return some.enqueue(SendEmail(address="a@b.c"))


def any_app(some: BackgroundJobs[object, SendEmail]) -> str:
    return some.enqueue(SendEmail(address="a@b.c"))


only_emails(jobs)
any_app(jobs)

parent = jobs.enqueue(SendEmail(address="a@b.c"), id="x", queue="q", priority=3)
assert_type(parent, str)
jobs.enqueue_continue(parent, CreateAccount(id="7"))
shop = sqlite3.connect("shop.sqlite3")
assert_type(jobs.enqueue(SendEmail(address="a@b.c"), connection=shop), str)
assert_type(jobs.enqueue_many([SendEmail(address="a@b.c")], connection=shop.cursor()), list[str])
jobs.enqueue_continue(parent, CreateAccount(id="7"), connection=shop)
jobs.enqueue_delayed(SendEmail(address="a@b.c"), timedelta(hours=1), connection=shop)
jobs.enqueue_delayed_at(SendEmail(address="a@b.c"), datetime.now(UTC), connection=None)
jobs.enqueue_continue(parent, CreateAccount(id="7"), on="failed")
jobs.enqueue_delayed(SendEmail(address="a@b.c"), timedelta(hours=1))
jobs.enqueue_delayed_at(SendEmail(address="a@b.c"), datetime.now(UTC) + timedelta(hours=1))
assert_type(jobs.enqueue_many([SendEmail(address="a@b.c"), CreateAccount(id="7")]), list[str])
assert_type(jobs.wait(parent, 5), Job)


daily = "0 3 * * *"
jobs.enqueue_recurring("nightly", SendEmail(address="a@b.c"), daily, zone="Europe/Berlin", overlap="skip")
jobs.enqueue_recurring("often", CreateAccount(id="7"), every=timedelta(minutes=5), misfire=Misfire.ALL, dst_gap="skip")
assert_type(jobs.recurring.all(), list[Recurring])
assert_type(jobs.recurring.trigger("nightly"), str)
assert_type(jobs.get(parent).recurring, Tick | None)
builder = JobsBuilder(App(), "app").with_handler(SendEmail, send_email)
assert_type(
    builder.with_recurring("nightly", SendEmail(address="a@b.c"), daily, jitter=timedelta(minutes=1)).build(),
    BackgroundJobs[App, SendEmail],
)


async def main() -> None:
    await jobs.aenqueue_recurring("nightly", SendEmail(address="a@b.c"), "0 3 * * *")
    assert_type(await jobs.recurring.anext_fires("nightly"), list[NextFire])
    assert_type(await jobs.aenqueue(SendEmail(address="a@b.c")), str)
    assert_type(await jobs.aenqueue(SendEmail(address="a@b.c"), connection=shop), str)
    assert_type(await jobs.await_for(parent, timedelta(seconds=5)), Job)
    async with jobs.running(slots=4, queues={"default": 3, "accounts": 1}):
        pass


with jobs.running(queues=["default"]):
    pass
