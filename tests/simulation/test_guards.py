"""Remove a guard and see it fail."""

import pytest

from tests.simulation.guards import GUARDS, complaint


@pytest.mark.no_cover
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", GUARDS)
def test_without_the_guard_the_simulation_fails(name: str) -> None:
    assert complaint(name) is not None, f"nothing was found without {name}"
