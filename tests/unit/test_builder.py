"""JobsBuilder: what it builds, and which wrong programs it refuses with which words."""

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, TypeVar, Union

import pytest
from pydantic import BaseModel

import later
from later import (
    BackgroundJobs,
    ConfigError,
    InvalidName,
    JobContext,
    JobsBuilder,
    Limits,
    background_job,
    job_type,
)
from later.backends.memory import Memory


class App:
    pass


class OtherApp:
    pass


class SendEmail(BaseModel):
    address: str


class CreateAccount(BaseModel):
    id: str


class Undeclared(BaseModel):
    id: str


@background_job
class Jobs:
    send_email: SendEmail
    create_account: CreateAccount = job_type(aliases=("make_account",))


def send_email(ctx: JobContext[App], payload: SendEmail) -> None:
    pass


async def create_account(ctx: JobContext[App], payload: CreateAccount) -> None:
    pass


def builder(app: object = None, **options: Any) -> JobsBuilder[Any, Any]:
    return JobsBuilder(app or App(), "my-app", storage=Memory(), jobs=Jobs, **options)


def test_handlers_by_name() -> None:
    app = App()
    jobs = builder(app).with_send_email_handler(send_email).with_create_account_handler(create_account).build()
    assert isinstance(jobs, BackgroundJobs)
    assert (jobs.app, jobs.name, jobs.limits) == (app, "my-app", Limits())
    email, account = jobs.registry
    assert (email.handler, email.is_async) == (send_email, False)
    assert (account.handler, account.is_async) == (create_account, True)


def test_handlers_by_payload_type() -> None:
    jobs = builder().with_handler(SendEmail, send_email).with_handler(CreateAccount, create_account).build()
    assert [each.handler for each in jobs.registry] == [send_email, create_account]


