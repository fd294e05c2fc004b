"""What a storage promises about looking: `get`, `find`, `counts`, namespaces, and being opened and closed."""

from dataclasses import replace

import pytest

from later.core.errors import InvalidOption
from later.core.lifecycle import Cause, Change
from later.core.ports import Storage, StorageOptions
from later.core.records import SECOND, Counts, JobQuery, JobRecord, On, Page, State
from later.testing.clock import VirtualClock
from later.testing.contract.bench import BY, LEASE, Bench, MakeStorage, StorageFixtures, ids, new_job, report


def every_page(storage: Storage, query: JobQuery) -> list[JobRecord]:
    """Follow the cursors to the end."""
    jobs: list[JobRecord] = []
    page = storage.find(query)
    while True:
        assert len(page.jobs) <= query.limit
        jobs += page.jobs
        if page.next is None:
            return jobs
        assert len(page.jobs) == query.limit, "only the last page is short"
        page = storage.find(replace(query, after=page.next))


class GetContract(StorageFixtures):
    def test_jobs_come_in_the_order_asked_for(self, bench: Bench) -> None:
        bench.add(new_job("a"), new_job("b"))
        found = bench.storage.get(["b", "nobody", "a", "b"])
        assert [details and details.job.id for details in found] == ["b", None, "a", "b"]
        assert bench.storage.get([]) == []

    def test_many_at_once(self, bench: Bench) -> None:
        jobs = [new_job(f"job-{n}") for n in range(1_500)]
        bench.add(*jobs)
        found = bench.storage.get([job.id for job in jobs])
        assert [details and details.job.id for details in found] == [job.id for job in jobs]

    def test_children_are_listed_oldest_first(self, bench: Bench) -> None:
        bench.add(new_job("parent"), *(new_job(job_id, parent="parent") for job_id in "zam"))
        bench.clock.advance(1)
        bench.add(new_job("b", parent="parent"), new_job("grandchild", parent="z"))
        bench.end("parent", State.SUCCEEDED)
        assert bench.details("parent").children == ("z", "a", "m", "b")
        assert bench.details("z").children == ("grandchild",)

    def test_children_of_one_call_are_listed_in_its_order_whatever_they_start_as(self, bench: Bench) -> None:
        bench.add(new_job("parent"))
        bench.end("parent", State.FAILED)
        ons = [On.SUCCEEDED, On.FAILED, On.DELETED, On.FINISHED, On.SUCCEEDED, On.FAILED]
        bench.add(*(new_job(f"{n}", parent="parent", on=on) for n, on in zip("cbafed", ons, strict=True)))
        bench.move(Change("parent", Cause.DELETE))
        bench.add(*(new_job(f"{n}", parent="parent", on=on) for n, on in zip("zxyvwu", ons, strict=True)))
        assert bench.details("parent").children == tuple("cbafedzxyvwu")


class FindContract(StorageFixtures):
    def test_nothing_is_stored(self, storage: Storage) -> None:
        assert storage.find(JobQuery()) == Page((), None)

    def test_the_newest_state_change_comes_first(self, bench: Bench) -> None:
        for job_id in "abcd":
            bench.add(new_job(job_id, delay=DELAY))
            bench.clock.advance(1)
        bench.move(Change("b", Cause.DELETE))
        assert ids(bench.storage.find(JobQuery()).jobs) == ["b", "d", "c", "a"]

    def test_a_listing_has_all_but_payload_and_result(self, bench: Bench) -> None:
        bench.add(new_job("job", payload=b"secret"), new_job("child", parent="job"))
        bench.move(report(bench.claim("job", bench.serve()), Cause.SUCCEED, "fine", result=b"42"))
        [listed] = bench.storage.find(JobQuery(states=frozenset({State.SUCCEEDED}))).jobs
        assert listed == bench.job("job")._replace(payload=b"", result=None)
        assert bench.job("job").result == b"42"

    def test_all_conditions_hold_together(self, bench: Bench) -> None:
        bench.add(
            *(
                new_job(f"{kind}-{queue}-{n}", type=kind, queue=queue, delay=n)
                for kind in ("mail", "report")
                for queue in ("q", "r", "s")
                for n in (0, 1)
            )
        )

        def found(**conditions: object) -> set[str]:
            query = JobQuery(**conditions)  # type: ignore[arg-type]
            return {job.id for job in bench.storage.find(query).jobs}

        assert len(found()) == 12
        assert len(found(states=frozenset({State.ENQUEUED}))) == 6
        assert len(found(states=frozenset({State.ENQUEUED, State.SCHEDULED}))) == 12
        assert len(found(queues=frozenset({"q", "s", "none"}))) == 8
        assert found(types=frozenset({"mail"}), queues=frozenset({"r"})) == {"mail-r-0", "mail-r-1"}
        assert found(
            types=frozenset({"mail", "report"}), queues=frozenset({"s"}), states=frozenset({State.SCHEDULED})
        ) == {"mail-s-1", "report-s-1"}
        assert found(states=frozenset({State.FAILED})) == set()

    def test_by_parent(self, bench: Bench) -> None:
        bench.add(new_job("parent"), new_job("other"))
        bench.add(*(new_job(job_id, parent="parent") for job_id in "abc"), new_job("d", parent="other"))
        bench.move(Change("b", Cause.DELETE))
        assert sorted(ids(bench.storage.find(JobQuery(parent="parent")).jobs)) == ["a", "b", "c"]
        assert ids(bench.storage.find(JobQuery(parent="parent", states=frozenset({State.DELETED}))).jobs) == ["b"]
        assert bench.storage.find(JobQuery(parent="a")).jobs == ()

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
    def test_pages_together_are_the_whole(self, bench: Bench, limit: int) -> None:
        """Several jobs share each instant, so that pages end in the middle of one."""
        for _ in range(3):
            bench.add(*(new_job(f"job-{bench.clock()}-{n}") for n in range(3)))
            bench.clock.advance(1)
        whole = bench.storage.find(JobQuery()).jobs
        assert len(whole) == 9
        assert list(whole) == sorted(whole, key=lambda job: (job.state_at, job.id), reverse=True)
        assert every_page(bench.storage, JobQuery(limit=limit)) == list(whole)
        condition = JobQuery(limit=limit, states=frozenset({State.ENQUEUED}))
        assert every_page(bench.storage, condition) == list(whole)

    def test_pages_do_not_shift_when_jobs_come_and_go(self, bench: Bench) -> None:
        for n in range(6):
            bench.add(new_job(f"{n}"))
            bench.clock.advance(SECOND)
        first = bench.storage.find(JobQuery(limit=2))
        assert ids(first.jobs) == ["5", "4"]
        bench.add(new_job("new"))
        bench.move(Change("4", Cause.DELETE))
        bench.move(Change("2", Cause.DELETE))
        second = bench.storage.find(JobQuery(limit=2, after=first.next))
        assert ids(second.jobs) == ["3", "1"]
        assert ids(bench.storage.find(JobQuery(limit=2, after=second.next)).jobs) == ["0"]

    @pytest.mark.parametrize(
        "cursor", ["", "garbage", "1", "-1", "\x00", "1;2", "{}", "é", "9" * 400, "' or 1=1", "None", "a:b:c:d"]
    )
    def test_a_cursor_that_is_not_ours_is_refused(self, bench: Bench, cursor: str) -> None:
        bench.add(new_job("job"))
        with pytest.raises(InvalidOption):
            bench.storage.find(JobQuery(after=cursor))


