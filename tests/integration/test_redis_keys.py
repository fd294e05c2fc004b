"""What Redis holds: keys under one hash tag, nothing left behind, garbage noticed, cascades in bounded steps, forks."""

import os
from collections.abc import Callable, Iterator

import pytest
import redis

from later.backends.redis import Redis, rows, scripts
from later.backends.redis.storage import RedisStorage
from later.core.errors import Corrupt
from later.core.lifecycle import DAY, Cause, Change, Reschedule, ref_of
from later.core.ports import StorageOptions
from later.core.records import (
    SECOND,
    Claimant,
    JobQuery,
    NewJob,
    On,
    Ref,
    RescheduleVerdict,
    ScheduleRecord,
    ServerInfo,
    State,
    Verdict,
)
from later.core.recurring import schedule_of
from later.core.steps import readable
from later.testing import VirtualClock

BY = Claimant("server", "worker")
MINUTE = 60 * SECOND
MANY = 2_500
"""More children than one script moves."""


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def namespace(redis_prefix: str) -> str:
    return f"{redis_prefix}app"


@pytest.fixture
def storage(redis_url: str, namespace: str, clock: VirtualClock) -> Iterator[RedisStorage]:
    storage = Redis(redis_url).open_storage(StorageOptions(namespace, outbox=True, clock=clock))
    assert isinstance(storage, RedisStorage)
    storage.migrate()
    serve(storage)
    yield storage
    storage.close()


def serve(storage: RedisStorage) -> None:
    storage.register(ServerInfo(BY.server, "node", "host", 1, None), 1_000 * DAY)


def new(job_id: str, parent: str | None = None, on: On = On.SUCCEEDED, payload: bytes = b"{}") -> NewJob:
    return NewJob(job_id, "type", "q", payload, parent=parent, on=on)


def end(storage: RedisStorage, job_id: str, cause: Cause = Cause.SUCCEED) -> list[str]:
    """End an Enqueued job; the ids of those that it released."""
    [details] = storage.get([job_id])
    assert details is not None
    [claim] = storage.exchange(BY, refs=[ref_of(details.job)]).by_ref
    assert claim is not None
    [applied] = storage.apply([Change(job_id, cause, epoch=claim.epoch, server=BY.server)])
    assert applied.verdict is Verdict.APPLIED
    return [released.id for released in applied.enqueued]


def keys(client: "redis.Redis", namespace: str) -> list[bytes]:
    return sorted(client.scan_iter(f"later:{{{namespace}}}*", count=1000))


def test_nothing_is_left_once_everything_is_pruned(
    storage: RedisStorage, client: "redis.Redis", namespace: str, clock: VirtualClock
) -> None:
    storage.insert([new("a"), new("b", "a"), new("c", "b", On.FINISHED), new("d"), new("e"), new("f")])
    storage.insert([NewJob("late", "type", "q", b"", delay=SECOND)])
    end(storage, "a")
    end(storage, "b", Cause.FAIL)
    storage.exchange(BY, queues=["q"], limit=2)
    storage.apply([Change("d", Cause.DELETE)])
    storage.rescue(10, [BY.server])
    serve(storage)
    clock.advance(SECOND)
    storage.promote(10)
    storage.apply([Change(job_id, Cause.DELETE) for job_id in ("c", "d", "e", "f", "late", "b")])
    storage.exchange(BY, [Change("d", Cause.REQUEUE), Change("d", Cause.DELETE)])
    clock.advance(2_000 * DAY)
    while storage.prune(3):
        pass
    storage.unpublished(10, 1)
    storage.rescue(10)
    assert storage.counts().by_queue == {}
    assert keys(client, namespace) == [f"later:{{{namespace}}}".encode()], "but for the version of the layout"


def test_a_garbage_job_is_named(storage: RedisStorage, client: "redis.Redis", namespace: str) -> None:
    storage.insert([new("good")])
    client.set(f"later:{{{namespace}}}:j:string", "garbage")
    client.hset(f"later:{{{namespace}}}:j:hash", "m", "garbage")
    for job_id in ("string", "hash"):
        with pytest.raises(Corrupt, match="later"):
            storage.apply([Change(job_id, Cause.DELETE)])
        with pytest.raises(Corrupt):
            storage.get([job_id])
    found = readable(storage, ["string", "good", "nobody", "hash", "good"])
    assert [details and details.job.id for details in found] == [None, "good", None, None, "good"]
    assert storage.apply([Change("good", Cause.DELETE)])[0].verdict is Verdict.APPLIED


