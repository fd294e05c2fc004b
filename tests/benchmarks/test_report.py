"""From runs to a page: medians, ratios, targets, markers."""

from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.measuring import Run
from benchmarks.results import FIGURES, Importing, Report, Summary
from benchmarks.systems import SYSTEMS, chosen
from benchmarks.targets import TARGETS, AtMost, Lowest, QuickImport, Ratio

KNOWN = {system.name: system for system in SYSTEMS}


def a_report(*runs: Run, absent: dict[str, str] | None = None) -> Report:
    names = {run.system for run in runs} | set(absent or {})
    systems = {name: system for name, system in KNOWN.items() if name in names}
    return Report({"Machine": "two cores"}, systems, list(runs), absent or {})


def a_run(system: str, number: int = 1, *failures: str, **figures: float) -> Run:
    return Run(system, number, 100, figures, list(failures))


def test_a_summary_is_the_median_and_the_range() -> None:
    report = a_report(*(a_run("sidekiq", number, drain=drain) for number, drain in enumerate((30, 10, 20), 1)))
    assert report.summary("sidekiq", "drain") == Summary(20, 10, 30, 3)
    assert report.summary("sidekiq", "bulk") is None


def test_a_failed_round_does_not_count() -> None:
    report = a_report(a_run("sidekiq", 1, drain=10), a_run("sidekiq", 2, "1 of 100 jobs never ran", drain=900))
    assert report.summary("sidekiq", "drain") == Summary(10, 10, 10, 1)
    assert "**FAILED**: sidekiq, round 2: 1 of 100 jobs never ran" in page.results(report)


def test_a_system_whose_rounds_all_failed_shows_no_figure() -> None:
    text = page.results(a_report(a_run("sidekiq", 1, "none", drain=12345)))
    assert "12,345" not in text
    assert "FAILED" in text


@pytest.mark.parametrize(("drain", "measured", "met"), [(15, "1.50", True), (14.9, "1.49", False)])
def test_a_ratio_is_of_medians(drain: float, measured: str, met: bool) -> None:
    report = a_report(a_run("later:redis", drain=drain), a_run("sidekiq", drain=10))
    outcome = Ratio("redis", "drain", 1.5, "sidekiq", "drain").outcome(report)
    assert (outcome.measured, outcome.met) == (measured, met)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    report = a_report(a_run("later:redis", drain=15))
    for target in TARGETS:
        outcome = target.outcome(report)
        assert (outcome.measured, outcome.met) == ("not measured", None)


def test_limits() -> None:
    report = a_report(a_run("later:redis", idle_cpu=1.0, cpu=30), a_run("bullmq", cpu=20), a_run("bare:redis", cpu=5))
    assert AtMost("redis", "idle_cpu", 1).outcome(report).met
    assert AtMost("redis", "idle_cpu", 0.99).outcome(report).met is False
    lowest = Lowest("redis", "cpu").outcome(report)
    assert (lowest.met, lowest.measured) == (False, "30; bullmq: 20")


@pytest.mark.parametrize(
    ("found", "met"),
    [(None, None), (Importing(80, []), True), (Importing(81, []), False), (Importing(5, ["pika"]), False)],
)
def test_an_import_is_to_be_quick_and_to_load_no_driver(found: Importing | None, met: bool | None) -> None:
    report = a_report()
    report.importing = found
    assert QuickImport(80).outcome(report).met is met


def test_every_target_is_of_something_that_is_measured() -> None:
    for target in TARGETS:
        if isinstance(target, Ratio):
            assert {target.of, f"later:{target.group}"} <= set(KNOWN)
            assert {target.figure, target.of_figure} <= set(FIGURES)
        elif isinstance(target, AtMost | Lowest):
            assert target.figure in FIGURES


def test_a_part_of_the_page_is_written_between_its_markers(tmp_path: Path) -> None:
    file = tmp_path / "benchmarks.md"
    report = a_report(a_run("later:redis", drain=2000), absent={"sidekiq": "no\nruby"})
    page.write(file, report)
    page.write_part(file, "growth", "grown")
    page.write(file, report)
    text = file.read_text()
    assert text.count("<!-- end -->") == 2
    assert "<!-- measured: growth -->\ngrown\n<!-- end -->" in text
    assert "2,000" in text
    assert "- Not measured: sidekiq (no ruby)" in text


@pytest.mark.parametrize("text", ["", "<!-- measured: results -->\n", "<!-- measured: results -->\n<!-- end -->" * 2])
def test_a_page_without_the_place_is_left_alone(text: str) -> None:
    with pytest.raises(ValueError, match="no place for 'results'"):
        page.put(text, "results", "new")


def test_what_is_written_is_taken_literally() -> None:
    assert r"\1" in page.put("<!-- measured: results -->\n<!-- end -->", "results", r"\1 \g<2>")


def test_results_are_read_as_they_were_saved(tmp_path: Path) -> None:
    report = a_report(absent={"bullmq": "no npm"})
    report.importing = Importing(70.5, ["redis"])
    path = tmp_path / "results" / "a.jsonl"
    report.save(path)
    report.add(Run("sidekiq", 1, 100, {"drain": 1.5}, ["late"], [1.0, 2.0]), path)
    loaded = Report.load(path)
    assert loaded.runs == report.runs
    assert (loaded.machine, loaded.absent) == (report.machine, report.absent)
    assert loaded.importing == report.importing


def test_systems_are_chosen_by_name_or_family() -> None:
    assert [system.name for system in chosen("later:redis sidekiq")] == ["later:redis", "sidekiq"]
    assert {system.name.partition(":")[0] for system in chosen("dramatiq")} == {"dramatiq"}
    assert chosen("") == list(SYSTEMS)
    with pytest.raises(LookupError, match="unknown: resque"):
        chosen("resque later:redis")


def test_every_system_says_what_it_guarantees() -> None:
    assert len(KNOWN) == len(SYSTEMS)
    assert all(system.guarantees for system in SYSTEMS)
