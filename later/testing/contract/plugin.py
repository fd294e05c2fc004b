"""What the contract asks of a backend's plugin."""

import pytest

from later.core.ports import BrokerCapabilities, StorageCapabilities
from later.runtime.plugins import installed_backends


def check_plugin(scheme: str | None, capabilities: StorageCapabilities | BrokerCapabilities) -> None:
    """The plugin for `scheme` loads, and what it says of its capabilities is what the opened object says."""
    if scheme is None:
        pytest.skip("no `scheme`: not what a URL without options opens")
    [found] = [backend for backend in installed_backends() if backend.scheme == scheme]
    assert found.error is None
    if isinstance(capabilities, StorageCapabilities):
        assert found.storage
        assert found.storage_capabilities in {None, capabilities}
    else:
        assert found.broker
        assert found.broker_capabilities in {None, capabilities}
