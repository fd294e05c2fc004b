"""`JobsBuilder`: the composition root of a program's jobs."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Generic, Never, TypeVar

from pydantic import BaseModel
from typing_extensions import Unpack

from later.core.codec import Limits
from later.core.errors import ConfigError
from later.core.names import check_name
from later.core.ports import BrokerBackend, StorageBackend
from later.core.registry import JobType, Registry
from later.runtime.context import JobContext
from later.runtime.declaration import declared_types, is_declaration
from later.runtime.handlers import check_handler
from later.runtime.jobs import BackgroundJobs
from later.runtime.plugins import Plugins
from later.runtime.recurring import RecurringOptions

_App = TypeVar("_App")
_Payload = TypeVar("_Payload")
_NewApp = TypeVar("_NewApp")
_More = TypeVar("_More", bound=BaseModel)

_PREFIX: Final = "with_"
_SUFFIX: Final = "_handler"


class JobsBuilder(Generic[_App, _Payload]):
    """Puts an app's jobs together: what they are, who handles them, where they are kept.

        jobs = (
            JobsBuilder(MyContext(), "my-app", jobs=Jobs)
            .with_send_email_handler(send_email)                  # for each name in Jobs
            .with_handler(CreateAccount, create_account)          # the same, checked by type checkers
            .build()
        )

    Raises ConfigError, or one of its kinds, for whatever is put together wrongly. Opens no connection.
    """

    def __init__(
        self: "JobsBuilder[_NewApp, Never]",
        app: _NewApp,
        name: str,
        broker: str | BrokerBackend | None = None,
        *,
        storage: str | StorageBackend | None = None,
        jobs: type | None = None,
        limits: Limits | None = None,
    ) -> None:
        """app: any object; handlers see it as `ctx.app`.
        name: the unique name of this app, its namespace in every backend.
        broker: URL or backend that wakes workers; without one they ask the storage.
        storage: URL or backend that keeps the jobs; left out: the file `<name>.sqlite3` in the working directory.
        jobs: the class decorated with `@background_job`; left out: the only such class among the global names of the
            calling module.
        """
        # Any, because type checkers know the app's type here only by another name than that of the class.
        self._app: Any = app
        self._name = check_name("app name", name)
        caller = sys._getframe(1)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        declaration = _declaration_in(caller.f_globals) if jobs is None else jobs
        self._types = {job_type.name: job_type for job_type in declared_types(declaration)}
        self._declaration = declaration.__name__
        self._limits = _check_limits(limits)
        self._recurring: list[tuple[str, object, str | None, RecurringOptions]] = []
        plugins = Plugins()
        self._storage = plugins.storage(f"sqlite:///{name}.sqlite3" if storage is None else storage)
        self._broker = None if broker is None else plugins.broker(broker)

    def with_handler(
        self, payload: type[_More], handler: Callable[[JobContext[_App], _More], object]
    ) -> "JobsBuilder[_App, _Payload | _More]":
        """Register the handler, `def` or `async def`, of the job type that has this payload type."""
        job_type = next((each for each in self._types.values() if each.payload is payload), None)
        if job_type is None:
            shown = getattr(payload, "__name__", type(payload).__name__)
            declared = ", ".join(sorted(each.payload.__name__ for each in self._types.values()))
            raise ConfigError(f"{self._declaration} declares no payload type {shown}: it declares {declared}")
        self._register(job_type, handler)
        return self  # type: ignore[return-value]  # the same object, of which more is known now

    def with_recurring(
        self, id: str, payload: BaseModel, cron: str | None = None, **options: Unpack[RecurringOptions]
    ) -> "JobsBuilder[_App, _Payload]":
        """Declare a recurring job in code, with the arguments of `BackgroundJobs.enqueue_recurring`.

        When a server starts, what its code declares is added or changed, and what code has declared before and this
        code does not is removed. So the server that started last decides; while old and new ones run side by side,
        they do not undo each other's work.
        """
        if any(id == other for other, *_ in self._recurring):
            raise ConfigError(f"recurring job {id} is declared twice: give each an id of its own")
        self._recurring.append((id, payload, cron, options))
        return self

    def __getattr__(self, attribute: str) -> "Callable[[Callable[..., object]], JobsBuilder[_App, Any]]":
        """`with_<name>_handler` for each declared name."""
        types: dict[str, JobType] = vars(self).get("_types", {})
        name = attribute.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        if attribute != f"{_PREFIX}{name}{_SUFFIX}" or name not in types:
            methods = [
                *(f"{_PREFIX}{each}{_SUFFIX}" for each in types),
                "with_handler",
                "with_recurring",
                "build",
                "build_client",
            ]
            import difflib

            near = difflib.get_close_matches(attribute, methods, n=3) or methods
            raise AttributeError(
                f"JobsBuilder has no {attribute}: did you mean {' or '.join(near)}?", name=attribute, obj=self
            )

        def register(handler: Callable[..., object]) -> "JobsBuilder[_App, Any]":
            self._register(types[name], handler)
            return self

        return register

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(f"{_PREFIX}{name}{_SUFFIX}" for name in self._types)]

    def build(self) -> BackgroundJobs[_App, _Payload]:
        """The finished jobs. Every declared job type needs a handler."""
        missing = [name for name, job_type in self._types.items() if job_type.handler is None]
        if missing:
            raise ConfigError(
                f"no handler for {', '.join(missing)}: add "
                + " and ".join(f".{_PREFIX}{name}{_SUFFIX}(...)" for name in missing)
                + ", or use .build_client() in a program that only enqueues"
            )
        return self._build(runs=True)

    def build_client(self) -> BackgroundJobs[_App, Any]:
        """Jobs to enqueue and inspect, but not to run here, as in a web server. Needs no handlers."""
        return self._build(runs=False)

    def __repr__(self) -> str:
        return f"<JobsBuilder {self._name}: {', '.join(self._types)}>"

    def _build(self, *, runs: bool) -> BackgroundJobs[_App, Any]:
        registry = Registry(self._types.values())
        return BackgroundJobs(
            self._app,
            self._name,
            registry,
            self._storage,
            self._broker,
            self._limits,
            runs=runs,
            recurring=self._recurring,
        )

    def _register(self, job_type: JobType, handler: Callable[..., object]) -> None:
        if job_type.handler is not None:
            raise ConfigError(f"{job_type.name} has a handler already: register one for each job type")
        is_async = check_handler(handler, job_type, self._app)
        self._types[job_type.name] = replace(job_type, handler=handler, is_async=is_async)


def _declaration_in(names: dict[str, Any]) -> type:
    """The only declaration among the global names of a module."""
    found = {id(value): (name, value) for name, value in names.items() if is_declaration(value)}
    if len(found) == 1:
        ((_, declaration),) = found.values()
        return declaration  # type: ignore[no-any-return]  # is_declaration() has looked
    module = names.get("__name__", "this module")
    if found:
        several = " and ".join(sorted(name for name, _ in found.values()))
        raise ConfigError(f"{module} has several declarations, {several}: say which with JobsBuilder(..., jobs=...)")
    raise ConfigError(
        f"{module} has no global class decorated with @background_job: import it there, "
        "or pass it as JobsBuilder(..., jobs=...)"
    )


def _check_limits(limits: Limits | None) -> Limits:
    if limits is not None and not isinstance(limits, Limits):
        raise ConfigError(f"limits is a {type(limits).__name__}: give Limits(payload=..., result=..., error=...)")
    return limits or Limits()
