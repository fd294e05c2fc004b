import pytest

from later.core.errors import ConfigError, InvalidOption
from later_nats import Nats
from later_nats.names import Names
from later_nats.target import Target, parse

PASSWORD = "hunter2"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("nats://", Target(("localhost:4222",), tls=False)),
        ("nats://host", Target(("host:4222",), tls=False)),
        ("NATS://host:1/", Target(("host:1",), tls=False)),
        ("nats://[::1]:7", Target(("[::1]:7",), tls=False)),
        ("nats://a,b:2", Target(("a:4222", "b:2"), tls=False)),
        ("nats://u:p@host", Target(("host:4222",), tls=False, user="u", password="p")),
        ("nats://u:p%40%3A/@x@host", Target(("host:4222",), tls=False, user="u", password="p@:/@x")),
        ("nats://secret@host", Target(("host:4222",), tls=False, token="secret")),
        ("nats://host?replicas=3", Target(("host:4222",), tls=False, replicas=3)),
        (
            "nats+tls://host?ca=/a.pem&cert=/c.pem&key=/k.pem",
            Target(("host:4222",), tls=True, ca="/a.pem", cert="/c.pem", key="/k.pem"),
        ),
    ],
)
def test_what_a_url_says(url: str, target: Target) -> None:
    assert parse(url) == target


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("amqp://host", "not the URL of a NATS server"),
        ("hunter2", "not the URL of a NATS server"),
        ("nats://:hunter2@host", "neither USER:PASSWORD nor TOKEN"),
        ("nats://u:@host", "neither USER:PASSWORD nor TOKEN"),
        ("nats://@host", "neither USER:PASSWORD nor TOKEN"),
        ("nats://u:%ff@host", "not UTF-8"),
        ("nats://u:hunter2\udcff@host", "not UTF-8"),
        ("nats://u:hunter2@host\udcff", "not UTF-8"),
        ("nats://u:hunter2@a b", "does not name a host"),
        ("nats://u:hunter2@a,,b", "does not name a host"),
        ("nats://u:hunter2@host:0", "outside 1 to 65535"),
        ("nats://u:hunter2@host:65536", "outside 1 to 65535"),
        ("nats://u:hunter2@host/jobs", "a path"),
        ("nats://u:hunter2@host?replica=3", "unknown option"),
        ("nats://u:hunter2@host?replicas=2", "not 1, 3 or 5"),
        ("nats://u:hunter2@host?ca=/a.pem", r"write nats\+tls://"),
        ("nats+tls://u:hunter2@host?key=/k.pem", "without its certificate"),
    ],
)
def test_what_is_no_url_of_ours(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        Nats(url)
    assert PASSWORD not in str(caught.value)
    assert not isinstance(caught.value, InvalidOption)


def test_a_file_that_is_missing_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match="certificate file"):
        Nats("nats+tls://host?ca=/nowhere.pem")


@pytest.mark.parametrize("url", [f"nats://u:{PASSWORD}@host", f"nats://{PASSWORD}@host"])
def test_no_secret_is_shown(url: str) -> None:
    assert repr(Nats(url)) == "Nats(host:4222)"
    assert parse(url).address.endswith("***@host:4222")
    assert PASSWORD not in repr(parse(url))


def test_names_of_different_apps_and_queues_never_meet() -> None:
    apps = ["shop", "shop.dead", "shop-dead", "shop_dead", "DEAD-shop", "shop.a"]
    names = [Names(app) for app in apps]
    streams = [name for each in names for name in (each.stream, each.dead_stream)]
    subjects = [each.subject(queue) for each in names for queue in ("a", "a.b", "a_b", "a-b")]
    assert len(set(streams)) == len(streams)
    assert len(set(subjects)) == len(subjects)
    assert all(subject.count(".") == 2 for subject in subjects)
