"""Wrong URLs, wrong logins, wrong ports: clear, prompt, typed, and without the password."""

import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from later.backends.rabbitmq import RabbitMQ, Trouble, session
from later.backends.rabbitmq.broker import RabbitBroker
from later.backends.rabbitmq.errors import AccessRefused
from later.core.errors import BackendError, Unavailable, Unsupported
from later.core.ports import BrokerOptions, BrokerState
from later.core.records import Ref
from tests.support.rabbitmq import TIMEOUT, RabbitServer, private_server
from tests.support.servers import free_port

PROMPT = 5.0
"""Seconds within which every mistake is reported."""

USES: list[Callable[[RabbitBroker], object]] = [
    lambda broker: broker.publish([Ref("job", 1, "q", 0)]),
    lambda broker: broker.receive(["q"], 1, 60),
    lambda broker: broker.declare(["q"]),
    lambda broker: broker.depth(["q"]),
]


def check(url: str, kind: type[BackendError], message: str, namespace: str = "app") -> None:
    """Every use of the URL fails like this, at first and again."""
    broker = RabbitMQ(url).open_broker(BrokerOptions(namespace))
    for use in USES:
        started = time.monotonic()
        with pytest.raises(BackendError, match=message) as caught:
            use(broker)
        assert time.monotonic() - started < PROMPT
        assert type(caught.value) is kind
        assert "secret" not in f"{caught.value!r} {caught.value.__cause__!r} {broker.health()}"
    assert broker.health().last_error
    started = time.monotonic()
    report = broker.report(["q"])
    assert time.monotonic() - started < PROMPT
    state = BrokerState.UNREACHABLE if kind is Unavailable else BrokerState.MISCONFIGURED
    assert (report.state, report.depth, report.dead) == (state, {}, None)
    assert report.error is not None
    assert re.search(message, report.error)
    assert "secret" not in repr(report)
    broker.close()


@pytest.fixture(autouse=True)
def nothing_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The errors say it all: the driver keeps quiet (but for the thread in which it looks up a host), and nothing names
    the password, even to somebody who wants to hear everything."""
    with caplog.at_level(logging.DEBUG):
        yield
    messages = [record.getMessage() for record in caplog.get_records("call") if record.levelno > logging.DEBUG]
    assert [message for message in messages if not message.startswith("Address resolution failed")] == []
    assert "secret" not in caplog.text


@pytest.mark.parametrize("login", ["guest:secret", "nobody:secret", "guest:p%40s%23%25secret", "guest:p@s#%secret"])
def test_a_wrong_password(rabbitmq_server: RabbitServer, login: str) -> None:
    user = login.partition(":")[0]
    server = f"127.0.0.1:{rabbitmq_server.port}"
    check(
        f"amqp://{login}@{server}",
        AccessRefused,
        f"refused the user name {user} or its password.*: check both in {re.escape(f'amqp://{user}:***@{server}')}, ",
    )


def test_passwords_and_names_with_special_characters(rabbitmq_server: RabbitServer) -> None:
    user, password = "us:er@x", "p@s#%/w:r?d é"
    rabbitmq_server.control("add_user", user, password)
    rabbitmq_server.control("add_vhost", "a/b#c")
    rabbitmq_server.control("set_permissions", "-p", "a/b#c", user, ".*", ".*", ".*")
    url = f"amqp://us%3Aer%40x:p%40s%23%25%2Fw%3Ar%3Fd%20%C3%A9@localhost:{rabbitmq_server.port}/a%2Fb%23c"
    broker = RabbitMQ(url).open_broker(BrokerOptions("app"))
    broker.publish([Ref("job", 1, "q", 0)])
    assert [delivery.ref.id for delivery in broker.receive(["q"], 1, 20)] == ["job"]
    broker.close()


def test_a_wrong_virtual_host(rabbitmq_server: RabbitServer) -> None:
    check(f"{rabbitmq_server.url}/wrong", AccessRefused, r"has no virtual host wrong: .*add_vhost wrong\)")


def test_a_virtual_host_that_the_user_may_not_use(rabbitmq_server: RabbitServer) -> None:
    rabbitmq_server.control("add_user", "stranger", "secret")
    url = f"amqp://stranger:secret@localhost:{rabbitmq_server.port}"
    check(url, AccessRefused, r"did not open the virtual host / to the user stranger: .*set_permissions -p / stranger ")


def test_a_login_that_is_refused_is_counted_as_such(rabbitmq_server: RabbitServer) -> None:
    broker = RabbitMQ(f"amqp://guest:secret@127.0.0.1:{rabbitmq_server.port}").open_broker(BrokerOptions("app"))
    with pytest.raises(AccessRefused):
        broker.declare(["q"])
    assert broker.health().troubles == {Trouble.DENIED: 1}
    broker.close()


def test_a_limit_of_connections_passes(rabbitmq_server: RabbitServer) -> None:
    rabbitmq_server.control("add_vhost", "full")
    rabbitmq_server.control("set_permissions", "-p", "full", "guest", ".*", ".*", ".*")
    rabbitmq_server.control("set_vhost_limits", "-p", "full", '{"max-connections": 0}')
    check(f"{rabbitmq_server.url}/full", Unavailable, "no room for another connection")


def test_a_user_who_may_not_create_queues(rabbitmq_server: RabbitServer) -> None:
    rabbitmq_server.control("add_user", "reader", "secret")
    rabbitmq_server.control("set_permissions", "reader", "^$", "^$", "^$")
    broker = RabbitMQ(f"amqp://reader:secret@localhost:{rabbitmq_server.port}").open_broker(BrokerOptions("forbidden"))
    for use in USES[:3]:
        with pytest.raises(AccessRefused, match=r"forbidden.*set_permissions"):
            use(broker)
    broker.close()


@pytest.fixture
def server_without_quorum_queues() -> Iterator[RabbitServer]:
    # Up to 3.10; later ones cannot do without.
    with private_server(RABBITMQ_FEATURE_FLAGS="implicit_default_bindings") as server:
        server.start()
        if server.version > (3, 10):
            pytest.skip("this RabbitMQ always has quorum queues")
        yield server


@pytest.mark.timeout(TIMEOUT)
def test_quorum_queues_that_the_server_has_switched_off(server_without_quorum_queues: RabbitServer) -> None:
    broker = RabbitMQ(server_without_quorum_queues.url, quorum=True).open_broker(BrokerOptions("app"))
    for use in USES[:3]:
        with pytest.raises(Unsupported, match=r"has quorum queues switched off: .*flag quorum_queue, or leave"):
            use(broker)
    broker.close()


def test_a_server_too_old_for_quorum_queues(rabbitmq_server: RabbitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would make classic queues, without a word."""
    monkeypatch.setattr(session, "QUORUM_SINCE", (99, 1))
    check(f"{rabbitmq_server.url}?quorum=true", Unsupported, r"is version \d+\.\d+\.\S+, and quorum queues need 99\.1")
    broker = RabbitMQ(rabbitmq_server.url).open_broker(BrokerOptions("classic"))
    broker.declare(["q"])
    broker.close()


