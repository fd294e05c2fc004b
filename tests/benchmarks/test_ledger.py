"""The file in which handlers report."""

import subprocess
import sys
from pathlib import Path

from benchmarks.ledger import VARIABLE, Ledger, Ran


def report_elsewhere(path: Path, *jobs: tuple[int, float]) -> None:
    program = f"from benchmarks.ledger import report\nfor number, sent in {jobs!r}: report(number, sent)"
    subprocess.run([sys.executable, "-c", program], check=True, env={VARIABLE: str(path)}, cwd=Path.cwd())


def test_records_of_several_processes_are_counted_and_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    assert len(ledger) == 0
    report_elsewhere(ledger.path, (0, 1.5), (1, 2.5))
    report_elsewhere(ledger.path, (2, 3.5))
    assert len(ledger) == 3
    assert [(ran.number, ran.sent) for ran in ledger.read()] == [(0, 1.5), (1, 2.5), (2, 3.5)]
    assert [ran.number for ran in ledger.read(2)] == [2]
    assert all(isinstance(ran, Ran) and ran.at > 1e9 for ran in ledger.read())


def test_half_a_record_is_none_yet(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    report_elsewhere(ledger.path, (7, 1.0))
    with ledger.path.open("ab") as file:
        file.write(b"abc")
    assert len(ledger) == 1
    assert [ran.number for ran in ledger.read()] == [7]
