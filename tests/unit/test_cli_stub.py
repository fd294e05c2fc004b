"""`later stub`: when it writes, when it refuses, and what it makes of a module. tests/typing asks the type checkers."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from later import JobsBuilder
from later.cli.stub import HEADER
from later.cli.stubbing import stub_of
from tests.support.shop import later_command

SMALL = """
from later import JobsBuilder as JobsBuilder, background_job
from pydantic import BaseModel

class Mail(BaseModel):
    address: str

@background_job
class Jobs:
    send: Mail
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, with a module."""
    monkeypatch.chdir(tmp_path)
    Path("small.py").write_text(SMALL)


def test_the_stub_is_written_beside_the_module() -> None:
    assert later_command("stub", "small").stdout == "small.pyi written.\n"

    text = Path("small.pyi").read_text()
    assert text.startswith(HEADER)
    assert "def with_send_handler(" in text
    assert "def build(self) -> _later.BackgroundJobs[_LaterApp, Mail]: ..." in text


def test_the_same_module_gives_the_same_text() -> None:
    later_command("stub", "small.py")
    first = Path("small.pyi").read_bytes()
    written = Path("small.pyi").stat().st_mtime_ns

    assert later_command("stub", "small.py").stdout == "small.pyi is up to date.\n"
    assert later_command("stub", "./small.py", "--output", "-").stdout.encode() == first
    assert Path("small.pyi").stat().st_mtime_ns == written


def test_check_tells_missing_stale_and_current_stubs() -> None:
    assert "small.pyi is missing: run `later stub small`" in later_command("stub", "small", "--check", code=1).stderr
    later_command("stub", "small")
    assert later_command("stub", "small", "--check").stdout == "small.pyi is up to date.\n"

    Path("small.py").write_text(SMALL + "    receive: Mail2\n\nclass Mail2(Mail): ...\n")

    assert "small.pyi is out of date" in later_command("stub", "small", "--check", code=1).stderr
    assert "with_receive_handler" not in Path("small.pyi").read_text()
    assert later_command("stub", "small").stdout == "small.pyi written.\n"
    later_command("stub", "small", "--check")


def test_a_formatter_makes_no_stub_stale() -> None:
    later_command("stub", "small")
    text = Path("small.pyi").read_text()

    Path("small.pyi").write_text(f"{HEADER}\n{ast.unparse(ast.parse(text))}\n")

    later_command("stub", "small", "--check")


def test_a_stub_that_is_no_python_is_stale() -> None:
    Path("small.pyi").write_text(f"{HEADER}\n(\n")

    assert "out of date" in later_command("stub", "small", "--check", code=1).stderr


def test_a_stub_that_somebody_wrote_is_left_alone() -> None:
    Path("small.pyi").write_text("class Mail: ...\n")

    assert "was not made by `later stub`" in later_command("stub", "small", code=1).stderr
    assert Path("small.pyi").read_text() == "class Mail: ...\n"
    later_command("stub", "small", "--output", "other.pyi")
    assert Path("other.pyi").read_text().startswith(HEADER)


def test_a_module_is_found_within_packages_without_running_them(tmp_path: Path) -> None:
    package = tmp_path / "pack" / "age"
    package.mkdir(parents=True)
    (tmp_path / "pack" / "__init__.py").write_text("raise SystemExit('run')")
    (package / "__init__.py").write_text(SMALL + "raise SystemExit('run')")
    (package / "tasks.py").write_text(SMALL)

    assert later_command("stub", "pack.age.tasks").stdout == "pack/age/tasks.pyi written.\n"
    assert later_command("stub", "pack.age").stdout == "pack/age/__init__.pyi written.\n"
    later_command("stub", "pack/age/tasks.py", "--check")


@pytest.mark.parametrize(
    ("module", "text", "said"),
    [
        ("bad.py", "x = 1\n", "bad.py has no declaration"),
        ("bad.py", SMALL.replace("JobsBuilder as JobsBuilder, ", ""), "does not import JobsBuilder"),
        ("bad.py", SMALL + "\n@background_job\nclass More:\n    send: Mail\n", r"several declarations \(Jobs, More\)"),
        ("bad.py", SMALL.replace("class Jobs:", "class Jobs(Other):"), "inherits from Other, which is not in this"),
        ("bad.py", SMALL.replace("send: Mail", "pass"), "Jobs declares no job type"),
        ("bad.py", "def (\n", "bad.py:1: SyntaxError"),
        ("bad.py", "# coding: nonsense\n", "bad.py"),
        ("missing.py", "", "missing.py cannot be read"),
        ("missing", "", "there is no module missing"),
        ("small.missing", "", "there is no module small.missing"),
        ("math", "", "math has no Python source"),
    ],
)
def test_what_no_stub_is_made_of(module: str, text: str, said: str) -> None:
    Path("bad.py").write_text(text)

    result = later_command("stub", module, code=1)

    assert re.match(f"Error: .*{said}", result.stderr)
    assert not Path("bad.pyi").exists()


def test_a_stub_that_cannot_be_written(tmp_path: Path) -> None:
    assert "cannot be written" in later_command("stub", "small", "--output", "no/such/folder.pyi", code=1).stderr
    assert "--check compares" in later_command("stub", "small", "--check", "--output", "-", code=2).stderr


def stub(text: str) -> str:
    return stub_of(ast.parse(SMALL + text), "module.py").partition("_LaterApp")[0]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("X: int = compute()", "X: int"),
        ("X = 3", "X: int"),
        ("X = None", "X: None"),
        ("X = f'{3}'", "X: str"),
        ("X = compute()", "X: _typing.Any"),
        ("X, (Y, *Z) = compute()", "X: _typing.Any\nY: _typing.Any\nZ: _typing.Any"),
        ("X = Mail(address='a')", "X: Mail"),
        ("X = Mail", "X = Mail"),
        ("X = dict[str, Mail]", "X = dict[str, Mail]"),
        ("X = Mail | None", "X = Mail | None"),
        ("X = table[compute()]", "X: _typing.Any"),
        ("X = TypeVar('X')", "X = TypeVar('X')"),
        ("X = typing.NewType('X', int)", "X = typing.NewType('X', int)"),
        ("X: TypeAlias = 'Mail'", "X: TypeAlias = 'Mail'"),
        ("X: typing.Final = 3", "X: typing.Final = 3"),
        ("__all__ = ['Jobs']\n__all__ += ['Mail']", "__all__ = ['Jobs']\n__all__ += ['Mail']"),
        ("import os.path as p, sys", "import os.path as p, sys"),
        ("from a import b, c as d", "from a import b as b, c as d"),
        ("from a import *", "from a import *"),
        ("from . import a", "from . import a as a"),
        ("from __future__ import annotations", ""),
        ("try:\n    import a\nexcept ImportError:\n    a = None", "import a"),
        ("with suppress(ImportError):\n    import a", "import a"),
        ("if TYPE_CHECKING:\n    import a", "if TYPE_CHECKING:\n    import a"),
        (
            "if sys.version_info > (3, 11):\n    print()\nelse:\n    import a",
            "if sys.version_info > (3, 11):\n    pass\nelse:\n    import a",
        ),
        ("if DEBUG:\n    X = 1\nelse:\n    Y = 1", "X: int\nY: int"),
        ("if sys.argv:\n    print()", ""),
        ("if __name__ == '__main__':\n    X = 1", ""),
        ("for X in range(3):\n    print(X)\ndel X\nX += 1\nprint()", ""),
        (
            "def f(a: int, /, b=3, *c: str, d: int, e=None, **f) -> str:\n    return ''",
            "def f(a: int, /, b=..., *c: str, d: int, e=..., **f) -> str: ...",
        ),
        ("@a\nasync def f() -> None:\n    '''Text.'''\n    await b()", "@a\nasync def f() -> None: ..."),
        ("class A(B, metaclass=C):\n    '''Text.'''", "class A(B, metaclass=C): ..."),
        ("class A:\n    x: int = f(3)\n    RED = auto()\n    print()", "class A:\n    x: int = f(3)\n    RED = auto()"),
        ("class A:\n    class B:\n        x = 1", "class A:\n\n    class B:\n        x = 1"),
        ("class A:\n    @staticmethod\n    def f():\n        pass", "class A:\n\n    @staticmethod\n    def f(): ..."),
    ],
)
def test_what_becomes_of_the_code_of_a_module(code: str, expected: str) -> None:
    text = stub(code)

    ast.parse(text)
    rest = text.partition("class Jobs:\n    send: Mail\n")[2].strip()
    assert rest == expected


def test_attributes_that_methods_set_are_declared() -> None:
    code = """