def test_the_declaration_is_found_among_the_globals_of_the_caller() -> None:
    jobs = JobsBuilder(App(), "my-app", storage=Memory()).build_client()
    assert [each.name for each in jobs.registry] == ["send_email", "create_account"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "empty has no global class decorated with @background_job"),
        ({"One": Jobs, "Two": background_job(type("Two", (), {"__annotations__": {"x": Undeclared}}))}, "One and Two"),
    ],
)
def test_no_declaration_or_several(names: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        eval("JobsBuilder(None, 'x')", {"__name__": "empty", "JobsBuilder": JobsBuilder, **names})


def test_one_declaration_under_two_names() -> None:
    eval("JobsBuilder(None, 'x')", {"JobsBuilder": JobsBuilder, "One": Jobs, "Alias": Jobs})


def test_missing_handlers() -> None:
    with pytest.raises(ConfigError, match=r"no handler for create_account: add \.with_create_account_handler"):
        builder().with_send_email_handler(send_email).build()


def test_a_client_needs_no_handlers_and_does_not_run() -> None:
    jobs = builder().build_client()
    assert jobs.get(jobs.enqueue(SendEmail(address="a"))).type == "send_email"
    with pytest.raises(ConfigError, match=r"built by build_client\(\)"):
        jobs.running()
    assert "client" in repr(jobs)


def test_the_same_name_twice() -> None:
    with pytest.raises(ConfigError, match="send_email has a handler already"):
        builder().with_send_email_handler(send_email).with_handler(SendEmail, send_email)


@pytest.mark.parametrize(
    ("attribute", "near"),
    [
        ("with_send_mail_handler", "with_send_email_handler"),
        ("with_make_account_handler", "with_create_account_handler"),
        ("with_send_email", "with_send_email_handler"),
        ("biuld", "build"),
        ("xyzzy", "with_send_email_handler or with_create_account_handler or with_handler or with_recurring"),
    ],
)
def test_an_unknown_attribute_names_its_neighbours(attribute: str, near: str) -> None:
    with pytest.raises(AttributeError, match=near):
        getattr(builder(), attribute)


def test_a_payload_type_that_is_not_declared() -> None:
    with pytest.raises(
        ConfigError, match="Jobs declares no payload type Undeclared: it declares CreateAccount, SendEm"
    ):
        builder().with_handler(Undeclared, lambda _ctx, _payload: None)


def test_dir_lists_the_handlers() -> None:
    assert {"with_send_email_handler", "build"} <= set(dir(builder()))


@pytest.mark.parametrize("name", ["", "my app", "a/b", "x" * 101, None])
def test_app_names(name: Any) -> None:
    with pytest.raises(InvalidName, match="app name"):
        JobsBuilder(App(), name, jobs=Jobs)


def test_a_class_that_is_no_declaration() -> None:
    with pytest.raises(ConfigError, match="App is not a declaration: decorate the class with @background_job"):
        JobsBuilder(App(), "x", jobs=App)


def test_limits_of_another_type() -> None:
    with pytest.raises(ConfigError, match="limits is a dict"):
        builder(limits={"payload": 5})


@pytest.mark.parametrize("given", [42, Memory, object()])
def test_storages_and_brokers_of_another_type(given: Any) -> None:
    with pytest.raises(ConfigError, match="the storage is"):
        JobsBuilder(App(), "x", storage=given, jobs=Jobs)
    with pytest.raises(ConfigError, match="the broker is"):
        JobsBuilder(App(), "x", given, jobs=Jobs)


def test_building_opens_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = JobsBuilder(App(), "my-app", jobs=Jobs).build_client()
    assert list(tmp_path.iterdir()) == []
    jobs.enqueue(SendEmail(address="a"))
    jobs.close()
    assert (tmp_path / "my-app.sqlite3").exists()


def test_repr() -> None:
    assert repr(builder()) == "<JobsBuilder my-app: send_email, create_account>"


_Bound = TypeVar("_Bound", bound=BaseModel)


class Callable2:
    def __call__(self, ctx: JobContext[App], payload: SendEmail) -> None: ...

    def method(self, ctx: JobContext[App], payload: SendEmail) -> None: ...


class AsyncCallable:
    async def __call__(self, ctx: JobContext[App], payload: SendEmail) -> None: ...


def with_extra(extra: int, ctx: JobContext[App], payload: SendEmail) -> None: ...


async def async_with_extra(extra: int, ctx: JobContext[App], payload: SendEmail) -> None: ...


def bare(ctx, payload): ...  # type: ignore[no-untyped-def]
def options(ctx: JobContext[App], payload: SendEmail, more: int = 1, *, flag: bool = False) -> None: ...
def variadic(*args: object, **kwargs: object) -> None: ...
def base(ctx: JobContext[Any], payload: BaseModel) -> None: ...
def anything(ctx: object, payload: Any) -> None: ...
def union(ctx: JobContext[App] | None, payload: SendEmail | CreateAccount) -> None: ...
def old_union(ctx: "Union[JobContext[App], None]", payload: "Union[SendEmail, int]") -> None: ...  # noqa: UP007
def annotated(ctx: Annotated[JobContext[App], 1], payload: Annotated[SendEmail, 2]) -> None: ...
def generic(ctx: JobContext[App], payload: _Bound) -> _Bound: ...  # type: ignore[empty-body]
def context_alone(ctx: JobContext, payload: SendEmail) -> None: ...  # type: ignore[type-arg]
def super_app(ctx: JobContext[object], payload: SendEmail) -> None: ...
def unresolved(ctx: "Nowhere", payload: "NotHere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    "handler",
    [
        send_email,
        Callable2(),
        Callable2().method,
        functools.partial(with_extra, 1),
        lambda _ctx, _payload: None,
        bare,
        options,
        variadic,
        base,
        anything,
        union,
        old_union,
        annotated,
        generic,
        context_alone,
        super_app,
        unresolved,
    ],
)
def test_handlers_that_fit(handler: Callable[..., object]) -> None:
    jobs = builder().with_send_email_handler(handler).with_create_account_handler(create_account).build()
    assert not next(iter(jobs.registry)).is_async


@pytest.mark.parametrize("handler", [AsyncCallable(), functools.partial(async_with_extra, 1), AsyncCallable().__call__])
def test_async_handlers_in_disguise(handler: Callable[..., object]) -> None:
    jobs = builder().with_send_email_handler(handler).build_client()
    assert next(iter(jobs.registry)).is_async


def no_arguments() -> None: ...
def payload_only(payload: SendEmail) -> None: ...
def three(ctx: JobContext[App], payload: SendEmail, more: int) -> None: ...
def keyword(ctx: JobContext[App], payload: SendEmail, *, more: int) -> None: ...
def keyword_payload(ctx: JobContext[App], *, payload: SendEmail) -> None: ...
def other_payload(ctx: JobContext[App], payload: CreateAccount) -> None: ...
def other_union(ctx: JobContext[App], payload: CreateAccount | int) -> None: ...
def text_payload(ctx: JobContext[App], payload: str) -> None: ...
def app_itself(ctx: App, payload: SendEmail) -> None: ...
def other_context(ctx: JobContext[OtherApp], payload: SendEmail) -> None: ...
def swapped(payload: SendEmail, ctx: JobContext[App]) -> None: ...
def a_list(ctx: list[App], payload: SendEmail) -> None: ...
def bound(ctx: JobContext[App], payload: "_BoundAccount") -> None: ...
def generator(ctx: JobContext[App], payload: SendEmail) -> Iterator[int]:
    yield 1


async def async_generator(ctx: JobContext[App], payload: SendEmail) -> AsyncIterator[int]:
    yield 1


class GeneratorCallable:
    def __call__(self, ctx: JobContext[App], payload: SendEmail) -> Iterator[int]:
        yield 1


_BoundAccount = TypeVar("_BoundAccount", bound=CreateAccount)


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (no_arguments, "cannot be called with a context and a payload"),
        (payload_only, "cannot be called with a context and a payload"),
        (three, "cannot be called with a context and a payload"),
        (keyword, "cannot be called with a context and a payload"),
        (keyword_payload, "cannot be called with a context and a payload"),
        (other_payload, "takes CreateAccount but gets SendEmail"),
        (other_union, r"takes .*CreateAccount \| int but gets SendEmail"),
        (text_payload, "takes str but gets SendEmail"),
        (bound, "but gets SendEmail"),
        (app_itself, r"takes App first but gets JobContext\[App\]"),
        (other_context, r"takes .*JobContext\[.*OtherApp\] first but gets JobContext\[App\]"),
        (swapped, "takes SendEmail first"),
        (a_list, "first but gets JobContext"),
        (generator, "is a generator"),
        (async_generator, "is a generator"),
        (GeneratorCallable(), "is a generator"),
        (functools.partial(generator), "is a generator"),
        ("send_email", "cannot be called: write def handler"),
        (None, "cannot be called"),
        (7, "an int, cannot be called"),
    ],
)
def test_handlers_that_do_not_fit(handler: Any, message: str) -> None:
    with pytest.raises(ConfigError, match="the handler of send_email, .*" + message) as caught:
        builder().with_send_email_handler(handler)
    if "generator" not in message:
        assert "(ctx: JobContext[App], payload: SendEmail)" in str(caught.value)
    with pytest.raises(ConfigError, match=message):
        builder().with_handler(SendEmail, handler)


def test_public_names_are_sorted_and_exist() -> None:
    assert later.__all__ == sorted(later.__all__)
    assert all(hasattr(later, name) for name in later.__all__)
