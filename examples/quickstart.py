"""Two jobs: the second runs when the first has succeeded, and knows its result."""

from pydantic import BaseModel

from later import JobContext, JobsBuilder, background_job


class CreateAccount(BaseModel):
    name: str


class SendEmail(BaseModel):
    address: str
    body: str


@background_job
class Jobs:
    create_account: CreateAccount
    send_email: SendEmail


accounts: list[str] = []


def create_account(ctx: JobContext[None], payload: CreateAccount) -> int:
    accounts.append(payload.name)
    return len(accounts)  # what a handler returns is the job's result


def send_email(ctx: JobContext[None], payload: SendEmail) -> None:
    print(f"To {payload.address}: {payload.body} Your account is number {ctx.parent_result}.")


jobs = (
    JobsBuilder(None, "quickstart")
    .with_create_account_handler(create_account)
    .with_send_email_handler(send_email)
    .build()
)

if __name__ == "__main__":
    with jobs.running():
        account = jobs.enqueue(CreateAccount(name="Ada"))
        mail = jobs.enqueue_continue(account, SendEmail(address="ada@example.com", body="Welcome!"))
        print(jobs.wait(mail, timeout=10).state)