class A:
    z: int
    def __init__(self, x: int, y):
        self.x = x
        self.y = y
        self.z = 1
        self.text: str = f()
        self.x = 2
        other.q = 3
"""
    expected = """
class A:
    x: int
    y: _typing.Any
    text: str
    z: int

    def __init__(self, x: int, y) -> None: ..."""

    assert expected in stub(code)


def test_a_declaration_with_bases_aliases_and_text_annotations() -> None:
    module = """
import later as l
from later import JobsBuilder as Builder
class Base:
    first: "models.A"
class Jobs(Base, object):
    second: B = l.job_type(queue="x")
    third: "models.A"
    _private = 3
Jobs = Jobs
@l.background_job
class Declared(Jobs):
    first: C
"""
    text = stub_of(ast.parse(module), "module.py")

    assert "class Builder(_typing.Generic[_LaterApp]):" in text
    assert "build(self) -> _later.BackgroundJobs[_LaterApp, C | B | models.A]" in text
    assert "with_first_handler" in text
    assert "with_third_handler" in text
    assert "import Builder" not in text


def test_the_builder_of_a_stub_takes_what_the_real_one_takes() -> None:
    tree = ast.parse(stub_of(ast.parse(SMALL), "module.py"))
    builder = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "JobsBuilder")
    methods = {node.name: node.args for node in builder.body if isinstance(node, ast.FunctionDef)}

    for name in ("__init__", "with_handler", "with_recurring", "build", "build_client"):
        real = inspect.signature(getattr(JobsBuilder, name)).parameters
        more = [methods[name].kwarg]
        given = [argument.arg for argument in (*methods[name].args, *methods[name].kwonlyargs, *more) if argument]
        assert given == list(real)
    public = {name for name in vars(JobsBuilder) if not name.startswith("_")}
    assert public | {"__init__", "with_send_handler"} == set(methods)
