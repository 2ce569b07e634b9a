"""The queue's transitions, on a real Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from rudderpipe import settings as settings_module
from rudderpipe.errors import QueueBehind
from rudderpipe.process.clock import Clock
from rudderpipe.queue import job
from rudderpipe.queue.active_job import ActiveJob
from rudderpipe.queue.keys import Keys
from rudderpipe.queue.queue import Queue
from rudderpipe.testing.redis_server import RedisServer

EPOCH = 0x1111_1111_1111_4111
KEYS = Keys("rudder", "rudderEventsQueue")
P = KEYS.base
ALL = (1000, 1_000_000)


@pytest.fixture(name="redis")
def _redis(redis_server: RedisServer) -> Any:
    """A client whose answers are text."""
    return redis_server.text_client()


def queue_of(server: RedisServer, **settings: Any) -> Queue:
    """A queue with a token of its own."""
    return Queue(settings_module.load({"redis": server.url, **settings}, environment={}), Clock())


@pytest.fixture(name="queue")
def _queue(redis_server: RedisServer) -> Iterator[Queue]:
    queue = queue_of(redis_server)
    yield queue
    queue.close()


def add(queue: Queue, count: int, start: int = 0, term: int = 0) -> None:
    """Jobs of two events each, read from block 1."""
    batches = [(job.build(b'{"userId":"a%d"},{"userId":"b%d"}' % (n, n), "KEY", "t", EPOCH), 2) for n in range(count)]
    queue.add(EPOCH, batches, {1: (start * 2, (start + count) * 2)}, [], term)


def ids(taken: list[ActiveJob]) -> list[str]:
    """Of jobs."""
    return [found.id for found in taken]


def test_a_job_has_the_six_fields_of_bull(queue: Queue, redis: Any) -> None:
    """All of them, as text, and its id at the head of wait."""
    add(queue, 2)

    fields = redis.hgetall(f"{P}1")
    assert set(fields) == {"name", "data", "opts", "timestamp", "delay", "priority"}
    assert (fields["name"], fields["delay"], fields["priority"]) == ("__default__", "0", "0")
    assert fields["opts"] == f'{{"attempts":1,"delay":0,"timestamp":{fields["timestamp"]}}}'
    assert redis.lrange(f"{P}wait", 0, -1) == ["2", "1"]


def test_the_same_events_are_never_added_twice(queue: Queue, redis: Any) -> None:
    """A repetition, or another cut that overlaps, adds nothing and says how far Redis is."""
    add(queue, 5)

    for start in (0, 3):
        with pytest.raises(QueueBehind) as caught:
            add(queue, 4, start)
        assert caught.value.read == {1: 10}
    add(queue, 1, 5)

    assert redis.llen(f"{P}wait") == 6
    assert redis.hget(KEYS.ring(EPOCH), "1") == "12"


def test_what_a_dead_flusher_had_sent_is_not_added_after_its_successor_has(queue: Queue, redis: Any) -> None:
    """Its call comes late, when the block's position may have been forgotten: the term says so."""
    add(queue, 1, term=2)

    with pytest.raises(QueueBehind) as caught:
        add(queue, 1, 7, term=1)

    assert caught.value.read == {0: 2}
    assert redis.llen(f"{P}wait") == 1


def test_a_redis_that_lost_its_last_writes_is_believed_to_have_lost_them(queue: Queue, redis: Any) -> None:
    """It has less than we know: what comes next is added."""
    add(queue, 5)
    redis.hset(KEYS.ring(EPOCH), "1", 4)

    add(queue, 1, 5)

    assert redis.llen(f"{P}wait") == 6


def test_jobs_are_taken_in_order_and_locked(queue: Queue, redis: Any) -> None:
    """Oldest first, within the bounds in number and bytes, never without a lock."""
    add(queue, 5)

    assert ids(queue.take(2, 1_000_000)) == ["1", "2"]
    assert ids(queue.take(5, 10)) == ["3"]  # one at the least
    assert redis.lrange(f"{P}active", 0, -1) == ["3", "2", "1"]
    assert all(0 < redis.pttl(f"{P}{number}:lock") <= 30_000 for number in (1, 2, 3))
    assert redis.hget(f"{P}1", "processedOn")


def test_a_finished_job_leaves_nothing_but_the_account(queue: Queue, redis: Any) -> None:
    """No hash, no lock, no entry; its events are delivered."""
    add(queue, 2)
    first, second = queue.take(*ALL)

    assert queue.complete([first, second]) == 2
    assert queue.complete([first]) == 0

    counts = queue.counts(EPOCH)
    assert (counts.events_queued, counts.events_delivered, counts.events_failed) == (0, 4, 0)
    assert set(redis.keys("*")) == {f"{P}id", KEYS.account, KEYS.ring(EPOCH)}


