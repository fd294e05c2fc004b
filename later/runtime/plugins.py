"""Finding backends: entry points of the group `later.backends`, named by URL scheme.

Only the scheme that a URL asks for is imported. Built-in backends use the same door as third parties' ones.
"""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

from later.core.errors import ConfigError, LaterError, PluginError, UnknownScheme
from later.core.ports import BrokerBackend, BrokerCapabilities, StorageBackend, StorageCapabilities

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.metadata import EntryPoint, EntryPoints

    from pluggy import PluginManager

GROUP: Final = "later.backends"

DISTRIBUTION: Final = "later-jobs"
"""What this package is called where packages are installed from."""

_EXTRAS: Final = {
    "redis": "redis",
    "rediss": "redis",
    "valkey": "redis",
    "valkeys": "redis",
    "redis+cluster": "redis",
    "rediss+cluster": "redis",
    "redis+sentinel": "redis",
    "rediss+sentinel": "redis",
    "postgres": "postgres",
    "postgresql": "postgres",
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
}
"""The extra of this distribution that brings the scheme."""

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True, slots=True)
class InstalledBackend:
    """An entry point as it was found."""

    scheme: str
    distribution: str
    version: str
    error: str | None
    """Why it cannot be used; None when it loads."""
    extra: str | None = None
    """The extra of `DISTRIBUTION` that is not installed, where that is why."""
    storage: bool = False
    """It offers a storage."""
    broker: bool = False
    storage_capabilities: StorageCapabilities | None = None
    """What its storage can do; None when it does not say."""
    broker_capabilities: BrokerCapabilities | None = None


class _WithoutExtraError(PluginError):
    def __init__(self, message: str, extra: str) -> None:
        super().__init__(message)
        self.extra = extra


class Plugins:
    """The backends of one app, with a pluggy manager of their own, so that apps do not see each other's."""

    def __init__(self) -> None:
        self._manager: PluginManager | None = None
        self._loaded: dict[str, object] = {}

    def storage(self, given: str | StorageBackend) -> StorageBackend:
        """The storage that a URL names, not yet opened; a backend is returned as it is.

        Raises UnknownScheme, PluginError, ConfigError.
        """
        if isinstance(given, str):
            return self._ask("storage", given, "open_storage")  # type: ignore[no-any-return]  # has the method
        _check_object("storage", given, "open_storage")
        return given

    def broker(self, given: str | BrokerBackend) -> BrokerBackend:
        """As `storage`."""
        if isinstance(given, str):
            return self._ask("broker", given, "open_broker")  # type: ignore[no-any-return]  # has the method
        _check_object("broker", given, "open_broker")
        return given

    def _ask(self, kind: str, url: str, method: str) -> Any:
        scheme = _scheme_of(kind, url)
        entry = _entry_for(kind, scheme)
        plugin = self._load(scheme, entry)
        assert self._manager is not None
        # Only the plugin of this scheme is asked, whatever the others have been loaded for.
        others = [other for other in self._manager.get_plugins() if other is not plugin]
        try:
            backend = self._manager.subset_hook_caller(f"later_{kind}", others)(url=url)
        except LaterError:
            raise
        except Exception as error:  # noqa: BLE001  a plugin may raise anything
            # Not chained, and without its message: both may hold the URL with its password.
            raise PluginError(
                f"the {kind} plugin for {scheme}:// from {_origin(entry)} raised {type(error).__name__}: "
                "a fault for its authors"
            ) from None
        if backend is None:
            raise ConfigError(
                f"{scheme}:// cannot be a {kind}: {_origin(entry)} offers none for it (`later backends` lists what can)"
            )
        if not callable(getattr(backend, method, None)):
            raise PluginError(
                f"the {kind} plugin for {scheme}:// from {_origin(entry)} returned a {type(backend).__name__} "
                f"without {method}(): a fault for its authors"
            )
        return backend

    def _load(self, scheme: str, entry: "EntryPoint") -> object:
        if scheme in self._loaded:
            return self._loaded[scheme]
        if self._manager is None:
            self._manager = _new_manager()
        plugin = _load(self._manager, entry)
        self._loaded[scheme] = plugin
        return plugin


def installed_backends() -> list[InstalledBackend]:
    """Every backend that is installed, by scheme, and whether it loads. Imports them all."""
    entries = list(_entry_points())
    schemes = [entry.name for entry in entries]
    found: list[InstalledBackend] = []
    for entry in entries:
        name, version = (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "")
        backend = InstalledBackend(entry.name, name, version, None)
        try:
            if schemes.count(entry.name) > 1:
                _entry_for("backend", entry.name)
            backend = _described(backend, entry)
        except _WithoutExtraError as problem:
            backend = replace(backend, error=str(problem), extra=problem.extra)
        except LaterError as problem:
            backend = replace(backend, error=str(problem))
        found.append(backend)
    return sorted(found, key=lambda backend: (backend.scheme, backend.distribution))