def test_nobody_listens() -> None:
    check(f"amqp://guest:secret@127.0.0.1:{free_port()}", Unavailable, "refuses connections: is it running")


def test_an_unknown_host() -> None:
    check("amqp://guest:secret@no-such-host.invalid", Unavailable, "host of RabbitMQ .* is not known")


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_an_ipv6_address() -> None:
    check(f"amqp://guest:secret@[::1]:{free_port()}", Unavailable, r"RabbitMQ at \[::1\]:\d+ ")


def test_tls_to_a_plain_port(rabbitmq_server: RabbitServer) -> None:
    check(
        f"amqps://guest:secret@127.0.0.1:{rabbitmq_server.port}",
        BackendError,
        "does not speak TLS .*port for amqp://",
    )


def test_plain_to_a_tls_port(rabbitmq_server: RabbitServer) -> None:
    check(
        f"amqp://guest:secret@127.0.0.1:{rabbitmq_server.tls_port}",
        Unavailable,
        "before it said a word of AMQP: .*port for amqps://",
    )


def test_a_certificate_of_an_unknown_authority(rabbitmq_server: RabbitServer) -> None:
    check(f"amqps://guest:secret@localhost:{rabbitmq_server.tls_port}", BackendError, "certificate that is not trusted")


def test_a_certificate_for_another_name(rabbitmq_server: RabbitServer) -> None:
    url = f"amqps://guest:secret@127.0.0.2:{rabbitmq_server.tls_port}?ca={rabbitmq_server.ca}"
    check(url, Unavailable if not _reaches("127.0.0.2", rabbitmq_server.tls_port) else BackendError, "127.0.0.2")


def _reaches(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_tls_with_verification(rabbitmq_server: RabbitServer, host: str) -> None:
    url = f"amqps://guest:guest@{host}:{rabbitmq_server.tls_port}?ca={rabbitmq_server.ca}"
    broker = RabbitMQ(url).open_broker(BrokerOptions(f"tls-{host}"))
    broker.publish([Ref(f"job-{n}", 1, "q", 0) for n in range(2000)])
    got = 0
    while got < 2000:
        deliveries = broker.receive(["q"], 500, 20)
        assert deliveries
        got += len(deliveries)
        broker.ack(deliveries)
    broker.close()


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """The port of something that is no RabbitMQ: it answers every connection like this, and then says nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    for connection in connections:
        connection.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "did not answer within"),
        (b"-ERR unknown command\r\n", "did not answer within"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100, "did not answer within"),
        (b"AMQP\x00\x00\x09\x01", "did not answer within"),
        (b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x0bX", "before it said a word of AMQP"),
    ],
)
def test_something_else_answers(answer: bytes, message: str) -> None:
    with answering(answer) as port:
        broker = RabbitMQ(f"amqp://guest:secret@127.0.0.1:{port}").open_broker(BrokerOptions("app"))
        started = time.monotonic()
        with pytest.raises(Unavailable, match=message):
            broker.receive(["q"], 1, 60)
        assert time.monotonic() - started < PROMPT
        broker.close()
