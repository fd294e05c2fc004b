"""One run of one claim: decode the payload, call the handler, and judge how it ended. The same for every kind of
handler; threads, loops and processes only differ in who calls."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final, TypeAlias, cast

from pydantic import BaseModel

from later.core.codec import describe_error, encode_result
from later.core.engine.judge import End, Interrupted, Policy, Raised, Refused, Returned, Unserved, judge
from later.core.engine.worker import Interruption
from later.core.envelope import is_plain, retry_of
from later.core.errors import BadPayload, BadResult, Corrupt, UnknownType
from later.core.lifecycle import Cause, Change
from later.core.outcomes import Cancel, Outcome
from later.core.records import SECOND, Claim, State
from later.core.registry import JobType
from later.core.retry import Retry
from later.runtime.context import JobContext
from later.runtime.jobs import BackgroundJobs
from later.runtime.log import log

_Call: TypeAlias = tuple[Callable[..., object], JobContext[Any], BaseModel]

_NOTHING: Final = Returned(None)


@dataclass(slots=True)
class Stop:
    """How a run is asked to stop. Set once; the handler sees it as `ctx.cancelled`."""

    why: Interruption | None = None

    def is_set(self) -> bool:
        return self.why is not None


class Handling:
    """Runs claims of one app. Never raises: every end becomes a Change."""

    def __init__(self, jobs: BackgroundJobs[Any, Any], random: Random, *, logs: bool = True) -> None:
        """logs: write failed runs to the log; who starts a process for one job does so on its behalf."""
        self._jobs = jobs
        self._random = random
        self._logs = logs
        self._limits = jobs.limits
        self._served = {
            name: job_type
            for job_type in jobs.registry
            if job_type.handler is not None
            for name in (job_type.name, *job_type.aliases)
        }
        self._policies: dict[str, Policy] = {}
        """By the stored name of a type; without what may go with a single job."""

    def type_of(self, claim: Claim) -> JobType | None:
        """The claim's job type, when it has a handler here."""
        return self._served.get(claim.type)

    def run(self, claim: Claim, stop: Stop, run_async: Callable[[Coroutine[Any, Any, object]], object]) -> Change:
        """Call the handler in this thread; what an async one returns is run by `run_async`."""
        try:
            call = self._prepare(claim, stop)
            if isinstance(call, Change):
                return call
            handler, context, payload = call
            # A context of its own: what a handler sets in it is not there for the next job of this thread.
            value = copy_context().run(handler, context, payload)
            if value is not None and asyncio.iscoroutine(value):
                value = run_async(value)
            return self._returned(claim, value, stop)
        except BaseException as error:  # noqa: BLE001  SystemExit in a handler is a failed run, not the end of the worker
            return self._raised(claim, error, stop)

    async def arun(self, claim: Claim, stop: Stop) -> Change:
        """Await the handler on this loop; cancelled by cancelling this task, after `stop` was set."""
        try:
            call = self._prepare(claim, stop)
            if isinstance(call, Change):
                return call
            handler, context, payload = call
            return self._returned(claim, await cast("Awaitable[object]", handler(context, payload)), stop)
        except BaseException as error:  # noqa: BLE001  as above
            return self._raised(claim, error, stop)

    def judged(self, claim: Claim, end: End) -> Change:
        """For ends that this process sees from outside: a timeout, a dead process, an interruption."""
        change = judge(claim, self._policy(claim), end, self._random)
        if change.error is not None:
            self.tell(claim, change)
        return change

    def tell(self, claim: Claim, change: Change) -> None:
        """Write a run that failed to the log, in one line: the traceback is kept with the job."""
        if change.error is None or not self._logs:
            return
        if change.cause is Cause.RETRY:
            level, what = logging.INFO, f"is tried again in {change.delay / SECOND:.3g} s"
        else:
            level, what = logging.ERROR, "has failed"
        # A message is any text; it must not look like another line of the log.
        why = "".join(letter if letter.isprintable() else " " for letter in change.reason)
        log.log(level, "job %s (%s) %s after try %d: %s", claim.id, claim.type, what, claim.attempt, why)

    def raised(self, claim: Claim, error: BaseException) -> Change:
        while error.__traceback__ is not None and error.__traceback__.tb_frame.f_code.co_filename == __file__:
            error.__traceback__ = error.__traceback__.tb_next  # the handler's own frames are what helps its author
        info = describe_error(error, self._limits.error)
        try:
            return self.judged(claim, Raised(error, info))
        except Exception:  # noqa: BLE001  both are the user's code; the run must be reported all the same
            log.exception("job %s fails: the retry policy or the outcome of %s is faulty", claim.id, claim.type)
            return self.judged(claim, Refused(info))

    def _prepare(self, claim: Claim, stop: Stop) -> _Call | Change:
        job_type = self._served.get(claim.type)
        if job_type is None or job_type.handler is None:
            missing = UnknownType(f"no handler for job type {claim.type} is registered on this server")
            return self.judged(claim, Unserved(describe_error(missing, self._limits.error)))
        try:
            payload = job_type.decode(claim.payload)
        except BadPayload as error:
            return self.judged(claim, Refused(describe_error(error, self._limits.error)))
        return job_type.handler, JobContext(self._jobs, claim, stop), payload

    def _returned(self, claim: Claim, value: object, stop: Stop) -> Change:
        if value is None:
            return self.judged(claim, _NOTHING)
        if isinstance(value, Outcome):
            return self._raised(claim, value, stop)
        try:
            result = encode_result(value, self._limits.result)
        except BadResult as error:
            return self.judged(claim, Refused(describe_error(error, self._limits.error)))
        return self.judged(claim, Returned(result))

    def _raised(self, claim: Claim, error: BaseException, stop: Stop) -> Change:
        if stop.why is not None and isinstance(error, asyncio.CancelledError | Cancel):
            return self.judged(claim, Interrupted(stop.why is Interruption.CANCEL))
        return self.raised(claim, error)

    def _policy(self, claim: Claim) -> Policy:
        policy = self._policies.get(claim.type)
        if policy is None:
            policy = self._policies[claim.type] = self._usual_policy(claim.type)
        if is_plain(claim.payload):
            return policy
        try:
            return replace(policy, retry=retry_of(claim.payload, policy.retry))
        except Corrupt:  # the payload is refused for it as well
            return policy

    def _usual_policy(self, name: str) -> Policy:
        job_type = self._jobs.registry.by_name(name)
        if job_type is None:
            return Policy(Retry())
        return Policy(
            job_type.retry,
            job_type.at_most_once,
            keep_succeeded=job_type.keep(State.SUCCEEDED),
            keep_failed=job_type.keep(State.FAILED),
            keep_deleted=job_type.keep(State.DELETED),
        )
