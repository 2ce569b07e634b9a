"""The bounds of the queue: which jobs it keeps, and when it accepts no more."""

from __future__ import annotations

from typing import Any

import pytest

from native_tests.processes import Processes, wait_until
from native_tests.test_queue import ALL, EPOCH, P, add, ids, queue_of
from rudderpipe.errors import QueueFull
from rudderpipe.queue.failed_jobs import FailedJobs, Selection
from rudderpipe.queue.size_limit import Budget
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer

MIB = 1 << 20


@pytest.fixture(name="redis")
def _redis(redis_server: RedisServer) -> Any:
    return redis_server.text_client()


def test_keep_completed_keeps_the_last_completed_jobs(redis_server: RedisServer, redis: Any) -> None:
    """The kept jobs are as Bull leaves them. Older jobs go with all of their keys."""
    queue = queue_of(redis_server, keep_completed=3)
    add(queue, 5)
    redis.rpush(f"{P}1:logs", "a row")

    queue.complete(queue.take(*ALL))

    assert redis.zrange(f"{P}completed", 0, -1) == ["3", "4", "5"]
    assert redis.hget(f"{P}5", "returnvalue") == "null"
    assert redis.hget(f"{P}5", "finishedOn")
    assert not redis.exists(f"{P}1", f"{P}2", f"{P}1:logs", f"{P}5:lock")
    assert queue.counts().completed == 3
    queue.close()


@pytest.mark.parametrize(
    ("keep", "keep_s", "left"), [(2, None, ["4", "5"]), (None, 100.0, ["5"]), (0, None, []), (3, 100.0, ["5"])]
)
def test_failed_jobs_beyond_the_bounds_are_deleted_and_counted(
    redis_server: RedisServer, redis: Any, keep: int | None, keep_s: float | None, left: list[str]
) -> None:
    """The oldest jobs go first. The account counts their events as removed."""
    queue = queue_of(redis_server)
    add(queue, 5)
    for taken in queue.take(*ALL):
        queue.fail(taken, "no")
    for name in ("1", "2", "3", "4"):
        redis.zadd(f"{P}failed", {name: queue.clock.time_ms() - 200_000 + int(name)})

    jobs, events = FailedJobs(queue).trim(keep, keep_s)

    assert redis.zrange(f"{P}failed", 0, -1) == left
    assert (jobs, events) == (5 - len(left), 10 - 2 * len(left))
    counts = queue.counts(EPOCH)
    assert (counts.events_failed, counts.events_removed) == (2 * len(left), events)
    assert queue.counts().events_removed == events
    assert sum(redis.exists(f"{P}{number}") for number in range(1, 6)) == len(left)
    queue.close()


def test_a_job_retried_meanwhile_is_not_deleted(redis_server: RedisServer, redis: Any) -> None:
    """Only a job that is in the failed set and has no lock is deleted."""
    queue = queue_of(redis_server)
    add(queue, 3)
    for taken in queue.take(*ALL):
        queue.fail(taken, "no")
    redis.zrem(f"{P}failed", "1")
    redis.lpush(f"{P}wait", "1")
    redis.set(f"{P}2:lock", "another sender")

    assert FailedJobs(queue).remove(["1", "2", "3", "4"]) == (1, 2)

    assert redis.exists(f"{P}1", f"{P}2") == 2
    queue.close()


def test_retried_jobs_keep_their_order(redis_server: RedisServer) -> None:
    """A retry of many jobs takes several calls, and puts them before or behind the waiting jobs."""
    queue = queue_of(redis_server)
    failed = FailedJobs(queue)
    add(queue, 250)
    for taken in queue.take(*ALL):
        queue.fail(taken, "no")
    add(queue, 1, 250)
    newest_first = list(failed.find(Selection(), newest_first=True))

    for start in range(0, 250, 100):
        assert failed.retry(newest_first[start : start + 100][::-1], first=True) == len(
            newest_first[start : start + 100]
        )

    assert ids(queue.take(*ALL)) == [str(number) for number in range(1, 252)]
    queue.close()


def test_the_queues_size_counts_jobs_of_every_state(redis_server: RedisServer, redis: Any) -> None:
    """The size is exact for few jobs, close for thousands, and 0 for an empty queue."""
    queue = queue_of(redis_server, keep_completed=5)
    assert queue.size_bytes() == 0
    add(queue, 90)
    taken = queue.take(60, MIB)
    queue.complete(taken[:5])
    for job in taken[5:10]:
        queue.fail(job, "no")
    exact = sum(redis.memory_usage(f"{P}{number}", samples=0) for number in range(1, 91))
    assert queue.size_bytes() == exact

    add(queue, 3000, 90)

    assert abs(queue.size_bytes() / (exact * 3090 / 90) - 1) < 0.1
    queue.close()


