"""The tables about missed times and overlapping runs in docs/explanation/time.md are what happens."""

from datetime import UTC, datetime, timedelta

import pytest

from later.core.envelope import unseal
from later.core.records import SECOND, JobRecord, ScheduleRecord, State
from later.core.recurring import Definition, Misfire, Overlap, Run, Schedule
from later.core.recurring.planning import plan
from later.core.timetables import Cron, Timetable
from tests.docs.markdown import ROOT
from tests.support.tables import table

PAGE = ROOT / "docs" / "explanation" / "time.md"
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)
HOURLY = Timetable(Cron("0 * * * *"))


def at(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int((MIDNIGHT + timedelta(hours=int(hours), minutes=int(minutes))).timestamp()) * SECOND


@pytest.mark.parametrize(("said", "looks", "shown"), table(PAGE, "misfire", "The next server looks at", "Jobs for"))
def test_missed_times(said: str, looks: str, shown: str) -> None:
    misfire, _, limit = said.replace("`", "").partition(", misfire_limit=")
    wanted = Definition("t", b"{}", "q", 0, 3, HOURLY, Misfire(misfire), int(limit or 100))
    schedule = Schedule(wanted, since=at("00:30"))
    change = plan("app", ScheduleRecord("id", 1, at("01:00"), b""), schedule, at(looks), [])
    dues = [unseal(job.payload).headers["recurring"][1] for job in change.jobs]
    assert dues == [at(clock) for clock in shown.split(", ") if clock != "none"]


STATES = {
    "running": (State.PROCESSING, 1),
    "waiting for its next attempt": (State.SCHEDULED, 1),
    "not yet started": (State.ENQUEUED, 0),
    "Succeeded": (State.SUCCEEDED, 1),
    "Failed": (State.FAILED, 1),
}


@pytest.mark.parametrize(("said", "was", "shown"), table(PAGE, "overlap", "The job of 01:00 is", "At 02:00"))
def test_overlapping_runs(said: str, was: str, shown: str) -> None:
    state, attempt = STATES[was]
    previous = JobRecord("old", "t", "q", 0, b"", state, 1, attempt, 0, 3, 0, 0)
    wanted = Definition("t", b"{}", "q", 0, 3, HOURLY, overlap=Overlap(said.replace("`", "")))
    schedule = Schedule(wanted, since=at("01:00"), runs=(Run(at("01:00"), "old"),))
    change = plan("app", ScheduleRecord("id", 1, at("02:00"), b""), schedule, at("02:00"), [previous])
    happens = "another job" if change.jobs else "no job"
    if any(job.parent == "old" for job in change.jobs):
        happens = "a job that waits for it"
    if change.moves:
        happens += ", and the old one is deleted"
    assert happens == shown
