import os
from pathlib import Path

import pytest

from later.backends.sqlite import SQLite
from later.backends.sqlite.plugin import later_storage
from later.core.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///relative.db", "relative.db"),
        ("sqlite:///folder/relative.db", "folder/relative.db"),
        ("sqlite:////absolute.db", "/absolute.db"),
        ("sqlite:file.db", "file.db"),
        ("sqlite:/absolute.db", "/absolute.db"),
        ("SQLite:file.db", "file.db"),
        ("sqlite:///with%20space%3F%23%25.db", "with space?#%.db"),
        ("sqlite:///caf%C3%A9.db", "café.db"),
    ],
)
def test_forms(url: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = later_storage(url)
    assert isinstance(storage, SQLite)
    assert storage.path == Path(os.fspath(tmp_path), path)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://secret@host/file.db", "without a host"),
        ("sqlite://file.db", "without a host"),
        ("sqlite://", "without a host"),
        ("sqlite:///", "names no file"),
        ("sqlite:", "names no file"),
        ("sqlite:///secret.db?mode=ro", "no options"),
        ("sqlite:///secret.db#part", "no options"),
        ("sqlite:///secret%FF.db", "UTF-8"),
        ("sqlite:///secret%00.db", "path of a file"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite::memory:", "memory://"),
    ],
)
def test_what_is_refused_is_not_repeated(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        later_storage(url)
    assert "secret" not in str(caught.value)


def test_other_schemes_are_left_to_others() -> None:
    assert later_storage("memory://") is None
