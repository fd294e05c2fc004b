"""What `@background_job` makes of a class: job type names and the payload types that belong to them."""

import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar, cast, get_type_hints

from pydantic import BaseModel

from later.core.errors import ConfigError, InvalidOption
from later.core.names import check_name
from later.core.records import FURTHEST, MOST_CRASHES
from later.core.registry import Isolation, JobType, Registry
from later.core.retry import Retry

_Declaration = TypeVar("_Declaration", bound=type)

_MARK: Final = "__later_job_types__"
_ZERO: Final = timedelta(0)


@dataclass(frozen=True, slots=True)
class _Options:
    """What `job_type()` was given; the field's name and annotation complete it."""

    given: dict[str, Any]


def job_type(
    *,
    queue: str = "default",
    priority: int = 0,
    retry: Retry | None = None,
    isolation: Isolation = "thread",
    timeout: timedelta | None = None,
    max_crashes: int = 3,
    aliases: tuple[str, ...] = (),
    keep_succeeded: timedelta | None = None,
    keep_failed: timedelta | None = None,
    keep_deleted: timedelta | None = None,
) -> Any:
    """Options of one job type, as the default value of its field in a declaration.

    queue: where its jobs go unless `enqueue` says otherwise.
    priority: 0 to 9; a higher one is claimed first.
    retry: 10 attempts with growing delays when left out; `Retry.none()` for one attempt.
    isolation: "thread" (an `async def` handler: the event loop) or "process", a child process.
    timeout: hard limit of one run; needs isolation="process", because only a process can be killed.
    max_crashes: how many deaths of its worker a job survives; 0 with `Retry.none()` means at most once.
    aliases: earlier names of this job type, so that jobs stored under them still run.
    keep_succeeded, keep_failed, keep_deleted: how long a job is kept after it ended so; 1, 90 and 1 days when left out.

    Raises InvalidName, InvalidOption, ConfigError.
    """
    given: dict[str, Any] = {
        "queue": queue,
        "priority": priority,
        "retry": Retry() if retry is None else retry,
        "isolation": isolation,
        "timeout": timeout,
        "max_crashes": max_crashes,
        "aliases": aliases,
        "keep_succeeded": keep_succeeded,
        "keep_failed": keep_failed,
        "keep_deleted": keep_deleted,
    }
    _check_options(**given)
    return _Options(given)


def background_job(declaration: _Declaration) -> _Declaration:
    """Class decorator: each annotated field `name: Payload` declares a job type.

        @background_job
        class Jobs:
            send_email: SendEmail
            create_account: CreateAccount = job_type(queue="accounts")

    Fields of base classes count too. The class itself stays as it was. Raises ConfigError.
    """
    if not isinstance(declaration, type):
        raise ConfigError(
            "@background_job decorates a class whose fields are job types, such as `send_email: SendEmail`"
        )
    frame = sys._getframe(1)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    hints = _hints(declaration, frame.f_locals)
    _refuse_stray_values(declaration, hints)
    types = [_job_type(declaration, name, hint) for name, hint in hints.items()]
    if not types:
        raise ConfigError(
            f"{declaration.__name__} declares no job type: give it annotated fields, such as `send_email: SendEmail`"
        )
    Registry(types)
    setattr(declaration, _MARK, tuple(types))
    return declaration


def is_declaration(value: object) -> bool:
    """Whether `value` is a class that `@background_job` decorated itself, not one that only inherits from such."""
    return isinstance(value, type) and _MARK in vars(value)


def declared_types(declaration: type) -> tuple[JobType, ...]:
    """The job types of a declaration, without handlers. Raises ConfigError for a class that is none."""
    if not is_declaration(declaration):
        name = getattr(declaration, "__name__", type(declaration).__name__)
        raise ConfigError(f"{name} is not a declaration: decorate the class with @background_job")
    types: tuple[JobType, ...] = getattr(declaration, _MARK)
    return types


def check_priority(priority: object) -> None:
    """Raises InvalidOption unless it is 0 to 9."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= 9:
        raise InvalidOption(f"priority {priority!r} is not a whole number from 0 (last) to 9 (first)")


def _check_options(
    queue: object,
    priority: object,
    retry: object,
    isolation: object,
    timeout: object,
    max_crashes: object,
    aliases: object,
    **keeps: object,
) -> None:
    check_name("queue", queue)
    check_priority(priority)
    if not isinstance(retry, Retry):
        raise InvalidOption(f"retry {retry!r} is not a policy: give Retry(attempts=...) or Retry.none()")
    if isolation not in ("thread", "process"):
        raise InvalidOption(f'isolation {isolation!r} is unknown: use "thread" or "process"')
    if timeout is not None:
        if not isinstance(timeout, timedelta) or timeout <= _ZERO:
            raise InvalidOption(f"timeout {timeout!r} is not a timedelta above zero")
        if isolation != "process":
            raise ConfigError('timeout needs isolation="process": a thread cannot be killed, only a process can')
    if isinstance(max_crashes, bool) or not isinstance(max_crashes, int) or not 0 <= max_crashes <= MOST_CRASHES:
        raise InvalidOption(f"max_crashes {max_crashes!r} is not a whole number from 0 to {MOST_CRASHES}")
    if not isinstance(aliases, tuple):
        raise InvalidOption(f'aliases {aliases!r} is not a tuple of names, such as ("old_name",)')
    for alias in cast("tuple[object, ...]", aliases):
        check_name("alias", alias)
    for option, keep in keeps.items():
        if keep is not None and not (isinstance(keep, timedelta) and _ZERO <= keep <= FURTHEST):
            raise InvalidOption(f"{option} {keep!r} is not a timedelta of zero to {FURTHEST.days // 365} years")


def _hints(declaration: type, names: dict[str, Any]) -> dict[str, Any]:
    try:
        return get_type_hints(declaration, localns=names)
    except NameError as error:
        raise ConfigError(
            f"{declaration.__name__} names the payload type {error.name}, which is not defined here: "
            "define or import it above the declaration (not only under TYPE_CHECKING)"
        ) from error


def _refuse_stray_values(declaration: type, hints: dict[str, Any]) -> None:
    """A payload class or options without an annotation would be ignored without a word."""
    for base in declaration.__mro__:
        for name, value in vars(base).items():
            payload = isinstance(value, type) and issubclass(value, BaseModel)
            if name not in hints and (payload or isinstance(value, _Options)):
                correct = f"{name}: PayloadType" + ("" if payload else " = job_type(...)")
                raise ConfigError(f"{declaration.__name__}.{name} is assigned, not annotated: write `{correct}`")


def _job_type(declaration: type, name: str, payload: object) -> JobType:
    check_name("job type", name)
    if not isinstance(payload, type) or not issubclass(payload, BaseModel) or payload is BaseModel:
        shown = payload.__name__ if isinstance(payload, type) else str(payload)
        raise ConfigError(
            f"{declaration.__name__}.{name}: {shown} is not a payload type: use your own subclass of pydantic.BaseModel"
        )
    options = getattr(declaration, name, _Options({}))
    if not isinstance(options, _Options):
        raise ConfigError(
            f"{declaration.__name__}.{name} has the value of a {type(options).__name__}: "
            "only job_type(...) can stand there, options of the job type"
        )
    return JobType(name=name, payload=payload, **options.given)
