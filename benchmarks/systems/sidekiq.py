"""Sidekiq, as Debian has it."""

from typing import Final

from benchmarks.installing import Debian
from benchmarks.systems.system import System

SYSTEMS: Final = (
    System(
        name="sidekiq",
        group="redis",
        environment=Debian("sidekiq", "ruby-sidekiq"),
        guarantees="a job is removed when it is taken (BRPOP): lost if its worker dies; no results, no history, no ids "
        "that are checked; AOF everysec",
        producer=("ruby", "{peers}/sidekiq_producer.rb"),
        worker=(
            "{bin}/sidekiq",
            "-r",
            "{peers}/sidekiq_job.rb",
            "-c",
            "10",
            "-q",
            "bench_sidekiq",
            "-e",
            "production",
        ),
        copies=True,
        jobs=60_000,
        recorded=("GET", "stat:processed"),
    ),
)
