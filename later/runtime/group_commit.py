"""Concurrent enqueues share round trips: calls that arrive while one is under way go together in the next.

One caller at a time leads: it writes the batch that holds its own call, then hands the lead to the next that waits.
So a single sync caller pays for a lock and no thread switch. Async callers are led by one background thread, which
goes on until nobody waits.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from later.core.errors import Unavailable
from later.core.records import Inserted, NewJob, Ref

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

DEADLINE: Final = 5.0
"""Seconds for which an enqueue tries: a web request that waits longer has lost its user."""

BATCH_JOBS: Final = 500
BATCH_BYTES: Final = 4 * 1024 * 1024
"""A batch takes no further call beyond these, so that nobody's transaction grows long; one call is never split."""

RETRY_FIRST: Final = 0.02
RETRY_LONGEST: Final = 0.5
"""Seconds between tries while the storage does not answer, doubled each time, with up to half of it in jitter."""


class _Call:
    """One caller's jobs and what became of them. Guarded by the lock of its GroupCommit until it is settled."""

    def __init__(self, jobs: Sequence[NewJob], ends: float) -> None:
        self.jobs = jobs
        self.ends = ends
        self.size = sum(len(job.payload) for job in jobs)
        self.settled = False
        self.alone = False
        """Its batch failed: it goes without others, so that the error finds the caller whom it concerns."""
        self.results: list[Inserted] = []
        self.error: Exception | None = None

    def outcome(self) -> list[Inserted]:
        if self.error is not None:
            raise self.error
        return self.results


