"""The queue's contract over a real Redis, and what only Redis has, such as the failed set."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from native_tests.redis_queue_server import P, RedisQueueServer
from native_tests.traces import Listener
from rudderpipe.queue import rings, scripts
from rudderpipe.queue.failed_jobs import FailedJobs, Selection
from rudderpipe.queue.keys import Keys
from rudderpipe.queue.pause import set_paused
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.scripts import Call, Scripts
from rudderpipe.testing.redis_server import RedisServer
from tests.queue_contract import ALL, EPOCH, QueueContract, View, add, data_of, ids, lease_of, users

KEYS = Keys("rudder", "rudderEventsQueue")


@pytest.fixture(name="queue_server")
def _queue_server(server: RedisServer) -> Iterator[RedisQueueServer]:
    queue_server = RedisQueueServer(server)
    yield queue_server
    queue_server.close()


class TestQueue(QueueContract):
    """The contract over a real Redis."""


def fail(queue_server: RedisQueueServer, queue: Queue, count: int) -> None:
    """Make jobs 1, 2, ... fail, one second after the other."""
    add(queue, count)
    for taken in queue.take(*ALL):
        queue_server.clock.now_s += 1
        assert queue.fail(taken, f"status 40{taken.id}")


class TestFailedJobs:
    """What operators and the bounds do to the failed set."""

    def test_failed_jobs_are_found_oldest_first(self, queue_server: RedisQueueServer) -> None:
        """An operator selects them by id, by time and by a part of the reason."""
        queue = queue_server.queue()
        fail(queue_server, queue, 4)
        now_ms = queue_server.clock.time_ms()
        failed = FailedJobs(queue)

        assert [(job.id, job.reason, job.events) for job in failed][:2] == [
            ("1", "status 401", 2),
            ("2", "status 402", 2),
        ]
        assert [job.failed_at_ms for job in failed] == [now_ms - 3000, now_ms - 2000, now_ms - 1000, now_ms]
        assert [job.id for job in failed.find(Selection(ids=frozenset({"4", "2", "9"})))] == ["2", "4"]
        assert [job.id for job in failed.find(Selection(since_ms=now_ms - 1000))] == ["3", "4"]
        assert [job.id for job in failed.find(Selection(reason="STATUS 403"))] == ["3"]
        assert [job.id for job in failed.find(Selection(ids=frozenset({"1"}), reason="403"))] == []

    @pytest.mark.parametrize(("first", "line"), [(False, ["5", "1", "2", "3"]), (True, ["1", "2", "3", "5"])])
    @pytest.mark.parametrize("paused", [False, True])
    def test_retried_jobs_wait_in_their_order(
        self, queue_server: RedisQueueServer, first: bool, line: list[str], paused: bool
    ) -> None:
        """They stand behind or ahead of the waiting jobs, with no attempt counted. Their events count as queued."""
        queue = queue_server.queue()
        fail(queue_server, queue, 4)
        add(queue, 1, 4)
        if paused:
            queue_server.pause()
        chosen = list(FailedJobs(queue))

        assert FailedJobs(queue).retry(chosen[:3], first=first) == 3
        assert FailedJobs(queue).retry(chosen[:3], first=first) == 0

        assert queue_server.view() == View(line=line, failed=["4"])
        counts = queue.counts(EPOCH)
        assert (counts.events_queued, counts.events_failed) == (8, 2)
        assert "failedReason" not in queue_server.fields("1")
        if paused:
            queue_server.resume()
        taken = queue.take(*ALL)
        assert ids(taken) == line
        assert queue.complete(taken) == 4
        assert queue.counts(EPOCH).events_delivered == 8

    def test_a_locked_failed_job_is_left_alone(self, queue_server: RedisQueueServer) -> None:
        """Another program works on it, so neither a retry nor a removal may change it."""
        queue = queue_server.queue()
        fail(queue_server, queue, 1)
        queue_server.client.set(f"{P}1:lock", "another-program")

        assert FailedJobs(queue).retry(list(FailedJobs(queue))) == 0
        assert FailedJobs(queue).remove(["1"]) == (0, 0)

        assert queue_server.view().failed == ["1"]

    def test_retried_jobs_may_get_another_write_key(self, queue_server: RedisQueueServer) -> None:
        """The events and all other fields stay; data that cannot be read is left alone, because its key stays."""
        queue = queue_server.queue()
        fail(queue_server, queue, 3)
        queue_server.client.hset(f"{P}2", "data", "garbage")
        before = queue_server.fields("1")["data"]

        assert FailedJobs(queue).retry(list(FailedJobs(queue)), write_key='N"EW') == 2

        assert queue_server.view() == View(line=["1", "3"], failed=["2"])
        assert queue_server.fields("1")["data"] == before.replace('\\"KEY\\"', '\\"N\\\\\\"EW\\"') != before
        taken = queue.take(*ALL)
        assert [each.job.write_key for each in taken if each.job] == ['N"EW', 'N"EW']
        assert users(taken[1]) == ["a2", "b2"]
        assert queue.complete(taken) == 2
        assert queue.counts(EPOCH).events_delivered == 4

    def test_a_retry_does_not_overwrite_data_that_changed_since_it_was_read(
        self, queue_server: RedisQueueServer
    ) -> None:
        """Another program may update the job of a failed set, and its events must not be lost."""
        queue = queue_server.queue()
        fail(queue_server, queue, 1)
        chosen = list(FailedJobs(queue))
        queue_server.client.hset(f"{P}1", "data", data_of(7))

        assert FailedJobs(queue).retry(chosen, write_key="NEW") == 0

        assert queue_server.view().failed == ["1"]
        assert "a7" in queue_server.fields("1")["data"]
        assert FailedJobs(queue).retry(list(FailedJobs(queue)), write_key="NEW") == 1

    @pytest.mark.parametrize("late", ["retry", "remove"])
    def test_a_late_retry_or_removal_does_not_touch_a_second_failure(
        self, queue_server: RedisQueueServer, monkeypatch: pytest.MonkeyPatch, late: str
    ) -> None:
        """The call arrives after its repeat, and after the job failed again."""
        queue = queue_server.queue()
        fail(queue_server, queue, 1)
        calls: list[tuple[Any, ...]] = []
        call = queue.call

        def noted(*arguments: Any) -> Any:
            calls.append(arguments)
            return call(*arguments)

        monkeypatch.setattr(queue, "call", noted)
        failed = FailedJobs(queue)
        assert failed.remove(["1"]) == (1, 2) if late == "remove" else failed.retry(list(failed)) == 1
        if late == "remove":
            queue_server.client.hset(f"{P}1", mapping={"data": data_of(0), "opts": "{}"})
            queue_server.client.rpush(f"{P}wait", "1")
        queue_server.clock.now_s += 1
        (taken,) = queue.take(*ALL)
        queue.fail(taken, "again")

        assert call(*calls[0]) in ([0], [0, 0])

        assert queue_server.view() == View(failed=["1"])

    def test_removed_events_are_counted_as_removed(self, queue_server: RedisQueueServer) -> None:
        """A job that waits again, or is gone, cannot be removed."""
        queue = queue_server.queue()
        fail(queue_server, queue, 3)
        FailedJobs(queue).retry(list(FailedJobs(queue))[:1])

        assert FailedJobs(queue).remove(["1", "2", "9"]) == (1, 2)
        assert FailedJobs(queue).remove(["2"]) == (0, 0)

        assert queue_server.view() == View(line=["1"], failed=["3"])
        assert queue_server.fields("2") == {}
        for epoch in (EPOCH, None):
            counts = queue.counts(epoch)
            assert (counts.events_queued, counts.events_failed, counts.events_removed) == (2, 2, 2)

    def test_the_bounds_delete_the_oldest_failed_jobs(self, queue_server: RedisQueueServer) -> None:
        """One bound is a number of jobs, and the other is an age."""
        queue = queue_server.queue()
        fail(queue_server, queue, 5)

        assert FailedJobs(queue).trim(None, None) == (0, 0)
        assert FailedJobs(queue).trim(5, 100) == (0, 0)
        assert FailedJobs(queue).trim(4, None) == (1, 2)
        assert queue_server.view().failed == ["2", "3", "4", "5"]
        assert FailedJobs(queue).trim(None, 2.0) == (2, 4)
        assert queue_server.view().failed == ["4", "5"]
        assert FailedJobs(queue).trim(1, 0.5) == (1, 2)
        assert queue.counts().events_removed == 8


class TestPause:
    """What a person may rely on who pauses and resumes the queue."""

    def test_a_pause_holds_until_the_resume_and_keeps_the_order(self, queue_server: RedisQueueServer) -> None:
        """A second call changes nothing, and says so."""
        queue = queue_server.queue()
        add(queue, 2)

        assert set_paused(queue, pauses=True)
        assert not set_paused(queue, pauses=True)
        add(queue, 1, 2)
        assert queue.take(*ALL) == []
        assert queue.counts().paused
        assert set_paused(queue, pauses=False)
        assert not set_paused(queue, pauses=False)

        assert not queue.counts().paused
        assert ids(queue.take(*ALL)) == ["1", "2", "3"]

    def test_a_pause_of_an_empty_queue_can_be_resumed(self, queue_server: RedisQueueServer) -> None:
        """There is no list to rename then."""
        queue = queue_server.queue()

        assert set_paused(queue, pauses=True)
        assert set_paused(queue, pauses=False)

        assert queue_server.client.keys(f"{P}*pause*") == []

    @pytest.mark.parametrize("pauses", [True, False])
    @pytest.mark.parametrize("count", [1, 2500])
    def test_ids_that_another_program_left_in_the_other_list_are_kept(
        self, queue_server: RedisQueueServer, pauses: bool, count: int
    ) -> None:
        """Bull's own pause deletes them. Those in ``wait`` came later, so they go behind those in ``paused``."""
        queue, client = queue_server.queue(), queue_server.client
        before, later = [f"b{number}" for number in range(count)], [f"l{number}" for number in range(count)]
        client.lpush(f"{P}paused", *before)
        client.lpush(f"{P}wait", *later)
        if not pauses:
            client.set(f"{P}meta-paused", "1")

        assert set_paused(queue, pauses=pauses)

        assert queue_server.view().line == [*before, *later]

    def test_bulls_listeners_hear_it(self, queue_server: RedisQueueServer) -> None:
        """As from Bull's own call."""
        listener = Listener(queue_server.client)

        set_paused(queue_server.queue(), pauses=True)
        set_paused(queue_server.queue(), pauses=False)

        assert listener.heard() == [(f"{P}paused", "paused"), (f"{P}resumed", "resumed")]