@pytest.mark.parametrize("garbage", ["", "garbage", "7", "7 soon {}", "7  ", "-3 5 {}", "1_0 5 {}", "\xff"])
def test_a_garbage_schedule_hides_no_other_and_can_be_replaced(
    storage: RedisStorage, client: "redis.Redis", namespace: str, clock: VirtualClock, garbage: str
) -> None:
    storage.reschedule([Reschedule(name, 0, clock(), b"body") for name in ("bad", "good")])
    client.hset(f"later:{{{namespace}}}:schedules", "bad", garbage.encode("latin-1"))
    assert [found.id for found in storage.due(10).schedules] == ["bad", "good"]
    [bad, good] = storage.schedules()
    assert good == ScheduleRecord("good", 1, clock(), b"body")
    assert bad is not None
    with pytest.raises(Corrupt):
        schedule_of(bad)
    for body in (b"new", None):
        [known] = storage.schedules(["bad"])
        assert known is not None
        [done] = storage.reschedule([Reschedule("bad", known.version, clock(), body)])
        assert done.verdict is RescheduleVerdict.APPLIED
    assert storage.schedules() == [good]


def test_a_schedule_that_is_gone_from_the_hash_is_due_no_more(
    storage: RedisStorage, client: "redis.Redis", namespace: str, clock: VirtualClock
) -> None:
    storage.reschedule([Reschedule(name, 0, clock(), b"body") for name in ("bad", "good")])
    storage.reschedule([Reschedule("later", 0, clock() + 5, b"body")])
    client.hdel(f"later:{{{namespace}}}:schedules", "bad")
    due = storage.due(10)
    assert ([found.id for found in due.schedules], due.next_due_in) == (["good"], 5)
    assert client.zcard(f"later:{{{namespace}}}:ticks") == 2


@pytest.mark.parametrize("name", ["n", "at:e", "ready:q", "publish"])
def test_a_garbage_index_fails_before_anything_is_written(
    storage: RedisStorage, client: "redis.Redis", namespace: str, name: str
) -> None:
    client.set(f"later:{{{namespace}}}:{name}", "garbage")
    before = keys(client, namespace)
    with pytest.raises(Corrupt):
        storage.insert([new("job")])
    assert keys(client, namespace) == before
    client.delete(f"later:{{{namespace}}}:{name}")
    assert storage.insert([new("job")])[0].state is State.ENQUEUED


def test_a_job_whose_hash_is_gone_does_not_block_its_queue(
    storage: RedisStorage, client: "redis.Redis", namespace: str
) -> None:
    storage.insert([new("gone"), new("there")])
    client.delete(f"later:{{{namespace}}}:j:gone")
    got = [storage.exchange(BY, queues=["q"], limit=1).next for _ in range(2)]
    assert [claim.id for claims in got for claim in claims] == ["there"]


GARBAGE = {
    "other text": lambda client, key: client.set(key, "garbage"),
    "other bytes": lambda client, key: client.set(key, b"\xff " * 22),
    "no number": lambda client, key: client.set(key, client.get(key).replace(b" 0 ", b" x ", 1)),
    "other type": lambda client, key: client.delete(key) and client.hset(key, "m", "garbage"),
}


@pytest.fixture(params=GARBAGE)
def spoil(request: pytest.FixtureRequest, client: "redis.Redis", namespace: str) -> Callable[[str], bytes]:
    """Makes what is stored of a job unreadable, and returns what Redis can restore it from."""

    def spoil(job_id: str) -> bytes:
        key = f"later:{{{namespace}}}:j:{job_id}"
        before = client.dump(key)
        assert before is not None
        GARBAGE[request.param](client, key)
        return before

    return spoil


