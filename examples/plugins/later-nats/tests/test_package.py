"""As a stranger gets it: built, installed by pip, found by `later`; and made of public names only."""

import ast
import json
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1]

PUBLIC = {
    "later",
    "later.core.errors",
    "later.core.hookspecs",
    "later.core.messages",
    "later.core.names",
    "later.core.ports",
    "later.core.records",
}
"""What docs/how-to/write-a-backend.md names as stable for brokers."""


def test_only_public_modules_are_imported() -> None:
    imported: set[str] = set()
    for path in (HERE / "later_nats").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module)
                assert not [alias.name for alias in node.names if alias.name.startswith("_")]
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
    assert {name for name in imported if name.partition(".")[0] == "later"} <= PUBLIC
    page = (HERE.parents[2] / "docs" / "how-to" / "write-a-backend.md").read_text()
    assert [name for name in sorted(PUBLIC) if f"`{name}`" not in page] == []


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(300)
def test_the_wheel_in_a_fresh_environment(tmp_path: Path) -> None:
    """Without the network: the dependencies are lent by the environment of these tests, the two projects are not."""
    for project in (HERE, HERE.parents[2]):
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", project)
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    wheels = sorted((tmp_path / "dist").glob("*.whl"))
    assert [wheel.name.partition("-")[0] for wheel in wheels] == ["later_jobs", "later_nats"]
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", "--quiet", *wheels)
    # A path file adds folders without the path files in them, so that the editable installs there are not lent.
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")

    listed = json.loads(run(tmp_path / "env" / "bin" / "later", "backends", "--json", cwd=tmp_path))["backends"]
    mine = {one["scheme"]: one for one in listed if one["distribution"] == "later-nats"}

    version = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]["version"]
    assert set(mine) == {"nats", "nats+tls"}
    assert mine["nats"] == {
        "scheme": "nats",
        "distribution": "later-nats",
        "version": version,
        "loads": True,
        "error": None,
        "extra": None,
        "storage": None,
        "broker": {"capabilities": {"durable": True, "shared": True, "priority": False}},
    }
    where = run(python, "-c", "import later, later_nats; print(later.__file__, later_nats.__file__)", cwd=tmp_path)
    assert [Path(path).is_relative_to(site) for path in where.split()] == [True, True]
    assert (site / "later_nats" / "py.typed").exists()
