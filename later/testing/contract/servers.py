"""What a storage promises about servers, their leases, and the claims of the dead."""

import pytest

from later.core.errors import InvalidOption
from later.core.lifecycle import DAY, Cause, Change, crash_reason
from later.core.notes import NOTE_LIMIT
from later.core.ports import Storage
from later.core.records import (
    SECOND,
    Beat,
    Claimant,
    HeldClaim,
    HistoryEntry,
    On,
    Ref,
    Rescued,
    ServerInfo,
    ServerRecord,
    State,
    Verdict,
)
from later.testing.contract.bench import BY, LEASE, Bench, StorageFixtures, ids, new_job, report

OTHER = Claimant("other", "worker")
NOBODY = Rescued(servers=(), enqueued=(), jobs=0, more=False)


class ServerContract(StorageFixtures):
    def test_a_server_is_listed_as_it_registered(self, bench: Bench) -> None:
        plain = ServerInfo("plain", None, "h", 1, None)
        full = ServerInfo("full", "node", "host", 2, "99", ("b", "a"), 16)
        bench.storage.register(full, LEASE)
        started = bench.clock()
        bench.clock.advance(1)
        bench.storage.register(plain, SECOND)
        assert bench.storage.servers() == [
            ServerRecord(full, started, started + LEASE, 0),
            ServerRecord(plain, started + 1, started + 1 + SECOND, 0),
        ]

    def test_no_servers(self, storage: Storage) -> None:
        assert storage.servers() == []
        assert storage.claims("nobody") == []

    def test_registering_again_changes_nothing(self, bench: Bench) -> None:
        bench.serve()
        before = bench.storage.servers()
        bench.clock.advance(SECOND)
        bench.serve()
        assert bench.storage.servers() == before

    def test_registering_again_does_not_bring_back_a_lapsed_lease(self, bench: Bench) -> None:
        bench.add(new_job("job"))
        bench.serve()
        bench.clock.advance(LEASE)
        bench.serve()
        assert bench.take() == ()

    def test_a_beat_renews_the_lease(self, bench: Bench) -> None:
        bench.serve()
        started = bench.clock()
        for _ in range(3):
            bench.clock.advance(LEASE - 1)
            assert bench.storage.beat(BY.server, LEASE) == Beat(alive=True, cancels=())
        [server] = bench.storage.servers()
        assert (server.started_at, server.lease_until) == (started, bench.clock() + LEASE)

    @pytest.mark.parametrize("late", [0, 1, DAY])
    def test_a_beat_does_not_bring_back_a_lapsed_lease(self, bench: Bench, late: int) -> None:
        bench.start("job")
        bench.clock.advance(LEASE + late)
        for _ in range(2):
            assert bench.storage.beat(BY.server, LEASE) == Beat(alive=False, cancels=())
        assert bench.storage.rescue(10).servers == (BY.server,)

    def test_a_beat_of_an_unknown_server(self, bench: Bench) -> None:
        assert bench.storage.beat("nobody", LEASE) == Beat(alive=False, cancels=())
        assert bench.storage.servers() == []

    def test_a_beat_tells_which_jobs_to_cancel(self, bench: Bench) -> None:
        for job_id in "abc":
            bench.start(job_id)
        bench.start("elsewhere", OTHER)
        for job_id in ("a", "c", "elsewhere"):
            assert bench.apply(Change(job_id, Cause.DELETE)).verdict is Verdict.REQUESTED
        for _ in range(2):
            assert sorted(bench.storage.beat(BY.server, LEASE).cancels) == [("a", 1), ("c", 1)]
        bench.move(report(bench.job("a"), Cause.CANCEL))
        assert bench.storage.beat(BY.server, LEASE).cancels == (("c", 1),)
        assert bench.storage.beat(OTHER.server, LEASE).cancels == (("elsewhere", 1),)

    def test_a_beat_keeps_a_note(self, bench: Bench) -> None:
        bench.serve()
        bench.serve(OTHER)
        assert [server.note for server in bench.storage.servers()] == ["", ""]
        for note in ["first", "", 'ein \u20ac, "quoted"\n{}', "\U0001f600" * (NOTE_LIMIT // 4), "last"]:
            for _ in range(2):
                assert bench.storage.beat(BY.server, LEASE, note).alive
            assert notes(bench) == {BY.server: note, OTHER.server: ""}
        bench.storage.beat(OTHER.server, LEASE, "other")
        bench.serve()
        assert notes(bench) == {BY.server: "last", OTHER.server: "other"}, "registering again changes nothing"

    def test_a_beat_that_says_nothing_clears_the_note(self, bench: Bench) -> None:
        bench.serve()
        bench.storage.beat(BY.server, LEASE, "note")
        bench.storage.beat(BY.server, LEASE)
        assert notes(bench) == {BY.server: ""}

    def test_a_late_beat_leaves_the_note(self, bench: Bench) -> None:
        bench.serve()
        bench.storage.beat(BY.server, LEASE, "in time")
        bench.clock.advance(LEASE)
        assert not bench.storage.beat(BY.server, LEASE, "late").alive
        assert notes(bench) == {BY.server: "in time"}

    @pytest.mark.parametrize("claims", [0, 1])
    @pytest.mark.parametrize("unregistered", [False, True])
    def test_a_note_goes_with_its_server(self, bench: Bench, claims: int, unregistered: bool) -> None:
        bench.serve()
        if claims:
            bench.start("job")
        bench.storage.beat(BY.server, LEASE, "note")
        if unregistered:
            bench.storage.unregister(BY.server)
        else:
            bench.storage.rescue(10, dead=[BY.server])
        bench.serve()
        assert notes(bench) == {BY.server: ""}

    @pytest.mark.parametrize(
        "note",
        ["x" * (NOTE_LIMIT + 1), "\u20ac" * (NOTE_LIMIT // 3 + 1), "zero\0", "half \ud83d"],
        ids=["long", "long in bytes", "zero", "half a pair"],
    )
    def test_a_note_that_cannot_be_kept_is_refused(self, bench: Bench, note: str) -> None:
        bench.serve()
        bench.storage.beat(BY.server, LEASE, "note")
        before = bench.storage.servers()
        bench.clock.advance(1)
        with pytest.raises(InvalidOption):
            bench.storage.beat(BY.server, LEASE, note)
        assert bench.storage.servers() == before

    def test_claims_are_listed_oldest_first(self, bench: Bench) -> None:
        for job_id in ("z", "a", "m"):
            bench.start(job_id)
            bench.clock.advance(SECOND)
        bench.start("elsewhere", OTHER)
        bench.move(report(bench.job("a"), Cause.SUCCEED))
        bench.apply(Change("m", Cause.DELETE))
        assert bench.storage.claims(BY.server) == [
            HeldClaim("z", 1, BY.worker),
            HeldClaim("m", 1, BY.worker),
        ]
        assert {server.info.id: server.claims for server in bench.storage.servers()} == {"server": 2, "other": 1}

    def test_an_unregistered_server_is_forgotten(self, bench: Bench) -> None:
        bench.add(new_job("job"))
        bench.serve()
        for _ in range(2):
            bench.storage.unregister(BY.server)
        assert bench.storage.servers() == []
        assert bench.storage.beat(BY.server, LEASE) == Beat(alive=False, cancels=())
        assert bench.take() == ()

    def test_the_claims_of_an_unregistered_server_are_rescued(self, bench: Bench) -> None:
        bench.start("job")
        bench.storage.unregister(BY.server)
        assert bench.storage.claims(BY.server) == [HeldClaim("job", 1, BY.worker)]
        ref = Ref("job", 2, "q", 0)
        assert bench.storage.rescue(10) == Rescued((BY.server,), (ref,), 1, more=False)
        assert bench.storage.rescue(10) == NOBODY


def notes(bench: Bench) -> dict[str, str]:
    return {server.info.id: server.note for server in bench.storage.servers()}


class RescueContract(StorageFixtures):
    def test_the_living_are_left_alone(self, bench: Bench) -> None:
        bench.start("job")
        before = bench.details("job")
        bench.clock.advance(LEASE - 1)
        assert bench.storage.rescue(10) == NOBODY
        assert bench.details("job") == before

    def test_the_claims_of_a_server_whose_lease_ran_out_are_taken(self, bench: Bench) -> None:
        bench.start("job")
        now = bench.clock.advance(LEASE)
        ref = Ref("job", 2, "q", 0)
        assert bench.storage.rescue(10) == Rescued((BY.server,), (ref,), 1, more=False)
        job = bench.job("job")
        assert (job.state, job.epoch, job.attempt, job.crashes) == (State.ENQUEUED, 2, 0, 1)
        reason = crash_reason(BY.server)
        assert bench.history("job")[-1] == HistoryEntry(State.ENQUEUED, now, reason, 1, BY.server, BY.worker)
        assert bench.storage.servers() == []
        assert bench.storage.rescue(10) == NOBODY

    def test_a_server_that_beat_in_time_is_not_rescued(self, bench: Bench) -> None:
        bench.start("job")
        bench.clock.advance(LEASE - 1)
        bench.storage.beat(BY.server, LEASE)
        bench.clock.advance(LEASE - 1)
        assert bench.storage.rescue(10) == NOBODY

    def test_a_rescued_claim_is_lost_to_its_worker(self, bench: Bench) -> None:
        claim = bench.start("job")
        bench.clock.advance(LEASE)
        bench.storage.rescue(10)
        assert bench.apply(report(claim, Cause.SUCCEED)).verdict is Verdict.FENCED
        assert bench.state("job") is State.ENQUEUED

    def test_a_server_named_dead_is_rescued_at_once(self, bench: Bench) -> None:
        bench.start("job")
        bench.start("elsewhere", OTHER)
        rescued = bench.storage.rescue(10, dead=[BY.server, "nobody"])
        assert (rescued.servers, ids(rescued.enqueued), rescued.jobs) == ((BY.server,), ["job"], 1)
        assert bench.storage.beat(BY.server, LEASE) == Beat(alive=False, cancels=())
        assert bench.state("elsewhere") is State.PROCESSING
        assert [server.info.id for server in bench.storage.servers()] == [OTHER.server]

    def test_a_dead_server_without_claims_is_forgotten(self, bench: Bench) -> None:
        bench.serve()
        bench.clock.advance(LEASE)
        assert [server.info.id for server in bench.storage.servers()] == [BY.server], "nobody looked yet"
        assert bench.storage.rescue(10) == Rescued((BY.server,), (), 0, more=False)
        assert bench.storage.servers() == []

    def test_the_oldest_claims_are_rescued_first_up_to_the_limit(self, bench: Bench) -> None:
        for job_id, by in [("z", BY), ("b", OTHER), ("a", BY)]:
            bench.start(job_id, by)
            bench.clock.advance(1)
        bench.start("y", OTHER)
        bench.add(new_job("next"))
        dead = [BY.server, OTHER.server]
        rescued = bench.storage.rescue(2, dead)
        assert (rescued.servers, ids(rescued.enqueued)) == (tuple(sorted(dead)), ["z", "b"])
        assert (rescued.jobs, rescued.more) == (2, True)
        assert bench.storage.exchange(BY, queues=["q"], limit=9).next == (), "named dead, so it claims no more"
        rescued = bench.storage.rescue(2)
        assert (ids(rescued.enqueued), rescued.jobs, rescued.more) == (["a", "y"], 2, False)
        assert bench.storage.servers() == []

    def test_a_suspect_may_survive_as_many_crashes_as_it_was_given(self, bench: Bench) -> None:
        bench.add(new_job("job", max_crashes=1), new_job("child", parent="job", on=On.FAILED))
        bench.claim("job", bench.serve())
        assert ids(bench.storage.rescue(10, [BY.server]).enqueued) == ["job"]
        bench.claim("job", bench.serve())
        rescued = bench.storage.rescue(10, [BY.server])
        assert (ids(rescued.enqueued), rescued.jobs) == (["child"], 1)
        job = bench.job("job")
        assert (job.state, job.crashes) == (State.FAILED, 2)
        assert job.reason.startswith("poison")

    def test_a_rescued_job_whose_cancel_was_asked_for_is_deleted(self, bench: Bench) -> None:
        bench.start("job")
        bench.add(new_job("child", parent="job", on=On.DELETED))
        bench.apply(Change("job", Cause.DELETE))
        rescued = bench.storage.rescue(10, [BY.server])
        assert (ids(rescued.enqueued), rescued.jobs) == (["child"], 1)
        job = bench.job("job")
        assert (job.state, job.crashes) == (State.DELETED, 1)
