"""What the snapshot of a pipe says of the queue and its sender, with a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rudderpipe.observe import snapshot
from rudderpipe.process import identity
from rudderpipe.process.clock import Clock
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.queue import Queue
from rudderpipe.settings import Settings
from rudderpipe.testing.redis_server import RedisServer
from tests.fakes import FakeClock
from tests.queue_contract import add


@pytest.fixture(name="settings")
def _settings(redis_server: RedisServer, tmp_path: Path) -> Settings:
    return Settings(redis=redis_server.url, pipe="observed", runtime_dir=str(tmp_path), max_queue_bytes=1 << 20)


@pytest.fixture(name="queue")
def _queue(settings: Settings, clock: FakeClock) -> Iterator[Queue]:
    queue = Queue(settings, clock)
    yield queue
    queue.close()


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock()


def test_an_empty_queue(settings: Settings) -> None:
    """Without jobs there is no age, and without a sender no lease."""
    found = snapshot.take(settings)

    assert found.queue is not None
    assert [each.name for each in found.queues] == ["{rudder}:rudderEventsQueue"]
    assert (found.queue.waiting, found.queue.used_bytes, found.queue.max_bytes) == (0, 0, 1 << 20)
    assert (found.queue.oldest_job_age_s, found.queue.oldest_failed_age_s) == (None, None)
    assert (found.lease, found.queue_trouble) == (None, "")


def test_the_ages_of_jobs(settings: Settings, queue: Queue, clock: FakeClock) -> None:
    """An active job is older than those that wait; a failure counts from when it failed."""
    add(queue, 1)
    clock.now_s += 10
    add(queue, 2, start=1)
    clock.now_s += 5
    waiting = snapshot.take(settings, clock)
    (taken,) = queue.take(1, 1_000_000)
    active = snapshot.take(settings, clock)
    queue.fail(taken, "status 400")
    clock.now_s += 1
    failed = snapshot.take(settings, clock)

    found = [each.queue for each in (waiting, active, failed) if each.queue is not None]
    assert [(each.waiting, each.active, each.failed) for each in found] == [(3, 0, 0), (2, 1, 0), (2, 0, 1)]
    assert [each.oldest_job_age_s for each in found] == [15, 15, 6]
    assert [each.oldest_failed_age_s for each in found] == [None, None, 1]
    assert failed.events.failed == 2


def test_the_holder_of_the_lease(settings: Settings, queue: Queue) -> None:
    """Its host and pid, and until when it has the lease."""
    lease = Lease(queue, 60_000, identity.address(), lambda _holder: False)
    assert lease.take()

    found = snapshot.take(settings).lease

    assert found is not None
    address = identity.address().split(" ")
    assert (found.number, found.host, str(found.pid)) == (lease.number, *address[:2])
    assert 0 < found.lapses_in_s <= 60


def test_without_redis(settings: Settings, redis_server: RedisServer) -> None:
    """What cannot be reached is absent, with the reason, and never zero."""
    redis_server.kill()

    found = snapshot.take(settings)

    assert (found.queue, found.lease) == (None, None)
    assert "refused" in found.queue_trouble
    assert found.events.balanced


def test_a_user_of_redis_who_may_not_read_jobs(settings: Settings, queue: Queue, redis_server: RedisServer) -> None:
    """The ages are absent, and all else is there."""
    add(queue, 1)
    redis: Any = redis_server.text_client()
    redis.execute_command("ACL", "SETUSER", "default", "-lindex")

    found = snapshot.take(settings, Clock()).queue

    assert found is not None
    assert (found.waiting, found.oldest_job_age_s, found.oldest_failed_age_s) == (1, None, None)
