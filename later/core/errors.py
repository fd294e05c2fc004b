"""Every error that `later` raises on purpose.

    LaterError
    ├── ConfigError                 the program is put together wrongly; raised while it is built or started
    │   ├── InvalidName             a queue, job type, app or id outside [A-Za-z0-9_.-]{1,100}
    │   ├── InvalidOption           a number or duration outside its range
    │   ├── InvalidSchedule         a cron expression, an interval or the times of a schedule cannot be used
    │   │   └── UnknownZone         no time zone has this name, or not on this machine
    │   ├── UnknownScheme           no installed backend answers to the scheme of a URL
    │   └── PluginError             a backend or plugin is broken; names the distribution it came from
    ├── EnqueueError                this payload was not accepted; nothing was stored
    │   ├── UndeclaredPayload       its type is not in the `@background_job` declaration
    │   ├── NotSerializable         it does not turn into JSON, or not back into an equal type
    │   ├── PayloadTooLarge
    │   ├── TooManyJobs             more than one call may store
    │   ├── DuplicateJob            the id is taken by a job with another payload or type
    │   ├── UnknownParent           the job to continue does not exist
    │   └── UnusableConnection      a job cannot be enqueued on the connection that was given
    ├── JobError
    │   ├── UnknownJob              no job has this id
    │   ├── UnknownSchedule         no recurring job has this id
    │   ├── WaitTimeout             the job did not end within the timeout of `wait`
    │   └── JobNotSucceeded         `wait` was asked for a result and the job ended otherwise
    ├── HandlerError                why a claimed job cannot run; recorded on the job
    │   ├── UnknownType             no handler is registered here under the job's type
    │   ├── BadPayload              the stored payload no longer validates
    │   ├── BadResult               what the handler returned cannot be stored
    │   └── HandlerTimeout          an isolated handler ran longer than its timeout
    └── BackendError
        ├── Unavailable             no answer, or not in time; the same call may be repeated safely
        ├── Unsupported             the backend cannot do what was asked
        ├── StorageFull             no room is left; nothing was stored
        ├── StorageReadOnly         the storage cannot be written
        ├── SchemaMismatch          the stored schema is newer than this version of `later`
        └── Corrupt                 what is stored is not what was written

Messages say what happened, to what, and what to do; they never hold a payload, a password or a URL with one.
"""


class LaterError(Exception):
    """Base of every error that `later` raises on purpose."""


class ConfigError(LaterError):
    """The program is put together wrongly."""


class InvalidName(ConfigError, ValueError):
    """A name is outside `[A-Za-z0-9_.-]{1,100}`."""


class InvalidOption(ConfigError, ValueError):
    """A number or a duration is outside its range."""


class InvalidSchedule(ConfigError, ValueError):
    """A cron expression, an interval or the times of a schedule cannot be used; the message says what is wrong."""


class UnknownZone(InvalidSchedule):
    """No time zone has this name, or not on this machine."""


class UnknownScheme(ConfigError):
    """No installed backend answers to the scheme of a URL."""


class PluginError(ConfigError):
    """A backend or plugin is broken; the message names the distribution it came from."""


class EnqueueError(LaterError):
    """This payload was not accepted; nothing was stored."""


class UndeclaredPayload(EnqueueError, TypeError):
    """The payload's type is not in the declaration."""


class NotSerializable(EnqueueError, ValueError):
    """The payload does not turn into JSON, or not back into its type."""


class PayloadTooLarge(EnqueueError, ValueError):
    """The payload's JSON is larger than the limit."""


class TooManyJobs(EnqueueError, ValueError):
    """More jobs, or more bytes of them, than one call may store."""


class DuplicateJob(EnqueueError):
    """The id is taken by a job of another type or with another payload."""


class UnknownParent(EnqueueError, LookupError):
    """The job to continue does not exist."""


class UnusableConnection(EnqueueError, ValueError):
    """A job cannot be enqueued on the connection that was given: it leads to another database, is closed, is in a
    failed transaction, or is of a kind that the storage does not know."""


class JobError(LaterError):
    """A question about a job cannot be answered."""


class UnknownJob(JobError, LookupError):
    """No job has this id."""


class UnknownSchedule(JobError, LookupError):
    """No recurring job has this id."""


class WaitTimeout(JobError, TimeoutError):
    """The job did not end within the timeout."""


class JobNotSucceeded(JobError):
    """A result was asked for and the job ended Failed or Deleted."""


class HandlerError(LaterError):
    """A claimed job cannot run."""


class UnknownType(HandlerError):
    """No handler is registered here under the job's type."""


class BadPayload(HandlerError):
    """The stored payload no longer validates against the declared type."""


class BadResult(HandlerError):
    """What the handler returned does not turn into JSON, or into too much of it."""


class HandlerTimeout(HandlerError):
    """An isolated handler ran longer than its timeout and was killed."""


class BackendError(LaterError):
    """A storage or a broker could not do what was asked."""


class Unavailable(BackendError):
    """No answer, or not in time. Whether the call took effect is unknown; repeating it is safe."""

    ids: tuple[str, ...] = ()
    """From `enqueue...`: the ids of the jobs, those given by the call and those made for it. With the same ids a
    repeated call stores nothing twice; `get` tells whether a job is stored."""


class Unsupported(BackendError):
    """The backend lacks the capability."""


class StorageFull(BackendError):
    """No room is left; nothing was stored."""


class StorageReadOnly(BackendError):
    """The storage cannot be written; nothing was stored."""


class SchemaMismatch(BackendError):
    """The stored schema is newer than this version of `later` knows."""


class Corrupt(BackendError):
    """What is stored is not what was written."""
