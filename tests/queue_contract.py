"""What a queue promises to senders and flushers, whatever keeps it: a subclass brings a ``queue_server`` for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import pytest

from rudderpipe.errors import AnotherDataPlane, LeaseLost, QueueBehind, QueueUnavailable
from rudderpipe.queue import job
from rudderpipe.queue.active_job import ActiveJob
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.queue import Queue
from tests.fakes import FakeClock

EPOCH = 0x1111_1111_1111_4111
OTHER_EPOCH = 0x2222_2222_2222_4222
ALL = (1000, 10_000_000)


class View(msgspec.Struct):
    """Where each job is."""

    line: list[str] = []
    """Waiting, the next one first."""
    active: list[str] = []
    """Oldest first."""
    delayed: list[str] = []
    failed: list[str] = []
    completed: list[str] = []
    locks: dict[str, str] = {}
    """Of jobs: whose."""


class QueueServer(Protocol):
    """A queue's keeper: opens queues on it, shows it, and does to it what time and foreign tools do."""

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
    def retry(self, name: str) -> None: ...
    def lapse(self, *names: str) -> None: ...
    def interval_passes(self) -> None: ...
    def lapse_lease(self) -> None: ...


def data_of(number: int, epoch: int = EPOCH) -> str:
    """A job of two events."""
    return job.build(b'{"userId":"a%d"},{"userId":"b%d"}' % (number, number), "KEY", "t", epoch)


def add(queue: Queue, count: int, start: int = 0, term: int = 0, epoch: int = EPOCH) -> None:
    """Jobs of two events each, read from block 1."""
    batches = [(data_of(number, epoch), 2) for number in range(start, start + count)]
    queue.add(epoch, batches, {1: (start * 2, (start + count) * 2)}, [], term)


def ids(taken: Sequence[ActiveJob]) -> list[str]:
    """Of jobs."""
    return [found.id for found in taken]


def users(taken: ActiveJob) -> list[str]:
    """Whose events a job holds."""
    assert taken.job is not None
    return [msgspec.json.decode(event)["userId"] for event in taken.job.events]


def lease_of(queue: Queue, dead: str = "nobody") -> Lease:
    """A process's, who takes another for dead that says so."""
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
"""Whatever a sender does to the queue."""