def test_an_unreadable_job_does_not_block_its_queue(
    storage: RedisStorage,
    client: "redis.Redis",
    namespace: str,
    clock: VirtualClock,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[str], bytes],
) -> None:
    storage.insert([new("bad"), new("good"), new("child", "bad"), new("later")])
    before = spoil("bad")
    assert [ref.id for ref in storage.unpublished(10, SECOND)] == []
    clock.advance(DAY)
    assert [ref.id for ref in storage.unpublished(10, SECOND)] == ["good", "later"]
    storage.published([Ref("bad", 1, "q", 0)])
    assert storage.exchange(BY, refs=[Ref("bad", 1, "q", 0)]).by_ref == (None,)
    assert [claim.id for claim in storage.exchange(BY, queues=["q"], limit=1).next] == ["good"]
    assert [claim.id for claim in storage.exchange(BY, queues=["q"], limit=9).next] == ["later"]
    assert "bad" not in caplog.text
    storage.promote(10)
    storage.promote(10)
    assert caplog.text.count(":j:bad") == 1, "told once"
    assert {job.id for job in storage.find(JobQuery()).jobs} == {"good", "child", "later"}
    assert caplog.text.count(":j:bad") == 2, "and when it is looked for"
    with pytest.raises(Corrupt):
        storage.get(["bad"])
    assert storage.counts().by_queue["q"][State.ENQUEUED] == 1
    client.restore(f"later:{{{namespace}}}:j:bad", 0, before, replace=True)
    clock.advance(MINUTE)
    storage.promote(10)
    assert [ref.id for ref in storage.unpublished(10, SECOND)] == ["bad"]
    assert end(storage, "bad") == ["child"]


def test_upkeep_passes_over_unreadable_jobs(
    storage: RedisStorage,
    client: "redis.Redis",
    namespace: str,
    clock: VirtualClock,
    spoil: Callable[[str], bytes],
) -> None:
    states = ("due", "held", "ended")
    storage.insert([NewJob(f"due-{kind}", "type", "q", b"", delay=SECOND) for kind in ("bad", "good")])
    storage.insert([new(f"ended-{kind}") for kind in ("bad", "good")])
    storage.apply([Change(f"ended-{kind}", Cause.DELETE) for kind in ("bad", "good")])
    storage.insert([new(f"held-{kind}") for kind in ("bad", "good")])
    assert len(storage.exchange(BY, queues=["q"], limit=9).next) == 2
    before = {job_id: spoil(job_id) for job_id in (f"{kind}-bad" for kind in states)}

    clock.advance(2 * DAY)
    assert [ref.id for ref in storage.promote(1).enqueued + storage.promote(1).enqueued] == ["due-good"]
    assert [held.id for held in storage.claims(BY.server)] == ["held-good"]
    assert [ref.id for ref in storage.rescue(10, [BY.server]).enqueued] == ["held-good"]
    assert storage.servers() == [], "it is not kept for a claim that cannot be taken"
    assert storage.prune(10) == 1

    for job_id, dump in before.items():
        client.restore(f"later:{{{namespace}}}:j:{job_id}", 0, dump, replace=True)
    clock.advance(MINUTE)
    assert [ref.id for ref in storage.promote(10).enqueued] == ["due-bad"]
    assert [ref.id for ref in storage.rescue(10).enqueued] == ["held-bad"]
    assert storage.prune(10) == 1
    assert not client.exists(f"later:{{{namespace}}}:unreadable")


def test_an_end_passes_over_unreadable_relatives(storage: RedisStorage, spoil: Callable[[str], bytes]) -> None:
    storage.insert([new("top"), new("bad-child", "top"), new("child", "top"), new("grandchild", "child")])
    spoil("bad-child")
    assert end(storage, "top") == ["child"]
    spoil("top")
    [claim] = storage.exchange(BY, queues=["q"], limit=1).next
    assert (claim.id, claim.parent_state) == ("child", None)
    [applied] = storage.apply([Change("child", Cause.SUCCEED, epoch=claim.epoch, server=BY.server)])
    assert [ref.id for ref in applied.enqueued] == ["grandchild"]
    assert [job.id for job in storage.find(JobQuery(parent="top")).jobs] == ["child"]


def test_a_repaired_job_that_moved_on_does_not_come_back(
    storage: RedisStorage, client: "redis.Redis", namespace: str, clock: VirtualClock, spoil: Callable[[str], bytes]
) -> None:
    storage.insert([new("bad")])
    before = spoil("bad")
    assert storage.exchange(BY, queues=["q"], limit=1).next == ()
    client.restore(f"later:{{{namespace}}}:j:bad", 0, before, replace=True)
    storage.apply([Change("bad", Cause.DELETE)])
    storage.promote(10)
    assert not client.exists(f"later:{{{namespace}}}:ready:q")
    assert not client.exists(f"later:{{{namespace}}}:unreadable")


