"""Payloads, results and errors as bounded bytes that give nothing away."""

import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
    field_serializer,
    field_validator,
)

from later import BadPayload, BadResult, Corrupt, InvalidOption, Limits, NotSerializable, PayloadTooLarge
from later.core.codec import decode_json, decode_payload, describe_error, encode_payload, encode_result

SECRET = "hunter2"
UNCHECKED: Any = {"address": 7, "copies": SECRET}


class Mail(BaseModel):
    address: str
    copies: int = 1


class Nested(BaseModel):
    mails: list[Mail]
    tags: dict[str, int] = {}


class Anything(BaseModel):
    value: Any


def test_payload_round_trip() -> None:
    class Rich(BaseModel):
        at: datetime
        amount: Decimal
        tags: set[str]
        pair: tuple[int, str]
        data: bytes
        nested: Nested

    rich = Rich(
        at=datetime.now(UTC),
        amount=Decimal("1.10"),
        tags={"a", "b"},
        pair=(1, "x"),
        data=b"abc",
        nested=Nested(mails=[Mail(address="a@b.c")], tags={"x": 1}),
    )
    assert decode_payload(Rich, encode_payload(rich)) == rich


@given(st.text(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.binary(max_size=20))
def test_what_encodes_decodes_to_an_equal_payload(text: str, whole: int, number: float, data: bytes) -> None:
    class Mixed(BaseModel):
        text: str
        whole: int
        number: float
        data: bytes

    mixed = Mixed(text=text, whole=whole, number=number, data=data)
    try:
        encoded = encode_payload(mixed)
    except NotSerializable:
        with pytest.raises(UnicodeError):
            (text.encode(), data.decode())
    else:
        assert decode_payload(Mixed, encoded) == mixed


def test_aliases_are_not_stored_but_accepted() -> None:
    class Aliased(BaseModel):
        name: str = Field(validation_alias="from", serialization_alias="to")

    data = encode_payload(Aliased.model_validate({"from": "x"}))
    assert json.loads(data) == {"name": "x"}
    assert decode_payload(Aliased, data) == decode_payload(Aliased, b'{"from": "x"}')


def test_computed_excluded_and_private_attributes_do_not_travel() -> None:
    class Odd(BaseModel):
        model_config = ConfigDict(extra="forbid")
        x: int
        cache: int = Field(default=0, exclude=True)
        _lock: object = PrivateAttr(default_factory=object)

        @computed_field  # type: ignore[prop-decorator]
        @property
        def double(self) -> int:
            return self.x * 2

    assert json.loads(encode_payload(Odd(x=2, cache=5))) == {"x": 2}


def test_root_models() -> None:
    class Numbers(RootModel[list[int]]):
        pass

    assert decode_payload(Numbers, encode_payload(Numbers([1, 2]))).root == [1, 2]


class Animal(BaseModel):
    name: str


class Dog(Animal):
    tricks: int = 0


class Owner(BaseModel):
    pet: Animal


class Login(BaseModel):
    user: str
    password: SecretStr


class Number(BaseModel):
    value: float | None


class Constants(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    value: float


class Opaque(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    thing: object


class Lossy(BaseModel):
    at: int

    @field_serializer("at")
    def drop(self, at: int) -> str:
        return f"at {at}"


class Raising(BaseModel):
    at: str

    @field_serializer("at")
    def fail(self, at: str) -> str:
        raise RuntimeError(at)


class Growing(BaseModel):
    at: str

    @field_validator("at")
    @classmethod
    def grow(cls, at: str) -> str:
        return at + "!"


class Once(BaseModel):
    at: str

    @field_validator("at")
    @classmethod
    def once(cls, at: str) -> str:
        if at.endswith("!"):
            raise KeyError(at)
        return at + "!"


def cyclic() -> list[object]:
    cycle: list[object] = []
    cycle.append(cycle)
    return cycle


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (Owner(pet=Dog(name=SECRET, tricks=3)), "pet"),
        (Login(user="u", password=SecretStr(SECRET)), "password"),
        (Number(value=math.nan), "value"),
        (Constants(value=math.inf), "NaN or Infinity"),
        (Opaque(thing=object()), "thing"),
        (Lossy(at=1), "at"),
        (Raising(at=SECRET), "at"),
        (Growing(at=SECRET), "at"),
        (Once(at=SECRET), "KeyError"),
        (Anything(value=datetime.now(UTC)), "value"),
        (Anything(value=(1, 2)), "value"),
        (Anything(value="\ud800" + SECRET), "value"),
        (Anything(value=cyclic()), "value"),
        (Anything(value=lambda: SECRET), "value"),
        (Mail.model_construct(**UNCHECKED), "copies"),
    ],
)
def test_what_would_arrive_changed_is_refused_without_showing_it(payload: BaseModel, field: str) -> None:
    with pytest.raises(NotSerializable, match=field) as caught:
        encode_payload(payload)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_secret_that_its_model_reveals_may_travel() -> None:
    class Revealed(BaseModel):
        password: SecretStr

        @field_serializer("password", when_used="json")
        def reveal(self, password: SecretStr) -> str:
            return password.get_secret_value()

    revealed = Revealed(password=SecretStr(SECRET))
    assert decode_payload(Revealed, encode_payload(revealed)) == revealed


def test_payload_limit() -> None:
    fits = Mail(address="x" * (2000 - len(encode_payload(Mail(address="")))))
    assert len(encode_payload(fits, 2000)) == 2000
    with pytest.raises(PayloadTooLarge, match="2,000") as caught:
        encode_payload(fits, 1999)
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "problems"),
    [
        (b"{}", ["address: missing"]),
        (b'{"address": ["hunter2"]}', ["address: string_type"]),
        (b'{"address": "a", "copies": "hunter2"}', ["copies: int_parsing"]),
        (b"hunter2", ["json_invalid"]),
        (b"\xff", ["json_invalid"]),
        (b"[]", ["model_type"]),
    ],
)
def test_a_bad_stored_payload_is_told_by_place_and_kind(data: bytes, problems: list[str]) -> None:
    with pytest.raises(BadPayload, match="Mail") as caught:
        decode_payload(Mail, data)
    assert all(problem in str(caught.value) for problem in problems)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_keys_of_a_mapping_are_data_and_stay_hidden() -> None:
    data = json.dumps({"mails": [{"address": 1}], "tags": {SECRET: "x"}}).encode()
    with pytest.raises(BadPayload) as caught:
        decode_payload(Nested, data)
    assert "mails.0.address: string_type" in str(caught.value)
    assert "tags.*: int_parsing" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_many_problems_are_not_all_listed() -> None:
    with pytest.raises(BadPayload, match="and 90 more") as caught:
        decode_payload(Nested, json.dumps({"mails": [{}] * 100}).encode())
    assert len(str(caught.value)) < 1000


