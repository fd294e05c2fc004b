"""Payloads, results and exceptions as bounded bytes and text.

JSON through pydantic, both ways. No message here holds an input value: payloads may be secrets, and messages end up
in logs and on dashboards. For the same reason no error here is chained to pydantic's, which quotes its input.
"""

from dataclasses import dataclass, fields
from typing import Any, Final, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from later.core.errors import BadPayload, BadResult, Corrupt, InvalidOption, NotSerializable, PayloadTooLarge
from later.core.records import ErrorInfo

KIB: Final = 1024
PAYLOAD_LIMIT: Final = 256 * KIB
RESULT_LIMIT: Final = 64 * KIB
ERROR_LIMIT: Final = 32 * KIB

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest sizes that are stored, in bytes. Raises InvalidOption for a size below 1 KiB."""

    payload: int = PAYLOAD_LIMIT
    result: int = RESULT_LIMIT
    error: int = ERROR_LIMIT
    """Type, message and traceback of one error together; what is longer is cut."""

    def __post_init__(self) -> None:
        for limit in fields(self):
            size = getattr(self, limit.name)
            if isinstance(size, bool) or not isinstance(size, int) or size < KIB:
                raise InvalidOption(f"limit {limit.name}={size!r} is not a whole number of bytes, {KIB} or more")


def encode_payload(payload: BaseModel, limit: int = PAYLOAD_LIMIT) -> bytes:
    """The payload as JSON of at most `limit` bytes, proven to turn back into an equal payload.

    Field names are written as in Python, not as aliases, without computed fields. What would arrive as something else
    is refused: a SecretStr (JSON has only its asterisks), NaN written as null, a subclass in a field of its base class.
    Costs one validation and one comparison besides the serialisation.

    Raises NotSerializable, PayloadTooLarge.
    """
    kind = type(payload)
    try:
        data = _dump(payload)
    except Exception:  # noqa: BLE001  a serializer is the user's code and may raise anything
        raise NotSerializable(
            f"{kind.__name__} does not turn into JSON ({_culprits(payload)}): use field types that pydantic serialises"
        ) from None
    if len(data) > limit:
        raise PayloadTooLarge(
            f"{kind.__name__} is {len(data):,} bytes of JSON, more than the limit of {limit:,}: "
            "store the data elsewhere and pass its address, or raise `JobsBuilder(limits=Limits(payload=...))`"
        )
    if (b"NaN" in data or b"Infinity" in data) and not _is_strict_json(data):
        raise NotSerializable(f"{kind.__name__} holds NaN or Infinity, which JSON cannot carry: use None or a string")
    try:
        restored = _restore(kind, data)
    except ValidationError as error:
        raise NotSerializable(
            f"{kind.__name__} turns into JSON that does not validate as {kind.__name__} ({_problems(kind, error)}): "
            "make its serializers and validators agree"
        ) from None
    except Exception as error:  # noqa: BLE001  a validator is the user's code and may raise anything
        raise NotSerializable(
            f"{kind.__name__} turns into JSON that does not turn back: a validator raised {type(error).__name__}"
        ) from None
    changed = _changed_fields(payload, restored)
    if changed:
        raise NotSerializable(
            f"{kind.__name__} does not come back equal from JSON: {', '.join(changed)} would arrive changed. "
            "Give the field its exact type, or pass a secret by name instead of by value"
        )
    return data


def decode_payload(kind: type[_Model], data: bytes) -> _Model:
    """The stored payload as its declared type. Field names and aliases are both accepted.

    Raises BadPayload, which lists where and why, but no values.
    """
    try:
        return _restore(kind, data)
    except ValidationError as error:
        raise BadPayload(
            f"the stored payload no longer validates as {kind.__name__} ({_problems(kind, error)}): "
            "give new fields a default and keep accepting old values, or delete the job"
        ) from None
    except Exception as error:  # noqa: BLE001  a validator is the user's code and may raise anything
        raise BadPayload(
            f"the stored payload does not turn into {kind.__name__}: a validator raised {type(error).__name__}"
        ) from None


def encode_result(value: object, limit: int = RESULT_LIMIT) -> bytes | None:
    """What a handler returned, as JSON of at most `limit` bytes; None for None.

    Takes what pydantic turns into JSON: models, dataclasses, containers, dates, UUIDs and so on. Raises BadResult.
    """
    if value is None:
        return None
    try:
        data = to_json(value, inf_nan_mode="constants")
    except Exception:  # noqa: BLE001  a serializer is the user's code and may raise anything
        raise BadResult(
            f"the result cannot be stored: a {type(value).__name__} does not turn into JSON. "
            "Return a pydantic model, plain data or None"
        ) from None
    if len(data) > limit:
        raise BadResult(
            f"the result cannot be stored: it is {len(data):,} bytes of JSON, more than the limit of {limit:,}. "
            "Store it elsewhere and return its address, or raise `JobsBuilder(limits=Limits(result=...))`"
        )
    if (b"NaN" in data or b"Infinity" in data) and not _is_strict_json(data):
        raise BadResult(
            "the result cannot be stored: it holds NaN or Infinity, which JSON cannot carry. Return None or a string"
        )
    return data


def decode_json(data: bytes | None) -> Any:
    """A stored payload or result as plain data; None for None. Raises Corrupt."""
    if data is None:
        return None
    try:
        return from_json(data)
    except ValueError:
        raise Corrupt(
            "what is stored as a payload or result is not JSON: something other than `later` wrote it"
        ) from None


def describe_error(error: BaseException, limit: int = ERROR_LIMIT) -> ErrorInfo:
    """An exception as text of at most `limit` bytes, traceback and causes included, local variables never.

    A long message loses its end, a long traceback its middle. Never raises, whatever `__str__` does.
    """
    import traceback  # 10 ms that a program which only enqueues need not spend

    kind = storable(_type_name(type(error)), limit // 16)
    try:
        message = str(error)
    except BaseException as failure:  # noqa: BLE001  the report of one error must not raise another
        message = f"<its __str__ raised {type(failure).__name__}>"
    message = storable(message, limit // 4)
    try:
        lines = traceback.format_exception(error)
    except BaseException as failure:  # noqa: BLE001  see above; also RecursionError in long chains of causes
        lines = [f"<the traceback cannot be formatted: {type(failure).__name__}>\n"]
    rest = limit - len(kind.encode()) - len(message.encode())
    return ErrorInfo(kind, message, _cut_middle(lines, rest))


def _dump(payload: BaseModel) -> bytes:
    # As `model_dump_json`, which only puts defaults in front of it and makes text of the bytes.
    data: bytes = payload.__pydantic_serializer__.to_json(payload, by_alias=False, round_trip=True, warnings="error")
    return data


def _restore(kind: type[_Model], data: bytes) -> _Model:
    # As `model_validate_json`, which only puts defaults in front of it.
    restored: _Model = kind.__pydantic_validator__.validate_json(data, by_alias=True, by_name=True)
    return restored


def _is_strict_json(data: bytes) -> bool:
    try:
        from_json(data, allow_inf_nan=False)
    except ValueError:
        return False
    return True


def _culprits(payload: BaseModel) -> str:
    """Which fields do not turn into JSON."""
    names: list[str] = []
    for name in type(payload).model_fields:
        try:
            payload.model_dump_json(include={name}, by_alias=False, round_trip=True, warnings="error").encode()
        except Exception:  # noqa: BLE001  as in `encode_payload`
            names.append(name)
    return f"field {', '.join(names)}" if names else "its own serializer fails"


def _changed_fields(payload: BaseModel, restored: BaseModel) -> list[str]:
    """Fields that JSON does not carry. Private attributes and excluded fields are not meant to travel."""
    try:
        if _same(payload, restored) or restored == payload:
            return []
        before, after = _plain(payload), _plain(restored)
        if before == after:
            return []
        fields_of = type(payload).model_fields
        return [name for name in fields_of if _part(before, name) != _part(after, name)] or ["something"]
    except Exception:  # noqa: BLE001  an __eq__ is the user's code and may raise anything
        return ["a field that cannot be compared"]


def _same(payload: BaseModel, restored: BaseModel) -> bool:
    """Whether both hold equal fields, told more cheaply than by pydantic's own comparison, whose outcome it has."""
    return (
        type(payload).__eq__ is BaseModel.__eq__
        and restored.__dict__ == payload.__dict__
        and restored.__pydantic_extra__ == payload.__pydantic_extra__
    )


