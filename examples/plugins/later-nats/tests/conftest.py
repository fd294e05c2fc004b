"""The server for these tests: a private nats-server, or the one that LATER_TEST_NATS names."""

from tests.support.missing import pytest_runtest_call, pytest_runtest_setup
from tests.support.nats import nats_prefix, nats_process, nats_server, nats_url

__all__ = ["nats_prefix", "nats_process", "nats_server", "nats_url", "pytest_runtest_call", "pytest_runtest_setup"]
