"""From the syntax tree of a module to its stub: the same names and signatures without code, and a `JobsBuilder` that
knows the declared job types."""

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from later import ConfigError

PREAMBLE: Final = """\
import collections.abc as _abc
import typing as _typing
import typing_extensions as _typing_extensions
import later as _later
import later.core.ports as _ports
"""

BUILDER: Final = """\
_LaterApp = _typing.TypeVar("_LaterApp")
_LaterPayload = _typing.TypeVar("_LaterPayload", bound={payloads})

class {name}(_typing.Generic[_LaterApp]):
    def __init__(
        self,
        app: _LaterApp,
        name: str,
        broker: str | _ports.BrokerBackend | None = None,
        *,
        storage: str | _ports.StorageBackend | None = None,
        jobs: type | None = None,
        limits: _later.Limits | None = None,
    ) -> None: ...
{handlers}
    def with_handler(
        self,
        payload: type[_LaterPayload],
        handler: _abc.Callable[[_later.JobContext[_LaterApp], _LaterPayload], object],
    ) -> _typing.Self: ...
    def with_recurring(
        self,
        id: str,
        payload: {payloads},
        cron: str | None = None,
        **options: _typing_extensions.Unpack[_later.RecurringOptions],
    ) -> _typing.Self: ...
    def build(self) -> _later.BackgroundJobs[_LaterApp, {payloads}]: ...
    def build_client(self) -> _later.BackgroundJobs[_LaterApp, {payloads}]: ...
"""
"""As `later.JobsBuilder`, but without its `__getattr__`, so that a name that is not declared is an error."""

HANDLER: Final = """\
    def with_{name}_handler(
        self, handler: _abc.Callable[[_later.JobContext[_LaterApp], {payload}], object]
    ) -> _typing.Self: ...
"""


def stub_of(module: ast.Module, path: str) -> str:
    """The text of the stub. The same module gives the same text. `path` names the module in errors.

    Raises ConfigError when the module has no declaration, or several, or does not import JobsBuilder.
    """
    imports = _Imports.of(module)
    declaration = _declaration(module, imports, path)
    builder = imports.names.get("JobsBuilder")
    if builder is None:
        raise ConfigError(
            f"{path} does not import JobsBuilder: add `from later import JobsBuilder as JobsBuilder`, which "
            "programs then import from there"
        )
    fields = _fields(declaration, _classes(module), path)
    payloads = " | ".join(dict.fromkeys(fields.values()))
    handlers = "".join(HANDLER.format(name=name, payload=payload) for name, payload in fields.items())
    names = ast.Module([*_Transform(builder, _classes(module)).module(module.body)], [])
    return "\n".join(
        (
            PREAMBLE,
            re.sub(r":\n +\.\.\.$", ": ...", ast.unparse(ast.fix_missing_locations(names)), flags=re.MULTILINE),
            "",
            BUILDER.format(name=builder, handlers=handlers.rstrip(), payloads=payloads).rstrip(),
        )
    )


@dataclass(frozen=True)
class _Imports:
    """How a module calls what it imports from `later`."""

    names: dict[str, str]
    """Name in `later` to local name."""
    modules: frozenset[str]
    """Local names of `later` itself."""

    @classmethod
    def of(cls, module: ast.Module) -> "_Imports":
        names: dict[str, str] = {}
        modules: set[str] = set()
        for statement in module.body:
            match statement:
                case ast.ImportFrom(module="later", names=aliases, level=0):
                    names |= {alias.name: alias.asname or alias.name for alias in aliases}
                case ast.Import(names=aliases):
                    modules |= {alias.asname or alias.name for alias in aliases if alias.name == "later"}
                case _:
                    pass
        return cls(names, frozenset(modules))

    def is_background_job(self, expression: ast.expr) -> bool:
        match expression:
            case ast.Name(id=name):
                return name == self.names.get("background_job")
            case ast.Attribute(value=ast.Name(id=module), attr="background_job"):
                return module in self.modules
            case _:
                return False