class _Turn:
    """An event for one thread that waits once. `threading.Event` has several locks and a queue of waiters, which is
    most of what a call among a hundred costs."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:  # it is set
            return

    def wait(self, timeout: float) -> bool:
        return self._lock.acquire(timeout=timeout)


class _SyncCall(_Call):
    def __init__(self, jobs: Sequence[NewJob], ends: float) -> None:
        super().__init__(jobs, ends)
        self.leads = False
        self.turn: _Turn | None = None
        """Set when the call is settled, and when its caller is to lead. None for a caller that led at once."""


class _AsyncCall(_Call):
    def __init__(self, jobs: Sequence[NewJob], ends: float, loop: "asyncio.AbstractEventLoop") -> None:
        super().__init__(jobs, ends)
        self.loop = loop
        self.done: asyncio.Future[None] = loop.create_future()


class GroupCommit:
    """Writes new jobs through `insert` of a storage.

    Errors reach exactly the callers whose jobs they are about: a batch that fails is tried again call by call. While
    the storage is Unavailable the same batch is repeated, which is safe because inserts are idempotent by id.
    `on_enqueued` gets the refs to publish, also those of callers that have stopped waiting; it must not raise.
    """

    def __init__(
        self,
        insert: Callable[[Sequence[NewJob]], list[Inserted]],
        on_enqueued: Callable[[Sequence[Ref]], None],
        *,
        deadline: float = DEADLINE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._insert = insert
        self._on_enqueued = on_enqueued
        self._deadline = deadline
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._led = False
        self._background: ThreadPoolExecutor | None = None

    def insert(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        """As `Storage.insert`. Raises Unavailable when there was no answer within the deadline."""
        call = _SyncCall(jobs, self._clock() + self._deadline)
        try:
            with self._lock:
                self._waiting.append(call)
                call.leads, self._led = not self._led, True
                if not call.leads:
                    call.turn = _Turn()
            if call.turn is None or self._follow(call, call.turn):
                self._lead(call)
        except BaseException:  # an interrupt, between any two steps: nobody must wait for this caller to lead
            with self._lock:
                self._forget(call)
                call.settled = True
            if call.leads:
                self._hand_over(call)
            raise
        return call.outcome()

    async def ainsert(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        """As `insert`, without blocking the event loop. Cancelling the caller does not take the jobs back."""
        import asyncio  # 25 ms that a program without async code need not spend

        call = _AsyncCall(jobs, self._clock() + self._deadline, asyncio.get_running_loop())
        leads = False
        try:
            with self._lock:
                self._waiting.append(call)
                leads, self._led = not self._led, True
            if leads:
                self._lead_in_background()
        except BaseException:  # as above; that somebody leads twice does no harm
            if leads:
                self._lead_in_background()
            raise
        try:
            async with asyncio.timeout(self._deadline):
                await call.done
        except TimeoutError:
            self._give_up(call)
        return call.outcome()

    def close(self) -> None:
        """Let the background thread end when it has written what waits. Usable again afterwards."""
        with self._lock:
            background, self._background = self._background, None
        if background is not None:
            background.shutdown(wait=False)

    def _follow(self, call: _SyncCall, turn: _Turn) -> bool:
        """Wait for another caller to write this call; True when this caller is to lead after all."""
        if not turn.wait(max(0.0, call.ends - self._clock())):
            self._give_up(call)
        return call.leads

    def _lead(self, own: _SyncCall) -> None:
        while not own.settled:  # twice when its first batch failed
            self._write_batch(own)
        self._hand_over(own)

    def _hand_over(self, own: _SyncCall) -> None:
        """The lead goes to the next that waits, if any."""
        with self._lock:
            following = self._waiting[0] if self._waiting else None
            if following is None:
                self._led = False
            elif isinstance(following, _SyncCall):
                following.leads = True
                if following.turn is not None:
                    following.turn.set()
        if isinstance(following, _AsyncCall):
            self._lead_in_background()
        own.leads = False

    def _lead_in_background(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        try:
            with self._lock:
                if self._background is None:
                    self._background = ThreadPoolExecutor(1, thread_name_prefix="later-enqueue")
                self._background.submit(self._lead_until_idle)
        except RuntimeError as error:  # the interpreter is shutting down
            with self._lock:
                batch, self._led = list(self._waiting), False
                self._waiting.clear()
            self._settle(batch, error)

    def _lead_until_idle(self) -> None:
        while True:
            self._write_batch(None)
            with self._lock:
                if not self._waiting:
                    self._led = False
                    return

    def _write_batch(self, own: _Call | None) -> None:
        """Write one batch of what waits. What is left of it waits again, at the front. `own` is the leader's call."""
        batch = left = self._take()
        if not batch:
            return
        try:
            left = self._write(batch, own)
        except BaseException:  # an interrupt of the caller that leads
            if own is not None:
                own.settled = True
            raise
        finally:
            with self._lock:
                # Not those whose callers have given up: they would never lead.
                self._waiting.extendleft(call for call in reversed(left) if not call.settled)

    def _take(self) -> list[_Call]:
        batch: list[_Call] = []
        jobs = size = 0
        with self._lock:
            while self._waiting and not (batch and (batch[0].alone or self._waiting[0].alone)):
                jobs += len(self._waiting[0].jobs)
                size += self._waiting[0].size
                if batch and (jobs > BATCH_JOBS or size > BATCH_BYTES):
                    break
                batch.append(self._waiting.popleft())
        return batch

    def _write(self, batch: list[_Call], own: _Call | None) -> list[_Call]:
        """Returns the calls that are still to be written, by somebody else."""
        pause = RETRY_FIRST
        while True:
            try:
                results = self._insert([job for call in batch for job in call.jobs])
            except Unavailable as error:
                now = self._clock()
                late = [call for call in batch if call.ends <= now]
                for call in late:
                    self._settle([call], _no_answer(self._deadline, error))
                batch = [call for call in batch if call not in late]
                if not batch or own in late:
                    return batch
                self._sleep(min(pause * random.uniform(0.5, 1), *(call.ends - now for call in batch)))
                pause = min(pause * 2, RETRY_LONGEST)
            except Exception as error:  # noqa: BLE001  every error goes to the caller whom it concerns
                if len(batch) == 1:
                    self._settle(batch, error)
                    return []
                for call in batch:
                    call.alone = True
                return batch
            else:
                rest = iter(results)
                for call in batch:
                    call.results = [next(rest) for _ in call.jobs]
                self._settle(batch, None)
                self._on_enqueued([result.ref for result in results if result.ref is not None])
                return []

    def _settle(self, calls: Sequence[_Call], error: Exception | None) -> None:
        with self._lock:
            waiting = [call for call in calls if not call.settled]  # the others have given up
            for call in waiting:
                call.error, call.settled = error, True
        try:
            _tell(waiting)
        except BaseException:  # an interrupt: they are settled, and nobody else would tell them
            _tell(waiting)
            raise

    def _give_up(self, call: _Call) -> None:
        """The caller's time is over: settle the call unless it is settled, or its caller is to lead just now."""
        with self._lock:
            if call.settled or (isinstance(call, _SyncCall) and call.leads):
                return
            self._forget(call)
            call.error, call.settled = _no_answer(self._deadline, None), True

    def _forget(self, call: _Call) -> None:
        if call in self._waiting:
            self._waiting.remove(call)


def _tell(calls: Sequence[_Call]) -> None:
    """Wake up whoever waits for these. May be repeated."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for call in calls:
        if isinstance(call, _SyncCall):
            if call.turn is not None:
                call.turn.set()
        elif isinstance(call, _AsyncCall):
            by_loop.setdefault(call.loop, []).append(call.done)
    for loop, futures in by_loop.items():
        try:
            loop.call_soon_threadsafe(_finish, futures)
        except RuntimeError:  # the loop was closed: nobody waits any more
            continue


def _finish(futures: "list[asyncio.Future[None]]") -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _no_answer(deadline: float, cause: Unavailable | None) -> Unavailable:
    why = f": {cause}" if cause is not None else ", other enqueues were still waiting for it"
    error = Unavailable(
        f"the storage did not answer within {deadline:g} s{why}. Whether the job is stored is unknown; "
        "the call may be repeated with the same id"
    )
    error.__cause__ = cause
    return error
