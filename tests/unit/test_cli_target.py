"""Which app a command is about, and what is said when it cannot be had."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from later import ConfigError
from later.cli.target import parse
from later.runtime.target import Target
from tests.support.shop import APP, forgotten, later_command

NAMES = ("one_app", "shop_package", "shop_package.tasks", "shop_package.other", "broken_app", "wrong_app")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LATER_APP", raising=False)
    with forgotten(*NAMES):
        yield tmp_path


def write(path: str, text: str = APP) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def write_all() -> None:
    write("one_app.py")
    write("shop_package/__init__.py", "")
    write("shop_package/tasks.py")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("app", Target("app")),
        ("app:jobs", Target("app", "jobs")),
        ("shop.tasks:apps.jobs", Target("shop.tasks", "apps.jobs")),
    ],
)
def test_modules(text: str, target: Target) -> None:
    assert parse(text) == target
    assert str(target) == text


def test_files(folder: Path) -> None:
    write_all()

    assert parse("one_app.py") == Target("one_app", "", str(folder / "one_app.py"))
    assert parse("./one_app.py:jobs") == Target("one_app", "jobs", str(folder / "one_app.py"))
    packaged = parse("shop_package/tasks.py:jobs")
    assert packaged == Target("shop_package.tasks", "jobs", str(folder / "shop_package/tasks.py"))
    assert packaged.root == folder
    assert parse(str(packaged)) == packaged
    assert parse("shop_package/__init__.py").module == "shop_package"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("missing.py", "there is no file missing.py in /"),
        ("some/missing.py:jobs", "there is no file some/missing.py"),
        ("app:", "after the colon comes a name"),
        ("app:jobs()", "after the colon comes a name"),
        ("my app:jobs", "names no app"),
        ("", "names no app"),
        ("1.py", "there is no file"),
        (".", "names no app"),
        ("some.name.py", "its name is not a module's name"),
        ("text/file.txt", "its name is not a module's name"),
    ],
)
def test_what_names_no_app(text: str, said: str) -> None:
    write("some.name.py")
    write("text/file.txt")

    with pytest.raises(ConfigError, match=said):
        parse(text)


@pytest.mark.parametrize(
    "text", ["one_app", "one_app:jobs", "one_app.py", "shop_package.tasks", "shop_package/tasks.py"]
)
def test_an_app_is_loaded(text: str) -> None:
    write_all()

    assert parse(text).load().name == "shop"


def test_a_file_elsewhere_is_loaded_from_there(tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(f"{elsewhere}/one_app.py", "from one_helper import *\n")
    write(f"{elsewhere}/one_helper.py")

    with forgotten("one_helper"):
        assert parse(f"{elsewhere}/one_app.py").load().name == "shop"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("missing_app:jobs", "there is no module missing_app in"),
        ("one_app:job", "one_app has no job; it has jobs"),
        ("one_app:jobs.nothing", "one_app has no jobs.nothing; it has jobs"),
        ("one_app:Jobs", "one_app:Jobs is type, not BackgroundJobs"),
        ("one_app.tasks:jobs", "there is no module one_app.tasks in"),
        ("shop_package", "shop_package has no app: keep what"),
        ("shop_package.other", "has several apps: jobs, more; name one, like shop_package.other:jobs"),
    ],
)
def test_what_cannot_be_loaded(text: str, said: str) -> None:
    write_all()
    write("shop_package/other.py", APP + "\nmore = JobsBuilder(None, 'more').build_client()\nsame = jobs\ndel same\n")

    with pytest.raises(ConfigError, match=said):
        parse(text).load()


def test_one_app_under_two_names_is_one() -> None:
    write("one_app.py", APP + "\nsame = jobs\n")

    assert parse("one_app").load().name == "shop"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = (\n", r"broken_app\.py:1: SyntaxError: '\(' was never closed"),
        ("\n\nx = 1 / 0\n", r"broken_app\.py:3: ZeroDivisionError: division by zero"),
        ("import json\n\njson.loads('[')\n", r"broken_app\.py:3: JSONDecodeError: Expecting value"),
        ("import not_installed\n", r"broken_app\.py:1: ModuleNotFoundError: No module named 'not_installed'"),
        ("raise SystemExit(3)\n", r"broken_app\.py:1: SystemExit: 3"),
        (
            "from later import *\n\nJobsBuilder(None, 'no name')\n",
            r"broken_app\.py:3: app name 'no name' is not a name",
        ),
        ("raise ValueError\n", r"broken_app\.py:1: ValueError$"),
    ],
)
def test_an_app_that_does_not_start_is_told_with_its_place(code: str, said: str) -> None:
    write("broken_app.py", code)

    with pytest.raises(ConfigError, match=said) as told:
        parse("broken_app.py").load()

    assert told.value.__cause__ is not None


def test_a_file_that_another_module_hides() -> None:
    write("json.py")

    with pytest.raises(ConfigError, match="another module is named json too; rename the file"):
        parse("json.py").load()


def test_the_app_is_found_in_the_usual_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Option of the command, option of `later`, LATER_APP, pyproject.toml; what is missing is named in the error."""
    (folder / "pyproject.toml").write_text('[tool.later]\napp = "from_pyproject"\n')

    def missing(*arguments: str, app: str | None = None) -> str:
        return later_command(*arguments, code=1, app=app).stderr.split()[5]

    assert missing("-A", "from_group", "status", "-A", "from_command", app="from_variable") == "from_command"
    assert missing("-A", "from_group", "jobs", "list", app="from_variable") == "from_group"
    assert missing("status", app="from_variable") == "from_variable"
    assert missing("status") == "from_pyproject"


@pytest.mark.parametrize("text", [None, "", "[tool.other]\n", "[tool.later]\n", "tool = 3\n", "[tool]\nlater = 3\n"])
def test_no_app_anywhere(folder: Path, text: str | None) -> None:
    if text is not None:
        (folder / "pyproject.toml").write_text(text)

    assert "Which app? Say so with -A app:jobs" in later_command("status", code=2).stderr


@pytest.mark.parametrize("text", ["[tool.later\n", "[tool.later]\napp = 3\n", "\x00"])
def test_a_pyproject_that_does_not_say_it_rightly(folder: Path, text: str) -> None:
    (folder / "pyproject.toml").write_text(text)

    assert later_command("status", code=1).stderr.startswith("Error: pyproject.toml")


@pytest.mark.parametrize(
    "command",
    ["status", "jobs list", "jobs show x", "jobs delete x", "recurring list"],
)
def test_a_command_that_looks_makes_no_database(folder: Path, command: str) -> None:
    write("one_app.py")

    result = later_command(*command.split(), code=1, app="one_app")

    assert result.output.startswith(f"Error: there is no SQLite file {folder / 'shop.sqlite3'}: go to the folder")
    assert list(folder.glob("*sqlite*")) == []


def test_what_an_app_prints_at_import_stays_out_of_the_document() -> None:
    import json

    write("one_app.py", APP + "\nprint('hello')\n")
    Path("shop.sqlite3").touch()

    result = later_command("status", "--json", app="one_app")

    assert json.loads(result.stdout)["servers"] == []
    assert result.stderr == "hello\n"