def test_an_ended_ring_is_forgotten_with_the_last_of_its_jobs(queue: Queue, redis: Any) -> None:
    """Whether the flusher or the sender is done first."""
    add(queue, 2)
    assert not queue.end_ring(EPOCH)
    for taken in queue.take(*ALL):
        assert redis.exists(KEYS.ring(EPOCH))
        queue.complete([taken])
    assert redis.hgetall(KEYS.ring(EPOCH)) == {"term": "0", "ended": "1"}
    assert 0 < redis.ttl(KEYS.ring(EPOCH)) <= 24 * 3600

    redis.delete(KEYS.ring(EPOCH))
    add(queue, 1, term=7)
    queue.complete(queue.take(*ALL))
    assert queue.end_ring(EPOCH)
    assert redis.hgetall(KEYS.ring(EPOCH)) == {"term": "7", "ended": "1"}
    assert 0 < redis.ttl(KEYS.ring(EPOCH)) <= 24 * 3600


def test_complete_and_take_are_two_steps_over_one_round_trip(queue: Queue, redis: Any) -> None:
    """Also when Redis has forgotten the scripts."""
    add(queue, 2)
    taken = queue.take(1, 1000)
    redis.script_flush()

    kept, following = queue.complete_and_take(taken, 1, 1000)

    assert kept == 1
    assert ids(following) == ["2"]


def test_a_failed_job_keeps_its_data_and_can_be_retried(queue: Queue, redis: Any) -> None:
    """Reason and time are there, attempts are 0; taken again, its events count as queued again."""
    add(queue, 1)
    (taken,) = queue.take(*ALL)
    assert queue.retry_later([taken]) == [taken]
    assert redis.hget(f"{P}1", "attemptsMade") == "1"

    assert queue.fail(taken, 'status 400: "bad"')

    fields = redis.hgetall(f"{P}1")
    assert (fields["failedReason"], fields["attemptsMade"]) == ('status 400: "bad"', "0")
    assert json.loads(fields["stacktrace"]) == ['status 400: "bad"']
    assert redis.zrange(f"{P}failed", 0, -1) == ["1"]
    assert queue.counts(EPOCH).events_failed == 2
    redis.zrem(f"{P}failed", "1")  # what Bull's retry does
    redis.lpush(f"{P}wait", "1")
    (again,) = queue.take(*ALL)
    counts = queue.counts(EPOCH)
    assert (counts.events_queued, counts.events_failed) == (2, 0)
    assert again.attempts == 0
    assert queue.complete([again]) == 1
    assert queue.counts(EPOCH).events_delivered == 2


def test_nothing_is_changed_under_another_senders_lock(queue: Queue, redis_server: RedisServer, redis: Any) -> None:
    """Complete, fail, renew and put back leave the job alone."""
    other = queue_of(redis_server)
    add(queue, 1)
    (taken,) = queue.take(*ALL)
    before = redis.hgetall(f"{P}1")

    assert other.complete([taken]) == 0
    assert other.fail(taken, "no") is False
    assert other.renew([taken]) == []
    assert other.retry_later([taken]) == []
    assert other.put_back([taken]) == 0

    assert redis.hgetall(f"{P}1") == before
    assert redis.lrange(f"{P}active", 0, -1) == ["1"]
    assert queue.complete([taken]) == 1
    other.close()


def test_what_is_put_back_is_first_in_line_in_its_order(queue: Queue) -> None:
    """Nothing overtakes it, and its attempts stay."""
    add(queue, 4)
    taken = queue.take(3, 1_000_000)
    queue.retry_later(taken[:1])

    assert queue.put_back(taken) == 3

    again = queue.take(*ALL)
    assert ids(again) == ["1", "2", "3", "4"]
    assert again[0].attempts == 1


def test_what_a_dead_sender_left_is_first_in_line_oldest_first(queue: Queue, redis_server: RedisServer) -> None:
    """Any number of jobs, without waiting for its locks, attempts at 0."""
    add(queue, 1500)
    dead = queue_of(redis_server)
    dead.retry_later(dead.take(1000, 10_000_000))
    dead.take(200, 10_000_000)
    dead.close()

    assert queue.recover().jobs == 1200

    again = queue.take(1000, 100_000_000)
    assert ids(again) == [str(number) for number in range(1, 1001)]
    assert {taken.attempts for taken in again} == {0}


