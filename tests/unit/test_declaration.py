"""`@background_job` and `job_type`: what a declaration may say, and what is refused with which words."""

import textwrap
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from later import ConfigError, InvalidName, InvalidOption, Retry, State, background_job, job_type
from later.core.registry import JobType, Registry
from later.runtime.declaration import declared_types, is_declaration


class SendEmail(BaseModel):
    address: str


class CreateAccount(BaseModel):
    id: str


@background_job
class Jobs:
    send_email: SendEmail
    create_account: CreateAccount = job_type(
        queue="accounts",
        retry=Retry(attempts=3),
        isolation="process",
        timeout=timedelta(seconds=5),
        priority=5,
        max_crashes=0,
        aliases=("make_account",),
        keep_succeeded=timedelta(hours=1),
        keep_failed=timedelta(0),
    )


def test_names_and_payloads_with_defaults() -> None:
    plain, _ = declared_types(Jobs)
    assert plain == JobType("send_email", SendEmail)
    assert (plain.queue, plain.priority, plain.isolation, plain.timeout) == ("default", 0, "thread", None)
    assert (plain.retry, plain.max_crashes, plain.handler) == (Retry(attempts=10), 3, None)
    assert plain.keep(State.SUCCEEDED) is None


def test_options() -> None:
    _, full = declared_types(Jobs)
    assert (full.queue, full.priority, full.isolation, full.max_crashes) == ("accounts", 5, "process", 0)
    assert (full.retry.attempts, full.timeout, full.aliases) == (3, timedelta(seconds=5), ("make_account",))
    assert full.keep(State.SUCCEEDED) == 3_600_000_000
    assert full.keep(State.FAILED) == 0
    assert full.keep(State.DELETED) is None
    assert full.keep(State.ENQUEUED) is None


def test_a_registry_finds_types_by_name_alias_and_payload() -> None:
    registry = Registry(declared_types(Jobs))
    email, account = registry
    assert len(registry) == 2
    assert registry.by_name("send_email") is registry.by_payload(SendEmail) is email
    assert registry.by_name("make_account") is registry.by_name("create_account") is account
    assert registry.by_name("other") is None
    assert registry.by_payload(BaseModel) is None


def test_declarations_inherit() -> None:
    class Sms(BaseModel):
        number: str

    @background_job
    class More(Jobs):
        send_sms: Sms

    assert {each.name for each in declared_types(More)} == {"send_email", "create_account", "send_sms"}
    assert is_declaration(More)


def test_only_the_decorated_class_itself_is_a_declaration() -> None:
    class Plain(Jobs):
        pass

    assert is_declaration(Jobs)
    assert not is_declaration(Plain)
    for other in (Plain, SendEmail, object()):
        with pytest.raises(ConfigError, match="@background_job"):
            declared_types(other)  # type: ignore[arg-type]


def test_annotations_as_text_may_name_local_classes() -> None:
    names: dict[str, Any] = {"BaseModel": BaseModel, "background_job": background_job}
    source = """
        from __future__ import annotations
        def make():
            class Local(BaseModel):
                x: int
            @background_job
            class Jobs:
                local: Local
            return Jobs, Local
    """
    exec(textwrap.dedent(source), names)
    declaration, local = names["make"]()
    assert declared_types(declaration)[0].payload is local


def test_a_payload_type_that_is_not_defined() -> None:
    with pytest.raises(ConfigError, match="SendPigeon, which is not defined"):

        @background_job
        class Wrong:
            send: "SendPigeon"  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize("payload", [int, BaseModel, "SendEmail | CreateAccount", list[SendEmail], None])
def test_a_payload_is_a_pydantic_model(payload: Any) -> None:
    with pytest.raises(ConfigError, match=r"Wrong\.send: .* is not a payload type"):
        background_job(type("Wrong", (), {"__annotations__": {"send": payload}, "__module__": __name__}))


def test_one_payload_type_for_two_job_types() -> None:
    with pytest.raises(ConfigError, match="first and second have the same payload type SendEmail"):

        @background_job
        class Wrong:
            first: SendEmail
            second: SendEmail


@pytest.mark.parametrize("alias", ["first", "second"])
def test_an_alias_that_is_taken(alias: str) -> None:
    with pytest.raises(ConfigError, match=f"the job type name {alias} is used by"):

        @background_job
        class Wrong:
            first: SendEmail
            second: CreateAccount = job_type(aliases=(alias,))


def test_a_declaration_without_job_types() -> None:
    with pytest.raises(ConfigError, match="declares no job type"):

        @background_job
        class Wrong:
            pass


def test_a_payload_that_is_assigned_instead_of_annotated() -> None:
    with pytest.raises(ConfigError, match="write `send: PayloadType`"):

        @background_job
        class Wrong:
            send = SendEmail

    with pytest.raises(ConfigError, match=r"write `send: PayloadType = job_type\(\.\.\.\)`"):

        @background_job
        class WrongToo:
            send = job_type()


def test_a_value_that_is_no_option() -> None:
    with pytest.raises(ConfigError, match="has the value of a SendEmail") as caught:

        @background_job
        class Wrong:
            send: SendEmail = SendEmail(address="hunter2")

    assert "hunter2" not in str(caught.value)


def test_a_function_is_no_declaration() -> None:
    with pytest.raises(ConfigError, match="decorates a class"):
        background_job(lambda: None)  # type: ignore[type-var]


def test_names_outside_the_rule() -> None:
    with pytest.raises(InvalidName, match="job type 'größe'"):
        background_job(type("Wrong", (), {"__annotations__": {"größe": SendEmail}, "__module__": __name__}))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"queue": "not a name"}, InvalidName),
        ({"queue": ""}, InvalidName),
        ({"queue": "x" * 101}, InvalidName),
        ({"queue": None}, InvalidName),
        ({"aliases": ("a b",)}, InvalidName),
        ({"aliases": "old_name"}, InvalidOption),
        ({"priority": 10}, InvalidOption),
        ({"priority": -1}, InvalidOption),
        ({"priority": True}, InvalidOption),
        ({"priority": 1.5}, InvalidOption),
        ({"retry": 3}, InvalidOption),
        ({"isolation": "fork"}, InvalidOption),
        ({"timeout": timedelta(0), "isolation": "process"}, InvalidOption),
        ({"timeout": 5, "isolation": "process"}, InvalidOption),
        ({"timeout": timedelta(seconds=5)}, ConfigError),
        ({"max_crashes": -1}, InvalidOption),
        ({"max_crashes": True}, InvalidOption),
        ({"max_crashes": 2**63}, InvalidOption),
        ({"keep_succeeded": timedelta.max}, InvalidOption),
        ({"keep_failed": timedelta(seconds=-1)}, InvalidOption),
        ({"keep_succeeded": 5}, InvalidOption),
    ],
)
def test_options_outside_their_range(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        job_type(**options)


def test_a_timeout_on_a_thread_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match='timeout needs isolation="process"'):
        job_type(timeout=timedelta(seconds=1))


@pytest.mark.parametrize("attempts", [0, 1_000_001])
def test_attempts_out_of_range(attempts: int) -> None:
    with pytest.raises(InvalidOption, match=f"attempts {attempts}"):
        job_type(retry=Retry(attempts=attempts))
