"""What is read out of the URLs of Redis, and what is said about bad ones."""

import pytest

from later.backends.redis import Redis
from later.backends.redis.target import Kind, parse
from later.core.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "hosts", "user", "password", "db", "tls"),
    [
        ("redis://", [("localhost", 6379)], None, None, 0, False),
        ("redis://127.0.0.1/", [("127.0.0.1", 6379)], None, None, 0, False),
        ("valkey://h:7/3", [("h", 7)], None, None, 3, False),
        ("rediss://u:p@h", [("h", 6379)], "u", "p", 0, True),
        ("VALKEYS://:p@h", [("h", 6379)], None, "p", 0, True),
        ("redis://:a@b#c%d/e?f@h:1/2", [("h", 1)], None, "a@b#c%d/e?f", 2, False),
        ("redis://u:%40%23%25@[::1]:8", [("::1", 8)], "u", "@#%", 0, False),
        ("redis+cluster://a,b:1,[::2]:3", [("a", 6379), ("b", 1), ("::2", 3)], None, None, 0, False),
    ],
)
def test_a_url(
    url: str, hosts: list[tuple[str, int]], user: str | None, password: str | None, db: int, tls: bool
) -> None:
    target = parse(url)
    assert (list(target.hosts), target.user, target.password, target.db, target.tls) == (hosts, user, password, db, tls)


def test_sentinels_and_files() -> None:
    target = parse("rediss+sentinel://u:p@a,b:2/main/4?ca=/ca.pem&cert=/c.pem&key=/k.pem&sentinel_password=s")
    assert (target.kind, target.hosts, target.group, target.db) == (Kind.SENTINEL, (("a", 26379), ("b", 2)), "main", 4)
    assert (target.ca, target.cert, target.key, target.sentinel_password) == ("/ca.pem", "/c.pem", "/k.pem", "s")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "secret",
        "http://secret@h",
        "redis://secret@h:port",
        "redis://:secret@h:0",
        "redis://:secret@h:70000",
        "redis://:secret@h/db",
        "redis://:secret@h/1/2",
        "redis://:secret@h1,h2",
        "redis://:secret@h?secret=1",
        "redis://:%ffsecret@h",
        "redis://:secret\udce9@h",
        "redis://:secret@::1",
        "redis+sentinel://:secret@h",
        "redis+cluster://:secret@h/1",
    ],
)
def test_a_bad_url_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Redis(url)
    assert "secret" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    backend = Redis("redis+sentinel://user:secret@h/main/1?sentinel_password=secret")
    assert repr(backend) == "Redis(h:26379/main/1)"
    assert "secret" not in repr(parse("redis://:secret@h"))
