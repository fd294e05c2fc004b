"""`later worker`: one keeper, and worker processes that it starts, watches and replaces.

The heartbeat is the supervisor's, so a handler that holds the GIL cannot lose the lease. Processes are spawned, never
forked. The supervisor sees a worker die, reads from its board what it ran, and reports that at once.
"""

import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import wait
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Final

from later.core.engine import keeper
from later.core.engine.worker import FLUSH, Key
from later.core.errors import ConfigError, InvalidOption
from later.runtime.crew import WorkerProcess
from later.runtime.jobs import BackgroundJobs
from later.runtime.keeping import Keeping
from later.runtime.log import log, show_log
from later.runtime.processes import STOPS
from later.runtime.queues import check_queues, check_slots
from later.runtime.server import check_grace
from later.runtime.target import Target
from later.runtime.troubles import Troubles

RESTART: Final = (0.5, 30.0)
"""First and longest pause before a worker process is started again that, like the one before it, died young."""
YOUNG: Final = 10.0
"""Seconds; a process that reached this age starts the pauses anew, and its successor starts at once."""
TWICE: Final = 0.1
"""Seconds; a signal that follows the last one sooner is the same wish sent twice, as `timeout` and some shells do."""
LOOK: Final = 1.0
"""Seconds between two looks at the processes themselves: what a handler forked holds the pipes of a dead worker process
open, so its end does not always come as news."""
PATIENCE: Final = FLUSH + 2.0
"""Seconds beyond its own deadline that a worker process gets before it is killed."""


def run(
    target: Target,
    *,
    processes: int,
    slots: int,
    queues: Sequence[str] | Mapping[str, int] | None,
    grace: timedelta,
) -> int:
    """Run a server until SIGTERM or SIGINT; returns the exit status. To be called in the main thread.

    The first signal drains: no more claims, handlers end within `grace`, the rest is given back. The second one
    hurries: everything is given back now.

    Raises ConfigError and its kinds, BackendError when the storage cannot be opened.
    """
    if isinstance(processes, bool) or not isinstance(processes, int) or not 1 <= processes <= 1000:
        raise InvalidOption(f"processes {processes!r} is not a whole number from 1 to 1000")
    check_slots(slots)
    check_grace(grace)
    jobs = target.load()
    show_log()
    chosen = check_queues(queues, jobs.registry)
    if not jobs.runs:
        raise ConfigError(f"{target} was built by build_client(), which only enqueues: name an app built by build()")
    try:
        if not jobs.storage().capabilities.shared:
            raise ConfigError(
                f"the storage of {target} lives in one process, so worker processes would not see its jobs: "
                "use jobs.running() in the program, or a storage that processes share, like SQLite"
            )
        seconds = grace.total_seconds()

        log.info("serving %s: %d x %d slots, queues %s", target, processes, slots, ", ".join(chosen))
        unused = sorted(set(chosen) - {job_type.queue for job_type in jobs.registry})
        if unused:
            log.warning(
                "no job type declares queue %s: only jobs enqueued with queue=... arrive there", ", ".join(unused)
            )

        def start(index: int, name: str) -> WorkerProcess:
            return WorkerProcess(index, name, target, chosen, slots, seconds)

        return Supervisor(jobs, tuple(chosen), processes, slots, seconds, start).run()
    finally:
        jobs.close()