def test_a_validator_that_raises_something_else() -> None:
    with pytest.raises(BadPayload, match="KeyError") as caught:
        decode_payload(Once, b'{"at": "hunter2!"}')
    assert SECRET not in str(caught.value)


def test_results() -> None:
    identifier = uuid4()
    assert encode_result(None) is None
    assert decode_json(None) is None
    assert decode_json(encode_result(0)) == 0
    assert decode_json(encode_result(Mail(address="a"))) == {"address": "a", "copies": 1}
    assert decode_json(encode_result({"id": identifier, "set": {1}, 2: b"x"})) == {
        "id": str(identifier),
        "set": [1],
        "2": "x",
    }
    assert SECRET.encode() not in (encode_result(SecretStr(SECRET)) or b"")
    assert decode_json(encode_result("NaN")) == "NaN"


@pytest.mark.parametrize(
    "value",
    [object(), cyclic(), math.nan, {"x": math.inf}, b"\xff", "\ud800", (x for x in [object()]), Raising(at="x")],
)
def test_a_result_that_cannot_be_stored(value: object) -> None:
    with pytest.raises(BadResult, match="the result cannot be stored"):
        encode_result(value)


def test_result_limit() -> None:
    assert encode_result("x" * 998, 1000) is not None
    with pytest.raises(BadResult, match="1,001 bytes"):
        encode_result("x" * 999, 1000)


def test_stored_data_that_is_no_json() -> None:
    with pytest.raises(Corrupt):
        decode_json(b"{")


class Hostile(Exception):
    def __str__(self) -> str:
        raise SystemExit(SECRET)


def raised(error: BaseException) -> BaseException:
    password = SECRET
    try:
        raise error
    except BaseException as caught:
        assert password
        return caught


def test_an_error_as_text() -> None:
    info = describe_error(raised(ValueError("no such mail box")))
    assert (info.type, info.message) == ("ValueError", "no such mail box")
    assert info.traceback.startswith("Traceback")
    assert "in raised" in info.traceback
    assert f"password = {SECRET}" not in info.traceback
    assert describe_error(BadPayload("x")).type == "later.core.errors.BadPayload"


@pytest.mark.parametrize(
    "error",
    [
        Hostile(),
        ValueError("é" * 10_000_000),
        ValueError("a\0b\ud800" * 1000),
        ExceptionGroup("many", [ValueError("x" * 1000) for _ in range(100)]),
    ],
    ids=["str raises", "10 MB", "unstorable", "group"],
)
@pytest.mark.parametrize("limit", [1024, 32 * 1024])
def test_hostile_errors_become_bounded_text(error: BaseException, limit: int) -> None:
    info = describe_error(raised(error), limit)
    assert sum(len(text.encode()) for text in (info.type, info.message, info.traceback)) <= limit
    assert "\0" not in info.message + info.traceback


def test_a_long_traceback_keeps_both_ends() -> None:
    def dive(depth: int) -> None:
        if depth:
            return dive2(depth - 1)
        raise ValueError("the end")

    def dive2(depth: int) -> None:
        dive(depth)

    with pytest.raises(ValueError, match="the end") as caught:
        dive(300)
    info = describe_error(caught.value, 4096)
    assert info.traceback.startswith("Traceback")
    assert info.traceback.endswith("ValueError: the end\n")
    assert "bytes left out" in info.traceback


def test_causes_are_part_of_the_traceback() -> None:
    error = ValueError("second")
    error.__cause__ = KeyError("first")
    assert "KeyError: 'first'" in describe_error(error).traceback


@pytest.mark.parametrize("size", [0, -1, 1023, True, 1.5, "1024"])
@pytest.mark.parametrize("name", ["payload", "result", "error"])
def test_limits_are_checked(name: str, size: Any) -> None:
    with pytest.raises(InvalidOption, match=name):
        Limits(**{name: size})
