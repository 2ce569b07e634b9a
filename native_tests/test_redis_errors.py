"""Errors that Redis returns, and answers that are lost. No event is lost, and no call takes effect twice."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client

from native_tests.processes import Processes, wait_until
from native_tests.redis_forms import Wire
from native_tests.test_queue import ALL, EPOCH, P, add, ids, queue_of
from native_tests.test_redis_forms import queue_at
from rudderpipe.errors import QueueBehind, QueueUnavailable
from rudderpipe.queue.active_job import ActiveJob
from rudderpipe.queue.failed_jobs import FailedJobs
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.queue import Queue
from rudderpipe.testing.redis_server import RedisServer


@pytest.fixture(name="redis")
def _redis(redis_server: RedisServer) -> Any:
    return redis_server.text_client()


@pytest.fixture(name="wire")
def _wire(redis_server: RedisServer) -> Iterator[Wire]:
    wire = Wire(redis_server)
    yield wire
    wire.close()


@pytest.fixture(name="queue")
def _queue(wire: Wire) -> Iterator[Queue]:
    """Yield a queue that reaches Redis through the wire."""
    queue = queue_at({"host": "127.0.0.1", "port": wire.port})
    yield queue
    queue.close()


def lose_answer(wire: Wire, call: Callable[[], object], answer: int = 1) -> None:
    """Make a call that Redis executes but whose answer is lost."""
    wire.cut_answer(answer)
    with pytest.raises(QueueUnavailable):
        call()
    assert wire.cuts == 1


def test_an_add_whose_answer_was_lost_takes_effect_once(wire: Wire, queue: Queue, redis: Any) -> None:
    """The repeated call adds nothing and reports the offsets that Redis has."""
    add(queue, 1)
    lose_answer(wire, lambda: add(queue, 3, 1))
    assert redis.llen(f"{P}wait") == 4

    with pytest.raises(QueueBehind) as caught:
        add(queue, 3, 1)

    assert caught.value.read == {1: 8}
    assert redis.llen(f"{P}wait") == 4


def test_lost_answers_to_the_flusher_lose_and_double_no_event(processes: Processes, wire: Wire) -> None:
    """Ten answers are lost on the way of 101 events, and every event must be delivered once."""
    processes.explicit |= {"redis": f"redis://127.0.0.1:{wire.port}", "autostart": "flusher", "flush_at": 10}
    client = processes.client()
    assert client.track("u", "first")
    assert client.flush(10)
    for number in range(10):
        wire.cut_answer()
        for _ in range(10):
            assert client.track(f"u{number}", "e")
        wait_until(partial(lambda done: wire.cuts > done, number))
    assert client.flush(10)

    wait_until(lambda: processes.status().events.queued == 101 and processes.status().events.in_ring == 0)
    processes.start("-m", "rudderpipe.sender")
    assert processes.delivered(101)
    wait_until(lambda: processes.status().events.delivered == 101)
    assert processes.plane.stats()["duplicates"] == 0
    assert processes.status().events.balanced


def test_jobs_of_a_take_whose_answer_was_lost_are_recovered(wire: Wire, queue: Queue) -> None:
    """The jobs are active, but no sender knows them. The recovery puts them first in line."""
    add(queue, 1)
    assert ids(queue.take(1, 1000)) == ["1"]
    add(queue, 3, 1)
    lose_answer(wire, lambda: queue.take(2, 1_000_000))

    assert queue.recover().jobs == 3
    assert ids(queue.take(*ALL)) == ["1", "2", "3", "4"]


@pytest.mark.parametrize("ending", ["complete", "fail"])
def test_a_job_whose_end_was_not_answered_counts_once(wire: Wire, queue: Queue, ending: str) -> None:
    """The repeated call changes nothing, because the job is no longer there."""
    add(queue, 2)
    first, second = queue.take(*ALL)

    def finish(taken: ActiveJob) -> int:
        return queue.complete([taken]) if ending == "complete" else queue.fail(taken, "no")

    assert finish(first) == 1  # the first call of a script gets two answers
    lose_answer(wire, lambda: finish(second))
    assert finish(second) == 0

    counts = queue.counts(EPOCH)
    assert (counts.events_queued, counts.events_delivered + counts.events_failed) == (0, 4)
    assert counts.active == 0


def test_scripts_that_redis_has_forgotten_are_sent_again(queue: Queue, redis: Any) -> None:
    """SCRIPT FLUSH concerns a script that is called alone and scripts that are called together."""
    add(queue, 3)
    redis.script_flush()
    taken = queue.take(1, 1)
    redis.script_flush()
    assert queue.complete_and_take(taken, 1, 1)[0] == 1


def test_a_queue_works_again_once_redis_has_loaded_its_data(directory: Path) -> None:
    """Redis returns LOADING meanwhile, and must lose none of its jobs."""
    with RedisServer(directory) as server:
        queue = queue_of(server)
        add(queue, 200)
        for number in range(10):
            # Redis accepts connections once every 2 MiB while it loads.
            server.client().set(f"ballast{number}", os.urandom(1 << 20))
        server.client().save()
        server.kill()
        server.launch("--key-load-delay", "10000")  # microseconds for each key: two seconds in all

        def refusal() -> str:
            try:
                queue.take(*ALL)
            except QueueUnavailable as error:
                return str(error)
            return ""

        wait_until(lambda: "loading" in refusal().lower())
        server.wait()
        assert queue.counts().waiting + queue.counts().active == 200
        queue.close()


def test_a_replica_refuses_an_add_with_a_clear_reason(redis_server: RedisServer, redis: Any) -> None:
    """The same server takes the add once it is a master again."""
    queue = queue_of(redis_server)
    redis.config_set("min-replicas-to-write", 0)
    redis.replicaof("127.0.0.1", 1)
    with pytest.raises(QueueUnavailable, match=r"read only|READONLY"):
        add(queue, 1)

    redis.replicaof("NO", "ONE")
    add(queue, 1)
    assert ids(queue.take(*ALL)) == ["1"]
    queue.close()


def test_a_redis_without_memory_refuses_adds_and_still_drains(redis_server: RedisServer, redis: Any) -> None:
    """All other calls must work, so that there is room again."""
    queue = queue_of(redis_server)
    add(queue, 20)
    redis.config_set("maxmemory", 1)
    with pytest.raises(QueueUnavailable, match=r"OOM|maxmemory"):
        add(queue, 1, 20)

    lease = Lease(queue, 10_000, "me", lambda _: False)
    assert lease.take()
    assert lease.take(above=lease.number)
    redis.delete(queue.keys.lease)
    assert lease.take(above=lease.number)
    assert (lease.number, lease.kept) == (3, True)
    taken = queue.take(4, 1_000_000)
    assert queue.renew(taken) == taken
    assert queue.retry_later(taken) == taken
    assert queue.fail(taken[0], "no")
    assert queue.put_back(taken[1:2]) == 1
    kept, more = queue.complete_and_take(taken[2:], 50, 1_000_000)
    assert (kept, len(more)) == (2, 17)
    assert queue.recover().jobs == 17

    redis.config_set("maxmemory", 0)
    add(queue, 1, 20)
    queue.close()


def test_a_redis_without_memory_can_split_remove_promote_and_sweep(redis_server: RedisServer, redis: Any) -> None:
    """Without these calls a full Redis would stay full."""
    queue = queue_of(redis_server)
    add(queue, 5)
    refused, failing, delayed, stalled = queue.take(4, 1_000_000)
    assert queue.fail(failing, "no")
    redis.lrem(f"{P}active", 0, delayed.id)
    redis.zadd(f"{P}delayed", {delayed.id: 1})
    redis.delete(f"{P}{stalled.id}:lock")
    redis.sadd(f"{P}stalled", stalled.id)
    redis.config_set("maxmemory", 1)

    halves = queue.split(refused)
    assert halves is not None
    assert [half.events for half in halves] == [1, 1]
    assert FailedJobs(queue).remove([failing.id]) == (1, failing.events)
    assert queue.promote() == -1
    assert queue.sweep() == 1

    assert ids(queue.take(*ALL)) == [stalled.id, "5", delayed.id]
    assert queue.complete(halves) == 2
    queue.close()


def test_a_redis_that_is_busy_with_a_script_raises_queue_unavailable(redis_server: RedisServer, redis: Any) -> None:
    """BUSY is an answer like others, so the next call is made later."""
    queue = queue_of(redis_server)
    add(queue, 1)
    redis.config_set("lua-time-limit", 1)

    def loop() -> None:
        with pytest.raises(redis_client.ResponseError):
            redis_server.client().eval("while true do end", 0)

    thread = threading.Thread(target=loop)
    thread.start()

    def busy() -> bool:
        try:
            queue.counts()
        except QueueUnavailable as error:
            return "BUSY" in str(error)
        return False

    wait_until(busy)
    redis.script_kill()
    thread.join()
    assert queue.counts().waiting == 1
    queue.close()


def test_an_error_of_redis_is_one_line_without_our_data(queue: Queue, redis: Any, directory: Path) -> None:
    """The line names the key, but neither the script's address nor the values that we sent."""
    redis.set(f"{P}wait", "no list")

    with pytest.raises(QueueUnavailable) as caught:
        add(queue, 1)

    assert str(caught.value).endswith(f"WRONGTYPE {P}wait is a string and must be a list")
    assert str(directory) not in str(caught.value)
