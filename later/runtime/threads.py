"""Blocking calls for `async` code."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


async def in_thread(
    call: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Result:
    import asyncio  # 25 ms that a program without async code need not spend

    return await asyncio.to_thread(call, *args, **kwargs)