class TestPages:
    """What the page relies on that shows failed jobs, newest first."""

    def test_pages_have_each_job_once(self, queue_server: RedisQueueServer) -> None:
        """Also jobs of one moment, and when jobs of a page are gone before the next one is read."""
        queue = queue_server.queue()
        fail(queue_server, queue, 7)
        failed = FailedJobs(queue)
        queue_server.client.zadd(f"{P}failed", {str(number): 5000 for number in range(1, 8)})

        first = failed.page(Selection(), None, 3)
        assert failed.remove([first.jobs[-1].id]) == (1, 2)
        second = failed.page(Selection(), first.next, 3)
        third = failed.page(Selection(), second.next, 3)

        found = [job.id for page in (first, second, third) for job in page.jobs]
        assert (first.total, second.total, third.next) == (7, 6, None)
        assert sorted(found) == ["1", "2", "3", "4", "5", "6", "7"]

    def test_a_page_by_reason_counts_all_jobs_that_have_it(self, queue_server: RedisQueueServer) -> None:
        """The text is part of the reason, in upper or lower case, and no pattern."""
        queue = queue_server.queue()
        fail(queue_server, queue, 5)
        for job_id in ("1", "3", "4"):
            queue_server.client.hset(P + job_id, "failedReason", "Invalid (.*) Key")
        failed = FailedJobs(queue)

        page = failed.page(Selection(reason="invalid (.*)"), None, 2)
        rest = failed.page(Selection(reason="invalid (.*)"), page.next, 2)

        assert (page.total, rest.total, rest.next) == (3, 3, None)
        assert [job.id for job in (*page.jobs, *rest.jobs)] == ["4", "3", "1"]
        assert failed.page(Selection(reason="invalid .+"), None, 2).total == 0

    def test_a_page_keeps_to_its_times(self, queue_server: RedisQueueServer) -> None:
        """Jobs that failed earlier or later are not counted either."""
        queue = queue_server.queue()
        fail(queue_server, queue, 3)
        times = [job.failed_at_ms for job in FailedJobs(queue)]
        queue_server.client.zadd(f"{P}failed", {"1": times[0] - 1000, "3": times[2] + 1000})

        selection = Selection(since_ms=times[1], until_ms=times[1] + 500)

        page = FailedJobs(queue).page(selection, None, 10)
        assert ([job.id for job in page.jobs], page.total) == (["2"], 1)

    @pytest.mark.parametrize("after", ["", "x", "x:1", "1"])
    def test_a_place_that_is_none_is_refused(self, queue_server: RedisQueueServer, after: str) -> None:
        """It comes from a browser."""
        with pytest.raises(ValueError, match="end of a page"):
            FailedJobs(queue_server.queue()).page(Selection(), after, 1)


