"""Facts beside a payload in one column."""

import pytest

from later.core.envelope import Letter, seal, unseal
from later.core.errors import Corrupt


@pytest.mark.parametrize("payload", [b"{}", b"", b'{"a": "\\u001e"}', b"\x1e\x1e"])
def test_what_is_sealed_comes_back(payload: bytes) -> None:
    headers = {"recurring": ["nightly", 5], "odd": "\x1e ä"}
    assert unseal(seal(payload, headers)) == Letter(headers, payload)


def test_without_headers_the_payload_is_stored_as_it_is() -> None:
    assert seal(b"{}", {}) == b"{}"
    assert unseal(b"{}") == Letter({}, b"{}")


@pytest.mark.parametrize(
    "stored", [b"\x1e", b"\x1e\x1e{}", b"\x1e{", b"\x1e[]\x1e{}", b"\x1e1\x1e{}", b"\x1e\xff\x1e{}"]
)
def test_garbage_is_corrupt(stored: bytes) -> None:
    with pytest.raises(Corrupt, match="not a JSON object"):
        unseal(stored)