class CountsContract(StorageFixtures):
    def test_jobs_are_counted_by_queue_and_state(self, bench: Bench) -> None:
        assert bench.storage.counts() == Counts({})
        for state in State:
            bench.bring(f"job-{state}", state)
        bench.add(new_job("other", queue="other"))
        counts = bench.storage.counts()
        usual = dict.fromkeys(State, 1) | {State.ENQUEUED: 2}
        assert counts == Counts({"q": usual, "other": {State.ENQUEUED: 1}})
        assert counts.total(State.ENQUEUED) == 3

    def test_a_pair_without_jobs_is_absent(self, bench: Bench) -> None:
        bench.add(new_job("job"))
        bench.move(Change("job", Cause.DELETE))
        assert bench.storage.counts().by_queue == {"q": {State.DELETED: 1}}


class OpeningContract(StorageFixtures):
    def test_migrate_again_changes_nothing(self, bench: Bench) -> None:
        bench.start("job")
        before = bench.details("job")
        bench.storage.migrate()
        assert bench.details("job") == before

    def test_a_closed_storage_may_be_used_again(self, bench: Bench) -> None:
        claim = bench.start("job")
        before = bench.details("job")
        for _ in range(2):
            bench.storage.close()
        assert bench.details("job") == before
        bench.storage.close()
        bench.move(report(claim, Cause.SUCCEED))
        assert bench.state("job") is State.SUCCEEDED

    def test_two_storages_of_one_namespace_are_one(
        self, bench: Bench, make_storage: MakeStorage, clock: VirtualClock
    ) -> None:
        second = make_storage(StorageOptions("contract", clock=clock))
        second.migrate()
        claim = bench.start("job")
        [details] = second.get(["job"])
        assert details == bench.details("job")
        second.apply([report(claim, Cause.SUCCEED)])
        assert bench.state("job") is State.SUCCEEDED
        second.close()
        assert bench.state("job") is State.SUCCEEDED

    def test_namespaces_do_not_see_each_other(
        self, bench: Bench, make_storage: MakeStorage, clock: VirtualClock
    ) -> None:
        """The same ids, queues and servers mean other jobs and servers there."""
        other = Bench(make_storage(StorageOptions("contract-other", clock=clock)), clock)
        other.storage.migrate()
        bench.start("job")
        bench.add(new_job("due", delay=1), new_job("waiting"))
        bench.end("waiting", State.SUCCEEDED)
        before = bench.storage.get(["job", "due", "waiting"])

        assert other.storage.get(["job"]) == [None]
        assert other.storage.find(JobQuery()).jobs == ()
        assert other.storage.counts().by_queue == {}
        assert other.storage.servers() == []
        assert other.storage.claims(BY.server) == []
        assert not other.storage.beat(BY.server, LEASE).alive
        assert other.apply(Change("job", Cause.DELETE)).state is None
        assert other.storage.insert([new_job("child", parent="job")])[0].state is None
        other.add(new_job("job", type="other"))
        assert [claim.type for claim in other.take(by=other.serve(), limit=9)] == ["other"]
        bench.clock.advance(1_000 * SECOND * 86_400)
        assert other.storage.promote(9).enqueued == ()
        assert other.storage.prune(9) == 0
        assert other.storage.rescue(9).jobs == 1
        other.storage.unregister(BY.server)

        assert bench.storage.get(["job", "due", "waiting"]) == before
        assert len(bench.storage.servers()) == 1
        other.storage.close()


DELAY = 1_000 * SECOND
