"""Recurring jobs: what they are, how they are stored, and what becomes of them as time passes. Pure functions."""

from later.core.recurring.schedule import Definition, Misfire, Origin, Overlap, Run, Schedule, choice, schedule_of

__all__ = ["Definition", "Misfire", "Origin", "Overlap", "Run", "Schedule", "choice", "schedule_of"]
