"""What a type checker must refuse. Each `error:` names mypy's code and pyright's rule; no other line may have one."""

from datetime import timedelta

from pydantic import BaseModel

from later import BackgroundJobs, JobContext, JobsBuilder, background_job


class App:
    mailbox: str = "out"


class OtherApp: ...


class SendEmail(BaseModel):
    address: str


class CreateAccount(BaseModel):
    id: str


class Undeclared(BaseModel):
    id: str


@background_job
class Jobs:
    send_email: SendEmail
    create_account: CreateAccount


def send_email(ctx: JobContext[App], payload: SendEmail) -> None:
    ctx.app.mailbox = 5  # error: assignment reportAttributeAccessIssue
    ctx.enqueue("text")  # error: arg-type reportArgumentType


def other_app(ctx: JobContext[OtherApp], payload: SendEmail) -> None: ...


def app_itself(ctx: App, payload: SendEmail) -> None: ...


def other_payload(ctx: JobContext[App], payload: CreateAccount) -> None: ...


async def async_other_payload(ctx: JobContext[App], payload: CreateAccount) -> None: ...


def text(ctx: JobContext[App], payload: str) -> None: ...


def one_argument(payload: SendEmail) -> None: ...


def three_arguments(ctx: JobContext[App], payload: SendEmail, more: int) -> None: ...


builder = JobsBuilder(App(), "app")
builder.with_handler(SendEmail, other_app)  # error: arg-type reportArgumentType
builder.with_handler(SendEmail, app_itself)  # error: arg-type reportArgumentType
builder.with_handler(SendEmail, other_payload)  # error: arg-type reportArgumentType
builder.with_handler(SendEmail, async_other_payload)  # error: arg-type reportArgumentType
builder.with_handler(SendEmail, one_argument)  # error: arg-type reportArgumentType
builder.with_handler(SendEmail, three_arguments)  # error: arg-type reportArgumentType
builder.with_handler(str, text)  # error: type-var reportArgumentType
builder.with_send_email_handler(42)  # error: arg-type reportArgumentType
JobsBuilder(App())  # error: call-arg reportCallIssue
JobsBuilder(App(), "app", 42)  # error: arg-type reportArgumentType

jobs = builder.with_handler(SendEmail, send_email).build()
jobs.enqueue(CreateAccount(id="7"))  # error: arg-type reportArgumentType
jobs.enqueue(Undeclared(id="7"))  # error: arg-type reportArgumentType
jobs.enqueue(SendEmail)  # error: arg-type reportArgumentType
jobs.enqueue({"address": "a@b.c"})  # error: arg-type reportArgumentType
jobs.enqueue_many([SendEmail(address="a"), Undeclared(id="7")])  # error: list-item reportArgumentType
jobs.enqueue_continue("parent", Undeclared(id="7"))  # error: arg-type reportArgumentType
jobs.enqueue_continue("parent", SendEmail(address="a"), on="done")  # error: arg-type reportArgumentType
jobs.enqueue_delayed(SendEmail(address="a"), 5)  # error: arg-type reportArgumentType
jobs.enqueue_delayed_at(SendEmail(address="a"), timedelta(1))  # error: arg-type reportArgumentType
jobs.enqueue(SendEmail(address="a"), priority="high")  # error: arg-type reportArgumentType
jobs.enqueue(Undeclared(id="7"), connection=object())  # error: arg-type reportArgumentType
jobs.enqueue(SendEmail(address="a"), conn=object())  # error: call-arg reportCallIssue
jobs.enqueue(SendEmail(address="a"), delay=5)  # error: call-arg reportCallIssue
jobs.enqueue_recurring("nightly", Undeclared(id="7"), "0 3 * * *")  # error: arg-type reportArgumentType
jobs.enqueue_recurring("nightly", SendEmail(address="a"), 5)  # error: arg-type reportArgumentType
jobs.enqueue_recurring("nightly", SendEmail(address="a"), every=5)  # error: arg-type reportArgumentType
jobs.enqueue_recurring("nightly", SendEmail(address="a"), misfire="never")  # error: arg-type reportArgumentType
jobs.enqueue_recurring("nightly", SendEmail(address="a"), colour="red")  # error: call-arg reportCallIssue
builder.with_recurring("nightly", "text", "0 3 * * *")  # error: arg-type reportArgumentType
jobs.running(slots="many")  # error: arg-type reportArgumentType

builder.build().enqueue(SendEmail(address="a"))  # error: arg-type reportArgumentType


async def main() -> None:
    await jobs.aenqueue(Undeclared(id="7"))  # error: arg-type reportArgumentType
    await jobs.aenqueue_many([Undeclared(id="7")])  # error: list-item reportArgumentType


def wants_more(some: BackgroundJobs[App, SendEmail | CreateAccount]) -> None: ...


def wants_other(some: BackgroundJobs[OtherApp, SendEmail]) -> None: ...


wants_more(jobs)  # error: arg-type reportArgumentType
wants_other(jobs)  # error: arg-type reportArgumentType