@pytest.mark.parametrize(("cause", "released"), [(Cause.SUCCEED, "even"), (Cause.FAIL, "odd")])
def test_more_children_than_one_step_moves(storage: RedisStorage, cause: Cause, released: str) -> None:
    ons = {"even": On.SUCCEEDED, "odd": On.FAILED}
    children = [(f"{kind}-{n}", kind) for n in range(MANY // 2) for kind in ons]
    storage.insert([new("parent"), *(new(job_id, "parent", ons[kind]) for job_id, kind in children)])
    assert end(storage, "parent", cause) == [job_id for job_id, kind in children if kind == released]
    counts = storage.counts().by_queue["q"]
    assert counts[State.ENQUEUED] == MANY // 2
    assert counts[State.DELETED if cause is Cause.SUCCEED else State.AWAITING] == MANY // 2


def test_a_chain_longer_than_one_step(storage: RedisStorage) -> None:
    storage.insert([new("job-0"), *(new(f"job-{n}", f"job-{n - 1}") for n in range(1, MANY))])
    storage.insert([new("end", f"job-{MANY - 1}", On.DELETED)])
    [applied] = storage.apply([Change("job-0", Cause.DELETE)])
    assert [released.id for released in applied.enqueued] == ["end"]
    assert storage.counts().by_queue["q"] == {State.DELETED: MANY, State.ENQUEUED: 1}


@pytest.mark.parametrize("way", ["upkeep", "repeat", "next change"])
def test_a_cascade_whose_caller_died_is_finished(storage: RedisStorage, way: str) -> None:
    storage.insert([new("parent"), *(new(f"child-{n}", "parent") for n in range(MANY))])
    [claim] = storage.exchange(BY, queues=["q"], limit=1).next
    change = rows.write_change(Change("parent", Cause.SUCCEED, epoch=claim.epoch, server=BY.server))
    storage._call(scripts.EXCHANGE, [BY.server, BY.worker, 0, 1, 0, *change])
    waiting = storage.counts().by_queue["q"][State.AWAITING]
    assert 0 < waiting < MANY
    [details] = storage.get(["parent"])
    assert details is not None
    assert details.job.state is State.SUCCEEDED
    match way:
        case "upkeep":
            released = storage.promote(1).enqueued
        case "repeat":
            [applied] = storage.apply([Change("parent", Cause.SUCCEED, epoch=claim.epoch, server=BY.server)])
            assert applied.verdict is Verdict.REPEATED
            released = applied.enqueued
        case _:
            [applied] = storage.apply([Change("parent", Cause.REQUEUE)])
            assert applied.state is State.ENQUEUED
            released = applied.enqueued[:-1]
    assert [child.id for child in released] == [f"child-{n}" for n in range(MANY - waiting, MANY)]
    assert State.AWAITING not in storage.counts().by_queue["q"]
    assert storage.promote(1).enqueued == ()


def test_listing_reads_on_until_enough_match(storage: RedisStorage, clock: VirtualClock) -> None:
    for _ in range(3):
        storage.insert([NewJob(f"{clock()}-{n}", "common", "q", b"") for n in range(900)])
        storage.insert([NewJob(f"{clock()}-rare", "rare", "q", b"")])
        clock.advance(1)
    query = JobQuery(types=frozenset({"rare"}), limit=2)
    first = storage.find(query)
    second = storage.find(JobQuery(types=frozenset({"rare"}), limit=2, after=first.next))
    assert (len(first.jobs), len(second.jobs), second.next) == (2, 1, None)


def test_a_storage_crosses_a_fork(storage: RedisStorage) -> None:
    """The child opens connections of its own; the parent's go on working."""
    storage.insert([new("before")])
    assert storage.wait(["q"], 5)
    child = os.fork()
    if child == 0:
        try:
            storage.insert([new("in-child")])
            os._exit(0 if storage.wait(["q"], 5) else 1)
        except BaseException:
            os._exit(2)
    storage.insert([new("in-parent")])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert storage.counts().by_queue == {"q": {State.ENQUEUED: 3}}
