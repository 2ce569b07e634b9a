"""A master of Redis is killed before its replica had the last events. With ``redis_replicas`` none of them is lost."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from native_tests.processes import Processes, wait_until
from native_tests.redis_forms import Cluster, Replicated, ending
from native_tests.redis_versions import executables
from native_tests.succession import WAITING, Succession, users_in
from rudderpipe.testing.redis_server import RedisServer


@pytest.fixture(name="succession")
def _succession(directory: Path) -> Iterator[Succession]:
    with ending(Succession(directory)) as succession:
        yield succession


def track(client: Any, *numbers: int) -> list[str]:
    """Send one event for each number, and return their users."""
    users = [f"u{number}" for number in numbers]
    for user in users:
        assert client.track(user, "e")
    return users


def configure(processes: Processes, redis: str, replicas: int, **more: Any) -> None:
    """Set up a pipe whose flusher the test starts."""
    processes.explicit |= {"redis": redis, "autostart": False, "flush_at": 5, "redis_replicas": replicas, **more}


def start_flusher(processes: Processes) -> subprocess.Popen[bytes]:
    """Start a flusher that appends to the log file of the pipe."""
    log = Path(processes.explicit["runtime_dir"]) / "flusher.log"
    log.parent.mkdir(mode=0o700, exist_ok=True)
    with log.open("ab") as file:
        return processes.start("-m", "rudderpipe.flusher", stdout=file, stderr=file)


def log_of(processes: Processes) -> str:
    """Return what the flushers logged."""
    return (Path(processes.explicit["runtime_dir"]) / "flusher.log").read_text()


def in_ring(processes: Processes) -> int:
    """Return how many events have not left the ring. The status counts those of them as queued that Redis has."""
    ring = processes.status().ring
    assert ring is not None
    return ring.in_ring


def has_more_than(succession: Succession, events: int) -> bool:
    """Return True if more events wait in the master."""
    return len(succession.users()) > events


def unconfirmed(processes: Processes) -> bool:
    """Return True while Redis has events that its replicas lack."""
    return processes.status().unconfirmed_s > 0


@pytest.mark.parametrize("version", executables())
@pytest.mark.parametrize("replicas", [0, 1])
def test_what_a_failover_forgot_is_added_again_or_counted_as_lost(
    processes: Processes, directory: Path, replicas: int, version: str
) -> None:
    """The replica lacks 30 events when it takes over. Both kinds of account balance.

    Redis has forgotten its scripts, so that the first WAIT waits for nothing.
    """
    with ending(Succession(directory, executables()[version])) as succession:
        configure(processes, succession.url, replicas)
        client = processes.client()
        start_flusher(processes)
        early = track(client, *range(20))
        assert client.flush(20).complete
        assert succession.users() == early

        succession.link.hold()
        succession.master.client().script_flush()
        unsafe = track(client, *range(20, 50))
        wait_until(lambda: succession.users()[20:])
        if replicas:
            wait_until(lambda: unconfirmed(processes))
            assert not client.flush(0.5).complete
            printed = processes.run("-m", "rudderpipe", "status").stdout.decode()
            assert "Replicas of Redis have lacked events that it has taken for " in printed
        else:
            assert client.flush(20).complete
            assert succession.users() == early + unsafe
        assert in_ring(processes) == 30 * replicas
        succession.fail_over()
        assert succession.users() == early
        succession.follow()
        late = track(client, *range(50, 60))

        assert client.flush(20).complete
        assert succession.users() == early + unsafe * replicas + late
        assert ("they were added again" in log_of(processes)) == bool(replicas)
        processes.start("-m", "rudderpipe.sender")
        result = client.flush(20, until="delivered")
        lost = 0 if replicas else 30
        assert (result.complete, result.failed) == (True, lost)
        events = processes.status().events
        assert (events.accepted, events.in_ring, events.lost, events.balanced) == (60, 0, lost, True)
        assert processes.plane.stats()["unique_message_ids"] == 60 - lost


def test_failovers_and_killed_flushers_in_a_row_lose_and_double_nothing(
    processes: Processes, succession: Succession
) -> None:
    """Events come all the time. Each master is killed while its replica lags, and flushers die at any moment."""
    seed = random.randrange(1 << 32)
    print("seed", seed)  # shown when the test fails
    chance = random.Random(seed)
    configure(processes, succession.url, 1, flush_interval_ms=20)
    client = processes.client()
    flusher = start_flusher(processes)
    numbers, ended = count(), threading.Event()

    def send() -> None:
        while not ended.wait(0.002):
            track(client, next(numbers))

    sending = threading.Thread(target=send)
    sending.start()
    try:
        for turn in range(3):
            wait_until(partial(has_more_than, succession, len(succession.users()) + 100))
            succession.link.hold()
            for _ in range(1 + turn % 2):
                ended.wait(chance.uniform(0, 0.7))
                flusher.kill()
                flusher.wait()
                flusher = start_flusher(processes)
            wait_until(lambda: unconfirmed(processes))
            ended.wait(chance.uniform(0, 0.5))
            succession.fail_over()
            ended.wait(chance.uniform(0, 0.5))
            succession.follow()
    finally:
        ended.set()
        sending.join()

    assert client.flush(30).complete
    assert succession.users() == [f"u{number}" for number in range(next(numbers))]
    events = processes.status().events
    assert (events.in_ring, events.lost, events.balanced) == (0, 0, True)


def test_a_stopped_replica_holds_events_until_it_goes_on(processes: Processes, succession: Succession) -> None:
    """The replica is stopped by SIGSTOP, so that its connection stays open and only WAIT shows that it lags."""
    configure(processes, succession.url, 1)
    client = processes.client()
    start_flusher(processes)
    assert succession.replica.process is not None
    succession.replica.process.send_signal(signal.SIGSTOP)
    users = track(client, *range(7))

    wait_until(lambda: unconfirmed(processes))
    assert in_ring(processes) == 7
    assert "found=0 redis_replicas=1" in log_of(processes)
    succession.replica.process.send_signal(signal.SIGCONT)

    assert client.flush(20).complete
    assert not unconfirmed(processes)
    assert succession.users() == users


def test_events_pass_without_replicas_if_so_configured(processes: Processes, succession: Succession) -> None:
    """They wait for 5 s first."""
    configure(processes, succession.url, 1, redis_replicas_strict=False)
    client = processes.client()
    start_flusher(processes)
    succession.link.hold()
    users = track(client, *range(7))

    assert client.flush(20).complete
    assert unconfirmed(processes)
    assert succession.users() == users
    assert "events leave the ring although replicas lack them" in log_of(processes)


def test_a_master_that_has_too_few_replicas_takes_nothing(processes: Processes, redis_server: RedisServer) -> None:
    """``min-replicas-to-write`` refuses the script before its first write, and the events stay in the ring."""
    redis = redis_server.text_client()
    redis.config_set("min-replicas-to-write", 1)
    configure(processes, redis_server.url, 0)
    client = processes.client()
    start_flusher(processes)
    users = track(client, *range(7))

    wait_until(lambda: "NOREPLICAS" in log_of(processes))
    assert redis.keys() == []
    redis.config_set("min-replicas-to-write", 0)

    assert client.flush(20).complete
    assert users_in(redis) == users


def test_a_user_of_redis_who_may_not_wait_is_named_and_nothing_is_doubled(
    processes: Processes, succession: Succession
) -> None:
    """The jobs were added before the error."""
    redis = succession.master.text_client()
    redis.execute_command("ACL", "SETUSER", "default", "-wait")
    configure(processes, succession.url, 1)
    client = processes.client()
    start_flusher(processes)
    users = track(client, *range(7))

    wait_until(lambda: "'wait' command" in log_of(processes))
    assert in_ring(processes) == 7
    redis.execute_command("ACL", "SETUSER", "default", "+wait")

    assert client.flush(20).complete
    assert succession.users() == users


def test_sentinels_lead_to_a_new_master_that_gets_what_it_lacks(processes: Processes, directory: Path) -> None:
    """Events wait until the new master has a replica, too."""
    with ending(Replicated(directory)) as redis:
        configure(processes, redis.url, 1)
        client = processes.client()
        start_flusher(processes)
        users = track(client, *range(50))
        assert client.flush(20).complete

        assert redis.servers[1].process is not None
        redis.servers[0].kill()
        users += track(client, *range(50, 100))
        wait_until(lambda: redis.servers[1].text_client().info("replication")["role"] == "master")
        wait_until(lambda: unconfirmed(processes))
        redis.servers[0].launch("--replicaof", "127.0.0.1", str(redis.ports[1]))

        assert client.flush(30).complete
        assert users_in(redis.servers[1].text_client(2)) == users


def test_the_replica_of_a_cluster_node_takes_over(processes: Processes, directory: Path) -> None:
    """The node that had the queue comes back as the replica of its successor."""
    with ending(Cluster(directory)) as redis:
        slot = redis.ask(0, "CLUSTER", "KEYSLOT", WAITING)
        holder = redis.holder(slot)
        successor = redis.add_replica(holder)
        configure(processes, redis.url, 1)
        client = processes.client()
        start_flusher(processes)
        users = track(client, *range(50))
        assert client.flush(20).complete

        redis.servers[holder].kill()
        redis.ask(successor, "CLUSTER", "FAILOVER", "TAKEOVER")
        users += track(client, *range(50, 100))
        wait_until(lambda: unconfirmed(processes))
        redis.servers[holder].start()

        assert client.flush(30).complete
        with suppress(AssertionError):
            wait_until(lambda: redis.holder(slot) == successor, 5)
        assert users_in(redis.servers[successor].text_client()) == users
