"""The whole contract of the `Storage` port."""

from typing import ClassVar

from hypothesis import settings

from later.core.ports import Storage
from later.testing.contract.apply import ApplyContract
from later.testing.contract.bench import MakeStorage, StorageFixtures, fresh_namespace
from later.testing.contract.continuations import ContinuationContract
from later.testing.contract.exchange import ExchangeContract
from later.testing.contract.insert import InsertContract
from later.testing.contract.plugin import check_plugin
from later.testing.contract.reading import CountsContract, FindContract, GetContract, OpeningContract
from later.testing.contract.schedules import ScheduleContract
from later.testing.contract.servers import RescueContract, ServerContract
from later.testing.contract.together import ProcessContract, ThreadContract, WaitContract
from later.testing.contract.upkeep import OutboxContract, PromoteContract, PruneContract
from later.testing.contract.within import WithinContract
from later.testing.machine import check_against_model


class AgreementContract(StorageFixtures):
    histories: ClassVar = 40
    """How many random histories are tried. A subclass with a fast storage may ask for more."""

    steps: ClassVar = 40
    """How many calls a history has at most."""

    def test_every_history_agrees_with_the_reference_model(self, make_storage: MakeStorage) -> None:
        check_against_model(
            make_storage,
            fresh_namespace,
            settings(max_examples=self.histories, stateful_step_count=self.steps),
        )


class StorageContract(
    InsertContract,
    WithinContract,
    ApplyContract,
    ExchangeContract,
    ContinuationContract,
    ServerContract,
    RescueContract,
    PromoteContract,
    OutboxContract,
    PruneContract,
    ScheduleContract,
    GetContract,
    FindContract,
    CountsContract,
    OpeningContract,
    WaitContract,
    ThreadContract,
    ProcessContract,
    AgreementContract,
):
    """Subclass it in a test module, override the fixture `make_storage`, and pytest runs the contract:

        class TestMyStorage(StorageContract):
            @pytest.fixture
            def make_storage(self, tmp_path):
                return MyBackend(tmp_path / "jobs.db").open_storage

    `make_storage` takes `StorageOptions` and opens a storage. All storages opened within one test must open the same
    store, which is empty when the test begins. The options may name a clock: a storage has to use it for every
    time that it reads. For a backend with the capability `shared` the callable must be picklable, because spawned
    processes open the storage too.
    For a backend with the capability `transactional` override `begin` as well, which begins a transaction on a
    connection as users have one.
    Nothing is skipped because of a backend's name; what depends on `capabilities` asks them.
    """

    scheme: ClassVar[str | None] = None
    """The scheme that the backend is installed under, if it is. Then the contract also looks at its plugin."""

    def test_the_plugin_says_what_the_storage_can_do(self, storage: Storage) -> None:
        check_plugin(self.scheme, storage.capabilities)
