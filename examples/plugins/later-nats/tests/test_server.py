"""What a NATS server can be, do and suffer: refuse, ask for TLS, be down, killed, wiped, silent, tampered with."""

import asyncio
import logging
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import nats
import nats.aio.client
import nats.js.errors
import pytest
from nats.js import JetStreamContext, api

from later.core.errors import BackendError, Unavailable
from later.core.ports import BrokerOptions, BrokerState, Delivery
from later.core.records import Ref
from later_nats import Nats, session
from later_nats.broker import NatsBroker
from later_nats.errors import AccessRefused, NoJetStream, StreamMismatch
from tests.support.nats import NatsServer
from tests.support.servers import free_port, make_certificates
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(90)

PASSWORD = "hunter2"

names = count(1)


@pytest.fixture
def namespace() -> str:
    return f"server-{next(names)}"


Open = Callable[..., NatsBroker]


@pytest.fixture
def open_broker(namespace: str) -> Iterator[Open]:
    opened: list[NatsBroker] = []

    def make(url: str) -> NatsBroker:
        broker = Nats(url).open_broker(BrokerOptions(namespace))
        opened.append(broker)
        return broker

    yield make
    for broker in opened:
        broker.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("later-nats")]


@pytest.fixture
def broker(open_broker: Open, nats_server: NatsServer) -> NatsBroker:
    return open_broker(nats_server.url)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    """Starts servers with a configuration of their own."""
    started: list[NatsServer] = []

    def start(configuration: str = "", *, jetstream: bool = True) -> NatsServer:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(NatsServer(folder, configuration, jetstream=jetstream))
        return started[-1].start()

    yield start
    for each in started:
        each.stop()


def refs(number: int, first: int = 0) -> list[Ref]:
    return [Ref(f"job-{n}", 1, "q", 0) for n in range(first, first + number)]


def receive(broker: NatsBroker, number: int, *queues: str) -> list[Delivery]:
    """Exactly so many, asked for again and again as a worker does."""
    got: list[Delivery] = []

    def look() -> bool:
        try:
            got.extend(broker.receive(queues or ("q",), number - len(got), 0.2))
        except Unavailable:
            time.sleep(0.02)
        return len(got) >= number

    until(look, f"{number} messages")
    return got


def publish(broker: NatsBroker, batch: list[Ref]) -> None:
    """Again and again, as the publisher does."""

    def look() -> bool:
        try:
            broker.publish(batch)
        except Unavailable:
            time.sleep(0.02)
            return False
        return True

    until(look, "the messages to be taken")


def on(server: NatsServer, work: Callable[[JetStreamContext], Coroutine[Any, Any, Any]]) -> Any:
    """What an administrator does."""

    async def run() -> Any:
        client = await nats.connect(server.url)
        try:
            return await work(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(run())


# --- letting in


def login(user: str, password: str) -> str:
    return f'authorization {{ user: "{user}", password: "{password}" }}'


def at(server: NatsServer, login: str, scheme: str = "nats") -> str:
    return f"{scheme}://{login}@127.0.0.1:{server.port}"


def test_a_user_and_password(server: Callable[..., NatsServer], open_broker: Open) -> None:
    running = server(login("ada", "p@ss:w/rd"))
    broker = open_broker(at(running, "ada:p%40ss%3Aw%2Frd"))
    broker.publish(refs(1))
    assert len(receive(broker, 1)) == 1


def test_a_token(server: Callable[..., NatsServer], open_broker: Open) -> None:
    broker = open_broker(at(server('authorization { token: "s3cret" }'), "s3cret"))
    broker.publish(refs(1))
    assert len(receive(broker, 1)) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (f"ada:{PASSWORD}", "refused the login of the user ada: check user and password"),
        (f"eve:{PASSWORD}", "refused the login of the user eve: check user and password"),
        (PASSWORD, "refused the token: check the URL"),
    ],
)
def test_a_wrong_login_is_refused(
    server: Callable[..., NatsServer], open_broker: Open, given: str, message: str
) -> None:
    broker = open_broker(at(server(login("ada", "right")), given))
    for attempt in (lambda: broker.publish(refs(1)), lambda: broker.receive(["q"], 1, 5)):
        with pytest.raises(AccessRefused, match=message) as caught:
            attempt()
        assert PASSWORD not in str(caught.value)
    report = broker.report(["q"])
    assert (report.state, report.depth) == (BrokerState.MISCONFIGURED, {})
    assert message in str(report.error)
    assert PASSWORD not in repr(report)


