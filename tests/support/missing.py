"""What a test means that needs a program which this machine lacks: skipped with what to do as the reason; with
LATER_TEST_SERVERS=required it has failed. The functions are hooks, for a conftest to import."""

import os
from collections.abc import Generator
from typing import Never

import pytest

from tests.support.servers import MissingProgramError

__all__ = ["pytest_runtest_call", "pytest_runtest_setup", "required"]


def required() -> bool:
    return os.environ.get("LATER_TEST_SERVERS") == "required"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    try:
        return (yield)
    except MissingProgramError as missing:
        skip_or_fail(str(missing))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    try:
        return (yield)
    except MissingProgramError as missing:
        skip_or_fail(str(missing))


def skip_or_fail(missing: str) -> Never:
    if required():
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)