def _classes(module: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}


def _declaration(module: ast.Module, imports: _Imports, path: str) -> ast.ClassDef:
    found = [node for node in _classes(module).values() if any(map(imports.is_background_job, node.decorator_list))]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"{path} has no declaration: no class in it is decorated with @background_job")
    raise ConfigError(
        f"{path} has several declarations ({', '.join(node.name for node in found)}): its JobsBuilder can know one"
    )


def _fields(declaration: ast.ClassDef, classes: dict[str, ast.ClassDef], path: str) -> dict[str, str]:
    """Job type name to payload type as written; those of base classes first."""
    fields: dict[str, str] = {}
    for base in declaration.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            fields |= _fields(classes[base.id], classes, path)
        elif ast.unparse(base) != "object":
            raise ConfigError(
                f"{path}: {declaration.name} inherits from {ast.unparse(base)}, which is not in this module, "
                "so its job types are not known here"
            )
    for node in declaration.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Constant(value=str(payload))):
                fields[name] = payload
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                fields[name] = ast.unparse(annotation)
            case _:
                pass
    if not fields:
        raise ConfigError(f"{path}: {declaration.name} declares no job type")
    return fields


_FACTORIES: Final = frozenset(
    {"TypeVar", "ParamSpec", "TypeVarTuple", "NewType", "NamedTuple", "namedtuple", "TypedDict", "TypeAliasType"}
)
"""Calls that make types: a type checker has to see them."""


class _Transform:
    """Statements without what happens when they run."""

    def __init__(self, builder: str, classes: dict[str, ast.ClassDef]) -> None:
        self._builder = builder
        self._classes = classes

    def module(self, body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
        for node in body:
            match node:
                case ast.Import() | ast.ImportFrom():
                    yield from self._import(node)
                case ast.ClassDef():
                    yield self._class(node)
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    yield _function(node)
                case ast.AnnAssign(target=ast.Name() as target):
                    yield node if _is_meant(node.annotation) else _declare(target, node.annotation)
                case ast.Assign(targets=targets, value=value):
                    yield from self._assign(node, targets, value)
                case ast.AugAssign(target=ast.Name(id="__all__")):
                    yield node
                case ast.If():
                    yield from self._if(node)
                case ast.Try(body=inner, orelse=more) | ast.TryStar(body=inner, orelse=more):
                    yield from self.module([*inner, *more])
                case ast.With(body=inner):
                    yield from self.module(inner)
                case _ if type(node).__name__ == "TypeAlias":  # `type X = ...`, which Python 3.11 does not have.
                    yield node
                case _:
                    pass

    def _import(self, node: ast.Import | ast.ImportFrom) -> Iterator[ast.stmt]:
        """A stub gives on only what it imports `as` the same name; a module gives on everything."""
        if isinstance(node, ast.Import):
            yield node
            return
        if node.module == "__future__":
            return
        aliases = [
            ast.alias(alias.name, alias.asname or (None if alias.name == "*" else alias.name))
            for alias in node.names
            if not (node.module == "later" and (alias.asname or alias.name) == self._builder)
        ]
        if aliases:
            yield ast.ImportFrom(node.module, aliases, node.level)

    def _assign(self, node: ast.Assign, targets: Sequence[ast.expr], value: ast.expr) -> Iterator[ast.stmt]:
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets) or _makes_type(value):
            yield node
            return
        annotation = self._type_of(value)
        for target in targets:
            for name in ast.walk(target):
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                    yield _declare(name, annotation)

    def _type_of(self, value: ast.expr) -> ast.expr:
        match value:
            case ast.Constant(value=None):
                return ast.Constant(None)
            case ast.Constant(value=constant):
                return ast.Name(type(constant).__name__)
            case ast.JoinedStr():
                return ast.Name("str")
            case ast.Call(func=ast.Name(id=name)) if name in self._classes:
                return ast.Name(name)
            case _:
                return _any()

    def _if(self, node: ast.If) -> Iterator[ast.stmt]:
        """Keep the tests that a type checker decides too; of others, take both branches; nothing of the part that runs
        only as a program."""
        test = ast.unparse(node.test)
        if "__name__" in test:
            return
        if "TYPE_CHECKING" in test or "sys." in test:
            body, orelse = list(self.module(node.body)), list(self.module(node.orelse))
            if body or orelse:
                yield ast.If(node.test, body or [ast.Pass()], orelse)
            return
        yield from self.module([*node.body, *node.orelse])

    def _class(self, node: ast.ClassDef) -> ast.ClassDef:
        body = [*self._members(node)]
        known = {name for member in body for name in _bound(member)}
        body = [*(_declare(ast.Name(name), kind) for name, kind in self._instance(node) if name not in known), *body]
        return _replaced(node, body=body or [ast.Expr(ast.Constant(...))])

    def _members(self, node: ast.ClassDef) -> Iterator[ast.stmt]:
        for member in node.body:
            match member:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    yield _function(member)
                case ast.ClassDef():
                    yield self._class(member)
                case ast.Assign() | ast.AnnAssign():
                    # With its value: whether and what a field has as default decides about the constructor.
                    yield member
                case _:
                    pass

    def _instance(self, node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
        """Attributes that methods set on the instance, each once."""
        seen: set[str] = set()
        for method in node.body:
            if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) or not method.args.args:
                continue
            me = method.args.args[0].arg
            parameters = {
                argument.arg: argument.annotation
                for argument in (*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs)
                if argument.annotation is not None
            }
            for name, annotation, value in _set_on(method, me):
                if name not in seen:
                    seen.add(name)
                    passed = parameters.get(value.id) if isinstance(value, ast.Name) else None
                    yield name, annotation or passed or (self._type_of(value) if value else _any())


