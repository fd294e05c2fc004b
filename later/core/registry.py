"""Job types as the program declared them, and how a stored name or a payload finds its own."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, TypeAlias

from pydantic import BaseModel

from later.core.codec import decode_payload
from later.core.envelope import is_plain, unseal
from later.core.errors import BadPayload, ConfigError, Corrupt
from later.core.records import Micros, State
from later.core.retry import Retry

Isolation: TypeAlias = Literal["thread", "process"]

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class JobType:
    """One kind of job: what its payload is, who handles it and under which rules."""

    name: str
    payload: type[BaseModel]
    handler: Callable[..., object] | None = field(default=None, repr=False)
    """Called with (JobContext, payload); None in a program that only enqueues."""
    is_async: bool = False
    """`handler` is an `async def`."""
    isolation: Isolation = "thread"
    """Where the handler runs. An async handler with "thread" runs on the event loop."""
    timeout: timedelta | None = None
    """Hard limit of one run; only with isolation="process"."""
    queue: str = "default"
    priority: int = 0
    """0 to 9; a higher one is claimed first."""
    retry: Retry = field(default_factory=Retry)
    max_crashes: int = 3
    """Crashes that a job survives; 0 together with `Retry.none()` means at most once."""
    keep_succeeded: timedelta | None = None
    """How long an ended job is kept, by how it ended; None: the lifecycle's default."""
    keep_failed: timedelta | None = None
    keep_deleted: timedelta | None = None
    aliases: tuple[str, ...] = ()
    """Earlier names: jobs stored under them still find this type."""

    @property
    def at_most_once(self) -> bool:
        """Whether a run that has started may not be followed by another, unless the handler or a person asks."""
        return self.retry.attempts == 1 and self.max_crashes == 0

    def decode(self, payload: bytes) -> BaseModel:
        """The stored payload as the handler gets it. Raises BadPayload."""
        try:
            return decode_payload(self.payload, payload if is_plain(payload) else unseal(payload).payload)
        except Corrupt as error:
            raise BadPayload(f"the stored payload cannot be read: {error}") from None

    def keep(self, state: State) -> Micros | None:
        """How long a job that ended in `state` is kept; None: the lifecycle's default."""
        kept = {
            State.SUCCEEDED: self.keep_succeeded,
            State.FAILED: self.keep_failed,
            State.DELETED: self.keep_deleted,
        }.get(state)
        return None if kept is None else kept // _MICROSECOND


class Registry:
    """The job types of one program, in the order of their declaration.

    Raises ConfigError when two types share a name, an alias or a payload class.
    """

    def __init__(self, types: Iterable[JobType]) -> None:
        self._types = tuple(types)
        self._by_name: dict[str, JobType] = {}
        self._by_payload: dict[type[BaseModel], JobType] = {}
        for job_type in self._types:
            for name in (job_type.name, *job_type.aliases):
                if name in self._by_name:
                    raise ConfigError(
                        f"the job type name {name} is used by {self._by_name[name].name} and by {job_type.name}: "
                        "names and aliases must all differ"
                    )
                self._by_name[name] = job_type
            other = self._by_payload.setdefault(job_type.payload, job_type)
            if other is not job_type:
                raise ConfigError(
                    f"job types {other.name} and {job_type.name} have the same payload type "
                    f"{job_type.payload.__name__}: enqueue goes by payload type, so give each its own class"
                )

    def by_name(self, name: str) -> JobType | None:
        """The type stored under `name`, which may be an alias."""
        return self._by_name.get(name)

    def by_payload(self, payload: type) -> JobType | None:
        """The type whose payload is exactly this class."""
        return self._by_payload.get(payload)

    def at_most_once(self) -> frozenset[str]:
        """The names, aliases included, of the types whose jobs run at most once."""
        return frozenset(name for name, job_type in self._by_name.items() if job_type.at_most_once)

    def __iter__(self) -> Iterator[JobType]:
        return iter(self._types)

    def __len__(self) -> int:
        return len(self._types)
