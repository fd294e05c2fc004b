"""Handlers in processes of their own: the only kind that can be killed, and that cannot take others down.

A process runs one job at a time and is kept for the next one. Claims and their ends cross the pipe as JSON and bytes.
The child judges the end itself, since the retry policy looks at the exception.
"""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Coroutine
from contextvars import copy_context
from multiprocessing.connection import Connection
from queue import SimpleQueue
from random import Random
from typing import Any, Final

from later.core.engine.judge import Died, Interrupted, Unserved
from later.core.engine.worker import Interruption, Key
from later.core.errors import HandlerTimeout
from later.core.lifecycle import Cause, Change
from later.core.records import Claim, ErrorInfo, State
from later.runtime.event_loop import run_through
from later.runtime.handling import Handling, Stop
from later.runtime.jobs import BackgroundJobs
from later.runtime.processes import obey_parent, spawn
from later.runtime.target import Target, locate

LOOK: Final = 1.0
"""Seconds between two looks at whether a process still lives."""
START_LIMIT: Final = 60.0
"""Seconds that a process gets to import the app."""


class Isolates:
    """The isolated processes of one worker process."""

    def __init__(self, jobs: BackgroundJobs[Any, Any], handling: Handling) -> None:
        self._jobs = jobs
        self._handling = handling
        self._lock = threading.Lock()
        self._idle: list[_Isolate] = []
        self._running: dict[Key, _Isolate] = {}
        self._closed = False

    def run(self, claim: Claim, stop: Stop) -> Change:
        """Run the claim in a process of its own; blocks this thread until its end, its timeout or its death."""
        key = (claim.id, claim.epoch)
        job_type = self._handling.type_of(claim)
        timeout = job_type.timeout if job_type is not None else None
        try:
            isolate = self._take()
        except Exception as error:  # noqa: BLE001  no process, or none that finds the app: the job tells why
            return self._handling.raised(claim, error)
        with self._lock:
            self._running[key] = isolate
        try:
            if stop.why is not None:
                isolate.kill()
            change = isolate.run(claim, None if timeout is None else timeout.total_seconds())
        except Exception as error:  # noqa: BLE001  whatever came over the pipe, or did not
            ready = isolate.ready
            how = isolate.end()
            if stop.why is not None:
                return self._handling.judged(claim, Interrupted(stop.why is Interruption.CANCEL))
            if isinstance(error, TimeoutError):
                late = HandlerTimeout(f"{claim.type} ran longer than its timeout of {timeout} and was killed")
                return self._handling.raised(claim, late)
            if not ready:
                # Not the job's doing: the app cannot be imported here, or there is no memory for one more process.
                never = ErrorInfo("IsolatedProcessFailed", f"its isolated process {how} before the job began", "")
                return self._handling.judged(claim, Unserved(never))
            return self._handling.judged(claim, Died(f"its isolated process {how}"))
        finally:
            with self._lock:
                del self._running[key]
        self._give_back(isolate)
        self._handling.tell(claim, change)
        return change

    def kill(self, key: Key) -> None:
        """Kill the process that runs this claim, if one does. Does not block."""
        with self._lock:
            isolate = self._running.get(key)
        if isolate is not None:
            isolate.kill()

    def close(self) -> None:
        """End the idle processes, and the others when they have finished their job."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for isolate in idle:
            isolate.end()

    def _take(self) -> "_Isolate":
        with self._lock:
            isolate = self._idle.pop() if self._idle else None
        if isolate is not None:
            if isolate.alive:
                return isolate
            isolate.end()
        return _Isolate(locate(self._jobs))

    def _give_back(self, isolate: "_Isolate") -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(isolate)
                return
        isolate.end()


class _Isolate:
    def __init__(self, target: Target) -> None:
        self._process, self._connection = spawn("later-isolated", isolated_main, target)
        self.ready = False
        """It has imported the app."""

    @property
    def alive(self) -> bool:
        """When idle: whether it can take a job. An idle process says nothing, so there is only an end to be read."""
        return self._process.is_alive() and not self._connection.poll()

    def run(self, claim: Claim, timeout: float | None) -> Change:
        """Raises EOFError or OSError when the process dies, TimeoutError when the handler takes too long."""
        if not self.ready:
            if not self._answers(START_LIMIT):
                raise EOFError
            self._connection.recv_bytes()
            self.ready = True
        _send_claim(self._connection, claim)
        if not self._answers(timeout):
            raise TimeoutError
        return _receive_change(self._connection, claim)

    def _answers(self, timeout: float | None) -> bool:
        """Wait for an answer; False when time ran out. Raises EOFError when the process has died without one."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            # A look at the process as well: what its handler forked holds the pipe of a dead one open.
            alive = self._process.is_alive()
            left = LOOK if until is None else min(LOOK, until - time.monotonic())
            if self._connection.poll(max(0.0, left) if alive else 0.0):
                return True
            if not alive:
                raise EOFError
            if until is not None and time.monotonic() >= until:
                return False

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> str:
        """Kill the process, unless it is dead already, and clear away; how it ended."""
        self._process.join(0 if self.ready else 1.0)  # its end of the pipe closes a little before it has died
        died = self.ready or self._process.exitcode is not None
        self._process.kill()
        self._process.join()
        self._connection.close()
        if not died:
            return f"did not start within {START_LIMIT:g} s"
        code = self._process.exitcode or 0
        return f"exited with status {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


