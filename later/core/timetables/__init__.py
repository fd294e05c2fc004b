"""When does a schedule fire? Pure functions of their arguments: no I/O but the reading of time zone data, no clock."""

from later.core.timetables.cron import Cron
from later.core.timetables.timetable import LATEST, Due, Every, Fire, Gap, Overlap, Timetable, jitter
from later.core.timetables.zones import Zone

__all__ = ["LATEST", "Cron", "Due", "Every", "Fire", "Gap", "Overlap", "Timetable", "Zone", "jitter"]
