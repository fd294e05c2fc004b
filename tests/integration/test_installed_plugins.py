"""Plugins as pip installs them: two for one scheme, and a broken one beside them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LATER = Path(sys.executable).with_name("later")

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "{version}"

[project.entry-points."later.backends"]
{scheme} = "{module}"

[tool.hatch.build.targets.wheel]
include = ["{module}.py"]
"""

GOOD = """
from later.backends.memory import Memory
from later.core.hookspecs import hookimpl

@hookimpl
def later_broker(url):
    return Memory()
"""


@pytest.mark.timeout(120)
def test_what_is_wrong_is_named_and_breaks_nothing_else(tmp_path: Path) -> None:
    projects: list[Path] = []
    for name, version, scheme, source in [
        ("acme-one", "1.0", "acme", GOOD),
        ("acme-two", "2.0", "acme", GOOD),
        ("acme-broken", "3.0", "broken", "import not_installed_anywhere"),
        ("acme-good", "4.0", "good", GOOD),
    ]:
        project = tmp_path / name
        project.mkdir()
        module = name.replace("-", "_")
        (project / "pyproject.toml").write_text(
            PYPROJECT.format(name=name, version=version, scheme=scheme, module=module)
        )
        (project / f"{module}.py").write_text(source)
        projects.append(project)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", tmp_path / "site", *projects], check=True, capture_output=True
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "COLUMNS": "100"}

    def later(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LATER, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    listed = later("backends", "--json")
    assert listed.returncode == 0
    found = {one["distribution"]: one for one in json.loads(listed.stdout)["backends"]}
    for name in ("acme-one", "acme-two"):
        assert "acme:// is offered by acme-one 1.0 and acme-two 2.0: uninstall all but one" in found[name]["error"]
    assert "from acme-broken 3.0 does not load: ModuleNotFoundError" in found["acme-broken"]["error"]
    assert found["acme-good"]["loads"]
    assert found["acme-good"]["broker"] == {"capabilities": None}
    assert found["later-jobs"]["loads"]

    table = [line.split() for line in later("backends").stdout.splitlines()]
    assert ["good", "broker", "?", "acme-good", "4.0", "loads"] in table
    assert ["broken", "?", "?", "acme-broken", "3.0", "broken"] in table