def _described(backend: InstalledBackend, entry: "EntryPoint") -> InstalledBackend:
    """With what its plugin says of itself. Raises PluginError."""
    manager = _new_manager()
    plugin = _load(manager, entry)
    callers = manager.get_hookcallers(plugin) or []
    hooks = {caller.name for caller in callers}
    backend = replace(backend, storage="later_storage" in hooks, broker="later_broker" in hooks)
    try:
        told: object = manager.hook.later_capabilities(scheme=entry.name.lower())
    except Exception as error:
        raise PluginError(
            f"later_capabilities of the backend for {entry.name}:// from {_origin(entry)} raised "
            f"{type(error).__name__}: {error}"
        ) from error
    if told is None:
        return backend
    if not isinstance(told, (list, tuple)):
        raise _wrong_capabilities(entry)
    for each in cast("Sequence[object]", told):
        match each:
            case StorageCapabilities() if backend.storage and backend.storage_capabilities is None:
                backend = replace(backend, storage_capabilities=each)
            case BrokerCapabilities() if backend.broker and backend.broker_capabilities is None:
                backend = replace(backend, broker_capabilities=each)
            case _:
                raise _wrong_capabilities(entry)
    return backend


def _wrong_capabilities(entry: "EntryPoint") -> PluginError:
    return PluginError(
        f"later_capabilities of the backend for {entry.name}:// from {_origin(entry)} did not return a list with one "
        "StorageCapabilities for its storage, one BrokerCapabilities for its broker, and nothing else"
    )


def _scheme_of(kind: str, url: str) -> str:
    match = _SCHEME.match(url)
    if not url.strip():
        raise ConfigError(f"the {kind} is an empty text, as of a variable that is set to nothing: give a URL, or None")
    if match is None and kind == "broker":
        raise ConfigError("the broker is not a URL: it has no scheme, as in amqp://USER:PASSWORD@HOST")
    if match is None:
        raise ConfigError(
            f"the {kind} is not a URL: it has no scheme such as sqlite:// or redis://. "
            "A file named jobs.sqlite3 is sqlite:///jobs.sqlite3"
        )
    return match[1].lower()


def _entry_for(kind: str, scheme: str) -> "EntryPoint":
    """The one entry point named `scheme`."""
    entries = list(_entry_points().select(name=scheme))
    if not entries:
        raise UnknownScheme(f"no installed {kind} answers to {scheme}://: {_advice(scheme)}")
    if len(entries) > 1:
        origins = " and ".join(sorted(_origin(entry) for entry in entries))
        raise PluginError(f"{scheme}:// is offered by {origins}: uninstall all but one of them")
    return entries[0]


def _advice(scheme: str) -> str:
    from difflib import get_close_matches

    if extra := _EXTRAS.get(scheme):
        return f'pip install "{DISTRIBUTION}[{extra}]"'
    # The name of a product is no scheme, but says what is meant.
    named = [known for known, extra in _EXTRAS.items() if extra == scheme]
    known = {entry.name for entry in _entry_points()} | _EXTRAS.keys()
    close = named[:1] or get_close_matches(scheme, sorted(known), 1)
    meant = f"did you mean {close[0]}://? " if close else ""
    return f"{meant}`later backends` lists what is installed; else install a plugin that answers to it"


def _entry_points() -> "EntryPoints":
    # Imported here: a program that only reads `later`'s names needs no plugin machinery.
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _new_manager() -> "PluginManager":
    from pluggy import PluginManager

    from later.core import hookspecs

    manager = PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _load(manager: "PluginManager", entry: "EntryPoint") -> object:
    """Import and register a plugin. Raises PluginError, with the distribution and the cause."""
    from pluggy import PluginValidationError

    try:
        plugin: object = entry.load()
    except (Exception, SystemExit) as error:  # the import runs the plugin's code, which may raise anything
        what = f"the backend for {entry.name}:// from {_origin(entry)} does not load: {type(error).__name__}: {error}"
        extra = _EXTRAS.get(entry.name)
        # Not later's own, which no extra brings.
        if isinstance(error, ModuleNotFoundError) and extra and (error.name or "").partition(".")[0] != "later":
            raise _WithoutExtraError(
                f'{what}. Install what it needs: pip install "{DISTRIBUTION}[{extra}]"', extra
            ) from error
        raise PluginError(what) from error
    try:
        manager.register(plugin, name=f"{entry.name} from {_origin(entry)}")
        manager.check_pending()
    except (PluginValidationError, ValueError) as error:
        raise PluginError(
            f"the backend for {entry.name}:// from {_origin(entry)} does not follow the hooks: {error}"
        ) from error
    hooks = {caller.name for caller in manager.get_hookcallers(plugin) or []}
    if not hooks & {"later_storage", "later_broker"}:
        raise PluginError(
            f"the backend for {entry.name}:// from {_origin(entry)} implements neither later_storage nor "
            "later_broker: mark them with @hookimpl from later.core.hookspecs"
        )
    return plugin


def _origin(entry: "EntryPoint") -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"


def _check_object(kind: str, backend: object, method: str) -> None:
    if isinstance(backend, type):
        raise ConfigError(f"the {kind} is the class {backend.__name__}: give an instance of it")
    if not callable(getattr(backend, method, None)):
        raise ConfigError(f"the {kind} is a {type(backend).__name__}: give a URL, or a backend object with {method}()")