def test_a_full_queue_refuses_jobs_until_there_is_room(redis_server: RedisServer) -> None:
    """The size is measured again for each check. An empty queue accepts even a job above the limit."""
    queue = queue_of(redis_server)
    add(queue, 100)
    size = queue.size_bytes()
    budget = Budget(queue, size + 1000)

    budget.check(900)
    with pytest.raises(QueueFull) as caught:
        budget.check(1100)
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (size, size + 1000)
    queue.complete(queue.take(10, MIB))
    budget.check(1100)
    queue.complete(queue.take(*ALL))
    budget.check(10 * size)
    queue.close()


def test_events_wait_in_the_ring_while_the_queue_is_full(processes: Processes, redis_server: RedisServer) -> None:
    """The data plane is down.

    Redis keeps to its limit and the ring to its cap, and refused events are counted. All accepted events arrive in
    order later.
    """
    processes.explicit |= {"redis": redis_server.url, "flush_at": 10, "max_queue_bytes": MIB, "max_attempts": 1_000_000}
    processes.plane.misbehaviour = Misbehaviour(503)
    processes.explicit["max_internal_queue_size"] = 5000
    client = processes.client()
    accepted = 0
    while accepted < 5000 or not _full(processes):
        accepted += bool(client.track("u", "e", {"text": "x" * 1000, "n": accepted}))

    status = processes.status_json()
    assert status["jobs"]["bytes"] <= MIB
    assert status["jobs"]["max_bytes"] == MIB
    assert status["events"]["in_ring"] == 5000
    assert status["events"]["balanced"]
    assert "max_queue_bytes" in processes.log()
    assert f"of {MIB:,} bytes" in processes.run("-m", "rudderpipe", "status").stdout.decode()

    processes.plane.misbehaviour = Misbehaviour()
    assert processes.delivered(accepted)
    wait_until(lambda: processes.status().events.delivered == accepted)
    assert processes.plane.stats()["duplicates"] == 0


def _full(processes: Processes) -> bool:
    """Return True if the flusher has logged that it waits for room, and the ring is full too."""
    return "max_queue_bytes" in processes.log() and processes.status().events.in_ring >= 5000


def test_jobs_that_other_workers_took_count_as_elsewhere(redis_server: RedisServer, redis: Any) -> None:
    """When no job waits, is active or delayed, no event is queued, and the account still balances."""
    queue = queue_of(redis_server)
    add(queue, 3)
    redis.delete(f"{P}wait", f"{P}1", f"{P}2", f"{P}3")

    for counts in (queue.counts(EPOCH), queue.counts()):
        assert (counts.events_queued, counts.events_elsewhere, counts.events_gone) == (0, 6, 6)
    queue.close()


def test_a_reused_job_number_is_no_old_failure(redis_server: RedisServer, redis: Any) -> None:
    """After Bull's obliterate the first job has the number 1 again, and it has never failed."""
    queue = queue_of(redis_server)
    add(queue, 1)
    (taken,) = queue.take(*ALL)
    queue.fail(taken, "no")
    redis.delete(f"{P}id", f"{P}1", f"{P}failed")

    add(queue, 1, 1)
    queue.complete(queue.take(*ALL))

    counts = queue.counts(EPOCH)
    assert (counts.events_delivered, counts.events_failed, counts.events_removed) == (2, 0, 2)
    queue.close()


def test_due_jobs_leave_delayed_in_order(redis_server: RedisServer, redis: Any) -> None:
    """Other tools add delayed jobs.

    A due job waits, also in a paused queue, and the script returns the time of the next one.
    """
    queue = queue_of(redis_server)
    now_ms = queue.clock.time_ms()
    for name, due_ms in (("b", now_ms - 5), ("a", now_ms - 9), ("later", now_ms + 60_000)):
        redis.hset(f"{P}{name}", mapping={"data": "{}", "delay": "10"})
        redis.zadd(f"{P}delayed", {name: due_ms * 4096 + 7})
    redis.set(f"{P}meta-paused", "1")

    assert queue.promote() == now_ms + 60_000

    assert redis.lrange(f"{P}paused", 0, -1) == ["b", "a"]
    assert redis.hget(f"{P}a", "delay") == "0"
    assert redis.hget(f"{P}later", "delay") == "10"
    redis.delete(f"{P}delayed")
    assert queue.promote() == -1
    queue.close()
