"""Where the app of a command is: a module and the name in it that holds the `BackgroundJobs`."""

import importlib
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn, TypeGuard

from later.core.errors import ConfigError, LaterError
from later.runtime.jobs import BackgroundJobs

_OURS: Final = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Target:
    """An app as an operator named it. Plain strings, so that it can be handed to another process, which loads the app
    for itself."""

    module: str
    """Dotted name, as for `import`."""
    attribute: str = ""
    """Name in the module, dotted to reach deeper. Empty: the one `BackgroundJobs` among the module's globals."""
    path: str | None = None
    """The module's file, absolute, when the operator gave a file; its import root then goes in front of `sys.path`."""

    @classmethod
    def of_file(cls, path: str, attribute: str = "") -> "Target":
        """The module that `path` is when its import root is on `sys.path`: as for `python path`, but for a file within
        packages, which keeps its full name.

        Raises ConfigError when there is no such file, or its name cannot be imported.
        """
        file = Path(path).absolute()
        if not file.is_file():
            raise ConfigError(f"there is no file {path}" + ("" if Path(path).is_absolute() else f" in {Path.cwd()}"))
        names = [] if file.stem == "__init__" else [file.stem]
        names += [folder.name for folder in _packages(file)]
        if file.suffix != ".py" or not names or any("." in name for name in names):
            raise ConfigError(f"{path} cannot be imported: its name is not a module's name followed by .py")
        return cls(".".join(reversed(names)), attribute, str(file))

    @property
    def root(self) -> Path:
        """The folder that the module is imported from."""
        if self.path is None:
            return Path.cwd()
        return [Path(self.path), *_packages(Path(self.path))][-1].parent

    def __str__(self) -> str:
        return f"{self.path or self.module}{self.attribute and ':'}{self.attribute}"

    def load(self) -> BackgroundJobs[Any, Any]:
        """Import the module, with its import root (or else the working directory) in front of `sys.path`, and return
        the app. Opens nothing.

        Raises ConfigError for everything that goes wrong, errors of the app's own code included; they are its cause.
        """
        root = str(self.root)
        if root not in sys.path[:1]:
            sys.path.insert(0, root)
        module = self._import()
        return self._get(module) if self.attribute else self._find(module)

    def _import(self) -> ModuleType:
        try:
            module = importlib.import_module(self.module)
        except LaterError as error:
            raise ConfigError(f"{_place(error, self.root)}{error}") from error
        except (Exception, SystemExit) as error:  # noqa: BLE001  the import runs the app's code
            self._explain(error)
        if self.path is not None and not _same(getattr(module, "__file__", None), self.path):
            raise ConfigError(
                f"{self.path} cannot be imported: another module is named {self.module} too; rename the file"
            )
        return module

    def _explain(self, error: BaseException) -> NoReturn:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and (self.module == missing or self.module.startswith(f"{missing}.")):
            raise ConfigError(f"there is no module {missing} in {self.root} or along the import path") from error
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        if isinstance(error, SyntaxError) and error.filename:
            what = f"{type(error).__name__}: {error.msg}"
        raise ConfigError(f"{self.module} cannot be imported: {_place(error, self.root)}{what}") from error

    def _get(self, module: ModuleType) -> BackgroundJobs[Any, Any]:
        found: object = module
        for name in self.attribute.split("."):
            if not hasattr(found, name):
                hint = ", ".join(sorted(_apps(module)))
                raise ConfigError(f"{self.module} has no {self.attribute}" + (f"; it has {hint}" if hint else ""))
            found = getattr(found, name)
        if not _is_app(found):
            raise ConfigError(
                f"{self} is {type(found).__name__}, not BackgroundJobs: name what JobsBuilder(...).build() returned"
            )
        return found

    def _find(self, module: ModuleType) -> BackgroundJobs[Any, Any]:
        apps = _apps(module)
        distinct = {id(app): app for app in apps.values()}
        if len(distinct) == 1:
            return next(iter(distinct.values()))
        if apps:
            raise ConfigError(f"{self} has several apps: {', '.join(sorted(apps))}; name one, like {self}:{min(apps)}")
        raise ConfigError(f"{self} has no app: keep what JobsBuilder(...).build() returns in a global name")


def locate(jobs: "BackgroundJobs[Any, Any]") -> Target:
    """Where another process finds `jobs`: a global name of a module that is imported here.

    Raises ConfigError when it stands in no global name.
    """
    for name, module in list(sys.modules.items()):
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is jobs:
                return Target(name, attribute)
    raise ConfigError(
        f"the app {jobs.name} cannot be found by another process: "
        "keep what JobsBuilder(...).build() returns in a global name of its module"
    )


def _is_app(value: object) -> TypeGuard[BackgroundJobs[Any, Any]]:
    return isinstance(value, BackgroundJobs)


def _apps(module: ModuleType) -> dict[str, BackgroundJobs[Any, Any]]:
    return {name: value for name, value in vars(module).items() if _is_app(value)}


def _packages(file: Path) -> Iterator[Path]:
    """The folders above `file` that are its packages, innermost first."""
    for folder in file.parents:
        if not (folder / "__init__.py").is_file():
            return
        yield folder


def _same(first: str | None, second: str) -> bool:
    return first is not None and Path(first).exists() and Path(first).samefile(second)


def _place(error: BaseException, root: Path) -> str:
    """`file:line: ` of the innermost code of the app itself; empty when it had no part in the error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: "
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_relative_to(root) and not file.is_relative_to(_OURS) and "site-packages" not in file.parts:
            return f"{frame.filename}:{frame.lineno}: "
    return ""
