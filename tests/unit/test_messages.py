import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from later.core.messages import LONGEST, ForeignMessage, decode, encode
from later.core.records import Ref

NAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,100}", fullmatch=True)


@given(NAMES, NAMES, st.integers(0, 2**63 - 1), NAMES, st.integers(0, 9))
def test_what_was_written_is_read(namespace: str, job_id: str, epoch: int, queue: str, priority: int) -> None:
    ref = Ref(job_id, epoch, queue, priority)
    body = encode(namespace, ref)
    assert len(body) <= LONGEST
    assert json.loads(body) == {"v": 1, "ns": namespace, "id": job_id, "e": epoch, "p": priority}
    assert decode(namespace, queue, body) == ref


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"x", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"\x80\x04\x95.", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"x" * 513, "longer"),
        (b'{"v":1,"ns":"shop","id":"' + b"x" * 1_000_000 + b'","e":1,"p":0}', "longer"),
        (b"[" * 512, "not JSON"),
        (b"1" * 512, "lacks"),
        (b"[]", "lacks"),
        (b"null", "lacks"),
        (b"{}", "lacks"),
        (b'{"v":1,"ns":"shop","id":"a","e":1}', "lacks"),
        (b'{"v":1,"ns":"shop","id":"a","e":"1","p":0}', "lacks"),
        (b'{"v":1,"ns":"shop","id":"a","e":1.0,"p":0}', "lacks"),
        (b'{"v":1,"ns":"shop","id":["a"],"e":1,"p":0}', "lacks"),
        (b'{"v":"1","ns":"shop","id":"a","e":1,"p":0}', "another version"),
        (b'{"v":2,"ns":"shop","id":"a","e":1,"p":0}', "another version"),
        (b'{"v":1,"ns":"other","id":"a","e":1,"p":0}', "another app"),
        (b'{"v":1,"ns":"shop","id":"","e":1,"p":0}', "its id"),
        (b'{"v":1,"ns":"shop","id":"a b","e":1,"p":0}', "its id"),
        (b'{"v":1,"ns":"shop","id":"a","e":-1,"p":0}', "out of range"),
        (b'{"v":1,"ns":"shop","id":"a","e":9223372036854775808,"p":0}', "out of range"),
        (b'{"v":1,"ns":"shop","id":"a","e":1,"p":10}', "out of range"),
        (b'{"v":1,"ns":"shop","id":"a","e":true,"p":0}', "true or false"),
        (b'{"v":true,"ns":"shop","id":"a","e":1,"p":0}', "another version"),
    ],
)
def test_what_is_not_ours(body: bytes, why: str) -> None:
    with pytest.raises(ForeignMessage, match=why):
        decode("shop", "default", body)


@given(st.binary(max_size=600))
def test_no_bytes_do_harm(body: bytes) -> None:
    with pytest.raises(ForeignMessage):
        decode("shop", "default", body)
