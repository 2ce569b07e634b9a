"""``rudderpipe scale`` beside flushers of an older version, and among many keys of other programs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from native_tests.processes import Processes, wait_until
from native_tests.test_queue import EPOCH, KEYS, add, queue_of
from rudderpipe.queue import rings
from rudderpipe.queue.queue import RING_KEEP_MS, Queue
from rudderpipe.testing.redis_server import RedisServer

OTHER_EPOCH = EPOCH + 1


@pytest.fixture(name="pipe")
def _pipe(processes: Processes, redis_server: RedisServer) -> Processes:
    """Return a pipe with one queue, into which a flusher has put an event."""
    processes.explicit |= {"redis": redis_server.url, "autostart": False, "flush_at": 1}
    client = processes.client()
    processes.start("-m", "rudderpipe.flusher")
    assert client.track("u", "e")
    wait_until(lambda: processes.status().events.queued == 1)
    return processes


def scale(pipe: Processes, *more: str) -> tuple[int, str, str]:
    """Run the command for two queues, and return its exit code and what it said."""
    ended = pipe.run("-m", "rudderpipe", "scale", "--queues", "2", "--timeout", "0", *more)
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


def forget_the_flusher(redis: Any) -> str:
    """Leave what a flusher of an older version stores, which says nothing of itself. Return the ring's epoch."""
    (epoch,) = redis.zrange(KEYS.rings, 0, -1)
    redis.delete(KEYS.rings)
    assert redis.hdel(f"{KEYS.account}:{epoch}", "flusher") == 1
    return str(epoch)


def test_nothing_changes_while_an_older_flusher_may_serve_a_ring(pipe: Processes, redis_server: RedisServer) -> None:
    """It would not see the seal. A flusher of this version that serves the ring ends that."""
    redis = redis_server.text_client()
    epoch = forget_the_flusher(redis)

    code, said, errors = scale(pipe)

    assert (code, said) == (1, "")
    assert f"an older version may serve 1 ring, and they do not see that a queue is sealed: {epoch} (silent" in errors
    assert "--force" in errors
    assert not redis.exists(KEYS.route, KEYS.sealed)

    pipe.started[0].kill()
    pipe.started[0].wait()
    pipe.start("-m", "rudderpipe.flusher")
    assert pipe.client().track("u", "e")
    wait_until(lambda: redis.hexists(f"{KEYS.account}:{epoch}", "flusher"))
    code, said, errors = scale(pipe)
    assert (code, errors) == (4, "")
    assert "generation 1 has 2 queues" in said


def test_a_forced_change_does_not_wait_for_an_older_flusher(pipe: Processes, redis_server: RedisServer) -> None:
    """Its ring may be over, and Redis would know it for 30 days."""
    queue = queue_of(redis_server)
    add(queue, 1)
    queue.complete(queue.take(10, 1 << 20))
    assert scale(pipe)[0] == 1

    ended = pipe.run("-m", "rudderpipe", "scale", "--queues", "2", "--timeout", "30", "--force")

    assert ended.returncode == 0, ended
    assert redis_server.text_client().hexists(KEYS.ring(EPOCH), "1")
    queue.close()


def test_a_ring_that_is_over_needs_no_force(pipe: Processes, redis_server: RedisServer) -> None:
    """An older flusher has ended it, so no flusher serves it any more. One of its events has failed."""
    queue = queue_of(redis_server)
    add(queue, 1)
    (taken, *_) = reversed(queue.take(10, 1 << 20))
    assert queue.fail(taken, "reason")
    assert not queue.end_ring(EPOCH)

    assert scale(pipe)[0] == 4
    queue.close()


def test_the_command_names_the_hosts_of_the_rings_that_it_waits_for(pipe: Processes, redis_server: RedisServer) -> None:
    """Their flushers still need to know what the earlier queue has."""
    pipe.started[0].kill()
    pipe.started[0].wait()
    queue = queue_of(redis_server)
    queue.complete(queue.take(10, 1 << 20))

    assert f"1 ring (on {socket.gethostname()}) whose flusher must still look at them" in scale(pipe)[1]
    queue.close()


def test_a_ring_that_no_flusher_serves_is_waited_for_unless_forced(pipe: Processes, redis_server: RedisServer) -> None:
    """Its host may be gone for good, or come back with the ring and the events that the queue has already."""
    pipe.started[0].kill()
    pipe.started[0].wait()
    queue, redis = queue_of(redis_server), redis_server.text_client()
    queue.complete(queue.take(10, 1 << 20))
    (epoch,) = redis.zrange(KEYS.rings, 0, -1)
    assert scale(pipe, "--force")[0] == 4
    redis.pexpire(f"{KEYS.account}:{epoch}", RING_KEEP_MS - 3 * 24 * 3600 * 1000)

    assert scale(pipe)[0] == 4
    assert scale(pipe, "--force")[0] == 0
    queue.close()


@pytest.fixture(name="queue")
def _queue(redis_server: RedisServer) -> Iterator[Queue]:
    queue = queue_of(redis_server)
    yield queue
    queue.close()


def test_a_queue_knows_the_rings_that_were_fenced(queue: Queue, redis_server: RedisServer) -> None:
    """It forgets a ring that has ended, and one that it has not heard of for as long as it keeps a ring."""
    redis = redis_server.text_client()
    queue.raise_term(EPOCH, 1, [])
    queue.raise_term(OTHER_EPOCH, 1, [])
    add(queue, 1, term=1)
    found = rings.fenced(queue)
    assert [each.epoch for each in found] == [f"{EPOCH:016x}", f"{OTHER_EPOCH:016x}"]
    assert [(each.has_offsets, each.is_older) for each in found] == [(True, False), (False, False)]
    assert rings.older(queue) == []

    assert not queue.end_ring(EPOCH)
    queue.complete(queue.take(1, 1 << 20))
    assert [each.epoch for each in rings.fenced(queue)] == [f"{OTHER_EPOCH:016x}"]

    redis.zadd(KEYS.rings, {"0" * 16: queue.clock.time_ms() - 31 * 24 * 3600 * 1000})
    queue.raise_term(OTHER_EPOCH, 2, [])
    assert redis.zrange(KEYS.rings, 0, -1) == [f"{OTHER_EPOCH:016x}"]


def test_the_keys_of_other_programs_are_read_once(queue: Queue, redis_server: RedisServer) -> None:
    """A look every second at all keys of a large Redis would take much of its time."""
    redis = redis_server.text_client()
    redis.eval("for number = 1, 30000 do redis.call('SET', 'other:' .. number, '') end", 0)
    queue.raise_term(EPOCH, 1, [])

    redis.config_resetstat()
    assert rings.fenced(queue)
    assert "cmdstat_scan" not in redis.info("commandstats")
    assert rings.older(queue) == []
    assert redis.info("commandstats")["cmdstat_scan"]["calls"] >= 3