def isolated_main(target: Target, connection: Connection) -> None:
    """The main function of an isolated process."""
    obey_parent()
    handling = Handling(target.load(), Random(), logs=False)
    connection.send_bytes(b"ready")
    claims: SimpleQueue[Claim] = SimpleQueue()

    def receive() -> None:
        try:
            while True:
                claims.put(_receive_claim(connection))
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone, or needs this process no more

    threading.Thread(target=receive, daemon=True).start()
    # One loop for all jobs: what an app keeps open between them, such as a connection pool, belongs to a loop.
    with asyncio.Runner() as runner:

        def run_async(handler: Coroutine[Any, Any, object]) -> object:
            return run_through(runner, handler, context=copy_context())

        while True:
            _send_change(connection, handling.run(claims.get(), Stop(), run_async))


def _send_claim(connection: Connection, claim: Claim) -> None:
    head = {name: getattr(claim, name) for name in Claim._fields}
    for name in ("payload", "parent_result"):
        head[name] = head[name] is not None
    connection.send_bytes(json.dumps(head).encode())
    connection.send_bytes(claim.payload)
    if claim.parent_result is not None:
        connection.send_bytes(claim.parent_result)


def _receive_claim(connection: Connection) -> Claim:
    head: dict[str, Any] = json.loads(connection.recv_bytes())
    head["payload"] = connection.recv_bytes()
    head["parent_result"] = connection.recv_bytes() if head["parent_result"] else None
    head["parent_state"] = None if head["parent_state"] is None else State(head["parent_state"])
    return Claim(**head)


def _send_change(connection: Connection, change: Change) -> None:
    head = {
        "cause": change.cause,
        "reason": change.reason,
        "delay": change.delay,
        "keep": change.keep,
        "error": None if change.error is None else change.error._asdict(),
        "result": change.result is not None,
    }
    connection.send_bytes(json.dumps(head).encode())
    if change.result is not None:
        connection.send_bytes(change.result)


def _receive_change(connection: Connection, claim: Claim) -> Change:
    head: dict[str, Any] = json.loads(connection.recv_bytes())
    return Change(
        claim.id,
        Cause(head["cause"]),
        head["reason"],
        epoch=claim.epoch,
        server=claim.server,
        delay=head["delay"],
        keep=head["keep"],
        error=None if head["error"] is None else ErrorInfo(**head["error"]),
        result=connection.recv_bytes() if head["result"] else None,
    )
