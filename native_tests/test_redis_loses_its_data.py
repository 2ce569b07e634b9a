"""Redis loses or evicts its data. Delivered events stay delivered, the rest counts as lost, and new events go on."""

from __future__ import annotations

import signal
from functools import partial
from typing import Any

import pytest

from native_tests.processes import Processes, wait_until
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer

RING = "{rudder}:rudderpipe:rudderEventsQueue:account:????????????????"


@pytest.fixture(name="redis")
def _redis(redis_server: RedisServer) -> Any:
    return redis_server.text_client()


def test_the_account_counts_events_that_redis_lost_as_failed(
    processes: Processes, redis_server: RedisServer, redis: Any
) -> None:
    """A flush that waits for the delivery must end. The lost events count as failed in it."""
    processes.explicit |= {"redis": redis_server.url, "flush_at": 10}
    client = processes.client()
    deliver_and_queue(processes, client)

    redis.flushall()
    processes.plane.misbehaviour = Misbehaviour()
    track(client, "w", 20)
    result = client.flush(20, until="delivered")

    assert result.complete
    assert result.failed == 30
    wait_until(partial(counts, processes, (0, 70, 0, 30)))
    events = processes.status().events
    assert (events.accepted, events.balanced) == (100, True)
    assert "redis has lost its data and queued events, check its AOF and maxmemory-policy events=30" in processes.log()
    assert b"+ 30 lost with redis: balanced" in processes.run("-m", "rudderpipe", "status").stdout
    assert client.flush(5, until="delivered")


def test_an_evicted_account_of_a_ring_is_restored(processes: Processes, redis_server: RedisServer, redis: Any) -> None:
    """The jobs are still there and are delivered, so no event counts as lost."""
    processes.explicit |= {"redis": redis_server.url, "flush_at": 10}
    client = processes.client()
    deliver_and_queue(processes, client)

    redis.delete(*redis.keys(RING))
    assert not client.flush(0.5, until="delivered").complete
    processes.plane.misbehaviour = Misbehaviour()
    track(client, "w", 20)

    assert client.flush(20, until="delivered").complete
    wait_until(partial(counts, processes, (0, 100, 0, 0)))
    assert processes.status().events.balanced
    assert processes.plane.stats()["unique_message_ids"] == 100


def track(client: Any, letter: str, count: int) -> None:
    """Send one event for each of so many users."""
    for number in range(count):
        assert client.track(f"{letter}{number}", "e")


def deliver_and_queue(processes: Processes, client: Any) -> None:
    """Have 50 events delivered, and 30 events wait for a data plane that is down."""
    track(client, "u", 50)
    assert client.flush(20, until="delivered").complete
    processes.plane.misbehaviour = Misbehaviour(503)
    track(client, "v", 30)
    assert client.flush(20).complete


def counts(processes: Processes, wanted: tuple[int, int, int, int]) -> bool:
    """Return True if so many events are queued, delivered, failed and lost."""
    events = processes.status().events
    return (events.queued, events.delivered, events.failed, events.lost) == wanted


def test_status_shows_lost_events_without_changing_redis(
    processes: Processes, redis_server: RedisServer, redis: Any
) -> None:
    """Only the flusher knows which events the ring has handed over, so only the flusher may restore the account."""
    processes.explicit |= {"redis": redis_server.url, "autostart": False, "flush_at": 1}
    client = processes.client()
    flusher = processes.start("-m", "rudderpipe.flusher")
    assert client.track("u", "e")
    wait_until(lambda: processes.status().events.queued == 1)
    flusher.kill()
    flusher.wait()
    redis.flushall()

    events = processes.status().events

    assert (events.accepted, events.in_ring, events.lost, events.balanced) == (1, 0, 1, True)
    assert redis.keys() == []


def test_no_event_is_called_lost_before_a_living_flusher_has_looked(
    processes: Processes, redis_server: RedisServer, redis: Any
) -> None:
    """It knows which events were handed over since its last look. Without it, the view says what it knows."""
    processes.explicit |= {"redis": redis_server.url, "autostart": False, "flush_at": 1}
    client = processes.client()
    flusher = processes.start("-m", "rudderpipe.flusher")
    assert client.track("u", "e")
    wait_until(lambda: processes.status().events.queued == 1)
    flusher.send_signal(signal.SIGSTOP)  # so that it does not look now
    redis.flushall()

    first = processes.status().events

    assert (first.queued, first.lost, first.balanced) == (1, 0, True)
    wait_until(lambda: processes.status().events.lost == 1)
    assert redis.keys() == []


def test_a_foreign_job_with_our_epoch_is_reported_as_an_imbalance(
    processes: Processes, redis_server: RedisServer, redis: Any
) -> None:
    """The copied job is delivered, so the account has more deliveries than events."""
    processes.explicit |= {"redis": redis_server.url, "flush_at": 1, "autostart": "flusher"}
    client = processes.client()
    assert client.track("u", "e")
    assert client.flush(10).complete
    base = "{rudder}:rudderEventsQueue:"
    redis.copy(f"{base}1", f"{base}copy")
    data = redis.hget(f"{base}1", "data")
    (ring,) = redis.keys(RING)
    epoch = ring.rpartition(":")[2]
    foreign = data.replace(f"{epoch[:8]}-{epoch[8:12]}-{epoch[12:]}", "ffffffff-ffff-4fff")
    assert foreign != data
    redis.hset(f"{base}copy", "data", foreign)
    redis.lpush(f"{base}wait", "copy")
    redis.hset("{rudder}:rudderpipe:rudderEventsQueue:account", mapping={"other": "x", b"\xff": "1"})
    processes.start("-m", "rudderpipe.sender")
    wait_until(lambda: redis.llen(f"{base}wait") == redis.llen(f"{base}active") == 0)

    status = processes.run("-m", "rudderpipe", "status")

    assert status.returncode == 1
    assert b"does NOT balance" in status.stdout
    assert b"Another program has written 2 fields of the account" in status.stdout


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_flusher_sender_and_status_warn_of_an_eviction_policy(
    processes: Processes, redis_server: RedisServer, redis: Any, policy: str
) -> None:
    """None of them may warn while the policy is right, or when the user may not ask for it."""
    redis.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-info")
    for address, bad in ((redis_server.url, False), (f"unix://app:pw@{redis_server.socket}", True)):
        redis.config_set("maxmemory-policy", policy if bad else "noeviction")
        processes.explicit |= {"redis": address, "flush_at": 1}
        client = processes.client()
        assert client.track("u", "e")
        assert client.flush(20, until="delivered")
        assert b"maxmemory-policy" not in processes.run("-m", "rudderpipe", "status").stdout
        client.shutdown()
        wait_until(lambda: not processes.own_processes())
    assert "maxmemory-policy" not in processes.log()

    processes.explicit["redis"] = redis_server.url
    client = processes.client()
    assert client.track("u", "e")
    assert client.flush(20, until="delivered")

    warning = f"Redis may evict queued events, because its maxmemory-policy is {policy}."
    assert warning in processes.run("-m", "rudderpipe", "status").stdout.decode()
    for name in ("flusher", "sender"):
        said = f"redis evicts queued events when its memory is full, set noeviction maxmemory_policy={policy}"
        assert f"rudderpipe.{name} WARNING {said}" in processes.log()
