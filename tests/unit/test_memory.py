"""What the memory backend has beyond the contract: its URL, its sharing, and indexes that do not grow."""

import time

import pytest

from later.backends.memory import Memory, plugin
from later.backends.memory.table import Table
from later.core.errors import ConfigError
from later.core.lifecycle import Cause, Change, create
from later.core.ports import BrokerOptions, Storage, StorageBackend, StorageOptions
from later.core.records import HISTORY_LIMIT, SECOND, Claimant, NewJob, Ref, ServerInfo
from later.core.steps import move

OPTIONS = StorageOptions("app")


def new_job(job_id: str) -> NewJob:
    return NewJob(id=job_id, type="type", queue="q", payload=b"{}")


def opened(url: str) -> Storage:
    backend: StorageBackend | None = plugin.later_storage(url)
    assert backend is not None
    return backend.open_storage(OPTIONS)


def test_a_name_is_one_store_per_process() -> None:
    opened("memory://shared").insert([new_job("job")])
    assert opened("memory://shared").get(["job"]) != [None]
    assert opened("MEMORY://shared/").get(["job"]) != [None]
    assert opened("memory://another").get(["job"]) == [None]
    assert opened("memory://").get(["job"]) == [None]


def test_each_object_is_a_store_of_its_own() -> None:
    Memory().open_storage(OPTIONS).insert([new_job("job")])
    assert Memory().open_storage(OPTIONS).get(["job"]) == [None]


def test_one_object_is_storage_and_broker() -> None:
    memory = Memory()
    ref = Ref("job", 1, "q", 0)
    memory.open_broker(BrokerOptions("app")).publish([ref])
    [delivery] = memory.open_broker(BrokerOptions("app")).receive(["q"], 1, 0)
    assert delivery.ref == ref


@pytest.mark.parametrize("url", ["sqlite://x", "", "memory", "memory:", "xmemory://a"])
def test_other_urls_are_left_to_other_backends(url: str) -> None:
    assert plugin.later_storage(url) is None
    assert plugin.later_broker(url) is None


@pytest.mark.parametrize("url", ["memory://user:secret@host", "memory://a/b", "memory://a?b=secret", "memory://a b"])
def test_a_wrong_url_is_an_error_that_does_not_show_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plugin.later_storage(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_without_a_clock_the_storage_reads_the_time_of_day() -> None:
    storage = Memory().open_storage(OPTIONS)
    before = time.time_ns() // 1000
    storage.insert([new_job("job")])
    [details] = storage.get(["job"])
    assert details is not None
    assert before <= details.job.created_at <= time.time_ns() // 1000


def test_the_queue_index_does_not_grow_when_jobs_are_claimed_by_reference() -> None:
    """With a broker nobody takes the heads of the heap, where stale entries are dropped otherwise."""
    memory = Memory()
    storage = memory.open_storage(OPTIONS)
    by = Claimant("server", "worker")
    storage.register(ServerInfo("server", None, "host", 1, None), 3_600 * SECOND)
    storage.insert([new_job("job")])
    table = storage._table
    for epoch in range(1, 1_000):
        [claim] = storage.exchange(by, refs=[Ref("job", epoch, "q", 0)]).by_ref
        assert claim is not None
        storage.apply([Change("job", Cause.RELEASE, epoch=epoch, server="server")])
        assert len(table._ready["q"]) < 100
    [details] = storage.get(["job"])
    assert details is not None
    assert len(details.history) == HISTORY_LIMIT


def test_a_pruned_family_leaves_nothing_behind() -> None:
    table = Table()
    jobs = [NewJob(id=f"{n}", type="t", queue="q", payload=b"", parent=f"{n - 1}" if n else None) for n in range(3)]
    for new in jobs:
        parent = table.load(new.parent) if new.parent else None
        table.add(*create(new, parent.state if parent else None, 0, outbox=False))
    move(table, Change("0", Cause.DELETE), 0, outbox=False)
    while (job := table.next_expired()) is not None:
        table.remove(job)
    left = [table._rows, table._children, table._unended, table._turn, table.counts, table.claimed]
    assert left == [{}] * len(left)
