"""The `later` command as a whole: its commands, its help and its errors."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from later import StorageFull
from later.cli import backends, main
from later.core.ports import StorageCapabilities
from later.runtime.plugins import InstalledBackend
from tests.support.shop import later_command


def test_help_lists_every_command_without_importing_it() -> None:
    program = "import sys; from later.cli.main import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    help_text, _, modules = done.stdout.rstrip().rpartition("\n")
    assert all(f"  {name} " in help_text for name in main.COMMANDS)
    assert max(map(len, help_text.splitlines())) <= 80
    assert not {"rich", "watchfiles", "later.cli.jobs", "later.cli.output"} & set(modules.split())


def commands(command: click.Command, *path: str) -> list[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        return [path]
    context = click.Context(command)
    found = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
    return [each for name, sub in found if sub is not None for each in commands(sub, *path, name)]


@pytest.mark.parametrize("path", commands(main.later), ids=" ".join)
def test_the_help_of_every_command_fits_a_terminal(path: tuple[str, ...]) -> None:
    result = later_command(*path, "--help")

    assert result.stdout.startswith(f"Usage: later {' '.join(path)} ")
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert later_command(*path, "-h").stdout == result.stdout


def test_the_version() -> None:
    assert later_command("--version").stdout.startswith("later ")


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> list[InstalledBackend]:
        raise error

    monkeypatch.setattr(backends, "installed_backends", fail)


def test_an_error_of_ours_is_one_clean_line(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, StorageFull("no room on \x1b[31mdisk\nat all"))

    result = later_command("backends", code=1)

    assert (result.stdout, result.stderr) == ("", "Error: no room on \\x1b[31mdisk at all\n")


def test_an_error_that_nobody_expected_is_one_line_that_says_how_to_see_more(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, KeyError("queue"))

    result = later_command("backends", code=1)

    assert result.stderr == "Error: unexpected KeyError: 'queue' (LATER_DEBUG=1 shows where)\n"


@pytest.mark.parametrize("error", [StorageFull("no room"), KeyError("queue")])
def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    failing(monkeypatch, error)

    result = CliRunner().invoke(main.later, ["backends"], env={"LATER_DEBUG": "1"})

    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "raise error" in result.stderr


def test_wrong_use_is_told_with_another_code() -> None:
    assert "No such command 'job'" in later_command("job", code=2).stderr
    assert "No such option" in later_command("backends", "--yaml", code=2).stderr


def test_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        InstalledBackend(
            "memory",
            "later-jobs",
            "1.2",
            None,
            storage=True,
            broker=True,
            storage_capabilities=StorageCapabilities(
                durable=False, shared=False, shared_between_hosts=False, push=False
            ),
        ),
        InstalledBackend(
            "pg",
            "later-pg",
            "3",
            None,
            storage=True,
            storage_capabilities=StorageCapabilities(durable=True, shared=True, shared_between_hosts=True, push=True),
        ),
        InstalledBackend("mongo", "later-mongo", "0.1", "it does not load: ModuleNotFoundError: \x1bpymongo"),
    ]
    monkeypatch.setattr(backends, "installed_backends", lambda: found)

    assert later_command("backends").stdout.splitlines() == [
        "SCHEME  KIND     CAPABILITIES          DISTRIBUTION  VERSION  STATUS",
        "memory  storage  none                  later-jobs    1.2      loads",
        "memory  broker   ?                     later-jobs    1.2      loads",
        "pg      storage  durable, hosts, push  later-pg      3        loads",
        "mongo   ?        ?                     later-mongo   0.1      broken",
        "",
        r"mongo: it does not load: ModuleNotFoundError: \x1bpymongo",
    ]


def test_backends_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        InstalledBackend(scheme, "later-jobs", "1.2", "it does not load", extra)
        for scheme, extra in (("amqp", "rabbitmq"), ("redis", "redis"), ("valkey", "redis"))
    ]
    monkeypatch.setattr(backends, "installed_backends", lambda: found)

    assert later_command("backends").stdout.splitlines() == [
        "SCHEME  KIND  CAPABILITIES  DISTRIBUTION  VERSION  STATUS",
        "amqp    ?     ?             later-jobs    1.2      not installed",
        "redis   ?     ?             later-jobs    1.2      not installed",
        "valkey  ?     ?             later-jobs    1.2      not installed",
        "",
        'pip install "later-jobs[rabbitmq]" installs what amqp needs',
        'pip install "later-jobs[redis]" installs what redis, valkey needs',
    ]


def test_capabilities_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    can = StorageCapabilities(durable=True, shared=True, shared_between_hosts=True, push=True, transactional=True)
    found = [InstalledBackend("postgresql", "later-jobs", "1.2", None, storage=True, storage_capabilities=can)]
    monkeypatch.setattr(backends, "installed_backends", lambda: found)

    assert later_command("backends").stdout.splitlines() == [
        "SCHEME      KIND     CAPABILITIES                  DISTRIBUTION  VERSION  STATUS",
        "postgresql  storage  durable, hosts, push,         later-jobs    1.2      loads",
        "                     transactional",
    ]


def test_backends_as_json() -> None:
    import json

    found = {one["scheme"]: one for one in json.loads(later_command("backends", "--json").stdout)["backends"]}

    assert {"memory", "sqlite"} <= set(found)
    assert found["sqlite"] == {
        "scheme": "sqlite",
        "distribution": "later-jobs",
        "version": found["sqlite"]["version"],
        "loads": True,
        "error": None,
        "extra": None,
        "storage": {
            "capabilities": {
                "durable": True,
                "shared": True,
                "shared_between_hosts": False,
                "push": True,
                "transactional": True,
            },
        },
        "broker": None,
    }


def test_the_entry_point_takes_arguments(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        main.main(["backends", "--json"])

    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("{")
