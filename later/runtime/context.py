"""What a handler gets besides its payload."""

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pydantic import BaseModel

from later.core.codec import decode_json
from later.core.outcomes import Cancel
from later.core.records import Claim, State
from later.runtime.enqueue import Enqueuer
from later.runtime.ticks import Tick, tick_of

if TYPE_CHECKING:
    from later.runtime.jobs import BackgroundJobs

_App_co = TypeVar("_App_co", covariant=True)


class Flag(Protocol):
    """The part of threading.Event that a context reads."""

    def is_set(self) -> bool: ...


class JobContext(Enqueuer[BaseModel], Generic[_App_co]):
    """One run of one job, as its handler sees it: the user's own context as `app`, who the job is, and the means to
    enqueue more.

    A job may run more than once (its worker may die after the work and before the report). `idempotency_key` is the
    same in every run: pass it to services that accept one.
    """

    __slots__ = ("_cancelled", "_claim", "_jobs")

    def __init__(self, jobs: "BackgroundJobs[_App_co, Any]", claim: Claim, cancelled: Flag) -> None:
        super().__init__(jobs.intake)
        self._jobs = jobs
        self._claim = claim
        self._cancelled = cancelled

    @property
    def app(self) -> _App_co:
        """What was given to JobsBuilder."""
        return self._jobs.app

    @property
    def job_id(self) -> str:
        return self._claim.id

    @property
    def type(self) -> str:
        """The name under which the job was stored, which may be an alias."""
        return self._claim.type

    @property
    def queue(self) -> str:
        return self._claim.queue

    @property
    def attempt(self) -> int:
        """1 in the first run."""
        return self._claim.attempt

    @property
    def epoch(self) -> int:
        """Rises with every run: a fencing token for services that compare one."""
        return self._claim.epoch

    @property
    def idempotency_key(self) -> str:
        """The same in every run of this job, and in no other job."""
        return self._claim.id

    @property
    def parent(self) -> str | None:
        """The job that this one continues."""
        return self._claim.parent

    @property
    def parent_state(self) -> State | None:
        """How the parent ended; None without a parent, or when it has been removed since."""
        return self._claim.parent_state

    @property
    def parent_result(self) -> Any:
        """What the parent's handler returned, as plain data; None when there is nothing. Raises Corrupt."""
        return decode_json(self._claim.parent_result)

    @property
    def recurring(self) -> Tick | None:
        """The recurring job that made this one, and for which time; None for any other job."""
        return tick_of(self._claim.payload)

    @property
    def cancelled(self) -> bool:
        """Whether the handler should stop: its job was deleted, or its server stops."""
        return self._cancelled.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise Cancel when the handler should stop. To be called between steps of long work."""
        if self._cancelled.is_set():
            raise Cancel("stopped when asked to")

    def __repr__(self) -> str:
        claim = self._claim
        return f"<JobContext {claim.type} {claim.id} in {claim.queue}, attempt {claim.attempt}>"
