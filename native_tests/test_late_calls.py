"""Calls that Redis executes late, after our process gave up waiting, made the call again, or ended the ring."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from native_tests import two_hosts
from native_tests.gate import Gate
from native_tests.processes import Processes, wait_until
from native_tests.redis_forms import ending
from native_tests.test_queue import ALL, add, queue_of
from native_tests.two_hosts import TwoHosts
from rudderpipe.errors import QueueUnavailable
from rudderpipe.queue import connection
from rudderpipe.ring import layout
from rudderpipe.ring.ring import find_all
from rudderpipe.testing.redis_server import RedisServer, executable
from tests.queue_contract import users as users_of

HASTY = """
import runpy, sys
from rudderpipe.queue import connection
connection.ANSWER_TIMEOUT_S = 0.3
module = sys.argv.pop(1)
sys.argv[0] = module
runpy.run_module(module, run_name="__main__")
"""
"""A program that runs a module of ours with an answer timeout of 0.3 s in place of 10 s."""
P = "{rudder}:rudderEventsQueue:"


@pytest.fixture(name="gate")
def _gate(redis_server: RedisServer) -> Iterator[Gate]:
    gate = Gate(redis_server)
    yield gate
    gate.close()


@pytest.fixture(name="redis")
def _redis(redis_server: RedisServer) -> Any:
    return redis_server.text_client()


def track(client: Any, *users: int) -> None:
    """Send one event of each user, which fills most of a block."""
    for user in users:
        assert client.track(f"u{user}", "e", {"text": "x" * 50_000})


def lost(path: Path) -> int:
    """Return the number of answers that the flusher's log reports as given up."""
    return path.read_text().count("no answer in time") if path.exists() else 0


def blocks_in_redis(redis: Any) -> set[str]:
    """Return the blocks whose offsets Redis holds."""
    rings = redis.keys("{rudder}:rudderpipe:rudderEventsQueue:account:" + "?" * 16)
    return {name for ring in rings for name in redis.hkeys(ring) if name.isdigit()}


@pytest.mark.parametrize("ends", [False, True], ids=["the ring goes on", "the ring has ended"])
@pytest.mark.parametrize("done", [False, True], ids=["redis gets it late", "redis did it at once"])
def test_a_late_add_adds_no_job(
    processes: Processes, redis_server: RedisServer, gate: Gate, redis: Any, directory: Path, ends: bool, done: bool
) -> None:
    """The flusher made the call again over another connection, and then went on or ended the ring."""
    # Each job has two events, however slow the host is.
    processes.explicit |= {"redis": gate.address, "autostart": False, "flush_at": 2, "flush_interval_ms": 600_000}
    processes.explicit["linger_s"] = 60
    client = processes.client()
    track(client, 7, 0)
    log = directory / "flusher.log"
    with log.open("wb") as file:
        flusher = processes.start("-c", HASTY, "rudderpipe.flusher", stdout=file, stderr=file)
    wait_until(lambda: redis.llen(f"{P}wait") == 1)
    gate.stop("add_jobs", before=not done)
    track(client, 1, 2)
    assert gate.reached.wait(10)
    blocks = blocks_in_redis(redis)
    wait_until(lambda: lost(log) == 1)
    track(client, 3, 4)
    wait_until(lambda: redis.llen(f"{P}wait") == 3)
    if ends:
        queue = queue_of(redis_server)
        assert queue.complete(queue.take(*ALL)) == 3
        queue.close()
        client.shutdown()
        flusher.terminate()
        assert flusher.wait(20) == 0
        assert blocks_in_redis(redis) == set()
    else:
        track(client, 5, 6)
        wait_until(lambda: redis.llen(f"{P}wait") == 4 and not blocks & blocks_in_redis(redis))

    gate.release(redis)

    if ends:
        assert redis.llen(f"{P}wait") == 0
        account = redis.hgetall("{rudder}:rudderpipe:rudderEventsQueue:account")
        assert (account["queued"], account["delivered"]) == ("0", "6")
    else:
        assert redis.llen(f"{P}wait") == 4
        events = processes.status().events
        assert (events.accepted, events.queued, events.in_ring, events.balanced) == (8, 8, 0, True)


