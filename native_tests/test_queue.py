"""The queue's transitions on a real Redis."""

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
    """Return a client that returns text."""
    return redis_server.text_client()


def queue_of(server: RedisServer, **settings: Any) -> Queue:
    """Return a queue with a new token."""
    return Queue(settings_module.load({"redis": server.url, **settings}, environment={}), Clock())


@pytest.fixture(name="queue")
def _queue(redis_server: RedisServer) -> Iterator[Queue]:
    queue = queue_of(redis_server)
    yield queue
    queue.close()


def add(queue: Queue, count: int, start: int = 0, term: int = 0) -> None:
    """Add jobs of two events each, read from block 1."""
    batches = [(job.build(b'{"userId":"a%d"},{"userId":"b%d"}' % (n, n), "KEY", "t", EPOCH), 2) for n in range(count)]
    queue.add(EPOCH, batches, {1: (start * 2, (start + count) * 2)}, [], term)


def ids(taken: list[ActiveJob]) -> list[str]:
    """Return the ids of these jobs."""
    return [found.id for found in taken]


def test_a_job_has_the_six_fields_of_bull(queue: Queue, redis: Any) -> None:
    """Bull's workers and tools read these fields as text, and find the id at the head of ``wait``."""
    add(queue, 2)

    fields = redis.hgetall(f"{P}1")
    assert set(fields) == {"name", "data", "opts", "timestamp", "delay", "priority"}
    assert (fields["name"], fields["delay"], fields["priority"]) == ("__default__", "0", "0")
    assert fields["opts"] == f'{{"attempts":1,"delay":0,"timestamp":{fields["timestamp"]}}}'
    assert redis.lrange(f"{P}wait", 0, -1) == ["2", "1"]


def test_the_same_events_are_never_added_twice(queue: Queue, redis: Any) -> None:
    """A repeated call, or one whose batch overlaps, adds nothing and reports the offsets that Redis holds."""
    add(queue, 5)

    for start in (0, 3):
        with pytest.raises(QueueBehind) as caught:
            add(queue, 4, start)
        assert caught.value.read == {1: 10}
    add(queue, 1, 5)

    assert redis.llen(f"{P}wait") == 6
    assert redis.hget(KEYS.ring(EPOCH), "1") == "12"


def test_a_late_call_of_a_dead_flusher_adds_nothing(queue: Queue, redis: Any) -> None:
    """Redis may have forgotten the block's offset by then, so the term decides."""
    add(queue, 1, term=2)

    with pytest.raises(QueueBehind) as caught:
        add(queue, 1, 7, term=1)

    assert caught.value.read == {0: 2}
    assert redis.llen(f"{P}wait") == 1


def test_a_redis_that_lost_its_last_writes_takes_the_next_batch(queue: Queue, redis: Any) -> None:
    """Its offset is behind ours, and must not keep the next events out."""
    add(queue, 5)
    redis.hset(KEYS.ring(EPOCH), "1", 4)

    add(queue, 1, 5)

    assert redis.llen(f"{P}wait") == 6


def test_jobs_are_taken_in_order_and_locked(queue: Queue, redis: Any) -> None:
    """A take is bounded in number and bytes, and no job is ever active without a lock."""
    add(queue, 5)

    assert ids(queue.take(2, 1_000_000)) == ["1", "2"]
    assert ids(queue.take(5, 10)) == ["3"]  # at least one
    assert redis.lrange(f"{P}active", 0, -1) == ["3", "2", "1"]
    assert all(0 < redis.pttl(f"{P}{number}:lock") <= 30_000 for number in (1, 2, 3))
    assert redis.hget(f"{P}1", "processedOn")


def test_a_delivered_job_leaves_only_its_counts(queue: Queue, redis: Any) -> None:
    """Hash, lock and entry are deleted, so that Redis does not fill up."""
    add(queue, 2)
    first, second = queue.take(*ALL)

    assert queue.complete([first, second]) == 2
    assert queue.complete([first]) == 0

    counts = queue.counts(EPOCH)
    assert (counts.events_queued, counts.events_delivered, counts.events_failed) == (0, 4, 0)
    assert set(redis.keys("*")) == {f"{P}id", KEYS.account, KEYS.added, KEYS.ring(EPOCH)}


