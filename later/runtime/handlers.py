"""Whether a handler fits its job type: found out when it is registered, not when the first job runs."""

import inspect
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from later.core.errors import ConfigError
from later.core.registry import JobType
from later.runtime.context import JobContext


def check_handler(handler: Callable[..., object], job_type: JobType, app: object) -> bool:
    """Whether `handler` is async. Annotations that cannot be resolved here are taken on trust.

    Raises ConfigError when it cannot be called with (JobContext, payload) or says that it takes something else.
    """
    who = f"the handler of {job_type.name}, {_name_of(handler)},"
    expected = (
        f"write def {_plain_name(handler)}(ctx: JobContext[{type(app).__name__}], payload: {job_type.payload.__name__})"
    )
    if not callable(handler):
        raise ConfigError(f"{who} cannot be called: {expected}")
    kinds = (handler, getattr(handler, "func", None), type(handler).__call__)  # a function, a partial, an object
    if any(inspect.isgeneratorfunction(kind) or inspect.isasyncgenfunction(kind) for kind in kinds):
        raise ConfigError(f"{who} is a generator and would not run: use `return` instead of `yield`")
    parameters = _parameters(handler)
    if parameters is not None:
        if not _takes_two(parameters):
            raise ConfigError(f"{who} cannot be called with a context and a payload: {expected}")
        context, payload = _annotations(parameters)
        if not _takes_context(context, app):
            raise ConfigError(
                f"{who} takes {_shown(context)} first but gets JobContext[{type(app).__name__}]: {expected}"
            )
        if not _accepts(payload, job_type.payload):
            raise ConfigError(f"{who} takes {_shown(payload)} but gets {job_type.payload.__name__}: {expected}")
    return any(inspect.iscoroutinefunction(kind) for kind in kinds)


def _parameters(handler: Callable[..., object]) -> list[inspect.Parameter] | None:
    for evaluate in (True, False):  # annotations as text, for one, may name what is imported for type checkers only
        try:
            return list(inspect.signature(handler, eval_str=evaluate).parameters.values())
        except Exception:  # noqa: BLE001, S112  annotations are the user's expressions and may raise anything
            continue
    return None  # some callables written in C tell nothing about themselves


def _takes_two(parameters: list[inspect.Parameter]) -> bool:
    try:
        inspect.Signature(parameters).bind(None, None)
    except TypeError:
        return False
    return True


def _annotations(parameters: list[inspect.Parameter]) -> list[Any]:
    """What the first two positional parameters are annotated with; Any for none."""
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    found = [Any if p.annotation is p.empty else p.annotation for p in positional[:2]]
    return [*found, Any, Any][:2]  # fewer with *args


def _takes_context(annotation: Any, app: object) -> bool:
    if annotation is Any:  # which is a class from Python 3.11 on
        return True
    origin = get_origin(annotation)
    if origin is Annotated:
        return _takes_context(get_args(annotation)[0], app)
    if origin in (Union, UnionType):
        return any(_takes_context(each, app) for each in get_args(annotation))
    if origin is None:
        return not isinstance(annotation, type) or issubclass(JobContext, annotation)
    if not (isinstance(origin, type) and issubclass(JobContext, origin)):
        return False
    (argument,) = get_args(annotation)
    return _accepts(argument, type(app))


def _accepts(annotation: Any, given: type) -> bool:
    """Whether a parameter annotated so takes instances of `given`. Yes where only a type checker can tell."""
    if annotation is Any:
        return True
    origin = get_origin(annotation)
    if origin is Annotated:
        return _accepts(get_args(annotation)[0], given)
    if origin in (Union, UnionType):
        return any(_accepts(each, given) for each in get_args(annotation))
    if isinstance(annotation, TypeVar) and annotation.__bound__ is not None:
        return _accepts(annotation.__bound__, given)
    if annotation is None:
        return given is type(None)
    if origin is None and isinstance(annotation, type) and not getattr(annotation, "_is_protocol", False):
        return issubclass(given, annotation)
    return True


def _name_of(handler: object) -> str:
    name = getattr(handler, "__qualname__", None)
    kind = type(handler).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}" if name is None else f"{handler.__module__}.{name}"


def _plain_name(handler: object) -> str:
    name = getattr(handler, "__name__", "handler")
    return name if isinstance(name, str) and name.isidentifier() else "handler"


def _shown(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
