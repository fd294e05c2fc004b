"""The schedules of one namespace within one transaction."""

import json
from collections.abc import Sequence

from later.backends.postgres import arrays
from later.backends.postgres.connection import Session
from later.backends.postgres.statements import Statements
from later.backends.postgres.wire import Row
from later.core.lifecycle import Reschedule
from later.core.records import ScheduleRecord


class LockedSchedules:
    """Implements `later.core.steps.Schedules`. Locked and read at once, and written by `send_writes`."""

    def __init__(self, session: Session, sql: Statements, changes: Sequence[Reschedule]) -> None:
        self._session = session
        self._sql = sql
        # In the order of ids, in which everybody locks.
        wanted = sorted({change.id for change in changes})
        new = sorted({change.id for change in changes if not change.version})
        with session.batch():
            session.send(sql["hold_schedules"], {"ids": arrays.texts(new)})
            locked = session.send(sql["lock_schedules"], {"ids": arrays.texts(wanted)})
        found = {schedule.id: schedule for schedule in map(read, locked.rows)}
        self._held = {schedule_id for schedule_id, schedule in found.items() if not schedule.version}
        self._known: dict[str, ScheduleRecord | None] = {
            schedule_id: None if schedule_id in self._held else found.get(schedule_id) for schedule_id in wanted
        }
        self._changed: set[str] = set()

    def load_schedule(self, schedule_id: str, /) -> ScheduleRecord | None:
        return self._known[schedule_id]

    def save_schedule(self, schedule: ScheduleRecord, /) -> None:
        self._known[schedule.id] = schedule
        self._changed.add(schedule.id)

    def remove_schedule(self, schedule_id: str, /) -> None:
        self._known[schedule_id] = None
        self._changed.add(schedule_id)

    def send_writes(self) -> None:
        """For a batch."""
        saved = [schedule for schedule_id in self._changed if (schedule := self._known[schedule_id]) is not None]
        gone = [schedule_id for schedule_id in self._changed | self._held if self._known[schedule_id] is None]
        if saved:
            rows = [
                {
                    "id": schedule.id,
                    "version": schedule.version,
                    "next_at": schedule.next_at,
                    "body": schedule.body.hex(),
                }
                for schedule in saved
            ]
            self._session.send(self._sql["save_schedules"], {"rows": json.dumps(rows)})
        if gone:
            self._session.send(self._sql["remove_schedules"], {"ids": arrays.texts(gone)})


def read(columns: Row) -> ScheduleRecord:
    schedule_id, version, next_at, body = columns
    return ScheduleRecord(schedule_id, version, next_at, bytes(body))