class TestKeysInRedis:
    """Keys that the contract does not show. Bull's tools read them, or they could stay forever."""

    @pytest.mark.parametrize("what", ["complete", "fail", "put_back", "recover", "renew", "retry_later", "take"])
    def test_a_call_for_a_job_clears_its_stall_mark(self, queue_server: RedisQueueServer, what: str) -> None:
        """Otherwise the next lapse of its lock would count as the second one."""
        queue = queue_server.queue()
        add(queue, 1)
        if what == "take":
            queue_server.client.sadd(f"{P}stalled", "1")
        taken = queue.take(*ALL)
        if what != "take":
            queue.sweep()
        if what == "fail":
            queue.fail(taken[0], "no")
        elif what == "recover":
            queue.recover()
        elif what != "take":
            getattr(queue, what)(taken)

        assert not queue_server.client.exists(f"{P}stalled")

    def test_a_lock_key_of_another_type_counts_as_another_programs_lock(self, queue_server: RedisQueueServer) -> None:
        """No call fails because of it. The job is left alone until the recovery by a single sender."""
        queue = queue_server.queue()
        add(queue, 3)
        first, second, third = queue.take(*ALL)
        queue_server.client.delete(f"{P}2:lock")
        queue_server.client.rpush(f"{P}2:lock", "row")

        assert queue.renew([first, second, third]) == [first, third]
        assert queue.retry_later([second]) == []
        assert queue.complete([first, second]) == 1
        assert not queue.fail(second, "no")
        assert queue.put_back([second, third]) == 1
        assert queue_server.client.lrange(f"{P}active", 0, -1) == ["2"]
        queue.recover()
        assert ids(queue.take(*ALL)) == ["2", "3"]

    def test_no_flusher_needs_the_offsets_of_a_ring_that_has_ended(self, queue_server: RedisQueueServer) -> None:
        """They stay with events that are still queued, also if Redis has lost these, and nobody would delete them."""
        queue = queue_server.queue()
        queue.raise_term(EPOCH, 0, ())
        add(queue, 1)
        needed = [each.has_offsets for each in rings.fenced(queue)]

        assert not queue.end_ring(EPOCH)

        assert (needed, [each.has_offsets for each in rings.fenced(queue)]) == ([True], [False])

    def test_events_that_an_earlier_version_counted_are_counted_once(self, queue_server: RedisQueueServer) -> None:
        """It kept no number of the events of each ring. The number goes with the ring."""
        queue = queue_server.queue()
        added = queue.keys.added
        add(queue, 2)
        queue_server.client.delete(added)
        add(queue, 1, 2)

        assert queue_server.client.hgetall(added) == {f"{EPOCH:016x}": "6"}
        queue.complete(queue.take(*ALL))
        assert queue.end_ring(EPOCH)
        assert not queue_server.client.exists(added)

    def test_invalid_numbers_count_from_0(self, queue_server: RedisQueueServer) -> None:
        """Another program may have written into the account and into a job."""
        queue = queue_server.queue()
        add(queue, 2)
        ring = KEYS.ring(EPOCH)
        for key in (KEYS.account, ring):
            queue_server.client.hset(
                key, mapping={"queued": "many", "delivered": "1.5", "failed": "-", "1": "x", "term": "?"}
            )
        queue_server.client.hset(f"{P}1", mapping={"attemptsMade": "often", "stalledCounter": "twice"})

        add(queue, 1, 2)
        first, second, third = queue.take(*ALL)
        assert queue.retry_later([first]) == [first]
        assert queue.complete([first]) == 1
        assert queue.fail(second, "no")
        assert FailedJobs(queue).retry(list(FailedJobs(queue))) == 1
        assert queue.complete([third, *queue.take(*ALL)]) == 2

        assert queue_server.view() == View()
        assert queue.counts(EPOCH).events_delivered == 6
        assert queue.counts(EPOCH).odd_fields == 0

    def test_the_log_of_a_job_is_deleted_with_the_job(self, queue_server: RedisQueueServer) -> None:
        """A completed or removed job must leave no keys behind."""
        queue = queue_server.queue()
        add(queue, 2)
        queue_server.client.rpush(f"{P}1:logs", "row")
        queue_server.client.rpush(f"{P}2:logs", "row")
        first, second = queue.take(*ALL)
        queue.complete([first])
        queue.fail(second, "no")
        FailedJobs(queue).remove(["2"])

        assert not queue_server.client.keys(f"{P}*:logs")

    def test_a_rings_account_expires(self, queue_server: RedisQueueServer) -> None:
        """Failed events keep the account, but only for a bounded time after its last use."""
        queue = queue_server.queue()
        ring = KEYS.ring(EPOCH)
        fail(queue_server, queue, 1)
        assert queue_server.client.pttl(ring) > 0
        queue_server.client.persist(ring)

        assert not queue.end_ring(EPOCH)

        assert queue_server.client.pttl(ring) > 0

    def test_a_renewed_lock_lasts_its_full_time(self, queue_server: RedisQueueServer) -> None:
        """This holds whether the lock had lapsed or not."""
        queue = queue_server.queue()
        add(queue, 1)
        taken = queue.take(*ALL)
        queue_server.client.pexpire(f"{P}1:lock", 5_000)
        for _ in range(2):
            assert queue.renew(taken) == taken
            assert queue_server.client.pttl(f"{P}1:lock") > 20_000
            queue_server.lapse("1")

    def test_bulls_listeners_get_waiting_and_delayed_messages(self, queue_server: RedisQueueServer) -> None:
        """As from Bull, ``waiting`` carries a token, and ``delayed`` carries the time of the next job."""
        queue = queue_server.queue()
        add(queue, 2)
        taken = queue.take(*ALL)
        queue_server.delay("later", queue_server.clock.time_ms() + 7, {"data": ""})
        listener = Listener(queue_server.client)
        queue.put_back(taken[:1])
        queue.recover()
        queue.promote()

        heard = [(channel.removeprefix(P), message) for channel, message in listener.heard()]
        waiting = f"waiting@{queue.token}"
        assert heard == [(waiting, "1"), (waiting, "2"), ("delayed", str(queue_server.clock.time_ms() + 7))]

    def test_a_job_that_another_program_delayed_is_still_queued(self, queue_server: RedisQueueServer) -> None:
        """Once due, it stands in the line only, though a worker left it in ``active`` too."""
        queue = queue_server.queue()
        add(queue, 1)
        queue.take(*ALL)
        queue_server.lapse("1")
        queue_server.client.zadd(f"{P}delayed", {"1": 0})
        queue_server.client.delete(f"{P}active")
        assert queue.counts().events_elsewhere == 0
        queue_server.client.lpush(f"{P}active", "1")

        queue.promote()

        assert queue_server.view() == View(line=["1"])

    def test_the_size_is_proportional_to_the_number_of_jobs(self, queue_server: RedisQueueServer) -> None:
        """The jobs of a paused queue count too."""
        queue = queue_server.queue()
        add(queue, 10)
        ten = queue.size_bytes()
        add(queue, 990, 10)
        assert 80 * ten < queue.size_bytes() < 120 * ten
        queue_server.pause()
        assert 80 * ten < queue.size_bytes() < 120 * ten

    def test_a_retry_resets_the_attempts_in_a_foreign_jobs_data(self, queue_server: RedisQueueServer) -> None:
        """A worker of the Node SDK failed the job after its last attempt."""
        queue = queue_server.queue()
        data = data_of(0, 0).replace('\\"attempts\\":0', '\\"attempts\\":9')
        queue_server.client.hset(f"{P}node", mapping={"data": data, "opts": "{}"})
        queue_server.client.zadd(f"{P}failed", {"node": 1})

        FailedJobs(queue).retry(list(FailedJobs(queue)))

        assert queue.take(*ALL)[0].attempts == 0

    def test_a_taken_job_has_no_priority_and_has_options(self, queue_server: RedisQueueServer) -> None:
        """Bull's stalled check loses a job without options."""
        queue = queue_server.queue()
        queue_server.put("n", {"data": data_of(0, 0)})
        queue_server.client.zadd(f"{P}priority", {"n": 1})

        queue.take(*ALL)

        assert not queue_server.client.exists(f"{P}priority")
        assert queue_server.fields("n")["opts"] == "{}"

    def test_a_lease_without_a_lifetime_is_taken_over(self, queue_server: RedisQueueServer) -> None:
        """A tool wrote it, and otherwise no sender would ever get the lease. A lease of ours always lapses."""
        queue = queue_server.queue()
        queue_server.client.set(KEYS.lease, "odd")

        assert lease_of(queue).take()

        assert 0 < queue_server.client.pttl(KEYS.lease) <= 10_000
        assert not lease_of(queue_server.queue()).take()

    @pytest.mark.parametrize("field", ["queued", "odd", "\u00b2", "7"])
    def test_an_invalid_field_of_the_account_is_ignored(self, queue_server: RedisQueueServer, field: str) -> None:
        """A tool may write a field that is not a number."""
        queue = queue_server.queue()
        add(queue, 1)
        queue_server.client.hset(KEYS.account, field, "1.5")

        assert queue.counts().waiting == 1
        assert queue.complete(queue.take(*ALL)) == 1
        assert queue.counts().events_delivered == 2

    def test_a_drained_queue_is_published_once(self, queue_server: RedisQueueServer) -> None:
        """Only a take that finds no job, after one that found a job, publishes it."""
        queue = queue_server.queue()
        add(queue, 1)
        queue.take(*ALL)
        listener = Listener(queue_server.client)
        queue.take(*ALL)
        queue.take(*ALL)

        assert listener.heard() == [(f"{P}drained", "")]

    def test_the_last_jobs_of_a_forgotten_ring_do_not_create_its_account(self, queue_server: RedisQueueServer) -> None:
        """The ring's lifetime was over. Only the account of all rings still counts the events."""
        queue = queue_server.queue()
        fail(queue_server, queue, 1)
        queue_server.client.delete(KEYS.ring(EPOCH))

        FailedJobs(queue).retry(list(FailedJobs(queue)))
        assert not queue_server.client.exists(KEYS.failed_events)
        queue.complete(queue.take(*ALL))

        assert queue_server.client.keys(f"{KEYS.account}:????????????????") == []
        assert queue.counts().events_delivered == 2

    def test_bulls_listeners_get_a_reason_as_bull_writes_it(self, queue_server: RedisQueueServer) -> None:
        """Bull does not escape slashes in the JSON of its messages."""
        queue = queue_server.queue()
        add(queue, 1)
        listener = Listener(queue_server.client)
        queue.fail(queue.take(*ALL)[0], 'a/b "c"')

        assert listener.heard()[-1] == (f"{P}failed", '{"jobId":"1","val":"a/b \\"c\\""}')

    def test_a_job_in_wait_of_a_paused_queue_is_not_taken(self, queue_server: RedisQueueServer) -> None:
        """A writer that ignores the pause puts its job into ``wait``."""
        queue = queue_server.queue()
        queue_server.pause()
        queue_server.client.lpush(f"{P}wait", "careless")

        assert queue.take(*ALL) == []

    def test_an_id_without_a_hash_that_stalls_is_next_in_line(self, queue_server: RedisQueueServer) -> None:
        """This happens as often as the id stalls, and no hash is created."""
        queue = queue_server.queue()
        queue_server.put("x", None)
        queue_server.put_no_hash("odd")
        for _ in range(2):
            queue.take(*ALL)
            queue_server.lapse("x", "odd")
            queue_server.interval_passes()
            queue.sweep()
            queue_server.interval_passes()
            assert queue.sweep() == 2
        assert sorted(queue_server.view().line) == ["odd", "x"]


def test_redis_takes_every_script(server: RedisServer) -> None:
    """Each script must parse as Lua, together with the files that it includes."""
    for name in scripts.NAMES:
        assert server.text_client().script_load(scripts.source(name))


def test_the_contract_calls_every_script(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a script without a test could break unseen."""
    called: set[str] = set()
    together = Scripts.call_together

    def noted(self: Scripts, client: Redis, *calls: Call) -> list[Any]:
        called.update(name for name, _, _ in calls)
        return together(self, client, *calls)

    monkeypatch.setattr(Scripts, "call_together", noted)
    for promises in (TestQueue(), TestFailedJobs(), TestPause()):
        for name in dir(promises):
            test = getattr(promises, name)
            if name.startswith("test_") and list(inspect.signature(test).parameters) == ["queue_server"]:
                queue_server = RedisQueueServer(server)
                test(queue_server)
                queue_server.close()
    assert called == set(scripts.NAMES) - {"report_sender"}  # test_sender_report.py has its promises