def _plain(payload: BaseModel) -> Any:
    return payload.model_dump(by_alias=False, round_trip=True, serialize_as_any=True, warnings="none")


def _part(plain: Any, name: str) -> Any:
    return cast("dict[str, Any]", plain).get(name) if isinstance(plain, dict) else plain


def _problems(kind: type[BaseModel], error: ValidationError) -> str:
    """Where and what, at most ten. A part of a location that is no field name may be data (a key): shown as `*`."""
    names = _field_names(kind)
    found = [
        ".".join(str(part) if isinstance(part, int) or part in names else "*" for part in problem["loc"])
        + f": {problem['type']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    shown = [problem.removeprefix(": ") for problem in found[:10]]
    return "; ".join(shown) + (f"; and {len(found) - 10} more" if len(found) > 10 else "")


def _field_names(kind: type[BaseModel]) -> set[str]:
    """The names and aliases of all fields of `kind` and of the models within it."""
    names = set(kind.model_fields)
    try:
        rest: list[Any] = [kind.model_json_schema(by_alias=alias) for alias in (True, False)]
    except Exception:  # noqa: BLE001  not every type has a JSON schema; then only the outer names are known
        return names
    while rest:
        schema = rest.pop()
        if isinstance(schema, dict):
            part = cast("dict[str, Any]", schema)
            names.update(part.get("properties", ()))
            rest.extend(part.values())
        elif isinstance(schema, list):
            rest.extend(schema)  # pyright: ignore[reportUnknownArgumentType]
    return names


def _type_name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def storable(text: str, limit: int) -> str:
    """`text` as every backend can hold it (no NUL, no lone surrogates), in at most `limit` bytes."""
    text = text[:limit].replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    data = text.encode()
    return text if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "..."


def _cut_middle(lines: list[str], limit: int) -> str:
    # The message stands in the traceback again, so one line of it may be megabytes long.
    text = "".join(storable(line, limit) for line in lines)
    data = text.encode()
    if len(data) <= limit:
        return text
    half = (limit - 40) // 2
    head, tail = data[:half].decode(errors="ignore"), data[-half:].decode(errors="ignore")
    return f"{head}\n... {len(data) - 2 * half:,} bytes left out ...\n{tail}"
