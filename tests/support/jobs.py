"""Apps with one or two job types, and claims, for tests below the public API."""

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from later.backends.memory import Memory
from later.core.codec import Limits
from later.core.ports import BrokerBackend, StorageBackend
from later.core.records import Claim
from later.core.registry import JobType, Registry
from later.runtime.jobs import BackgroundJobs


class Work(BaseModel):
    """A payload that says nothing in particular."""

    n: int = 0
    text: str = ""


class Other(Work):
    """The payload of a second job type."""


def work(handler: Callable[..., object], **options: Any) -> JobType:
    """A job type `work` with this handler."""
    return JobType("work", Work, handler=handler, is_async=inspect.iscoroutinefunction(handler), **options)


def other(handler: Callable[..., object], **options: Any) -> JobType:
    """A second job type."""
    return JobType("other", Other, handler=handler, is_async=inspect.iscoroutinefunction(handler), **options)


def jobs_of(
    *types: JobType,
    storage: StorageBackend | None = None,
    broker: BrokerBackend | None = None,
    limits: Limits | None = None,
) -> BackgroundJobs[None, Any]:
    """An app with these job types, in memory unless told otherwise."""
    return BackgroundJobs(None, "test", Registry(types), storage or Memory(), broker, limits or Limits(), runs=True)


def claim_of(payload: bytes = b"{}", **fields: Any) -> Claim:
    """A claim of a `work` job, as a storage gives it."""
    given: dict[str, Any] = {
        "id": "a-job",
        "epoch": 1,
        "type": "work",
        "queue": "default",
        "priority": 0,
        "payload": payload,
        "attempt": 1,
        "crashes": 0,
        "server": "a-server",
    }
    return Claim(**given | fields)
