"""The public types as users meet them: samples that must pass, and samples that must fail where they say so."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parent / "samples"
ROOT = Path(__file__).parents[2]

_EXPECTED = re.compile(r"# error: (?P<mypy>\S+) (?P<pyright>\S+)$")


def expected(sample: str, checker: str) -> set[tuple[int, str]]:
    """Line and code of each error that the sample announces."""
    lines = (SAMPLES / sample).read_text().splitlines()
    found = ((number, _EXPECTED.search(line)) for number, line in enumerate(lines, 1))
    return {(number, match[checker]) for number, match in found if match}


def mypy(sample: str) -> set[tuple[int, str]]:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-version=3.11", "--output=json"]
    ran = subprocess.run([*command, SAMPLES / sample], capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.stderr == ""
    errors = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert errors or not ran.returncode
    return {(error["line"], error["code"]) for error in errors if error["severity"] == "error"}


def pyright(sample: str, tmp_path: Path) -> set[tuple[int, str]]:
    (tmp_path / sample).write_text((SAMPLES / sample).read_text())
    settings = {"typeCheckingMode": "strict", "pythonVersion": "3.11"}
    # These are about the samples' habits, not about the types that they use.
    settings |= {"reportUnusedExpression": "none", "reportUnknownLambdaType": "none", "reportUnusedFunction": "none"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", f"--pythonpath={sys.executable}", "-p", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    report = json.loads(ran.stdout)
    assert report["summary"]["filesAnalyzed"] == 1
    errors = report["generalDiagnostics"]
    return {(error["range"]["start"]["line"] + 1, error["rule"]) for error in errors if error["severity"] == "error"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sample", ["good.py", "bad.py"])
def test_mypy(sample: str) -> None:
    assert mypy(sample) == expected(sample, "mypy")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sample", ["good.py", "bad.py"])
def test_pyright(sample: str, tmp_path: Path) -> None:
    assert pyright(sample, tmp_path) == expected(sample, "pyright")


def test_the_bad_sample_announces_errors() -> None:
    assert len(expected("bad.py", "mypy")) == len(expected("bad.py", "pyright")) > 25
