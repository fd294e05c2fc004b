"""A program that enqueues, kept running: it reads one JSON object a line and answers each with one.

    {"verb": "one", "count": 1000}    {"seconds": 0.21, "count": 1000}

The time is taken here, around the calls alone. Producers in other languages speak the same. Standard library only: it
is imported in the environments of peers too.
"""

import asyncio
import itertools
import json
import os
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeAlias, TypedDict

BULK: Final = 500
"""Jobs in one call of a bulk enqueue."""

SIZE: Final = "BENCH_BODY"
"""The environment variable that says how many bytes the body has; 200 without it."""


class Payload(TypedDict):
    """What each job carries."""

    number: int
    sent: float
    body: str


_numbers = itertools.count()
_body: Final = "x" * int(os.environ.get(SIZE, "200"))

Verb: TypeAlias = Callable[[Mapping[str, float]], object]


def payload() -> Payload:
    """The next job's; `sent` is now."""
    return {"number": next(_numbers), "sent": time.time(), "body": _body}


def payloads(count: int) -> list[Payload]:
    return [payload() for _ in range(count)]


def sizes(count: int) -> list[int]:
    """How many jobs go into each bulk call."""
    full, rest = divmod(count, BULK)
    return [BULK] * full + [rest] * bool(rest)


class _Producer(ABC):
    """`more`: verbs that only this producer knows. They get the whole request; what they return goes into the
    answer as `value`."""

    def __init__(self, prepare: Callable[[], object] | None = None, more: Mapping[str, Verb] | None = None) -> None:
        self._before = prepare
        self._verbs: dict[str, Verb] = {
            "prepare": lambda _request: self._prepare(),
            "one": lambda request: self.one(int(request["count"])),
            "many": lambda request: self.many(int(request["count"])),
            "paced": lambda request: self.paced(int(request["count"]), request["pause"]),
            "steady": lambda request: self.steady(int(request["count"]), request["rate"]),
            **(more or {}),
        }

    def _prepare(self) -> None:
        if self._before is not None:
            self._before()

    @abstractmethod
    def one(self, count: int) -> None:
        """One call a job, one after the other."""

    @abstractmethod
    def many(self, count: int) -> None:
        """BULK jobs a call."""

    @abstractmethod
    def paced(self, count: int, pause: float) -> None:
        """One call a job, with about `pause` seconds after each; spread, so as not to fall in step with a poll."""

    @abstractmethod
    def steady(self, count: int, rate: float) -> None:
        """One call a job, `rate` a second."""

    def serve(self) -> None:
        """Answer requests until the input ends."""
        # What a library prints must not mix with the answers.
        answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        for line in sys.stdin:
            request = json.loads(line)
            verb = self._verbs[request.pop("verb")]
            started = time.perf_counter()
            value = verb(request)
            seconds = time.perf_counter() - started
            answers.write(json.dumps({"seconds": seconds, "value": value}) + "\n")


class Producer(_Producer):
    """Of a library with plain calls."""

    def __init__(
        self,
        send: Callable[[Payload], object],
        send_many: Callable[[Sequence[Payload]], object] | None = None,
        prepare: Callable[[], object] | None = None,
        more: Mapping[str, Verb] | None = None,
    ) -> None:
        super().__init__(prepare, more)
        self._send = send
        self._send_many = send_many

    def one(self, count: int) -> None:
        for _ in range(count):
            self._send(payload())

    def many(self, count: int) -> None:
        assert self._send_many is not None
        for size in sizes(count):
            self._send_many(payloads(size))

    def paced(self, count: int, pause: float) -> None:
        for _ in range(count):
            self._send(payload())
            time.sleep(pause * random.uniform(0.5, 1.5))

    def steady(self, count: int, rate: float) -> None:
        started = time.perf_counter()
        for turn in range(count):
            time.sleep(max(0.0, started + turn / rate - time.perf_counter()))
            self._send(payload())


class AsyncProducer(_Producer):
    """Of a library for asyncio: one event loop and its connections for all requests. `connect`: called first, in it."""

    def __init__(
        self,
        send: Callable[[Payload], Awaitable[object]],
        send_many: Callable[[Sequence[Payload]], Awaitable[object]] | None = None,
        connect: Callable[[], Awaitable[object]] | None = None,
        more: Mapping[str, Verb] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(None, more)
        self._loop = loop or asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._send = send
        self._send_many = send_many
        if connect is not None:
            self._loop.run_until_complete(connect())

    def one(self, count: int) -> None:
        async def calls() -> None:
            for _ in range(count):
                await self._send(payload())

        self._loop.run_until_complete(calls())

    def many(self, count: int) -> None:
        async def calls() -> None:
            assert self._send_many is not None
            for size in sizes(count):
                await self._send_many(payloads(size))

        self._loop.run_until_complete(calls())

    def paced(self, count: int, pause: float) -> None:
        async def calls() -> None:
            for _ in range(count):
                await self._send(payload())
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))

        self._loop.run_until_complete(calls())

    def steady(self, count: int, rate: float) -> None:
        async def calls() -> None:
            started = time.perf_counter()
            for turn in range(count):
                await asyncio.sleep(max(0.0, started + turn / rate - time.perf_counter()))
                await self._send(payload())

        self._loop.run_until_complete(calls())