def test_no_login_where_one_is_asked_for(server: Callable[..., NatsServer], open_broker: Open) -> None:
    with pytest.raises(AccessRefused, match="wants a login and the URL has none"):
        open_broker(server(login("ada", "right")).url).declare(["q"])


def test_a_user_without_permissions(server: Callable[..., NatsServer], open_broker: Open, monkeypatch: Any) -> None:
    monkeypatch.setattr(session, "ANSWER", 0.5)
    running = server(
        'authorization { users: [{ user: "ada", password: "x", permissions: { publish: { allow: ["hello"] } } }] }'
    )
    with pytest.raises(AccessRefused, match="for publish"):
        open_broker(at(running, "ada:x")).publish(refs(1))


def test_the_permissions_that_the_readme_names_are_enough(
    server: Callable[..., NatsServer], open_broker: Open, namespace: str, nats_server: NatsServer
) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    publish_to = [f"later.{namespace}.*", f"later_dead.{namespace}", f"$JS.ACK.LATER-{namespace}.>"]
    publish_to += [
        f"$JS.API.{subject}".replace("shop", namespace)
        for subject in (
            "STREAM.INFO.*",
            "STREAM.CREATE.*",
            "CONSUMER.INFO.LATER-shop.*",
            "CONSUMER.DURABLE.CREATE.LATER-shop.*",
            "CONSUMER.MSG.NEXT.LATER-shop.*",
        )
    ]
    for subject in publish_to:
        named = subject.removeprefix("$JS.API.").replace(namespace, "shop")
        assert f"`{named}`" in readme
    allowed = ", ".join(f'"{subject}"' for subject in publish_to)
    running = server(
        'authorization { users: [{ user: "ada", password: "x", permissions: { '
        f'publish: {{ allow: [{allowed}] }}, subscribe: {{ allow: ["_INBOX.>"] }} }} }}] }}'
    )
    broker = open_broker(at(running, "ada:x"))
    broker.publish(refs(3))
    first, *others = receive(broker, 3)
    broker.ack(others)
    broker.release([first])
    assert len(receive(broker, 1)) == 1
    assert broker.depth(["q"]) == {"q": 1}


def test_a_server_without_jetstream(server: Callable[..., NatsServer], open_broker: Open) -> None:
    broker = open_broker(server(jetstream=False).url)
    for attempt in (lambda: broker.publish(refs(1)), lambda: broker.receive(["q"], 1, 5), lambda: broker.depth(["q"])):
        with pytest.raises(NoJetStream, match="start nats-server with -js"):
            attempt()


# --- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


def tls(certificates: Path, more: str = "") -> str:
    return f'tls {{ cert_file: "{certificates}/server.pem", key_file: "{certificates}/server.key" {more} }}'


def test_tls(server: Callable[..., NatsServer], open_broker: Open, certificates: Path) -> None:
    running = server(tls(certificates) + "\n" + login("ada", PASSWORD))
    broker = open_broker(at(running, f"ada:{PASSWORD}", "nats+tls") + f"?ca={certificates}/ca.pem")
    broker.publish(refs(2))
    assert len(receive(broker, 2)) == 2