def test_a_flusher_takes_a_later_term_than_the_one_in_redis(
    processes: Processes, redis_server: RedisServer, redis: Any
) -> None:
    """A call with the term that Redis holds may still be under way."""
    processes.explicit |= {"redis": redis_server.url, "autostart": False, "flush_at": 1}
    client = processes.client()
    processes.start("-m", "rudderpipe.flusher")
    track(client, 0)
    wait_until(lambda: redis.llen(f"{P}wait") == 1)
    (ring,) = redis.keys("{rudder}:rudderpipe:rudderEventsQueue:account:" + "?" * 16)
    assert redis.hget(ring, "term") == "1"
    redis.hset(ring, "term", 9)

    track(client, 1)
    wait_until(lambda: redis.llen(f"{P}wait") == 2)

    assert redis.hget(ring, "term") == "10"
    (found,) = find_all(processes.settings)
    assert (found.words[layout.H_TERM], found.words[layout.H_STARTS]) == (10, 1)


def test_an_unreachable_redis_does_not_raise_the_term(
    processes: Processes, redis_server: RedisServer, redis: Any, directory: Path
) -> None:
    """No call was sent, so no call can arrive late."""
    processes.explicit |= {"redis": redis_server.url, "autostart": False, "flush_at": 1}
    client = processes.client()
    log = directory / "flusher.log"
    with log.open("wb") as file:
        processes.start("-m", "rudderpipe.flusher", stdout=file, stderr=file)
    track(client, 0)
    wait_until(lambda: redis.llen(f"{P}wait") == 1)
    redis_server.kill()
    track(client, 1)
    wait_until(lambda: "events stay in the ring" in log.read_text())
    redis_server.start()
    redis = redis_server.text_client()
    wait_until(lambda: redis.llen(f"{P}wait") == 2)

    (found,) = find_all(processes.settings)
    assert found.words[layout.H_TERM] == 1


def test_a_connection_without_an_answer_is_reset(
    gate: Gate, redis: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a mere close, the kernel would go on to send the call until Redis has it."""
    monkeypatch.setattr(connection, "ANSWER_TIMEOUT_S", 0.2)
    queue = queue_of(redis_server, redis=gate.address)
    add(queue, 1)
    gate.stop("add_jobs", before=True)

    with pytest.raises(QueueUnavailable) as caught:
        add(queue, 1, 1)

    assert not caught.value.answered
    gate.release(redis)
    assert gate.was_reset
    queue.close()


@pytest.mark.skipif(two_hosts.why_not() != "", reason=two_hosts.why_not())
@pytest.mark.timeout(180)
def test_a_network_that_is_cut_for_15_seconds_doubles_no_event(processes: Processes, directory: Path) -> None:
    """The kernel sends an abandoned call again, seconds after the flusher repeated it over another connection."""
    with (
        ending(TwoHosts()) as hosts,
        RedisServer(
            directory, "--bind", two_hosts.REDIS_ADDRESS, program=hosts.program_there(directory, executable())
        ) as server,
    ):
        server.client().config_set("protected-mode", "no")
        server.client().config_set("port", 6379)
        redis = server.text_client()
        processes.explicit |= {"redis": f"redis://{two_hosts.REDIS_ADDRESS}", "autostart": False, "flush_at": 2}
        client = processes.client()
        sent = itertools.count()
        ended = threading.Event()

        def send() -> None:
            while not ended.wait(0.04):
                track(client, next(sent))

        sending = threading.Thread(target=send)
        sending.start()
        processes.start_program("ip", "netns", "exec", hosts.here, sys.executable, "-m", "rudderpipe.flusher")
        wait_until(lambda: redis.llen(f"{P}wait") > 10)

        hosts.cut()
        time.sleep(15)  # the length of the cut is what the test is about
        before = redis.llen(f"{P}wait")
        hosts.mend()
        wait_until(lambda: redis.llen(f"{P}wait") > before + 10, 60)
        wait_until(lambda: hosts.connections() == 1, 60)
        ended.set()
        sending.join()
        assert client.flush(30)

        queue = queue_of(server)
        counts = Counter(user for taken in queue.take(1000, 1 << 30) for user in users_of(taken))
        queue.close()
        assert counts == Counter(f"u{number}" for number in range(next(sent)))
