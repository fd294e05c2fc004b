"""Writes the parts of the documentation that follow from the code.

A page marks such a part with `<!-- generated: NAME -->` and `<!-- end -->`; NAME is a key of SECTIONS.

    python docs/generate.py            write the parts anew
    python docs/generate.py --check    only tell which pages are not up to date (exit code 1)
"""

import argparse
import ast
import enum
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import click

import later as package
from later.backends.memory import Memory
from later.backends.postgres import Postgres
from later.backends.rabbitmq import RabbitMQ
from later.backends.redis import Redis
from later.backends.sqlite import SQLite
from later.cli.main import later as command_line
from later.core.errors import LaterError
from later.core.lifecycle import RULES, Attempt, Cause, continuation
from later.core.records import On, State

DOCS = Path(__file__).resolve().parent
_PART = re.compile(r"(<!-- generated: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)

BACKENDS: Final[dict[str, type]] = {
    "SQLite": SQLite,
    "Postgres": Postgres,
    "Redis": Redis,
    "RabbitMQ": RabbitMQ,
    "Memory": Memory,
}
"""Not in `later`, which imports no backend, but in the package of each."""

NOT_MADE_BY_USERS: Final = {"BackgroundJobs", "JobContext", "RecurringJobs"}
"""Classes whose constructor is nobody's business."""

HIDDEN: Final = {
    "broker",
    "declare",
    "intake",
    "next_delay",
    "open_broker",
    "open_storage",
    "policy_for",
    "publish",
    "put",
    "registry",
    "storage",
    "stored_payload",
    "stored_result",
}
"""Members that only the runtime and the command line need."""

LINE: Final = 100
TYPES: Final = {
    "NewApp": "App",
    "OnParent": "On | str",
    "Isolation": "str",
    "Synchronous": "str",
    "MisfireOption": "Misfire | str",
    "OverlapOption": "Overlap | str",
}
"""Names in signatures that are said otherwise to a reader."""

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

API_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "Declare": ("background_job", "job_type"),
    "Build": ("JobsBuilder", "Limits"),
    "Storages and brokers": ("SQLite", "Postgres", "Redis", "RabbitMQ", "Memory"),
    "Use": ("BackgroundJobs", "Verdict"),
    "Handle": ("JobContext", "RetryAfter", "Snooze", "Cancel", "Retry"),
    "Recurring jobs": (
        "RecurringOptions",
        "Misfire",
        "Overlap",
        "RecurringJobs",
        "Recurring",
        "RecurringRun",
        "NextFire",
        "Origin",
        "Tick",
    ),
    "Look": (
        "Job",
        "HistoryEntry",
        "ErrorInfo",
        "State",
        "On",
        "JobQuery",
        "Page",
        "Counts",
        "Server",
        "ServerTrouble",
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = [page for page in sorted(DOCS.rglob("*.md")) if page.read_text(encoding="utf-8") != filled(page)]
    for page in stale:
        print(f"{page.relative_to(DOCS.parent)}: {'not up to date' if check else 'written'}")
        if not check:
            page.write_text(filled(page), encoding="utf-8")
    return 1 if check and stale else 0


def filled(page: Path) -> str:
    """The page's text with every generated part as it should be."""
    return _PART.sub(
        lambda found: f"{found[1]}\n{SECTIONS[found[2]]().strip()}\n\n{found[3]}",
        page.read_text(encoding="utf-8"),
    )


def lifecycle_table() -> str:
    rows = [
        "| Cause | From | To | When | Attempts | Crashes | Fenced |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cause, rule in RULES.items():
        sources = ", ".join(state for state in State if state in rule.sources)
        attempt = "" if rule.attempt is Attempt.KEEP else rule.attempt.value
        crash = "one more" if rule.crash else "back to 0" if rule.attempt is Attempt.RESET else ""
        to = f"{rule.to} \\*" if rule.yields else str(rule.to)
        fenced = "yes" if rule.of_claim else ""
        rows.append(f"| {cause} | {sources} | {to} | {rule.meaning} | {attempt} | {crash} | {fenced} |")
    return "\n".join(rows)


def lifecycle_diagram() -> str:
    moves: dict[tuple[State, State], list[str]] = {}
    for cause, rule in RULES.items():
        for source in State:
            if source in rule.sources:
                moves.setdefault((source, rule.to), []).append(cause)
    lines = [f"    {source} --> {to}: {', '.join(causes)}" for (source, to), causes in moves.items()]
    starts = [f"    [*] --> {state}" for state in (State.ENQUEUED, State.SCHEDULED, State.AWAITING)]
    return "\n".join(["```mermaid", "stateDiagram-v2", *starts, *lines, "```"])


def continuation_table() -> str:
    meanings = {None: "waits on", Cause.PARENT_ENDED: "**Enqueued**", Cause.PARENT_MISSED: "Deleted"}
    rows = [
        "| Child waits for | " + " | ".join(f"Parent {state}" for state in State if state.ended) + " |",
        "| --- " * 4 + "|",
    ]
    for on in On:
        cells = (meanings[continuation(state, on)] for state in State if state.ended)
        rows.append(f"| `{on}` | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def error_tree() -> str:
    def lines(kind: type[LaterError], depth: int) -> Iterator[str]:
        yield f"{'    ' * depth}{kind.__name__}"
        for child in kind.__subclasses__():
            if child.__module__ == LaterError.__module__:
                yield from lines(child, depth + 1)

    return "\n".join(["```text", *lines(LaterError, 0), "```"])


def commands() -> str:
    return "\n\n".join(_command(command_line, "later"))


def _command(command: click.Command, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name, **command.context_settings)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    yield f"{'#' * (name.count(' ') + 2)} {name}\n\n```text\n{usage}\n```"
    yield inspect.cleandoc(command.help or "")
    rows = [
        f"| `{', '.join(parameter.opts)}`{_default(parameter)} | {parameter.help or ''} |"
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
    ]
    if rows:
        yield "\n".join(["| Option | |", "| --- | --- |", *rows])
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _command(found, f"{name} {child}")


def _default(option: click.Option) -> str:
    return f" ({option.default})" if option.show_default and option.default is not None else ""


def api() -> str:
    parts: list[str] = []
    for group, names in API_GROUPS.items():
        parts.append(f"## {group}")
        parts += [_public(name) for name in names]
    return "\n\n".join(parts)


def public_errors() -> set[str]:
    found = {name: getattr(package, name) for name in package.__all__}
    return {name for name, value in found.items() if isinstance(value, type) and issubclass(value, LaterError)}


def _public(name: str) -> str:
    value = BACKENDS.get(name) or getattr(package, name)
    tree = _tree(value)
    if isinstance(tree, ast.ClassDef):
        return "\n\n".join(_class(name, value, tree))
    assert isinstance(tree, _Function)
    return f"### {name}\n\n```text\n{_signature(tree, name)}\n```\n\n{_text(ast.get_docstring(tree))}"


def _tree(value: type | Callable[..., object]) -> ast.stmt:
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def _class(name: str, kind: type, tree: ast.ClassDef) -> Iterator[str]:
    yield f"### {name}"
    bases = [base for base in kind.__mro__ if base.__module__.startswith("later.")]
    trees = [base_tree for base_tree in map(_tree, bases) if isinstance(base_tree, ast.ClassDef)]
    functions = [node for base_tree in trees for node in base_tree.body if isinstance(node, _Function)]
    init = next((node for node in functions if node.name == "__init__"), None)
    if init is not None and name not in NOT_MADE_BY_USERS:
        yield f"```text\n{_signature(init, name)}\n```"
    else:
        init = None
    yield _text(ast.get_docstring(tree))
    if init is not None and ast.get_docstring(init):
        yield _text(ast.get_docstring(init))
    is_enum = issubclass(kind, enum.Enum)
    # Enqueueing comes first, and is told only once.
    shown = [base_tree for base_tree in reversed(trees) if name != "JobContext" or base_tree.name == name]
    members = [item for base_tree in shown for item in _members(base_tree, is_enum=is_enum)]
    if name == "JobContext":
        members.append(
            "- `enqueue(...)` and the other methods of `BackgroundJobs` that begin with `enqueue` or `aenqueue`"
        )
    if members:
        yield "\n".join(members)


def _members(tree: ast.ClassDef, *, is_enum: bool) -> Iterator[str]:
    body = tree.body
    for index, node in enumerate(body):
        if isinstance(node, _Function):
            if not node.name.startswith("_") and node.name not in HIDDEN:
                yield _item(_head(node), ast.get_docstring(node))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if not node.target.id.startswith("_") and node.target.id not in HIDDEN:
                yield _item(f"{node.target.id}: {_type(node.annotation)}", _attribute_doc(body, index))
        elif is_enum and isinstance(node, ast.Assign):
            yield _item(ast.unparse(node), _attribute_doc(body, index))


def _attribute_doc(body: list[ast.stmt], index: int) -> str | None:
    following = body[index + 1] if index + 1 < len(body) else None
    if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
        return str(following.value.value)
    return None


def _item(code: str, text: str | None) -> str:
    head = f"- `{code}`" if "\n" not in code else "- ```text\n" + textwrap.indent(code, "  ") + "\n  ```"
    return f"{head}\n{textwrap.indent(_text(text), '  ')}" if text else head


def _head(node: _Function) -> str:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if "property" in decorators:
        return f"{node.name}: {_type(node.returns) if node.returns else ''}"
    return _signature(node, node.name)


def _signature(node: _Function, name: str) -> str:
    """As a caller writes it: on one line when it is short, else with a line for each argument."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults)) + [*arguments.defaults]
    given = [_argument(argument, default) for argument, default in zip(positional, defaults, strict=True)]
    if positional and positional[0].arg in ("self", "cls"):
        given = given[1:]
    if arguments.vararg:
        given.append("*" + _argument(arguments.vararg, None))
    elif arguments.kwonlyargs:
        given.append("*")
    given += [_argument(*pair) for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg and arguments.kwarg.annotation:
        given.append(f"**{_argument(arguments.kwarg, None)}".replace("Unpack[", "").replace("]", ""))
    returns = f" -> {_type(node.returns)}" if node.returns and node.name != "__init__" else ""
    start = f"{'async ' if isinstance(node, ast.AsyncFunctionDef) else ''}{name}("
    line = f"{start}{', '.join(given)}){returns}"
    return line if len(line) <= LINE else f"{start}\n" + "".join(f"    {one},\n" for one in given) + f"){returns}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    annotation = f": {_type(argument.annotation)}" if argument.annotation else ""
    return f"{argument.arg}{annotation}" + (f" = {_default_value(default)}" if default else "")


def _default_value(default: ast.expr) -> str:
    if isinstance(default, ast.Constant) and isinstance(default.value, str):
        return json.dumps(default.value)
    return ast.unparse(default)


def _type(annotation: ast.expr) -> str:
    """Without the quotes of a forward reference, and with type variables under their plain names."""
    text = ast.unparse(annotation)
    if "Literal[" not in text:
        text = text.replace("'", "")
    text = re.sub(r"\b_([A-Z]\w*?)(?:_co|_contra)?\b", r"\1", text)
    return re.sub(r"\w+", lambda found: TYPES.get(found[0], found[0]), text)


def _text(docstring: str | None) -> str:
    """A docstring as Markdown: an indented example becomes a block, a line `name: ...` an item of a list."""
    lines: list[str] = []
    in_code = False
    for line in inspect.cleandoc(docstring or "").splitlines():
        code = line.startswith("    ") if not in_code else line.startswith("    ") or not line
        if code and not in_code and lines and lines[-1]:
            # A continuation line of an item, not an example: examples follow an empty line.
            lines[-1] += " " + line.strip()
            continue
        if code != in_code:
            if not code and not lines[-1]:
                lines.pop()
            lines += ["```text"] if code else ["```", ""]
            in_code = code
        item = re.match(r"([a-z_]+(?:, [a-z_]+)*): ", line)
        lines.append(line[4:] if code else f"- `{item[1]}`: {line[item.end() :]}" if item else line)
    if in_code:
        lines.append("```")
    return "\n".join(lines)


SECTIONS: Final[dict[str, Callable[[], str]]] = {
    "api": api,
    "commands": commands,
    "continuations": continuation_table,
    "errors": error_tree,
    "lifecycle diagram": lifecycle_diagram,
    "lifecycle table": lifecycle_table,
}

if __name__ == "__main__":
    sys.exit(main())