def test_a_certificate_to_show(server: Callable[..., NatsServer], open_broker: Open, certificates: Path) -> None:
    running = server(tls(certificates, f', ca_file: "{certificates}/ca.pem", verify: true'))
    url = f"nats+tls://127.0.0.1:{running.port}?ca={certificates}/ca.pem"
    broker = open_broker(f"{url}&cert={certificates}/server.pem&key={certificates}/server.key")
    broker.publish(refs(1))
    with pytest.raises(BackendError):
        open_broker(url).publish(refs(1))


def test_a_certificate_that_is_not_trusted(
    server: Callable[..., NatsServer], open_broker: Open, certificates: Path
) -> None:
    running = server(tls(certificates))
    with pytest.raises(BackendError, match="not trusted"):
        open_broker(f"nats+tls://127.0.0.1:{running.port}").publish(refs(1))


def test_a_server_that_asks_for_tls_gets_it(
    server: Callable[..., NatsServer], open_broker: Open, certificates: Path
) -> None:
    with pytest.raises(BackendError, match=r"nats\+tls://HOST\?ca=FILE"):
        open_broker(server(tls(certificates)).url).publish(refs(1))


def test_a_server_without_tls(server: Callable[..., NatsServer], open_broker: Open) -> None:
    running = server()
    for login in ("", f"ada:{PASSWORD}@", f"{PASSWORD}@"):
        with pytest.raises(BackendError, match="no login was sent"):
            open_broker(f"nats+tls://{login}127.0.0.1:{running.port}").publish(refs(1))