def test_a_paused_queue_gives_nothing_and_keeps_its_order(queue: Queue, redis: Any) -> None:
    """Jobs go to paused, as Bull's writers put them; after resume they are taken."""
    add(queue, 1)
    (taken,) = queue.take(*ALL)
    redis.set(f"{P}meta-paused", "1")
    add(queue, 1, 1)
    queue.put_back([taken])

    assert queue.take(*ALL) == []
    assert redis.lrange(f"{P}paused", 0, -1) == ["2", "1"]
    assert queue.counts().paused
    redis.rename(f"{P}paused", f"{P}wait")
    redis.delete(f"{P}meta-paused")
    assert ids(queue.take(*ALL)) == ["1", "2"]


def test_jobs_whose_lock_lapsed_between_two_sweeps_are_next_in_line(queue: Queue, redis: Any) -> None:
    """A locked one is left alone; one that stalls a second time is failed, as with Bull."""
    add(queue, 2)
    first, second = queue.take(*ALL)
    assert queue.sweep(1) == 0  # they are suspects now
    redis.delete(f"{P}1:lock", f"{P}stalled-check")
    assert queue.sweep(30_000) == 1
    assert queue.sweep(30_000) == 0  # too soon
    assert redis.lrange(f"{P}wait", 0, -1) == ["1"]
    assert redis.lrange(f"{P}active", 0, -1) == ["2"]
    assert queue.complete([second]) == 1

    assert ids(queue.take(*ALL)) == [first.id]
    for _ in range(2):
        redis.delete(f"{P}1:lock", f"{P}stalled-check")
        queue.sweep(30_000)
    assert redis.zrange(f"{P}failed", 0, -1) == ["1"]
    assert redis.hget(f"{P}1", "failedReason") == "job stalled more than allowable limit"


@pytest.mark.parametrize("broken", [{}, {"opts": "{}"}, {"data": "nonsense"}, {"data": '{"version":9,"eventData":""}'}])
def test_broken_content_can_be_failed_with_a_reason(queue: Queue, redis: Any, broken: dict[str, str]) -> None:
    """An id without a hash, a hash without data, data of nobody's form: taken, unreadable, failed, kept."""
    redis.lpush(f"{P}wait", "x")
    if broken:
        redis.hset(f"{P}x", mapping=broken)

    (taken,) = queue.take(*ALL)
    assert taken.job is None
    assert taken.trouble
    assert queue.fail(taken, taken.trouble)

    assert redis.hget(f"{P}x", "failedReason") == taken.trouble
    assert redis.hget(f"{P}x", "data") == broken.get("data", "{}")
    assert redis.lrange(f"{P}active", 0, -1) == []


@pytest.mark.parametrize("name", ["wait", "active", "id", "failed", "limiter:7", "1:lock", "text"])
def test_an_id_that_names_another_key_harms_nothing(queue: Queue, redis: Any, name: str) -> None:
    """The key keeps what it has, and the failure stands under a number of its own."""
    add(queue, 1)
    queue.take(*ALL)
    redis.set(f"{P}text", "kept")
    redis.lpush(f"{P}wait", name)

    (taken,) = queue.take(*ALL)
    assert queue.fail(taken, taken.trouble)

    assert "does not belong to a job" in redis.hget(f"{P}2", "failedReason")
    assert redis.zrange(f"{P}failed", 0, -1) == ["2"]
    assert redis.get(f"{P}text") == "kept"
    assert redis.lrange(f"{P}active", 0, -1) == ["1"]
    counts = queue.counts()
    assert (counts.waiting, counts.active, counts.failed) == (0, 1, 1)


def test_a_prefix_gets_braces_once(redis_server: RedisServer) -> None:
    """So that a Redis Cluster keeps the whole queue in one slot."""
    for prefix in ("x", "{x}"):
        queue = queue_of(redis_server, prefix=prefix)
        assert queue.keys.base == "{x}:rudderEventsQueue:"
        queue.close()


def test_one_call_holds_events_of_thousands_of_blocks(queue: Queue, redis: Any) -> None:
    """A large ring, and each block with the one event of a process that lived briefly."""
    offsets = dict.fromkeys(range(1, 9001), (0, 1))

    queue.add(EPOCH, [("[]", 9000)], offsets, [])

    positions = redis.hgetall(KEYS.ring(EPOCH))
    assert [positions[str(block)] for block in offsets] == ["1"] * 9000
    with pytest.raises(QueueBehind):
        queue.add(EPOCH, [("[]", 9000)], offsets, [])
