"""How often and when a job that raised is run again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from typing import Final

from later.core.errors import InvalidOption

LONGEST: Final = timedelta(days=365)
MOST_ATTEMPTS: Final = 1_000_000


def polynomial(attempt: int, random: Random) -> timedelta:
    """The delay after the failed attempt number `attempt` (1 is the first): (attempt-1)^4 + 15 s plus a jitter of 0 to
    29 s per attempt.

    Hangfire's AutomaticRetryAttribute and, before it, Sidekiq's formula: about 15 s after the first failure, 4.5 hours
    over ten. The jitter keeps jobs that failed together from coming back together.
    """
    return timedelta(seconds=(attempt - 1) ** 4 + 15 + random.randrange(30) * attempt)


@dataclass(frozen=True, slots=True)
class Retry:
    """A retry policy.

    attempts: handler runs in all, 1 to 1,000,000; 1 means no retry.
    delays: fixed delays after the first, second, ... failure, the last one repeats; empty: `polynomial`.
    never_on: exceptions (and their subclasses) that fail the job at once.
    only_on: when given, all other exceptions fail the job at once.
    per: another policy for an exception type (and its subclasses); the most specific one counts, and the job's one
        attempt counter is compared with that policy's `attempts`.

    Raises InvalidOption.
    """

    attempts: int = 10
    delays: Sequence[timedelta] = ()
    never_on: tuple[type[BaseException], ...] = ()
    only_on: tuple[type[BaseException], ...] = ()
    per: Mapping[type[BaseException], "Retry"] = field(default_factory=dict[type[BaseException], "Retry"])

    def __post_init__(self) -> None:
        attempts = self.attempts
        if isinstance(attempts, bool) or not isinstance(attempts, int) or not 1 <= attempts <= MOST_ATTEMPTS:
            raise InvalidOption(f"attempts {attempts!r} is not a whole number from 1 to {MOST_ATTEMPTS}; 1: no retry")
        for delay in self.delays:
            if not isinstance(delay, timedelta):
                raise InvalidOption(f"retry delay {delay!r} is not a timedelta: write timedelta(seconds=...)")
            if not timedelta(0) <= delay <= LONGEST:
                raise InvalidOption(f"retry delay {delay!r} is outside 0 to {LONGEST.days} days")

    @classmethod
    def none(cls) -> "Retry":
        """Run once."""
        return cls(attempts=1)

    def timed_as(self, other: "Retry") -> "Retry":
        """This policy with the attempts and delays of `other`."""
        return replace(self, attempts=other.attempts, delays=other.delays)

    def policy_for(self, error: BaseException) -> "Retry":
        """The policy that counts for `error`: the entry of `per` nearest in its class order, or this one."""
        for kind in type(error).__mro__:
            if kind in self.per:
                return self.per[kind]
        return self

    def next_delay(self, error: BaseException, attempt: int, random: Random) -> timedelta | None:
        """How long to wait after `error` ended the attempt number `attempt`; None when it was the last."""
        policy = self.policy_for(error)
        if isinstance(error, policy.never_on) or (policy.only_on and not isinstance(error, policy.only_on)):
            return None
        if attempt >= policy.attempts:
            return None
        if policy.delays:
            return policy.delays[min(attempt, len(policy.delays)) - 1]
        return polynomial(attempt, random)