def test_no_password_is_sent_in_clear_when_tls_was_asked_for(open_broker: Open) -> None:
    """A server in the middle that says that it wants no TLS hears no password."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b'INFO {"server_id":"x","version":"2.9.0","auth_required":true,"headers":true}\r\n')
                while chunk := connection.recv(4096):
                    heard.append(chunk)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"nats+tls://ada:{PASSWORD}@127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(BackendError, match="no login was sent"):
            open_broker(url).publish(refs(1))
        thread.join()
    assert PASSWORD.encode() not in b"".join(heard)


# --- being away


def test_a_server_that_is_down_when_the_program_starts(
    nats_server: NatsServer, broker: NatsBroker, open_broker: Open
) -> None:
    nats_server.stop()
    started = time.monotonic()
    for _ in range(20):
        with pytest.raises(Unavailable, match="refuses connections: is it running"):
            broker.publish(refs(1))
        with pytest.raises(Unavailable, match="refuses connections"):
            broker.receive(["q"], 1, 30)
    assert broker.report([]).state is BrokerState.UNREACHABLE
    assert time.monotonic() - started < 5
    nats_server.start()
    publish(broker, refs(3))
    assert len(receive(broker, 3)) == 3


def test_a_host_that_is_not_known(open_broker: Open) -> None:
    with pytest.raises(Unavailable, match="is not known"):
        open_broker("nats://no-such-host.invalid").publish(refs(1))


def test_the_first_server_that_answers_is_taken(nats_server: NatsServer, open_broker: Open) -> None:
    broker = open_broker(f"nats://127.0.0.1:{free_port()},127.0.0.1:{nats_server.port}")
    broker.publish(refs(1))
    assert len(receive(broker, 1)) == 1


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_a_host_that_is_no_name(open_broker: Open, host: str) -> None:
    with pytest.raises(Unavailable, match="no name of a host"):
        open_broker(f"nats://{host}").publish(refs(1))


def test_a_silent_server_does_not_stand_in_the_way_of_another(
    nats_server: NatsServer, open_broker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "shuffle", lambda servers: None)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker = open_broker(f"nats://127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{nats_server.port}")
        broker.publish(refs(1))
        assert len(receive(broker, 1)) == 1


def test_something_that_is_no_nats(open_broker: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(Unavailable, match="is it a NATS server"):
            open_broker(f"nats://127.0.0.1:{listener.getsockname()[1]}").publish(refs(1))
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("end", [NatsBroker.wake, NatsBroker.close])
def test_a_receive_that_is_still_connecting_can_be_ended(open_broker: Open, end: Callable[[NatsBroker], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker = open_broker(f"nats://127.0.0.1:{silent.getsockname()[1]}")
        got: list[object] = []
        thread = threading.Thread(target=lambda: got.append(broker.receive(["q"], 1, 30)))
        started = time.monotonic()
        thread.start()
        while thread.is_alive():
            end(broker)
            thread.join(0.02)
        assert got == [[]]
        assert time.monotonic() - started < 4
        broker.close()


def test_a_connect_that_forgets_a_cancellation_is_ended(
    open_broker: Open, monkeypatch: pytest.MonkeyPatch, nats_server: NatsServer
) -> None:
    connecting = threading.Event()

    async def forgetful(*_: object, **__: object) -> None:
        # As asyncio.wait_for() of Python 3.11 does, when what it waits for ends at the moment of the cancellation.
        connecting.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(9)
        await asyncio.sleep(9)

    monkeypatch.setattr(nats.aio.client.Client, "connect", forgetful)
    broker = open_broker(nats_server.url)
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(broker.receive(["q"], 1, 30)))
    thread.start()
    assert connecting.wait(5)
    started = time.monotonic()
    broker.close()
    thread.join(10)
    assert got == [[]]
    assert time.monotonic() - started < 4


def test_what_was_confirmed_survives_kill_9(nats_server: NatsServer, broker: NatsBroker) -> None:
    publish(broker, refs(500))
    deliveries = broker.receive(["q"], 10, 5)
    nats_server.kill()
    broker.ack(deliveries)  # too late
    with pytest.raises(Unavailable):
        broker.receive(["q"], 1, 20)
    nats_server.start()
    publish(broker, refs(100, 500))
    seen = {delivery.ref for delivery in receive(broker, 590)}
    assert seen >= set(refs(600)) - {delivery.ref for delivery in deliveries}


def test_a_wiped_server_is_set_up_anew(nats_server: NatsServer, broker: NatsBroker) -> None:
    publish(broker, refs(5))
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            broker.receive(["other"], 1, 30)
        except Unavailable as error:
            raised.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    nats_server.kill()
    waiting.join(10)
    assert len(raised) == 1
    nats_server.wipe()
    nats_server.start()
    publish(broker, refs(2, 5))
    assert [delivery.ref for delivery in receive(broker, 2)] == refs(2, 5)
    assert broker.depth(["q"]) == {"q": 2}


def test_a_server_that_falls_silent(
    server: Callable[..., NatsServer], open_broker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "ANSWER", 1.0)
    monkeypatch.setattr(session, "PING", 1)
    running = server()
    broker = open_broker(running.url)
    publish(broker, refs(1))
    with running.frozen():
        started = time.monotonic()
        with pytest.raises(Unavailable):
            broker.publish(refs(1, 1))
        with pytest.raises(Unavailable):
            broker.receive(["q"], 1, 60)
        assert time.monotonic() - started < 30
    publish(broker, refs(1, 2))
    seen = {delivery.ref for delivery in receive(broker, 2)}
    assert seen <= set(refs(3))


# --- being tampered with


def test_a_stream_that_is_deleted_under_us(nats_server: NatsServer, broker: NatsBroker, namespace: str) -> None:
    publish(broker, refs(2))
    on(nats_server, lambda stream: stream.delete_stream(f"LATER-{namespace}"))
    assert broker.depth(["q"]) == {"q": 0}
    broker.publish(refs(2, 2))
    assert [delivery.ref for delivery in receive(broker, 2)] == refs(2, 2)


def test_a_consumer_that_is_deleted_while_we_wait(nats_server: NatsServer, broker: NatsBroker, namespace: str) -> None:
    broker.declare(["q"])
    got: list[Delivery] = []
    thread = threading.Thread(target=lambda: got.extend(broker.receive(["q"], 1, 30)))
    thread.start()

    async def waits(stream: JetStreamContext) -> bool:
        return bool((await stream.consumer_info(f"LATER-{namespace}", "q")).num_waiting)

    until(lambda: on(nats_server, waits), "a pull that waits")
    on(nats_server, lambda stream: stream.delete_consumer(f"LATER-{namespace}", "q"))
    broker.publish(refs(1))
    thread.join(10)
    assert [delivery.ref for delivery in got] == refs(1)


def test_a_consumer_that_is_deleted_before_we_ask(
    nats_server: NatsServer, broker: NatsBroker, namespace: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(session, "ANSWER", 0.5)
    broker.publish(refs(1))
    broker.ack(receive(broker, 1))
    assert broker.receive(["q"], 1, 0) == []
    on(nats_server, lambda stream: stream.delete_consumer(f"LATER-{namespace}", "q"))
    broker.publish(refs(1, 1))
    assert [delivery.ref for delivery in receive(broker, 1)] == refs(1, 1)


@pytest.mark.parametrize("status", ["400", "503"])
def test_a_pull_that_the_server_cannot_answer_is_not_asked_again_at_once(
    nats_server: NatsServer, broker: NatsBroker, status: str
) -> None:
    broker.declare(["q"])
    thread = threading.Thread(target=lambda: broker.receive(["q"], 1, 30))
    thread.start()
    current = broker._loop().link.current
    assert current is not None
    line = current._line("q")
    asked: list[int] = []

    async def answer(stream: JetStreamContext) -> None:
        ends = time.monotonic() + 3 * session.HOLD / 2
        while time.monotonic() < ends:
            pull = line.pull
            if pull is not None and pull.waits and pull.number not in asked:
                asked.append(pull.number)
                subject = f"{line.inbox}.{pull.number}"
                await stream._nc.publish(subject, headers={"Status": status, "Description": "No"})
            await asyncio.sleep(0.002)

    on(nats_server, answer)
    broker.wake()
    thread.join(10)
    assert 1 <= len(asked) <= 3


def test_a_stream_of_the_same_name_that_is_no_work_queue(
    nats_server: NatsServer, broker: NatsBroker, namespace: str
) -> None:
    on(nats_server, lambda stream: stream.add_stream(name=f"LATER-{namespace}", subjects=[f"later.{namespace}.*"]))
    for attempt in (lambda: broker.publish(refs(1)), lambda: broker.receive(["q"], 1, 5)):
        with pytest.raises(StreamMismatch, match=f"nats stream rm LATER-{namespace}"):
            attempt()


def test_another_stream_that_takes_our_messages(nats_server: NatsServer, broker: NatsBroker, namespace: str) -> None:
    on(nats_server, lambda stream: stream.add_stream(name=f"ALL-{namespace}", subjects=[f"later.{namespace}.>"]))
    with pytest.raises(StreamMismatch, match=r"take later\.> out"):
        broker.publish(refs(1))


def test_limits_that_an_administrator_has_set_stay(
    nats_server: NatsServer, broker: NatsBroker, namespace: str, open_broker: Open
) -> None:
    broker.declare(["q"])

    async def limit(stream: JetStreamContext) -> None:
        config = (await stream.stream_info(f"LATER-{namespace}")).config
        await stream.update_stream(config.evolve(max_msgs=3, discard=api.DiscardPolicy.NEW))

    on(nats_server, limit)
    other = open_broker(nats_server.url)
    other.publish(refs(3))
    with pytest.raises(Unavailable, match="maximum messages exceeded"):
        other.publish(refs(1, 3))


@pytest.mark.parametrize("body", [b"", b"x", b"{}", b"\xff" * 600, b"x" * 1_000_000])
def test_what_is_no_message_of_ours_is_put_away_once(
    nats_server: NatsServer, broker: NatsBroker, namespace: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    broker.publish(refs(1))
    on(nats_server, lambda stream: stream.publish(f"later.{namespace}.q", body))
    broker.publish(refs(1, 1))
    with caplog.at_level(logging.WARNING, "later_nats"):
        assert [delivery.ref for delivery in receive(broker, 2)] == refs(2)
    until(lambda: broker.depth(["q"]) == {"q": 2}, "it to be gone from the queue")

    async def dead(stream: JetStreamContext) -> tuple[int, bytes | None]:
        info = await stream.stream_info(f"LATER_DEAD-{namespace}")
        return info.state.messages, (await stream.get_msg(f"LATER_DEAD-{namespace}", seq=1)).data

    count, kept = on(nats_server, dead)
    assert (count, kept or b"") == (1, body)
    report = broker.report(["q"])
    assert (report.state, report.depth, report.dead) == (BrokerState.CONNECTED, {"q": 2}, 1)
    assert broker.receive(["q"], 5, 0.1) == []
    assert len(caplog.records) == 1
    assert f"LATER_DEAD-{namespace}" in caplog.text


# --- keeping and giving back


def test_what_is_reserved_stays_reserved_for_longer_than_the_server_waits(
    broker: NatsBroker, open_broker: Open, nats_server: NatsServer, monkeypatch: Any
) -> None:
    monkeypatch.setattr(session, "ACK_WAIT", 0.6)
    broker.publish(refs(1))
    deliveries = receive(broker, 1)
    assert open_broker(nats_server.url).receive(["q"], 1, 2.0) == []
    broker.ack(deliveries)


RESERVE_AND_DIE = """
import os, sys
from later.core.ports import BrokerOptions
from later_nats import Nats, session
session.ACK_WAIT = 1.0
broker = Nats(sys.argv[1]).open_broker(BrokerOptions(sys.argv[2]))
assert len(broker.receive(["q"], 5, 10)) == 3
os._exit(9)
"""


def test_what_a_dead_process_had_reserved_comes_again(
    broker: NatsBroker, nats_server: NatsServer, namespace: str
) -> None:
    broker.publish(refs(3))
    done = subprocess.run([sys.executable, "-c", RESERVE_AND_DIE, nats_server.url, namespace], check=False, timeout=30)
    assert done.returncode == 9
    assert {delivery.ref for delivery in receive(broker, 3)} == set(refs(3))


def test_what_nobody_fetches_here_goes_to_others(
    broker: NatsBroker, open_broker: Open, nats_server: NatsServer, namespace: str
) -> None:
    """A pull is still waiting when its `receive` was woken: what it brings is given back."""
    broker.declare(["q"])
    thread = threading.Thread(target=lambda: broker.receive(["q"], 1, 30))
    thread.start()

    async def waits(stream: JetStreamContext) -> bool:
        return bool((await stream.consumer_info(f"LATER-{namespace}", "q")).num_waiting)

    until(lambda: on(nats_server, waits), "a pull that waits")
    broker.wake()
    thread.join(5)
    other = open_broker(nats_server.url)
    started = time.monotonic()
    other.publish(refs(1))
    assert [delivery.ref for delivery in receive(other, 1)] == refs(1)
    assert time.monotonic() - started < 5


def test_earlier_queues_come_first(broker: NatsBroker) -> None:
    broker.publish([Ref(f"{queue}-{n}", 1, queue, 0) for n in range(3) for queue in ("low", "high")])
    got = [delivery.ref.id for delivery in broker.receive(["high", "low"], 4, 5)]
    assert got == ["high-0", "high-1", "high-2", "low-0"]
    assert len(broker.receive(["high", "low"], 4, 5)) == 2


def test_a_forked_process_has_a_connection_of_its_own(broker: NatsBroker) -> None:
    broker.publish(refs(1))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            broker.publish(refs(1, 1))
            os.write(writing, b"ok")
        finally:
            os._exit(0)
    os.close(writing)
    assert os.read(reading, 10) == b"ok"
    os.close(reading)
    os.waitpid(child, 0)
    assert [delivery.ref for delivery in receive(broker, 2)] == refs(2)


def test_closing_again_and_without_a_connection(open_broker: Open) -> None:
    broker = open_broker("nats://127.0.0.1:1")
    broker.wake()
    broker.ack([])
    broker.close()
    broker.close()