def test_an_ended_ring_is_forgotten_with_the_last_of_its_jobs(queue: Queue, redis: Any) -> None:
    """This holds whether the flusher or the sender ends first. A tombstone stays for a day."""
    add(queue, 2)
    assert not queue.end_ring(EPOCH)
    for taken in queue.take(*ALL):
        assert redis.exists(KEYS.ring(EPOCH))
        queue.complete([taken])
    assert redis.hgetall(KEYS.ring(EPOCH)) == {"term": "0", "added": "4", "ended": "1"}
    assert 0 < redis.ttl(KEYS.ring(EPOCH)) <= 24 * 3600

    redis.delete(KEYS.ring(EPOCH))
    add(queue, 1, term=7)
    queue.complete(queue.take(*ALL))
    assert queue.end_ring(EPOCH)
    assert redis.hgetall(KEYS.ring(EPOCH)) == {"term": "7", "added": "2", "ended": "1"}
    assert 0 < redis.ttl(KEYS.ring(EPOCH)) <= 24 * 3600


def test_complete_and_take_work_in_one_round_trip(queue: Queue, redis: Any) -> None:
    """The two scripts are also sent again when Redis has forgotten them."""
    add(queue, 2)
    taken = queue.take(1, 1000)
    redis.script_flush()

    kept, following = queue.complete_and_take(taken, 1, 1000)

    assert kept == 1
    assert ids(following) == ["2"]


def test_a_failed_job_keeps_its_data_and_can_be_retried(queue: Queue, redis: Any) -> None:
    """The failed set shows reason and time. A retried job starts with 0 attempts and counts as queued again."""
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


def test_a_call_changes_no_job_under_another_senders_lock(queue: Queue, redis_server: RedisServer, redis: Any) -> None:
    """The job belongs to the sender whose token stands in the lock."""
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


def test_jobs_that_are_put_back_are_first_in_line_in_their_order(queue: Queue) -> None:
    """No later job may overtake them, and their attempts stay counted."""
    add(queue, 4)
    taken = queue.take(3, 1_000_000)
    queue.retry_later(taken[:1])

    assert queue.put_back(taken) == 3

    again = queue.take(*ALL)
    assert ids(again) == ["1", "2", "3", "4"]
    assert again[0].attempts == 1


def test_jobs_of_a_dead_sender_are_first_in_line_oldest_first(queue: Queue, redis_server: RedisServer) -> None:
    """The recovery takes any number of jobs, waits for no lock, and resets the attempts."""
    add(queue, 1500)
    dead = queue_of(redis_server)
    dead.retry_later(dead.take(1000, 10_000_000))
    dead.take(200, 10_000_000)
    dead.close()

    assert queue.recover().jobs == 1200

    again = queue.take(1000, 100_000_000)
    assert ids(again) == [str(number) for number in range(1, 1001)]
    assert {taken.attempts for taken in again} == {0}


def test_a_paused_queue_gives_no_job_and_keeps_its_order(queue: Queue, redis: Any) -> None:
    """New jobs go to ``paused``, as with Bull, and are taken after the resume."""
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
    """A locked job is left alone. As with Bull, a job that stalls a second time fails."""
    add(queue, 2)
    first, second = queue.take(*ALL)
    assert queue.sweep(1) == 0  # marks the active jobs for the next sweep
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
def test_a_broken_job_can_be_failed_with_a_reason(queue: Queue, redis: Any, broken: dict[str, str]) -> None:
    """The broken jobs are an id without a hash, a hash without data, and data in an unknown form."""
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
def test_an_id_that_names_another_key_does_not_damage_that_key(queue: Queue, redis: Any, name: str) -> None:
    """The failure is stored under a new number instead."""
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
    """The braces make a Redis Cluster keep the whole queue in one slot."""
    for prefix in ("x", "{x}"):
        queue = queue_of(redis_server, prefix=prefix)
        assert queue.keys.base == "{x}:rudderEventsQueue:"
        queue.close()


def test_one_add_can_hold_events_of_thousands_of_blocks(queue: Queue, redis: Any) -> None:
    """In a large ring each block may hold the one event of a short-lived process."""
    offsets = dict.fromkeys(range(1, 9001), (0, 1))

    queue.add(EPOCH, [("[]", 9000)], offsets, [])

    stored = redis.hgetall(KEYS.ring(EPOCH))
    assert [stored[str(block)] for block in offsets] == ["1"] * 9000
    with pytest.raises(QueueBehind):
        queue.add(EPOCH, [("[]", 9000)], offsets, [])
