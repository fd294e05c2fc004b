"""The contract suite is tested, too: each broken storage or broker has to fail the tests that it names."""

import pytest
from hypothesis import Phase, settings

from later.testing import check_against_model
from later.testing.contract.bench import fresh_namespace
from tests.contract import saboteurs
from tests.contract.saboteurs import BrokerSaboteur, PairSaboteur, Saboteur, SaboteurStore

pytest_plugins = ["pytester"]

MODULE = """
import pytest
from later.testing import BrokerContract, ModelTransaction, StorageContract
from tests.contract.saboteurs import {kind}, {store}

class TestSaboteur({contract}):
    patience = 0.2

    @pytest.fixture
    def {fixture}(self):
        return {store}({kind}).{opens}

    @pytest.fixture
    def begin(self):
        return ModelTransaction
"""


def failed(pytester: pytest.Pytester, module: str, tests: list[str]) -> set[str]:
    """Which of the tests failed (by an assertion or an error in the test itself), without their parameters."""
    path = pytester.makepyfile(module)
    run = pytester.inline_run(
        "-p",
        "no:randomly",
        "-p",
        "no:asyncio",
        "-p",
        "no:cacheprovider",
        *(f"{path}::TestSaboteur::{t}" for t in tests),
    )
    _, _, failures = run.listoutcomes()
    assert all(report.when == "call" for report in failures), "the test itself fails, not a fixture"
    return {report.nodeid.split("::")[-1].split("[")[0] for report in failures}


@pytest.mark.parametrize("kind", saboteurs.STORAGES, ids=lambda kind: kind.__name__)
def test_a_broken_storage_fails_the_test_that_it_names(pytester: pytest.Pytester, kind: type[Saboteur]) -> None:
    module = MODULE.format(
        kind=kind.__name__,
        store="SaboteurStore",
        contract="StorageContract",
        fixture="make_storage",
        opens="open_storage",
    )
    assert failed(pytester, module, list(kind.caught_by)) == set(kind.caught_by)


@pytest.mark.parametrize("kind", saboteurs.BROKERS, ids=lambda kind: kind.__name__)
def test_a_broken_broker_fails_the_test_that_it_names(pytester: pytest.Pytester, kind: type[BrokerSaboteur]) -> None:
    module = MODULE.format(
        kind=kind.__name__,
        store="BrokerSaboteurStore",
        contract="BrokerContract",
        fixture="make_broker",
        opens="open_broker",
    )
    assert failed(pytester, module, list(kind.caught_by)) == set(kind.caught_by)


PAIR = """
import pytest
from later.backends.memory import Memory
from later.testing import Model, PairContract
from tests.contract.saboteurs import {imports}

class TestSaboteur(PairContract):
    patience = 0.5

    @pytest.fixture
    def make_storage(self):
        return {storage}.open_storage

    @pytest.fixture
    def make_broker(self):
        return {broker}.open_broker
"""


@pytest.mark.parametrize("kind", saboteurs.PAIR_BROKERS, ids=lambda kind: kind.__name__)
def test_a_broken_broker_of_a_pair_fails_the_test_that_it_names(
    pytester: pytest.Pytester, kind: type[PairSaboteur]
) -> None:
    store = f"BrokerSaboteurStore({kind.__name__})"
    module = PAIR.format(imports=f"BrokerSaboteurStore, {kind.__name__}", storage="Model()", broker=store)
    assert failed(pytester, module, list(kind.caught_by)) == set(kind.caught_by)


@pytest.mark.parametrize(
    ("kind", "tests"), saboteurs.PAIR_STORAGES, ids=[kind.__name__ for kind, _ in saboteurs.PAIR_STORAGES]
)
def test_a_broken_storage_of_a_pair_fails_the_tests_told(
    pytester: pytest.Pytester, kind: type[Saboteur], tests: list[str]
) -> None:
    store = f"SaboteurStore({kind.__name__})"
    module = PAIR.format(imports=f"SaboteurStore, {kind.__name__}", storage=store, broker="Memory()")
    assert failed(pytester, module, tests) == set(tests)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [k for k in saboteurs.STORAGES if k.by_history], ids=lambda kind: kind.__name__)
def test_a_broken_storage_differs_from_the_model_in_some_history(kind: type[Saboteur]) -> None:
    """None shortened: whether they differ, not where, is the question here. Nearly the same histories at each time:
    Hypothesis also draws constants that it finds in the modules that happen to be loaded, so the rarest differences,
    one in some hundred histories, need a margin."""
    options = settings(
        max_examples=2000, stateful_step_count=50, derandomize=True, database=None, phases=[Phase.generate]
    )
    # A saboteur may break down instead of giving a wrong answer.
    with pytest.raises((AssertionError, KeyError)):
        check_against_model(SaboteurStore(kind).open_storage, fresh_namespace, options)
