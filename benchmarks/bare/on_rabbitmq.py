"""RabbitMQ before Redis: each job is announced by one persistent message, claimed by reference, and acknowledged right
after the claim."""

# The annotations of redis and pika have gaps.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import os
import queue
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import pika

from benchmarks.bare.job import BATCH, REST, Handlers, until_stopped
from benchmarks.bare.on_redis import Reference, Store
from benchmarks.producer import Payload, Producer

_QUEUE: Final = "bare"
_FLUSH: Final = 0.002
"""Seconds after which received messages are passed on, also when they are few."""


class Consumer:
    """A connection of its own thread, which passes messages on in lists and takes acknowledgements back."""

    def __init__(self) -> None:
        self.received: queue.SimpleQueue[list[tuple[int, bytes]]] = queue.SimpleQueue()
        self._connection = pika.BlockingConnection(pika.URLParameters(os.environ["BENCH_AMQP"]))
        self._channel = self._connection.channel()
        self._channel.basic_qos(prefetch_count=BATCH * 4)
        self._buffer: list[tuple[int, bytes]] = []
        self._channel.basic_consume(_QUEUE, self._on_message)
        threading.Thread(target=self._loop, daemon=True).start()

    def ack(self, last: int) -> None:
        """All up to this delivery tag."""
        self._connection.add_callback_threadsafe(lambda: self._channel.basic_ack(last, multiple=True))

    def _on_message(self, _channel: object, method: Any, _properties: object, body: bytes) -> None:
        self._buffer.append((method.delivery_tag, body))
        if len(self._buffer) >= BATCH:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._buffer:
            self.received.put(self._buffer)
            self._buffer = []

    def _loop(self) -> None:
        while True:
            self._connection.process_data_events(time_limit=_FLUSH)  # pyright: ignore[reportArgumentType]  it takes fractions
            self._pass_on()


def work() -> None:
    store = Store()
    consumer = Consumer()
    handlers: Handlers[Reference] = Handlers()
    finished: list[Reference] = []

    def step() -> None:
        nonlocal finished
        received: list[tuple[int, bytes]] = []
        if handlers.room:
            with suppress(queue.Empty):
                received = consumer.received.get(timeout=0 if handlers.busy else REST)
        if finished or received:
            claims = [Reference(*body.split(b":")) for _, body in received]
            jobs = store.step(finished, claims)
            finished = []
            if received:
                consumer.ack(received[-1][0])
            handlers.start(jobs)
        if handlers.busy:
            finished = handlers.finished(REST)

    until_stopped(step)


def produce() -> None:
    store = Store()
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["BENCH_AMQP"]))
    channel = connection.channel()
    channel.queue_declare(_QUEUE, durable=True)
    persistent = pika.BasicProperties(delivery_mode=2)

    def send(jobs: Sequence[Payload]) -> None:
        for job_id in store.insert(jobs, "broker"):
            channel.basic_publish("", _QUEUE, f"{job_id}:1".encode(), persistent)

    Producer(send=lambda one: send([one]), send_many=send).serve()


if __name__ == "__main__":
    work() if sys.argv[1] == "work" else produce()
