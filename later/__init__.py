"""Background jobs for Python.

Importing this module imports no driver of any backend.
"""

from later.core.codec import Limits
from later.core.errors import (
    BackendError,
    BadPayload,
    BadResult,
    ConfigError,
    Corrupt,
    DuplicateJob,
    EnqueueError,
    HandlerError,
    HandlerTimeout,
    InvalidName,
    InvalidOption,
    InvalidSchedule,
    JobError,
    JobNotSucceeded,
    LaterError,
    NotSerializable,
    PayloadTooLarge,
    PluginError,
    SchemaMismatch,
    StorageFull,
    StorageReadOnly,
    Unavailable,
    UndeclaredPayload,
    UnknownJob,
    UnknownParent,
    UnknownScheme,
    UnknownType,
    UnknownZone,
    Unsupported,
    WaitTimeout,
)
from later.core.outcomes import Cancel, RetryAfter, Snooze
from later.core.records import Counts, ErrorInfo, JobQuery, On, State, Verdict
from later.core.retry import Retry
from later.runtime.builder import JobsBuilder
from later.runtime.context import JobContext
from later.runtime.declaration import background_job, job_type
from later.runtime.jobs import BackgroundJobs
from later.runtime.views import HistoryEntry, Job, Page, Server

__all__ = [
    "BackendError",
    "BackgroundJobs",
    "BadPayload",
    "BadResult",
    "Cancel",
    "ConfigError",
    "Corrupt",
    "Counts",
    "DuplicateJob",
    "EnqueueError",
    "ErrorInfo",
    "HandlerError",
    "HandlerTimeout",
    "HistoryEntry",
    "InvalidName",
    "InvalidOption",
    "InvalidSchedule",
    "Job",
    "JobContext",
    "JobError",
    "JobNotSucceeded",
    "JobQuery",
    "JobsBuilder",
    "LaterError",
    "Limits",
    "NotSerializable",
    "On",
    "Page",
    "PayloadTooLarge",
    "PluginError",
    "Retry",
    "RetryAfter",
    "SchemaMismatch",
    "Server",
    "Snooze",
    "State",
    "StorageFull",
    "StorageReadOnly",
    "Unavailable",
    "UndeclaredPayload",
    "UnknownJob",
    "UnknownParent",
    "UnknownScheme",
    "UnknownType",
    "UnknownZone",
    "Unsupported",
    "Verdict",
    "WaitTimeout",
    "background_job",
    "job_type",
]
