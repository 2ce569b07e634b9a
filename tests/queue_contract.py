"""What a queue promises to senders and flushers. A subclass brings the ``queue_server`` that holds the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
import pytest

from rudderpipe.errors import AnotherDataPlane, LeaseLost, QueueBehind, QueueSealed, QueueUnavailable
from rudderpipe.queue import job, members, seal
from rudderpipe.queue.active_job import ActiveJob
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.members import Profile
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.seal import Remains
from tests.fakes import FakeClock

EPOCH = 0x1111_1111_1111_4111
OTHER_EPOCH = 0x2222_2222_2222_4222
ALL = (1000, 10_000_000)


class View(msgspec.Struct):
    """The state of each job."""

    line: list[str] = []
    """The ids of waiting jobs, the next one first."""
    active: list[str] = []
    """The ids of active jobs, the oldest one first."""
    delayed: list[str] = []
    failed: list[str] = []
    completed: list[str] = []
    locks: dict[str, str] = {}
    """The token in the lock of each job."""


class QueueServer(Protocol):
    """The store of a queue. It opens queues, shows the state, and does what time and foreign tools do."""

    clock: FakeClock

    def queue(self, **settings: Any) -> Queue: ...
    def view(self) -> View: ...
    def fields(self, name: str) -> dict[str, str]: ...
    def put(self, name: str, fields: dict[str, str] | None) -> None: ...
    def put_no_hash(self, name: str) -> None: ...
    def spoil(self, name: str) -> None: ...
    def delay(self, name: str, due_ms: int, fields: dict[str, str]) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def delete(self, name: str) -> None: ...
    def forget_ring(self, epoch: int) -> None: ...
    def retry(self, name: str) -> None: ...
    def lapse(self, *names: str) -> None: ...
    def interval_passes(self) -> None: ...
    def lapse_lease(self) -> None: ...
    def set_clock_back(self, ms: int) -> None: ...
    def set_member(self, name: str, until_ms: int) -> None: ...
    def member_until_ms(self, name: str) -> int: ...


def data_of(number: int, epoch: int = EPOCH) -> str:
    """Return the data of a job of two events."""
    return job.build(b'{"userId":"a%d"},{"userId":"b%d"}' % (number, number), "KEY", "t", epoch)


def add(queue: Queue, count: int, start: int = 0, term: int = 0, epoch: int = EPOCH) -> None:
    """Add jobs of two events each, read from block 1."""
    batches = [(data_of(number, epoch), 2) for number in range(start, start + count)]
    queue.add(epoch, batches, {1: (start * 2, (start + count) * 2)}, [], term)


def ids(taken: Sequence[ActiveJob]) -> list[str]:
    """Return the ids of these jobs."""
    return [found.id for found in taken]


def users(taken: ActiveJob) -> list[str]:
    """Return the user of each event of a job."""
    assert taken.job is not None
    return [msgspec.json.decode(event)["userId"] for event in taken.job.events]


def lease_of(queue: Queue, dead: str = "unknown") -> Lease:
    """Return the lease of a process that believes the holder ``dead`` to be dead."""
    return Lease(queue, 10_000, "alive", lambda holder: holder == dead)


CHANGES: dict[str, Callable[[Queue, ActiveJob], object]] = {
    "take": lambda queue, _: queue.take(*ALL),
    "complete": lambda queue, job_: queue.complete([job_]),
    "complete_and_take": lambda queue, job_: queue.complete_and_take([job_], *ALL),
    "fail": lambda queue, job_: queue.fail(job_, "no"),
    "split": lambda queue, job_: queue.split(job_),
    "retry_later": lambda queue, job_: queue.retry_later([job_]),
    "renew": lambda queue, job_: queue.renew([job_]),
    "put_back": lambda queue, job_: queue.put_back([job_]),
    "recover": lambda queue, _: queue.recover(),
    "promote": lambda queue, _: queue.promote(),
}
"""Every call by which a sender changes the queue."""


class QueueContract:
    """The promises of a queue, one a test."""

    def test_jobs_wait_in_the_order_in_which_they_were_added(self, queue_server: QueueServer) -> None:
        """One call may add several jobs. Their events count as queued, and the queue stores the ring's offsets."""
        queue = queue_server.queue()
        add(queue, 2)
        add(queue, 1, 2)

        assert queue_server.view() == View(line=["1", "2", "3"])
        counts = queue.counts(EPOCH)
        assert (counts.events_queued, counts.offsets) == (6, {1: 6})
        assert users(queue.take(*ALL)[2]) == ["a2", "b2"]

    def test_the_route_is_changed_by_a_caller_that_has_read_it(self, queue_server: QueueServer) -> None:
        """Another caller changes nothing, and is told what the route is."""
        queue = queue_server.queue()
        for known, wanted, found in (("", "a", b"a"), ("", "b", b"a"), ("a", "b", b"b"), ("a", "b", b"b")):
            assert queue.call("set_route", [queue.keys.route], known, wanted) == found

    def test_a_manager_is_listed_once_since_it_came(self, queue_server: QueueServer) -> None:
        """Its profile may change. A manager that is listed twice would get two shares of the queues."""
        home = queue_server.queue()
        first = members.renew(home, "a", Profile(2, "here", 7), 60_000)
        assert [(each.name, each.profile, each.member_ms) for each in first] == [("a", Profile(2, "here", 7), 0)]
        changed = Profile(2, "here", 7, ("rudder-1",))
        _, before = home.call("renew_member", [home.keys.members], "b", b"{}", 60_000)

        found = members.renew(home, "a", changed, 60_000)

        _, after = home.call("renew_member", [home.keys.members], "b", b"{}", 60_000)
        assert [(each.name, each.profile) for each in found] == [("a", changed)]  # profile that are none are not listed
        assert len(before) == len(after) == 2
        since_ms = [[text.split()[0] for text in texts if b" a " in text] for texts in (before, after)]
        assert since_ms[0] == since_ms[1]

    def test_a_manager_that_is_silent_or_leaves_is_not_listed(self, queue_server: QueueServer) -> None:
        """Its queues go to the others. When it calls again, it is a new member."""
        home, profile = queue_server.queue(), Profile(1, "here", 7)
        for name in ("a", "b", "c"):
            members.renew(home, name, profile, 60_000)
        queue_server.set_member("a", 1)
        assert {each.name for each in members.renew(home, "b", profile, 60_000)} == {"b", "c"}
        members.leave(home, "c", profile)
        members.leave(home, "c", profile)

        found = members.renew(home, "a", profile, 60_000)

        assert sorted(each.name for each in found) == ["a", "b"]
        assert next(each.member_ms for each in found if each.name == "a") == 0

    def test_a_manager_that_is_silent_lapses_also_when_the_clock_is_set_back(self, queue_server: QueueServer) -> None:
        """After a failover the clock is that of another host. A dead manager would keep its queues meanwhile."""
        home, profile = queue_server.queue(), Profile(1, "here", 7)
        members.renew(home, "a", profile, 30_000)
        now_ms, _ = home.call("renew_member", [home.keys.members], "b", b"{}", 60_000)
        queue_server.set_member("a", now_ms + 3_600_000)

        members.renew(home, "b", profile, 60_000)

        assert 0 < queue_server.member_until_ms("a") - now_ms < 40_000
        assert queue_server.member_until_ms("b") - now_ms > 50_000

    def test_a_sealed_queue_takes_no_events(self, queue_server: QueueServer) -> None:
        """Its jobs are delivered as before. The seal names the last job, and is made once."""
        queue = queue_server.queue()
        add(queue, 2)
        seal.seal(queue, 3)
        with pytest.raises(QueueSealed) as caught:
            add(queue, 1, 2)
        assert caught.value.generation == 3

        seal.seal(queue, 4)
        with pytest.raises(QueueSealed) as caught:
            add(queue, 1, 2)
        assert caught.value.generation == 3
        taken = queue.take(*ALL)
        assert ids(taken) == ["1", "2"]
        assert queue.complete(taken) == 2
        assert queue.counts(EPOCH).events_delivered == 4

    def test_a_sealed_queue_is_drained_when_its_own_jobs_are_gone(self, queue_server: QueueServer) -> None:
        """Jobs that a program adds behind the seal do not count. The halves of an earlier job do."""
        queue = queue_server.queue()
        add(queue, 2)
        assert seal.remains(queue) == Remains(is_sealed=False, is_open=False, has_jobs=False)
        seal.seal(queue, 0)
        queue_server.put("7", {"data": data_of(7), "opts": "{}"})
        queue_server.put("own-name", {"data": data_of(8), "opts": "{}"})
        assert seal.remains(queue) == Remains(is_sealed=True, is_open=False, has_jobs=True)
        one, two = queue.take(2, 10_000_000)
        halves = queue.split(two)
        assert halves is not None
        assert queue.complete([one, halves[0]]) == 2
        assert seal.remains(queue).has_jobs

        assert queue.complete([halves[1]]) == 1
        assert seal.remains(queue) == Remains(is_sealed=True, is_open=False, has_jobs=False)
        seal.open_(queue)
        seal.open_(queue)
        assert seal.remains(queue).is_open

    @pytest.mark.parametrize("where", ["delayed", "paused", "put back"])
    def test_a_job_that_is_not_next_in_line_is_found_too(self, queue_server: QueueServer, where: str) -> None:
        """A later generation must wait for it."""
        queue = queue_server.queue()
        add(queue, 1)
        if where == "delayed":
            queue.complete(queue.take(*ALL))
            queue_server.delay("1", queue_server.clock.time_ms() + 1000, {"data": data_of(1), "opts": "{}"})
        elif where == "paused":
            queue_server.pause()
        else:
            queue_server.put("9", {"data": data_of(9), "opts": "{}"})
            queue.put_back(queue.take(1, 1))
        seal.seal(queue, 0)

        assert seal.remains(queue).has_jobs

    def test_events_are_added_once(self, queue_server: QueueServer) -> None:
        """A repeated call, or one whose batch overlaps, adds nothing and reports the offsets of the queue."""
        queue = queue_server.queue()
        add(queue, 5)

        for start in (0, 3):
            with pytest.raises(QueueBehind) as caught:
                add(queue_server.queue(), 4, start)
            assert caught.value.read == {1: 10}
        add(queue, 1, 5)

        assert ids(queue.take(*ALL)) == ["1", "2", "3", "4", "5", "6"]
        assert queue.counts(EPOCH).offsets == {1: 12}

    def test_each_ring_has_its_own_offsets(self, queue_server: QueueServer) -> None:
        """Two rings may use the same block number. The account of all rings counts both."""
        queue = queue_server.queue()
        add(queue, 1)
        add(queue, 2, epoch=OTHER_EPOCH)

        assert [queue.counts(epoch).events_queued for epoch in (EPOCH, OTHER_EPOCH, None)] == [2, 4, 6]

    def test_the_offset_of_a_freed_block_is_forgotten(self, queue_server: QueueServer) -> None:
        """The next tenure of the block begins at 0 again."""
        queue = queue_server.queue()
        add(queue, 1)
        queue.add(EPOCH, [(data_of(7), 2)], {2: (0, 2)}, [1])
        assert queue.counts(EPOCH).offsets == {2: 2}

        add(queue, 1)

        assert queue.counts(EPOCH).offsets == {1: 2, 2: 2}

    def test_a_dead_flushers_late_call_adds_nothing(self, queue_server: QueueServer) -> None:
        """The term of its successor refuses the call, also where the offsets would allow it."""
        queue = queue_server.queue()
        add(queue, 1, term=2)

        with pytest.raises(QueueBehind) as caught:
            add(queue, 1, 7, term=1)
        add(queue, 1, 7, term=2)

        assert caught.value.read == {0: 2}
        assert queue_server.view().line == ["1", "2"]

    def test_a_raised_term_ends_earlier_ones_and_returns_what_was_added(self, queue_server: QueueServer) -> None:
        """It forgets the offsets of freed blocks as an addition does."""
        queue = queue_server.queue()
        add(queue, 1, term=2)
        queue.add(EPOCH, [(data_of(7), 2)], {9: (0, 2)}, [], 2)

        assert queue.raise_term(EPOCH, 3, []) == ({1: 2, 9: 2}, 0)
        assert queue.raise_term(EPOCH, 3, [9]) == ({1: 2}, 0)
        assert queue.raise_term(OTHER_EPOCH, 1, []) == ({}, 0)
        for late in (partial(add, queue, 1, 7, term=2), partial(queue.raise_term, EPOCH, 2, [])):
            with pytest.raises(QueueBehind) as caught:
                late()
            assert caught.value.read == {0: 3}
        add(queue, 1, 1, term=3)

        assert queue_server.view().line == ["1", "2", "3"]
        assert queue.counts(EPOCH).events_queued == 6

    def test_the_term_of_an_ended_ring_cannot_be_raised(self, queue_server: QueueServer) -> None:
        """Otherwise its hash would have a life of 30 days again."""
        queue = queue_server.queue()
        add(queue, 1)
        queue.end_ring(EPOCH)

        with pytest.raises(QueueUnavailable, match="RINGENDED"):
            queue.raise_term(EPOCH, 1, [])

    def test_a_take_keeps_to_its_bounds(self, queue_server: QueueServer) -> None:
        """A take is bounded in jobs and in bytes of data, but takes at least one job."""
        queue = queue_server.queue()
        add(queue, 9)
        size = len(data_of(0))

        assert ids(queue.take(2, 1_000_000)) == ["1", "2"]
        assert ids(queue.take(1000, 10)) == ["3"]
        assert ids(queue.take(1000, 2 * size)) == ["4", "5"]
        assert ids(queue.take(1000, 3 * size - 1)) == ["6", "7"]
        assert ids(queue.take(*ALL)) == ["8", "9"]
        assert queue.take(*ALL) == []

    def test_a_taken_job_is_active_and_locked_by_its_sender(self, queue_server: QueueServer) -> None:
        """Another sender gets the next jobs."""
        one, other = queue_server.queue(), queue_server.queue()
        add(one, 3)

        assert ids(one.take(1, 1000)) == ["1"]
        assert ids(other.take(*ALL)) == ["2", "3"]

        assert queue_server.view() == View(
            active=["1", "2", "3"], locks={"1": one.token, "2": other.token, "3": other.token}
        )

    def test_a_paused_queue_gives_no_job_and_keeps_its_order(self, queue_server: QueueServer) -> None:
        """Jobs that come, are put back, are recovered or fall due during the pause keep their places for the resume."""
        queue = queue_server.queue()
        add(queue, 3)
        first, second = queue.take(2, 1_000_000)
        queue_server.pause()
        add(queue, 1, 3)
        queue_server.delay("d", queue_server.clock.time_ms(), {"data": data_of(9)})
        queue.promote()
        queue.put_back([second])
        queue.recover()

        assert queue.take(*ALL) == []
        assert queue.counts().paused
        assert queue.counts().waiting == 5
        queue_server.resume()
        assert not queue.counts().paused
        assert ids(queue.take(*ALL)) == [first.id, second.id, "3", "4", "d"]

    def test_a_completed_job_is_deleted_and_its_events_count_as_delivered(self, queue_server: QueueServer) -> None:
        """A repeated call must not count the events again."""
        queue = queue_server.queue()
        add(queue, 2)
        first, second = queue.take(*ALL)

        assert queue.complete([first]) == 1
        assert queue.complete([first, second]) == 1

        assert queue_server.view() == View()
        assert queue_server.fields("1") == {}
        for epoch in (EPOCH, None):
            counts = queue.counts(epoch)
            assert (counts.events_queued, counts.events_delivered) == (0, 4)

    def test_the_newest_completed_jobs_are_kept_if_so_configured(self, queue_server: QueueServer) -> None:
        """``keep_completed`` bounds their number, and their data stays."""
        queue = queue_server.queue(keep_completed=2)
        add(queue, 3)
        for taken in queue.take(*ALL):
            queue_server.clock.now_s += 1
            queue.complete([taken])

        assert queue_server.view() == View(completed=["2", "3"])
        assert queue.counts().completed == 2
        assert queue_server.fields("1") == {}
        assert queue_server.fields("3")["finishedOn"] == str(queue_server.clock.time_ms())

    def test_complete_and_take_returns_both_results(self, queue_server: QueueServer) -> None:
        """The sender learns how many of the completed jobs were its own, and which jobs come next."""
        queue = queue_server.queue()
        add(queue, 3)
        taken = queue.take(1, 1000)

        kept, following = queue.complete_and_take(taken, 1, 1000)

        assert (kept, ids(following)) == (1, ["2"])
        assert queue.complete_and_take(taken, 1, 1000)[0] == 0
        assert queue_server.view().active == ["2", "3"]

    def test_a_failed_job_keeps_its_data_and_gets_a_reason_and_a_time(self, queue_server: QueueServer) -> None:
        """Its events count as failed.

        After a retry by a tool of Bull they count as queued, and the attempts begin at 0.
        """
        queue = queue_server.queue()
        add(queue, 1)
        (taken,) = queue.take(*ALL)
        queue.retry_later([taken])

        assert queue.fail(taken, 'status 400: "bad"')
        assert not queue.fail(taken, "again")

        fields = queue_server.fields("1")
        assert queue_server.view() == View(failed=["1"])
        assert (fields["failedReason"], fields["attemptsMade"]) == ('status 400: "bad"', "0")
        assert (fields["finishedOn"], fields["data"]) == (str(queue_server.clock.time_ms()), taken.data.decode())
        assert [queue.counts(epoch).events_failed for epoch in (EPOCH, None)] == [2, 2]
        queue_server.retry("1")
        (again,) = queue.take(*ALL)
        assert again.attempts == 0
        counts = queue.counts(EPOCH)
        assert (counts.events_queued, counts.events_failed) == (2, 0)

    def test_a_failure_resets_the_attempts_in_a_node_sdks_data(self, queue_server: QueueServer) -> None:
        """Otherwise a retry by any tool would fail at once."""
        queue = queue_server.queue()
        data = data_of(0).replace('\\"attempts\\":0', '\\"attempts\\":9')
        queue_server.put("node", {"data": data, "opts": "{}"})
        (taken,) = queue.take(*ALL)
        assert taken.attempts == 9

        queue.fail(taken, "no more")

        assert '\\"attempts\\":0' in queue_server.fields("node")["data"]

    def test_an_attempt_is_counted_and_the_job_stays_locked(self, queue_server: QueueServer) -> None:
        """This holds also if the lock had lapsed and no other sender took the job."""
        queue = queue_server.queue()
        add(queue, 1)
        (taken,) = queue.take(*ALL)

        assert queue.retry_later([taken]) == [taken]
        queue_server.lapse("1")
        assert queue.retry_later([taken]) == [taken]

        assert queue_server.view() == View(active=["1"], locks={"1": queue.token})
        assert queue_server.fields("1")["attemptsMade"] == "2"

    def test_no_attempt_is_counted_for_a_deleted_job(self, queue_server: QueueServer) -> None:
        """A tool of Bull deleted the job, so the count must not create its hash again."""
        queue = queue_server.queue()
        add(queue, 1)
        (taken,) = queue.take(*ALL)
        queue_server.delete("1")

        assert queue.retry_later([taken]) == []
        assert queue_server.fields("1") == {}

    def test_a_renewal_takes_a_lapsed_lock_again(self, queue_server: QueueServer) -> None:
        """Otherwise another sender's sweep would take the job away."""
        queue, other = queue_server.queue(), queue_server.queue()
        add(queue, 1)
        taken = queue.take(*ALL)
        other.sweep()
        queue_server.lapse("1")

        assert queue.renew(taken) == taken

        queue_server.interval_passes()
        queue_server.lapse("1")  # the renewal cleared the stall mark, so this lapse is a first one again
        assert other.sweep() == 0
        assert queue_server.view().active == ["1"]

    @pytest.mark.parametrize("held", ["renew", "retry_later"])
    @pytest.mark.parametrize("where", ["line", "failed", "gone"])
    def test_a_job_that_is_no_longer_active_is_not_locked_again(
        self, queue_server: QueueServer, where: str, held: str
    ) -> None:
        """A slow sender learns that its job was swept. A new lock would keep an operator from a retry."""
        slow, other = queue_server.queue(), queue_server.queue()
        add(slow, 1)
        taken = slow.take(*ALL)
        other.sweep()
        queue_server.lapse("1")
        queue_server.interval_passes()
        other.sweep()
        if where != "line":
            again = other.take(*ALL)
            assert other.fail(again[0], "no") if where == "failed" else other.complete(again)
        before = queue_server.view()

        assert getattr(slow, held)(taken) == []

        assert queue_server.view() == before
        assert before.locks == {}
        assert queue_server.fields("1").get("attemptsMade", "0") == "0"

    def test_jobs_that_are_put_back_are_first_in_line_in_their_order(self, queue_server: QueueServer) -> None:
        """No later job overtakes them, their attempts stay counted, and no lock is left."""
        queue = queue_server.queue()
        add(queue, 4)
        taken = queue.take(3, 1_000_000)
        queue.retry_later(taken[:1])

        assert queue.put_back(taken) == 3
        assert queue.put_back(taken) == 0

        assert queue_server.view() == View(line=["1", "2", "3", "4"])
        assert [found.attempts for found in queue.take(*ALL)] == [1, 0, 0, 0]

    def test_jobs_of_a_dead_sender_are_first_in_line_oldest_first(self, queue_server: QueueServer) -> None:
        """The recovery waits for no lock and resets the attempts. A second recovery finds no job."""
        queue, dead = queue_server.queue(), queue_server.queue()
        add(queue, 4)
        dead.retry_later(dead.take(2, 1_000_000))
        dead.take(1, 1_000_000)

        assert queue.recover().jobs == 3
        assert queue.recover().jobs == 0

        assert queue_server.view() == View(line=["1", "2", "3", "4"])
        assert {taken.attempts for taken in queue.take(*ALL)} == {0}

    def test_a_recovery_skips_the_jobs_that_the_sender_keeps(self, queue_server: QueueServer) -> None:
        """``free`` takes the jobs without a lock and those under the sender's own lock. Another sender's lock stays."""
        queue, other = queue_server.queue(), queue_server.queue()
        add(queue, 6)
        kept, lapsed, ours = queue.take(3, 1_000_000)
        other.take(1, 1000)
        queue.retry_later([lapsed, ours])
        queue_server.lapse("2")

        assert queue.recover([kept], "free") == (2, 0)
        assert queue.recover([kept], "free") == (0, 0)

        assert queue_server.view() == View(
            line=["2", "3", "5", "6"], active=["1", "4"], locks={"1": queue.token, "4": other.token}
        )
        assert queue_server.fields("2")["attemptsMade"] == "1"
        assert queue.recover([kept]) == (1, 1)
        assert queue_server.view().line == ["4", "2", "3", "5", "6"]

    def test_one_of_several_senders_recovers_only_jobs_under_its_own_lock(self, queue_server: QueueServer) -> None:
        """A job without a lock may be another sender's, and the sweep finds it."""
        queue, other = queue_server.queue(), queue_server.queue()
        add(queue, 3)
        queue.take(2, 1_000_000)
        other.take(1, 1000)
        queue_server.lapse("1")

        assert queue.recover((), "ours") == (1, 0)

        assert queue_server.view() == View(line=["2"], active=["1", "3"], locks={"3": other.token})

    def test_active_jobs_without_a_lock_count_as_stranded(self, queue_server: QueueServer) -> None:
        """A renewal locks a job again, so that it no longer counts."""
        queue = queue_server.queue()
        add(queue, 3)
        taken = queue.take(2, 1_000_000)
        assert queue.stranded() == 0

        queue_server.lapse("1", "2")
        assert queue.stranded() == 2

        queue.renew(taken[:1])
        assert queue.stranded() == 1

    def test_a_renewal_returns_the_jobs_that_still_belong_to_the_sender(self, queue_server: QueueServer) -> None:
        """A tool may have deleted a job, and another sender may have locked one. The order stays."""
        queue, other = queue_server.queue(), queue_server.queue()
        add(queue, 4)
        taken = queue.take(*ALL)
        queue_server.delete("1")
        queue_server.lapse("3")
        other.renew(taken[2:3])

        assert ids(queue.renew(taken)) == ["2", "4"]
        assert ids(queue.retry_later(taken)) == ["2", "4"]

    def test_a_job_under_another_senders_lock_is_left_alone(self, queue_server: QueueServer) -> None:
        """Each call also reports that it did not change the job."""
        queue, other = queue_server.queue(), queue_server.queue()
        add(queue, 1)
        taken = queue.take(*ALL)
        before = queue_server.fields("1")

        assert other.complete(taken) == other.put_back(taken) == 0
        assert other.renew(taken) == other.retry_later(taken) == []
        assert other.fail(taken[0], "no") is False

        assert queue_server.fields("1") == before
        assert queue_server.view() == View(active=["1"], locks={"1": queue.token})
        assert queue.counts().events_queued == 2
        assert queue.complete(taken) == 1

    @pytest.mark.parametrize("committed", ["complete", "fail", "put_back"])
    def test_a_sender_can_finish_a_job_whose_lock_lapsed(self, queue_server: QueueServer, committed: str) -> None:
        """No other sender took the job, so its sender knows best what became of it."""
        queue = queue_server.queue()
        add(queue, 1)
        (taken,) = queue.take(*ALL)
        queue_server.lapse("1")

        if committed == "fail":
            assert queue.fail(taken, "no")
        else:
            assert getattr(queue, committed)([taken]) == 1

        assert queue_server.view().active == []
        assert queue_server.view().locks == {}

    def test_a_job_that_another_sender_took_over_is_settled_by_that_sender(self, queue_server: QueueServer) -> None:
        """The events must be counted once."""
        slow, other = queue_server.queue(), queue_server.queue()
        add(slow, 1)
        taken = slow.take(*ALL)
        other.sweep()
        queue_server.lapse("1")
        queue_server.interval_passes()
        other.sweep()
        again = other.take(*ALL)

        assert slow.complete(taken) == 0
        assert other.complete(again) == 1
        assert slow.put_back(taken) == 0

        assert queue_server.view() == View()
        assert slow.counts().events_delivered == 2

    def test_a_job_stalls_between_two_sweeps(self, queue_server: QueueServer) -> None:
        """Then it is next in line, unless it is locked or settled. A second sweep within the interval does nothing."""
        queue = queue_server.queue()
        add(queue, 4)
        taken = queue.take(3, 1_000_000)
        assert queue.sweep() == 0
        queue_server.lapse("1", "2")
        assert queue.sweep() == 0  # too soon
        queue.complete(taken[1:2])
        queue_server.interval_passes()

        assert queue.sweep() == 1

        assert queue_server.view() == View(line=["1", "4"], active=["3"], locks={"3": queue.token})

    def test_a_job_that_stalls_twice_fails(self, queue_server: QueueServer) -> None:
        """Its events count as failed, and as queued again after a retry."""
        queue = queue_server.queue()
        add(queue, 1)
        for _ in range(2):
            queue.take(*ALL)
            queue_server.interval_passes()
            queue.sweep()
            queue_server.lapse("1")
            queue_server.interval_passes()
            queue.sweep()

        assert queue_server.view() == View(failed=["1"])
        assert queue_server.fields("1")["failedReason"] == "job stalled more than allowable limit"
        assert (queue.counts().events_queued, queue.counts().events_failed) == (0, 2)
        queue_server.retry("1")
        assert queue.complete(queue.take(*ALL)) == 1
        assert queue.counts().events_delivered == 2

    def test_delayed_jobs_that_are_due_wait_at_the_end_of_the_line(self, queue_server: QueueServer) -> None:
        """They come in the order of their times. The call returns the time of the next one."""
        queue = queue_server.queue()
        add(queue, 1)
        now_ms = queue_server.clock.time_ms()
        assert queue.promote() == -1
        for name, due_ms in (("late", now_ms + 5000), ("b", now_ms), ("a", now_ms - 1000)):
            queue_server.delay(name, due_ms, {"data": data_of(5), "delay": "1000"})
        assert queue.counts().delayed == 3

        assert queue.promote() == now_ms + 5000

        assert queue_server.view() == View(line=["1", "a", "b"], delayed=["late"])
        assert queue_server.fields("a")["delay"] == "0"
        queue_server.clock.now_s += 5
        assert queue.promote() == -1
        assert queue_server.view() == View(line=["1", "a", "b", "late"])

    @pytest.mark.parametrize(
        "broken", [None, {"opts": "{}"}, {"data": "nonsense"}, {"data": '{"version":9,"eventData":""}'}]
    )
    def test_a_broken_job_is_taken_with_a_reason_and_can_be_failed(
        self, queue_server: QueueServer, broken: dict[str, str] | None
    ) -> None:
        """The jobs are an id without a hash, a hash without data, and data in an unknown form. The data is kept."""
        queue = queue_server.queue()
        queue_server.put("x", broken)
        add(queue, 1)

        taken, following = queue.take(*ALL)

        assert taken.job is None
        assert taken.trouble
        assert users(following) == ["a0", "b0"]
        assert queue.fail(taken, taken.trouble)
        assert queue_server.view() == View(active=["1"], failed=["x"], locks={"1": queue.token})
        assert queue_server.fields("x")["failedReason"] == taken.trouble
        assert queue_server.fields("x")["data"] == (broken or {}).get("data", "{}")
        assert set(queue_server.fields("x")) >= {"name", "data", "opts", "timestamp", "delay", "priority"}

    def test_an_id_whose_key_is_not_a_job_fails_under_a_new_number(self, queue_server: QueueServer) -> None:
        """The key belongs to another program and must not change."""
        queue = queue_server.queue()
        queue_server.put_no_hash("odd")
        (taken,) = queue.take(*ALL)
        assert queue.retry_later([taken]) == []

        assert queue.fail(taken, taken.trouble)

        assert "odd" in taken.trouble
        assert queue_server.view() == View(failed=["1"])
        assert queue_server.fields("1")["failedReason"] == taken.trouble

    def test_a_job_whose_key_changes_its_type_fails_under_a_new_number(self, queue_server: QueueServer) -> None:
        """The key changes while the job is active."""
        queue = queue_server.queue()
        add(queue, 2)
        taken, _ = queue.take(*ALL)
        queue_server.spoil("1")

        assert queue.fail(taken, "no")

        assert queue_server.view().failed == ["3"]
        assert queue_server.view().active == ["2"]
        assert queue_server.fields("3")["failedReason"] == "no"

    def test_an_id_that_waits_twice_is_active_once(self, queue_server: QueueServer) -> None:
        """A tool may add an id twice by mistake. The job is settled once."""
        queue = queue_server.queue()
        queue_server.put("x", {"data": data_of(1), "opts": "{}"})
        queue_server.put("x", {"data": data_of(1), "opts": "{}"})

        taken = queue.take(*ALL)

        assert queue_server.view() == View(active=["x"], locks={"x": queue.token})
        assert queue.complete(taken[:1]) == 1
        assert queue_server.view() == View()

    def test_events_that_another_program_removed_count_as_elsewhere(self, queue_server: QueueServer) -> None:
        """When no job waits, is active or is delayed, no event is queued, and the counts still add up."""
        queue = queue_server.queue()
        add(queue, 3)
        first, second, _ = queue.take(*ALL)
        queue.complete([first])
        queue.fail(second, "no")
        assert queue.counts().events_elsewhere == 0
        queue_server.delete("3")

        counts = queue.counts()

        assert (counts.events_queued, counts.events_delivered, counts.events_failed) == (0, 2, 2)
        assert counts.events_elsewhere == 2

    def test_a_rings_account_is_deleted_with_the_last_of_its_jobs(self, queue_server: QueueServer) -> None:
        """The flusher or the sender may end first. Failed jobs keep the account."""
        queue = queue_server.queue()
        add(queue, 2)
        assert not queue.end_ring(EPOCH)
        first, second = queue.take(*ALL)
        queue.fail(first, "no")
        queue.complete([second])
        assert queue.counts(EPOCH).events_delivered == 2
        queue_server.retry("1")
        queue.complete(queue.take(*ALL))
        assert queue.counts(EPOCH).events_delivered == 0  # forgotten
        assert queue.counts().events_delivered == 4

        add(queue, 1, epoch=OTHER_EPOCH)
        queue.complete(queue.take(*ALL))
        assert queue.end_ring(OTHER_EPOCH)
        assert queue.counts(OTHER_EPOCH).events_delivered == 0

    @pytest.mark.parametrize("ended_first", [True, False])
    def test_no_job_is_added_for_a_ring_that_has_ended(self, queue_server: QueueServer, ended_first: bool) -> None:
        """The offsets are forgotten by then, so a late call would add its events a second time."""
        queue = queue_server.queue()
        add(queue, 2, term=3)
        if ended_first:
            queue.end_ring(EPOCH)
        queue.complete(queue.take(*ALL))
        queue.end_ring(EPOCH)

        with pytest.raises(QueueBehind) as caught:
            add(queue, 2, term=2)
        assert caught.value.read == {0: 3}
        with pytest.raises(QueueUnavailable, match="RINGENDED"):
            add(queue, 2, term=3)

        assert queue_server.view() == View()

    @pytest.mark.parametrize("known", [0, 4, 6])
    def test_events_that_redis_lost_are_accounted_for_once(self, queue_server: QueueServer, known: int) -> None:
        """Known deliveries count as delivered.

        The rest counts as queued while there are jobs, and as lost afterwards.
        """
        queue = queue_server.queue()
        add(queue, 2)  # of 7 jobs the first 5 are gone with Redis

        assert queue.counts(EPOCH).with_losses(14, known, 0).events_queued == 14 - known
        assert queue.restore(EPOCH, 14, known, 0) == 10
        assert queue.restore(EPOCH, 14, known, 0) == 0

        for epoch in (EPOCH, None):
            counts = queue.counts(epoch)
            assert (counts.events_queued, counts.events_delivered, counts.events_lost) == (14 - known, known, 0)
        queue.complete(queue.take(*ALL))
        for epoch in (EPOCH, None):
            counts = queue.counts(epoch)
            assert (counts.events_queued, counts.events_delivered) == (0, known + 4)
            assert (counts.events_lost, counts.events_elsewhere) == (10 - known, 0)
        assert queue.restore(EPOCH, 14, known + 4, 0) == 0

    def test_events_that_redis_lost_of_one_ring_are_counted_beside_those_of_another(
        self, queue_server: QueueServer
    ) -> None:
        """The account of all rings has more events than this ring was ever given."""
        queue = queue_server.queue()
        add(queue, 2)  # of 7 jobs
        add(queue, 20, epoch=OTHER_EPOCH)

        assert queue.restore(EPOCH, 14, 4, 0) == 10
        assert queue.restore(EPOCH, 14, 4, 0) == 0

        counts = queue.counts()
        assert (counts.events_queued, counts.events_delivered) == (50, 4)
        queue.complete(queue.take(*ALL))
        for epoch, delivered in ((EPOCH, 8), (None, 48)):
            counts = queue.counts(epoch)
            assert (counts.events_delivered, counts.events_lost, counts.events_elsewhere) == (delivered, 6, 0)

    def test_a_ring_of_which_redis_lost_only_the_hash_is_counted_once(self, queue_server: QueueServer) -> None:
        """The hash may be evicted, because it expires. The account of all rings has counted its events before."""
        queue = queue_server.queue()
        add(queue, 2)
        queue.complete(queue.take(1, ALL[1]))
        queue_server.forget_ring(EPOCH)
        add(queue, 1, 2)

        assert queue.restore(EPOCH, 6, 2, 0) == 4

        for epoch in (EPOCH, None):
            counts = queue.counts(epoch)
            assert (counts.events_queued, counts.events_delivered) == (4, 2)

    def test_a_mistaken_loss_does_not_make_later_events_lost(self, queue_server: QueueServer) -> None:
        """The jobs of the missing events were there.

        An event that another program removes later counts as elsewhere.
        """
        queue = queue_server.queue()
        add(queue, 1)
        for number in range(2, 7):  # Redis has lost the counts of these jobs
            queue_server.put(f"a{number}", {"data": data_of(number)})
        assert queue.restore(EPOCH, 12, 0, 0) == 10
        assert queue.complete(queue.take(*ALL)) == 6
        for epoch in (EPOCH, None):
            counts = queue.counts(epoch)
            assert (counts.events_queued, counts.events_delivered, counts.events_lost) == (0, 12, 0)

        add(queue, 1, 1)
        queue_server.delete(queue.take(*ALL)[0].id)

        for epoch in (EPOCH, None):
            counts = queue.counts(epoch)
            assert (counts.events_elsewhere, counts.events_lost) == (2, 0)

    @pytest.mark.parametrize("since", [4, 2, 0])
    def test_deliveries_after_the_known_ones_are_counted_in_addition(
        self, queue_server: QueueServer, since: int
    ) -> None:
        """Redis knows of 4 events, and ``since`` of them were handed over after 6 were known to be delivered."""
        queue = queue_server.queue()
        add(queue, 2)
        queue.complete(queue.take(*ALL))

        queue.restore(EPOCH, 14, 6, since)

        counts = queue.counts(EPOCH)
        assert (counts.events_delivered, counts.events_lost) == (6 + since, 8 - since)

    def test_a_wrong_count_is_not_taken_for_a_loss(self, queue_server: QueueServer) -> None:
        """Redis has everything that it was given, but another program changed a count."""
        queue = queue_server.queue()
        add(queue, 5)
        (taken, *_) = queue.take(*ALL)
        queue.complete([taken, taken])

        assert queue.restore(EPOCH, 10, 0, 0) == 0
        assert queue.counts(EPOCH).events_lost == 0

    def test_the_size_is_that_of_the_jobs_in_every_state(self, queue_server: QueueServer) -> None:
        """A failed job takes room, and a completed one does not."""
        queue = queue_server.queue()
        assert queue.size_bytes() == 0
        add(queue, 2)
        size = queue.size_bytes()
        assert size >= 2 * len(data_of(0))
        taken = queue.take(*ALL)
        queue.fail(taken[0], "no")
        assert queue.size_bytes() >= size

        queue.complete(taken[1:])

        assert 0 < queue.size_bytes() < size

    def test_a_queue_belongs_to_the_data_plane_that_added_to_it(self, queue_server: QueueServer) -> None:
        """Another data plane can neither add nor take, and changes nothing. The first data plane can go on."""
        ours, theirs = queue_server.queue(data_plane_id="https://a"), queue_server.queue(data_plane_id="https://b")
        add(ours, 2)
        before = queue_server.view()

        with pytest.raises(AnotherDataPlane) as caught:
            add(theirs, 1, epoch=OTHER_EPOCH)
        with pytest.raises(AnotherDataPlane):
            theirs.take(*ALL)
        with pytest.raises(AnotherDataPlane):
            theirs.check_owner()

        assert (caught.value.owner, caught.value.queue_name) == ("https://a", "rudderEventsQueue")
        assert queue_server.view() == before
        assert theirs.counts(OTHER_EPOCH).events_gone == 0
        ours.check_owner()
        assert ids(ours.take(*ALL)) == ["1", "2"]

    @pytest.mark.parametrize("state", ["waiting", "paused", "active", "delayed", "failed", "empty"])
    def test_only_an_empty_queue_changes_its_data_plane_without_an_adoption(
        self, queue_server: QueueServer, state: str
    ) -> None:
        """A job in any state keeps the queue with its data plane."""
        ours, theirs = queue_server.queue(data_plane_id="https://a"), queue_server.queue(data_plane_id="https://b")
        add(ours, 1)
        if state == "paused":
            queue_server.pause()
        elif state != "waiting":
            (taken,) = ours.take(*ALL)
            if state == "failed":
                ours.fail(taken, "no")
            elif state != "active":
                ours.complete([taken])
        if state == "delayed":
            queue_server.delay("d", queue_server.clock.time_ms() + 5000, {"data": data_of(0, 0), "opts": "{}"})

        if state == "empty":
            theirs.check_owner()
            assert theirs.take(*ALL) == []  # an empty take changes nothing
            add(theirs, 1, epoch=OTHER_EPOCH)
            with pytest.raises(AnotherDataPlane):
                add(ours, 1, 1)
        else:
            with pytest.raises(AnotherDataPlane):
                theirs.check_owner()
            with pytest.raises(AnotherDataPlane):
                add(theirs, 1, epoch=OTHER_EPOCH)
            theirs.adopt()
            add(theirs, 1, epoch=OTHER_EPOCH)

    def test_a_queue_without_a_data_plane_belongs_to_the_first_sender_that_takes(
        self, queue_server: QueueServer
    ) -> None:
        """A process that sets no ``data_plane_id`` can still add and take."""
        old, ours, theirs = (
            queue_server.queue(),
            queue_server.queue(data_plane_id="https://a"),
            queue_server.queue(data_plane_id="https://b"),
        )
        add(old, 3)

        assert ids(ours.take(1, 1)) == ["1"]
        with pytest.raises(AnotherDataPlane):
            theirs.take(*ALL)
        add(old, 1, 3)
        assert ids(old.take(1, 1)) == ["2"]

    def test_only_one_sender_has_the_lease(self, queue_server: QueueServer) -> None:
        """Each other sender sees the holder, and the time until the lease lapses."""
        first, second = lease_of(queue_server.queue()), lease_of(queue_server.queue())

        assert first.take()
        assert not second.take()

        assert first.number == 1
        assert second.others.endswith(" alive")
        assert 9_000 < second.lapses_in_ms <= 10_000
        assert first.take()
        assert first.number == 1

    def test_a_lapsed_lease_keeps_its_number_if_no_other_sender_had_it(self, queue_server: QueueServer) -> None:
        """A lease that another sender had in between gets a new number."""
        first, second = lease_of(queue_server.queue()), lease_of(queue_server.queue())
        first.take()
        queue_server.lapse_lease()
        assert first.take()
        assert first.number == 1

        queue_server.lapse_lease()
        assert second.take()
        assert second.number == 2
        assert not first.take()
        second.release()

        assert first.take()
        assert first.number == 3

    def test_a_lease_of_a_clock_that_was_set_back_lapses_in_minutes(self, queue_server: QueueServer) -> None:
        """Redis lets a key expire at a time of its clock. The sender that had the lease is dead."""
        first, second = lease_of(queue_server.queue()), lease_of(queue_server.queue())
        assert first.take()
        queue_server.set_clock_back(7 * 24 * 3600 * 1000)

        assert not second.take()
        assert second.lapses_in_ms == 600_000
        assert not second.take()
        assert 590_000 < second.lapses_in_ms <= 600_000
        assert first.take()
        assert not second.take()
        assert 9_000 < second.lapses_in_ms <= 10_000

    def test_a_lease_can_be_taken_again_under_a_higher_number(self, queue_server: QueueServer) -> None:
        """Calls with the old fencing token then change nothing. ``kept`` says that no other sender had the lease."""
        queue = queue_server.queue()
        lease = lease_of(queue)
        lease.take()
        assert not lease.kept
        old = queue.fencing_token

        assert lease.take(above=1)
        assert (lease.number, lease.kept) == (2, True)
        assert lease.take(above=1)
        assert (lease.number, lease.kept) == (2, True)

        add(queue, 1)
        queue.fencing_token = old
        with pytest.raises(LeaseLost):
            queue.take(*ALL)

    @pytest.mark.parametrize("between", [False, True])
    @pytest.mark.parametrize("lapsed", [False, True])
    def test_a_lost_answer_does_not_hide_another_holder_of_the_lease(
        self, queue_server: QueueServer, between: bool, lapsed: bool
    ) -> None:
        """The sender sees that another one had the lease in between, also after calls without an answer."""
        queue = queue_server.queue()
        lease = lease_of(queue)
        lease.take()
        if between:
            queue_server.lapse_lease()
            other = lease_of(queue_server.queue())
            other.take()
            other.release()
        unheard = lease_of(queue)
        unheard.__dict__.update(lease.__dict__)
        unheard.take(above=lease.number)
        queue.fencing_token = "1 what was known before"
        if lapsed:
            queue_server.lapse_lease()

        assert lease.take(above=1)

        assert lease.kept is not between
        assert lease.number == 2 + between

    def test_a_sender_can_release_only_its_own_lease(self, queue_server: QueueServer) -> None:
        """A released lease is free at once. A sender that lost its lease releases nothing."""
        first, second = lease_of(queue_server.queue()), lease_of(queue_server.queue())
        first.take()
        queue_server.lapse_lease()
        second.take()

        first.release()
        assert not lease_of(queue_server.queue()).take()
        second.release()
        assert lease_of(queue_server.queue()).take()

    def test_the_lease_of_a_dead_process_can_be_taken_at_once(self, queue_server: QueueServer) -> None:
        """The holder must be known to be dead."""
        first = lease_of(queue_server.queue())
        first.take()

        assert not lease_of(queue_server.queue(), dead="another").take()
        second = lease_of(queue_server.queue(), dead="alive")
        assert second.take()
        assert second.number == 2

    def test_a_lease_whose_answer_was_lost_is_found_again(self, queue_server: QueueServer) -> None:
        """Its holder takes it again without waiting until it lapses."""
        queue = queue_server.queue()
        lease_of(queue).take()
        queue.fencing_token = ""
        again = lease_of(queue)

        assert again.take()
        assert again.number == 1

    def test_a_standby_sees_that_the_lease_is_renewed(self, queue_server: QueueServer) -> None:
        """A standby must tell a living holder from a lease that will lapse."""
        queue = queue_server.queue()
        first, second = lease_of(queue), lease_of(queue_server.queue())
        first.take()
        queue_server.clock.now_s += 1
        second.take()
        queue_server.clock.now_s += 0.001
        second.take()
        assert not second.others_live

        queue.renew([])
        second.lapses_in_ms -= 100
        second.take()

        assert second.others_live

    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("successor", [False, True])
    def test_a_sender_without_its_lease_changes_nothing(
        self, queue_server: QueueServer, change: str, successor: bool
    ) -> None:
        """The lease has lapsed, or another sender has it. The locks of the jobs would still be the sender's own."""
        queue = queue_server.queue()
        lease_of(queue).take()
        add(queue, 3)
        queue_server.delay("d", 0, {"data": data_of(7), "opts": "{}"})
        (taken,) = queue.take(1, 1000)
        queue_server.lapse_lease()
        if successor:
            assert lease_of(queue_server.queue()).take()
        before = queue_server.view(), queue_server.fields(taken.id), queue.counts()

        with pytest.raises(LeaseLost):
            CHANGES[change](queue, taken)

        assert (queue_server.view(), queue_server.fields(taken.id), queue.counts()) == before

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_sender_with_its_lease_can_change_the_queue(self, queue_server: QueueServer, change: str) -> None:
        """Where several senders share a queue, a sender has no lease and needs none."""
        for fenced in (True, False):
            queue = queue_server.queue()
            if fenced:
                lease_of(queue).take()
            queue_server.put("x", {"data": data_of(8), "opts": "{}"})
            (taken,) = queue.take(1, 1000)

            CHANGES[change](queue, taken)

            queue_server.delete("x")

    def test_a_split_makes_two_active_jobs_in_the_order_of_the_events(self, queue_server: QueueServer) -> None:
        """Both are locked and stand next to each other. Each is settled by itself, and no event is in both."""
        queue = queue_server.queue()
        lease_of(queue).take()
        add(queue, 3)
        _, middle, _ = queue.take(*ALL)
        queue.retry_later([middle])

        halves = queue.split(middle)

        assert halves is not None
        assert ids(halves) == ["2", "4"]
        assert [users(half) for half in halves] == [["a1"], ["b1"]]
        assert queue_server.view().active == ["1", "2", "4", "3"]
        assert queue_server.view().locks == dict.fromkeys("1234", queue.token)
        assert [queue_server.fields(name)["attemptsMade"] for name in "24"] == ["1", "1"]
        assert queue.fail(halves[0], "bad")
        assert queue.complete([halves[1]]) == 1
        counts = queue.counts(EPOCH)
        assert (counts.events_queued, counts.events_failed, counts.events_delivered) == (4, 1, 1)

    def test_a_repeated_split_does_not_split_the_job_again(self, queue_server: QueueServer) -> None:
        """The first answer may have been lost. The job's data is no longer what the sender read."""
        queue = queue_server.queue()
        add(queue, 1)
        (taken,) = queue.take(*ALL)
        queue.split(taken)
        before = queue_server.view(), queue_server.fields("1"), queue_server.fields("2")

        assert queue.split(taken) is None

        assert (queue_server.view(), queue_server.fields("1"), queue_server.fields("2")) == before

    def test_the_halves_of_a_job_are_recovered_in_their_order(self, queue_server: QueueServer) -> None:
        """The recovering sender knows only what Redis holds, and not the split."""
        queue = queue_server.queue()
        add(queue, 2)
        first, _ = queue.take(*ALL)
        assert queue.split(first)

        other = queue_server.queue()
        assert other.recover().jobs == 3

        assert [users(taken) for taken in other.take(*ALL)] == [["a0"], ["b0"], ["a1", "b1"]]

    def test_another_senders_job_is_not_split(self, queue_server: QueueServer) -> None:
        """A job that is gone is not split either."""
        queue, other = queue_server.queue(), queue_server.queue()
        add(queue, 1)
        (taken,) = queue.take(*ALL)

        assert other.split(taken) is None
        queue.complete([taken])
        assert queue.split(taken) is None
        assert queue_server.view() == View()

    def test_a_job_keeps_its_lane(self, queue_server: QueueServer) -> None:
        """Its halves have the lane too, and so has the job after a recovery, a put-back, a failure and a retry."""
        queue = queue_server.queue()
        queue.add(EPOCH, [(data_of(0), 2, "3/8"), (data_of(1), 2)], {1: (0, 4)}, [])
        stamp = queue_server.fields("1")["timestamp"]
        assert queue_server.fields("1")["opts"] == f'{{"attempts":1,"delay":0,"timestamp":{stamp},"lane":"3/8"}}'

        def taken() -> list[ActiveJob]:
            found = queue.take(*ALL)
            assert [job_.lane for job_ in found] == ["3/8", ""]
            return found

        queue.put_back(taken())
        taken()
        queue.recover()
        first, second = taken()
        halves = queue.split(first)
        assert halves is not None
        assert [half.lane for half in halves] == ["3/8", "3/8"]
        queue.complete([second])
        for half in halves:
            queue.fail(half, "no")
            queue_server.retry(half.id)
        assert [job_.lane for job_ in queue.take(*ALL)] == ["3/8", "3/8"]

    def test_a_lane_that_is_none_is_ignored(self, queue_server: QueueServer) -> None:
        """Other programs may store anything in a job's opts."""
        queue = queue_server.queue()
        for name, opts in (("a", '{"lane":3}'), ("b", '{"x":"\\"lane\\":\\"3/8\\""}'), ("c", "[]")):
            queue_server.put(name, {"data": data_of(1), "opts": opts})

        assert [job_.lane for job_ in queue.take(*ALL)] == ["", "", ""]