class QueueContract:
    """Each test is one promise."""

    def test_jobs_wait_in_the_order_in_which_they_were_added(self, queue_server: QueueServer) -> None:
        """Of one call and of several; their events are queued, and the ring's positions known."""
        queue = queue_server.queue()
        add(queue, 2)
        add(queue, 1, 2)

        assert queue_server.view() == View(line=["1", "2", "3"])
        counts = queue.counts(EPOCH)
        assert (counts.events_queued, counts.offsets) == (6, {1: 6})
        assert users(queue.take(*ALL)[2]) == ["a2", "b2"]

    def test_events_are_added_once(self, queue_server: QueueServer) -> None:
        """A repetition, or another cut that overlaps, adds nothing and says how far the queue is."""
        queue = queue_server.queue()
        add(queue, 5)

        for start in (0, 3):
            with pytest.raises(QueueBehind) as caught:
                add(queue_server.queue(), 4, start)
            assert caught.value.read == {1: 10}
        add(queue, 1, 5)

        assert ids(queue.take(*ALL)) == ["1", "2", "3", "4", "5", "6"]
        assert queue.counts(EPOCH).offsets == {1: 12}

    def test_rings_have_positions_of_their_own(self, queue_server: QueueServer) -> None:
        """The same block of two rings; both are counted in the account of all."""
        queue = queue_server.queue()
        add(queue, 1)
        add(queue, 2, epoch=OTHER_EPOCH)

        assert [queue.counts(epoch).events_queued for epoch in (EPOCH, OTHER_EPOCH, None)] == [2, 4, 6]

    def test_a_freed_block_begins_anew(self, queue_server: QueueServer) -> None:
        """Its position is forgotten with the call that says so."""
        queue = queue_server.queue()
        add(queue, 1)
        queue.add(EPOCH, [(data_of(7), 2)], {2: (0, 2)}, [1])
        assert queue.counts(EPOCH).offsets == {2: 2}

        add(queue, 1)

        assert queue.counts(EPOCH).offsets == {1: 2, 2: 2}

    def test_a_dead_flushers_late_call_adds_nothing(self, queue_server: QueueServer) -> None:
        """The term of its successor stands, also when positions do not tell."""
        queue = queue_server.queue()
        add(queue, 1, term=2)

        with pytest.raises(QueueBehind) as caught:
            add(queue, 1, 7, term=1)
        add(queue, 1, 7, term=2)

        assert caught.value.read == {0: 2}
        assert queue_server.view().line == ["1", "2"]

    def test_a_take_keeps_to_its_bounds(self, queue_server: QueueServer) -> None:
        """In number, in bytes of data, and one at the least."""
        queue = queue_server.queue()
        add(queue, 9)
        size = len(data_of(0))

        assert ids(queue.take(2, 1_000_000)) == ["1", "2"]
        assert ids(queue.take(1000, 10)) == ["3"]
        assert ids(queue.take(1000, 2 * size)) == ["4", "5"]
        assert ids(queue.take(1000, 3 * size - 1)) == ["6", "7"]
        assert ids(queue.take(*ALL)) == ["8", "9"]
        assert queue.take(*ALL) == []

    def test_what_is_taken_is_active_and_locked_by_the_taker(self, queue_server: QueueServer) -> None:
        """Whoever else takes gets the next ones."""
        one, other = queue_server.queue(), queue_server.queue()
        add(one, 3)

        assert ids(one.take(1, 1000)) == ["1"]
        assert ids(other.take(*ALL)) == ["2", "3"]

        assert queue_server.view() == View(
            active=["1", "2", "3"], locks={"1": one.token, "2": other.token, "3": other.token}
        )

    def test_a_paused_queue_gives_no_job_and_keeps_its_order(self, queue_server: QueueServer) -> None:
        """What is added, put back, recovered or due meanwhile stands where it would; after the pause it is taken."""
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

    def test_a_completed_job_is_gone_and_its_events_are_delivered(self, queue_server: QueueServer) -> None:
        """Once, however often it is said."""
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

    def test_the_newest_completed_jobs_are_kept_when_asked_to(self, queue_server: QueueServer) -> None:
        """As many as the setting says, with their data."""
        queue = queue_server.queue(keep_completed=2)
        add(queue, 3)
        for taken in queue.take(*ALL):
            queue_server.clock.now_s += 1
            queue.complete([taken])

        assert queue_server.view() == View(completed=["2", "3"])
        assert queue.counts().completed == 2
        assert queue_server.fields("1") == {}
        assert queue_server.fields("3")["finishedOn"] == str(queue_server.clock.time_ms())

    def test_completing_and_taking_is_one_and_then_the_other(self, queue_server: QueueServer) -> None:
        """How many were ours, and what is next."""
        queue = queue_server.queue()
        add(queue, 3)
        taken = queue.take(1, 1000)

        kept, following = queue.complete_and_take(taken, 1, 1000)

        assert (kept, ids(following)) == (1, ["2"])
        assert queue.complete_and_take(taken, 1, 1000)[0] == 0
        assert queue_server.view().active == ["2", "3"]

    def test_a_failed_job_keeps_its_data_its_reason_and_its_time(self, queue_server: QueueServer) -> None:
        """Its events are failed; retried by a tool of Bull's and taken they are queued again, at the first attempt."""
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

    def test_attempts_in_a_node_sdks_data_are_forgotten_when_it_fails(self, queue_server: QueueServer) -> None:
        """Else a retry by any tool would fail at once."""
        queue = queue_server.queue()
        data = data_of(0).replace('\\"attempts\\":0', '\\"attempts\\":9')
        queue_server.put("node", {"data": data, "opts": "{}"})
        (taken,) = queue.take(*ALL)
        assert taken.attempts == 9

        queue.fail(taken, "no more")

        assert '\\"attempts\\":0' in queue_server.fields("node")["data"]

    def test_an_attempt_is_counted_and_the_job_stays_locked(self, queue_server: QueueServer) -> None:
        """Also when the lock had lapsed, and nobody took it."""
        queue = queue_server.queue()
        add(queue, 1)
        (taken,) = queue.take(*ALL)

        assert queue.retry_later([taken]) == [taken]
        queue_server.lapse("1")
        assert queue.retry_later([taken]) == [taken]

        assert queue_server.view() == View(active=["1"], locks={"1": queue.token})
        assert queue_server.fields("1")["attemptsMade"] == "2"

    def test_no_attempt_is_counted_of_a_job_that_is_gone(self, queue_server: QueueServer) -> None:
        """A tool of Bull's has deleted it; nothing is made of it."""
        queue = queue_server.queue()
        add(queue, 1)
        (taken,) = queue.take(*ALL)
        queue_server.delete("1")

        assert queue.retry_later([taken]) == []
        assert queue_server.fields("1") == {}

    def test_a_lock_that_lapsed_is_taken_again_by_its_holder(self, queue_server: QueueServer) -> None:
        """So nobody else's sweep takes the job away."""
        queue, other = queue_server.queue(), queue_server.queue()
        add(queue, 1)
        taken = queue.take(*ALL)
        other.sweep()
        queue_server.lapse("1")

        assert queue.renew(taken) == taken

        queue_server.interval_passes()
        queue_server.lapse("1")  # and it is no suspect any more: a lapse begins to count again
        assert other.sweep() == 0
        assert queue_server.view().active == ["1"]

    @pytest.mark.parametrize("held", ["renew", "retry_later"])
    @pytest.mark.parametrize("where", ["line", "failed", "gone"])
    def test_what_is_no_more_active_is_not_locked_again(self, queue_server: QueueServer, where: str, held: str) -> None:
        """A slow sender whose jobs were swept meanwhile is told so; its lock would keep people from a retry."""
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
        """Nothing overtakes it, its attempts stay, and nobody holds it."""
        queue = queue_server.queue()
        add(queue, 4)
        taken = queue.take(3, 1_000_000)
        queue.retry_later(taken[:1])

        assert queue.put_back(taken) == 3
        assert queue.put_back(taken) == 0

        assert queue_server.view() == View(line=["1", "2", "3", "4"])
        assert [found.attempts for found in queue.take(*ALL)] == [1, 0, 0, 0]

    def test_jobs_of_a_dead_sender_are_first_in_line_oldest_first(self, queue_server: QueueServer) -> None:
        """Without waiting for its locks, attempts at 0; a second time there is nothing."""
        queue, dead = queue_server.queue(), queue_server.queue()
        add(queue, 4)
        dead.retry_later(dead.take(2, 1_000_000))
        dead.take(1, 1_000_000)

        assert queue.recover().jobs == 3
        assert queue.recover().jobs == 0

        assert queue_server.view() == View(line=["1", "2", "3", "4"])
        assert {taken.attempts for taken in queue.take(*ALL)} == {0}

    def test_what_a_sender_keeps_is_not_recovered(self, queue_server: QueueServer) -> None:
        """Of the others those without a lock or under its own, with their attempts; another's lock stands."""
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

    def test_one_of_several_senders_puts_back_what_its_own_token_has_locked(self, queue_server: QueueServer) -> None:
        """And nothing that has lapsed: that may be another's, whose sweep sees to it."""
        queue, other = queue_server.queue(), queue_server.queue()
        add(queue, 3)
        queue.take(2, 1_000_000)
        other.take(1, 1000)
        queue_server.lapse("1")

        assert queue.recover((), "ours") == (1, 0)

        assert queue_server.view() == View(line=["2"], active=["1", "3"], locks={"3": other.token})

    def test_what_is_active_without_a_lock_is_seen(self, queue_server: QueueServer) -> None:
        """Until a sender has locked it."""
        queue = queue_server.queue()
        add(queue, 3)
        taken = queue.take(2, 1_000_000)
        assert queue.stranded() == 0

        queue_server.lapse("1", "2")
        assert queue.stranded() == 2

        queue.renew(taken[:1])
        assert queue.stranded() == 1

    def test_those_that_are_still_ours_are_named(self, queue_server: QueueServer) -> None:
        """In their order, whether one was deleted or another has its lock."""
        queue, other = queue_server.queue(), queue_server.queue()
        add(queue, 4)
        taken = queue.take(*ALL)
        queue_server.delete("1")
        queue_server.lapse("3")
        other.renew(taken[2:3])

        assert ids(queue.renew(taken)) == ["2", "4"]
        assert ids(queue.retry_later(taken)) == ["2", "4"]

    def test_another_senders_lock_is_never_touched(self, queue_server: QueueServer) -> None:
        """Complete, fail, renew, count and put back leave the job alone and say so."""
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
    def test_a_lock_that_merely_lapsed_is_no_obstacle(self, queue_server: QueueServer, committed: str) -> None:
        """Its sender knows best what came of the job."""
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

    def test_a_job_that_another_has_taken_over_is_settled_by_that_one(self, queue_server: QueueServer) -> None:
        """Its events are counted once."""
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
        """It is next in line then, unless it is locked or settled; within one interval nothing is swept."""
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

    def test_a_job_that_stalls_twice_is_failed(self, queue_server: QueueServer) -> None:
        """Its events are counted as failed, and as queued again once it is retried."""
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
        """In the order in which they are due; the answer is when the next one is."""
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
    def test_foreign_content_is_taken_with_its_trouble_and_can_be_failed(
        self, queue_server: QueueServer, broken: dict[str, str] | None
    ) -> None:
        """An id without a hash, a hash without data, data of nobody's form: taken with a reason, kept."""
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

    def test_an_id_whose_key_is_no_job_fails_under_a_number_of_its_own(self, queue_server: QueueServer) -> None:
        """What stands there is nobody's to change."""
        queue = queue_server.queue()
        queue_server.put_no_hash("odd")
        (taken,) = queue.take(*ALL)
        assert queue.retry_later([taken]) == []

        assert queue.fail(taken, taken.trouble)

        assert "odd" in taken.trouble
        assert queue_server.view() == View(failed=["1"])
        assert queue_server.fields("1")["failedReason"] == taken.trouble

    def test_a_job_whose_key_turns_into_something_else_can_be_failed(self, queue_server: QueueServer) -> None:
        """While it is active, under a number of its own."""
        queue = queue_server.queue()
        add(queue, 2)
        taken, _ = queue.take(*ALL)
        queue_server.spoil("1")

        assert queue.fail(taken, "no")

        assert queue_server.view().failed == ["3"]
        assert queue_server.view().active == ["2"]
        assert queue_server.fields("3")["failedReason"] == "no"

    def test_an_id_that_waits_twice_is_active_once(self, queue_server: QueueServer) -> None:
        """A tool's mistake: it is settled once."""
        queue = queue_server.queue()
        queue_server.put("x", {"data": data_of(1), "opts": "{}"})
        queue_server.put("x", {"data": data_of(1), "opts": "{}"})

        taken = queue.take(*ALL)

        assert queue_server.view() == View(active=["x"], locks={"x": queue.token})
        assert queue.complete(taken[:1]) == 1
        assert queue_server.view() == View()

    def test_events_that_somebody_else_saw_to_are_elsewhere(self, queue_server: QueueServer) -> None:
        """When nothing waits, is active or delayed, none is queued, and all of them are accounted for."""
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

    def test_a_rings_account_goes_with_the_last_of_its_jobs(self, queue_server: QueueServer) -> None:
        """Whether the flusher or the sender is done first; failed ones keep it."""
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
    def test_nothing_is_added_for_a_ring_that_has_ended(self, queue_server: QueueServer, ended_first: bool) -> None:
        """A call that arrives that late would add its events again, as the positions are forgotten."""
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
    def test_what_redis_has_lost_is_accounted_for_once(self, queue_server: QueueServer, known: int) -> None:
        """What is known to be delivered is; the rest is queued while jobs are there, and lost when none is."""
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

    def test_what_was_not_lost_after_all_makes_nothing_else_lost(self, queue_server: QueueServer) -> None:
        """The jobs of the missing events were there: what another SDK's worker sees to later is elsewhere."""
        queue = queue_server.queue()
        add(queue, 1)
        for number in range(2, 7):  # whose account Redis has lost
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
    def test_what_was_delivered_since_is_not_what_was_known_to_be(self, queue_server: QueueServer, since: int) -> None:
        """Of the 4 events that Redis knows of, so many were handed over after 6 were known to be delivered."""
        queue = queue_server.queue()
        add(queue, 2)
        queue.complete(queue.take(*ALL))

        queue.restore(EPOCH, 14, 6, since)

        counts = queue.counts(EPOCH)
        assert (counts.events_delivered, counts.events_lost) == (6 + since, 8 - since)

    def test_an_account_that_is_wrong_is_not_taken_for_a_loss(self, queue_server: QueueServer) -> None:
        """Redis has all that it was given, and another program has changed a number."""
        queue = queue_server.queue()
        add(queue, 5)
        (taken, *_) = queue.take(*ALL)
        queue.complete([taken, taken])

        assert queue.restore(EPOCH, 10, 0, 0) == 0
        assert queue.counts(EPOCH).events_lost == 0

    def test_what_is_there_takes_room_and_what_is_gone_does_not(self, queue_server: QueueServer) -> None:
        """The size is that of the jobs in every state."""
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
        """Another one can neither add nor take, and changes nothing; when it is the same again, both go on."""
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
    def test_only_an_empty_queue_changes_hands_by_itself(self, queue_server: QueueServer, state: str) -> None:
        """No job is left in it, wherever one may be."""
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
            assert theirs.take(*ALL) == []  # looking changes nothing
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

    def test_jobs_of_a_version_that_does_not_say_go_to_who_takes_first(self, queue_server: QueueServer) -> None:
        """The queue is the taker's from then on; an old process goes on adding and taking."""
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

    def test_one_process_has_the_lease(self, queue_server: QueueServer) -> None:
        """The others know who, and for how long yet."""
        first, second = lease_of(queue_server.queue()), lease_of(queue_server.queue())

        assert first.take()
        assert not second.take()

        assert first.number == 1
        assert second.others.endswith(" alive")
        assert 9_000 < second.lapses_in_ms <= 10_000
        assert first.take()
        assert first.number == 1

    def test_a_lease_goes_on_when_nobody_has_had_it_since(self, queue_server: QueueServer) -> None:
        """With its number; one that another has had does not."""
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

    def test_a_lease_is_kept_under_a_higher_number(self, queue_server: QueueServer) -> None:
        """What was under way with the old one changes nothing any more; no other has had it in between."""
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
    def test_a_lost_answer_does_not_hide_who_had_the_lease(
        self, queue_server: QueueServer, between: bool, lapsed: bool
    ) -> None:
        """Another one's tenure in between is seen, however many questions got no answer."""
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

    def test_a_released_lease_is_free_and_only_ones_own_is_released(self, queue_server: QueueServer) -> None:
        """At once; of a lease that was lost nothing is released."""
        first, second = lease_of(queue_server.queue()), lease_of(queue_server.queue())
        first.take()
        queue_server.lapse_lease()
        second.take()

        first.release()
        assert not lease_of(queue_server.queue()).take()
        second.release()
        assert lease_of(queue_server.queue()).take()

    def test_a_dead_process_is_followed_at_once(self, queue_server: QueueServer) -> None:
        """When it is known to be dead, and only then."""
        first = lease_of(queue_server.queue())
        first.take()

        assert not lease_of(queue_server.queue(), dead="another").take()
        second = lease_of(queue_server.queue(), dead="alive")
        assert second.take()
        assert second.number == 2

    def test_a_lease_whose_answer_was_lost_is_found_again(self, queue_server: QueueServer) -> None:
        """By the process that has it, without waiting for it to lapse."""
        queue = queue_server.queue()
        lease_of(queue).take()
        queue.fencing_token = ""
        again = lease_of(queue)

        assert again.take()
        assert again.number == 1

    def test_a_lease_that_is_renewed_is_seen_to_live(self, queue_server: QueueServer) -> None:
        """By one who stands by."""
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
    def test_without_its_lease_a_sender_changes_nothing(
        self, queue_server: QueueServer, change: str, successor: bool
    ) -> None:
        """Whether it has lapsed or another has it; the lock would still have been its own."""
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
    def test_with_its_lease_a_sender_changes_what_it_likes(self, queue_server: QueueServer, change: str) -> None:
        """And a sender that has none, because there may be several, is not asked for one."""
        for fenced in (True, False):
            queue = queue_server.queue()
            if fenced:
                lease_of(queue).take()
            queue_server.put("x", {"data": data_of(8), "opts": "{}"})
            (taken,) = queue.take(1, 1000)

            CHANGES[change](queue, taken)

            queue_server.delete("x")

    def test_a_split_job_is_two_in_the_order_of_its_events(self, queue_server: QueueServer) -> None:
        """Both active and locked, next to one another; each is settled as itself, and no event is in both."""
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

    def test_a_job_that_was_split_is_not_split_again_by_who_has_not_heard_of_it(
        self, queue_server: QueueServer
    ) -> None:
        """Nor one whose data is not what the caller has read."""
        queue = queue_server.queue()
        add(queue, 1)
        (taken,) = queue.take(*ALL)
        queue.split(taken)
        before = queue_server.view(), queue_server.fields("1"), queue_server.fields("2")

        assert queue.split(taken) is None

        assert (queue_server.view(), queue_server.fields("1"), queue_server.fields("2")) == before

    def test_the_halves_of_a_job_are_recovered_in_their_order(self, queue_server: QueueServer) -> None:
        """As what stands in Redis says, not what the sender that split it knew."""
        queue = queue_server.queue()
        add(queue, 2)
        first, _ = queue.take(*ALL)
        assert queue.split(first)

        other = queue_server.queue()
        assert other.recover().jobs == 3

        assert [users(taken) for taken in other.take(*ALL)] == [["a0"], ["b0"], ["a1", "b1"]]

    def test_another_senders_job_is_not_split(self, queue_server: QueueServer) -> None:
        """Nor one that is gone."""
        queue, other = queue_server.queue(), queue_server.queue()
        add(queue, 1)
        (taken,) = queue.take(*ALL)

        assert other.split(taken) is None
        queue.complete([taken])
        assert queue.split(taken) is None
        assert queue_server.view() == View()