def _set_on(method: ast.AST, me: str) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    """(attribute, annotation, value) of each `self.attribute = value`."""
    for node in ast.walk(method):
        match node:
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id=name), attr=attribute)], value=value):
                if name == me:
                    yield attribute, None, value
            case ast.AnnAssign(target=ast.Attribute(value=ast.Name(id=name), attr=attribute)):
                if name == me:
                    yield attribute, node.annotation, node.value
            case _:
                pass


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.stmt:
    """The signature. Defaults become `...`, as stubs write them."""
    arguments = node.args
    returns = node.returns
    if returns is None and node.name == "__init__":
        returns = ast.Constant(None)
    return _replaced(
        node,
        args=_replaced(
            arguments,
            defaults=[ast.Constant(...) for _ in arguments.defaults],
            kw_defaults=[None if default is None else ast.Constant(...) for default in arguments.kw_defaults],
        ),
        body=[ast.Expr(ast.Constant(...))],
        returns=returns,
    )


def _makes_type(value: ast.expr) -> bool:
    """Whether the value is or may be a type or an alias of one, which a checker has to see as it stands."""
    match value:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in _FACTORIES
        case ast.BinOp(op=ast.BitOr()) | ast.Name() | ast.Attribute() | ast.Subscript():
            return not any(isinstance(part, ast.Call) for part in ast.walk(value))
        case _:
            return False


def _is_meant(annotation: ast.expr) -> bool:
    """Whether the annotation is about the value: `X: TypeAlias = ...`, `LIMIT: Final = 3`."""
    return ast.unparse(annotation).split(".")[-1] in {"TypeAlias", "Final"}


def _bound(member: ast.stmt) -> Iterator[str]:
    match member:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
        case ast.Assign(targets=targets):
            yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))
        case _:
            pass


def _declare(target: ast.Name, annotation: ast.expr) -> ast.AnnAssign:
    return ast.AnnAssign(target=target, annotation=annotation, value=None, simple=1)


def _any() -> ast.expr:
    return ast.Attribute(ast.Name("_typing"), "Any")


_Node = TypeVar("_Node", bound=ast.AST)


def _replaced(node: _Node, **fields: Any) -> _Node:
    """The node with other fields; those of the tree that was given stay as they are."""
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})
