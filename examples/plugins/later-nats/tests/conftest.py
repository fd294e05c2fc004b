"""The server for these tests: a private nats-server, or the one that LATER_TEST_NATS names."""

from tests.support.nats import nats_prefix, nats_process, nats_server, nats_url

__all__ = ["nats_prefix", "nats_process", "nats_server", "nats_url"]
