import logging
from pathlib import Path

import pytest

from later.backends.rabbitmq import RabbitMQ
from later.backends.rabbitmq.plugin import later_broker
from later.backends.rabbitmq.target import Target, parse
from later.core.errors import ConfigError, InvalidName
from later.core.ports import BrokerOptions


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("amqp://", Target("localhost", 5672, "/", "guest", "guest", tls=False)),
        ("amqp://host", Target("host", 5672, "/", "guest", "guest", tls=False)),
        ("amqp://host/", Target("host", 5672, "/", "guest", "guest", tls=False)),
        ("amqp://host/%2F", Target("host", 5672, "/", "guest", "guest", tls=False)),
        ("amqp://host/%2f", Target("host", 5672, "/", "guest", "guest", tls=False)),
        ("amqp://host/shop", Target("host", 5672, "shop", "guest", "guest", tls=False)),
        ("amqp://host/a%2Fb%23", Target("host", 5672, "a/b#", "guest", "guest", tls=False)),
        ("AMQP://u:p@host:1234/", Target("host", 1234, "/", "u", "p", tls=False)),
        ("amqps://u:p@host", Target("host", 5671, "/", "u", "p", tls=True)),
        ("amqps://host?ca=/a/b.pem", Target("host", 5671, "/", "guest", "guest", tls=True, ca="/a/b.pem")),
        ("amqp://host?quorum=true", Target("host", 5672, "/", "guest", "guest", tls=False, quorum=True)),
        ("amqp://u:p@", Target("localhost", 5672, "/", "u", "p", tls=False)),
        ("amqp://[::1]", Target("::1", 5672, "/", "guest", "guest", tls=False)),
        ("amqp://u:p@[fe80::1]:99/v", Target("fe80::1", 99, "v", "u", "p", tls=False)),
        ("amqp://u:p@w#r%d/:?@host", Target("host", 5672, "/", "u", "p@w#r%d/:?", tls=False)),
        ("amqp://u%40x:p%40w%23r%25d%2F@host", Target("host", 5672, "/", "u@x", "p@w#r%d/", tls=False)),
        ("amqp://u:caf%C3%A9@host", Target("host", 5672, "/", "u", "café", tls=False)),
    ],
)
def test_forms(url: str, target: Target) -> None:
    assert parse(url) == target


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("amqp://", "amqp://guest:***@localhost:5672"),
        ("amqps://u:secret@host/v", "amqps://u:***@host:5671/v"),
        ("amqp://u%40x:secret@[::1]:99/a%2Fb%23", "amqp://u%40x:***@[::1]:99/a%2Fb%23"),
    ],
)
def test_an_address_to_show(url: str, address: str) -> None:
    assert parse(url).address == address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "not the URL of a RabbitMQ"),
        ("secret", "not the URL of a RabbitMQ"),
        ("http://secret", "not the URL of a RabbitMQ"),
        ("amqp:secret", "not the URL of a RabbitMQ"),
        ("amqp://secret@host", "USER:PASSWORD"),
        ("amqp://:secret@host", "USER:PASSWORD"),
        ("amqp://secret:@host", "USER:PASSWORD"),
        ("amqp://u:secret@host:port", "host and port"),
        ("amqp://u:secret@::1", "host and port"),
        ("amqp://u:secret", "host and port"),
        ("amqp://u:secret@host:0", "outside 1 to 65535"),
        ("amqp://u:secret@host:99999", "outside 1 to 65535"),
        ("amqp://u:secret@host//", "%2F"),
        ("amqp://u:secret@host/a/b", "%2F"),
        ("amqp://u:secret@host/a#b", "%23"),
        ("amqp://u:secret@host/" + "a" * 256, "255 bytes"),
        ("amqp://u:secret%FF@host", "UTF-8"),
        ("amqp://u:secret\ud800@host", "UTF-8"),
        ("amqp://u:secret%00@host", "zero byte"),
        ("amqp://u:secret@host?secret=1", "1 unknown option"),
        ("amqp://u:secret@host?quorum=secret", "neither true nor false"),
        ("amqp://u:secret@host?ca=secret", "write amqps://"),
        ("amqps://u:secret@host?ca=/does/not/exist/secret", "certificate file"),
    ],
)
def test_what_is_refused_is_not_repeated(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        RabbitMQ(url)
    assert "secret" not in str(caught.value)


def test_a_certificate_file_that_holds_none(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    with pytest.raises(ConfigError, match="certificate file"):
        RabbitMQ(f"amqps://host?ca={tmp_path}/empty.pem")


def test_the_plugin_answers_to_its_schemes() -> None:
    assert isinstance(later_broker("amqp://host"), RabbitMQ)
    assert isinstance(later_broker("AMQPS://host"), RabbitMQ)
    assert later_broker("memory://") is None


def test_passwords_are_not_shown() -> None:
    backend = RabbitMQ("amqp://user:secret@host:1/shop")
    assert repr(backend) == "RabbitMQ(host:1 virtual host shop)"
    assert "secret" not in repr(parse("amqp://user:secret@host"))
    assert "secret" not in repr(vars(backend))


def test_names_that_rabbitmq_keeps_for_itself() -> None:
    with pytest.raises(InvalidName, match=r"amq\."):
        RabbitMQ("amqp://host").open_broker(BrokerOptions("amq.shop"))


def test_opening_connects_to_nothing() -> None:
    broker = RabbitMQ("amqp://host.invalid").open_broker(BrokerOptions("shop"))
    assert broker.capabilities.priority
    assert not broker.health().receiving
    broker.wake()
    broker.ack([])
    broker.close()
    assert not RabbitMQ("amqp://host", quorum=True).open_broker(BrokerOptions("shop")).capabilities.priority


def test_others_may_still_hear_pika() -> None:
    record = logging.LogRecord("pika.connection", logging.ERROR, "", 0, "message", (), None)
    (quiet,) = logging.getLogger("pika.connection").filters
    assert isinstance(quiet, logging.Filter)
    assert quiet.filter(record)
    record.threadName = "later-rabbitmq-publish"
    assert not quiet.filter(record)