class Supervisor:
    """The supervisor of one server. Everything happens in the thread that calls `run`; others only wake it."""

    def __init__(
        self,
        jobs: BackgroundJobs[Any, Any],
        queues: tuple[str, ...],
        processes: int,
        slots: int,
        grace: float,
        start: Callable[[int, str], WorkerProcess],
    ) -> None:
        """start: starts a worker process, given its index and its name."""
        self._grace = grace
        self._start_process = start
        self._crew: list[WorkerProcess] = []
        self._names = [0] * processes
        """How many processes each index has had."""
        self._starts = dict.fromkeys(range(processes), 0.0)
        """When to start a process, by its index."""
        self._died_young = [0] * processes
        """How many processes of each index in a row."""
        self._server: str | None = None
        self._ever_ready = False
        self._failed = False
        self._signals = 0
        self._signalled_at = -TWICE
        self._stopping = False
        self._hurrying = False
        self._kill_at: float | None = None
        self._news: SimpleQueue[tuple[Callable[[Any], None], Any]] = SimpleQueue()
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._troubles = Troubles(jobs.broker())
        self._keeping = Keeping(jobs, queues, slots * processes, self, on_end=self._wake_up, note=self._troubles.note)

    # --- called by the keeper's thread

    def leased(self, server: str) -> None:
        self._tell(self._take_lease, server)

    def lease_lost(self) -> None:
        self._tell(self._give_up_all, None)

    def cancel(self, claims: Sequence[Key]) -> None:
        self._tell(self._cancel, claims)

    def _tell(self, do: Callable[[Any], None], about: object) -> None:
        self._news.put((do, about))
        self._wake_up()

    def _wake_up(self) -> None:
        with suppress(OSError):  # full of wake-ups already, or everything has ended
            self._wake.send(b"\0")

    # --- the supervisor's own thread

    def run(self) -> int:
        before = {number: signal.signal(number, self._on_signal) for number in STOPS}
        # Without it a signal that arrives just before `wait` blocks would only be seen after the next event.
        old_fd = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        try:
            self._keeping.start()
            while self._crew or not self._stopping:
                self._turn()
            self._keeping.post(keeper.StopWanted())
            self._keeping.join(PATIENCE)
        finally:
            for worker in self._crew:
                worker.kill()  # left behind by a defect
            signal.set_wakeup_fd(old_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._wake.close()
            self._woken.close()
        if self._keeping.error is not None:
            raise self._keeping.error
        return 1 if self._failed else 0

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._signalled_at >= TWICE:
            self._signals += 1
            self._signalled_at = now

    def _turn(self) -> None:
        self._stop_when_asked()
        if not self._stopping:
            self._start_due()
        wakes = [self._kill_at] if self._stopping else self._starts.values()
        times = [when for when in wakes if when is not None]
        sources = [self._woken, *(source for worker in self._crew for source in worker.news)]
        wait(sources, max(0.0, min([LOOK, *(when - time.monotonic() for when in times)])))
        self._take_news()
        for worker in list(self._crew):
            worker.read()
            self._troubles.heard(worker.name, worker.troubles)
            self._ever_ready |= worker.ready
            if not worker.alive:
                self._ended(worker)
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            for worker in self._crew:
                log.error("worker process %s (pid %s) does not end in time and is killed", worker.name, worker.pid)
                worker.kill()

    def _stop_when_asked(self) -> None:
        if (self._signals > 1 or self._keeping.error is not None) and not self._hurrying:
            log.info("stopping now: jobs that run are interrupted and given back")
            self._stop(hurry=True)
        elif self._signals == 1 and not self._stopping:
            log.info("stopping: jobs that run may end within %g s; a second signal hurries", self._grace)
            self._stop(hurry=False)

    def _stop(self, *, hurry: bool) -> None:
        self._stopping = True
        self._hurrying = hurry
        self._kill_at = time.monotonic() + PATIENCE + (0.0 if hurry else self._grace)
        for worker in self._crew:
            worker.stop(hurry=hurry)

    def _take_news(self) -> None:
        try:
            while self._woken.recv(4096):
                pass
        except BlockingIOError:
            pass
        while True:
            try:
                do, about = self._news.get_nowait()
            except Empty:
                return
            do(about)

    def _take_lease(self, server: str) -> None:
        self._server = server
        for worker in self._crew:
            worker.leased(server)

    def _give_up_all(self, _: None) -> None:
        self._server = None
        for worker in self._crew:
            worker.given_up = True
            worker.kill()

    def _cancel(self, claims: Sequence[Key]) -> None:
        for worker in self._crew:
            worker.cancel(claims)

    def _start_due(self) -> None:
        now = time.monotonic()
        for index in [index for index, when in self._starts.items() if now >= when]:
            del self._starts[index]
            self._names[index] += 1
            try:
                worker = self._start_process(index, f"{index}.{self._names[index]}")
            except OSError as error:
                if not self._ever_ready:
                    raise
                log.error("a worker process cannot be started; trying again: %s", error)
                self._starts[index] = now + RESTART[1]
                continue
            self._crew.append(worker)
            self._keeping.post(keeper.WorkerStarted(worker.name))
            if self._server is not None:
                worker.leased(self._server)

    def _ended(self, worker: WorkerProcess) -> None:
        self._crew.remove(worker)
        worker.clear_away()
        self._troubles.ended(worker.name)
        if worker.left:
            self._keeping.post(keeper.WorkerLeft(worker.name))
        elif not worker.given_up:
            running = worker.running()
            log.error(
                "worker process %s (pid %s) died with exit code %s while %d jobs ran",
                worker.name,
                worker.pid,
                worker.exitcode,
                len(running),
            )
            self._keeping.post(keeper.WorkerDied(worker.name, running))
        if not self._ever_ready and not self._stopping:
            self._failed = True
            self._stop(hurry=True)
        elif not self._stopping:
            self._starts[worker.index] = time.monotonic() + self._pause(worker)

    def _pause(self, worker: WorkerProcess) -> float:
        """Seconds before the successor starts: none the first time."""
        if worker.given_up or (worker.ready and worker.age >= YOUNG):
            self._died_young[worker.index] = 0
            return 0.0
        first, longest = RESTART
        times = self._died_young[worker.index]
        self._died_young[worker.index] += 1
        return min(longest, first * 2 ** min(times - 1, 10)) if times else 0.0
