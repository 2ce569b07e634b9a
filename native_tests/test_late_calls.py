"""A call to Redis whose answer was given up, and which Redis gets later: after its repeat, after the ring's end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from native_tests.gate import Gate
from native_tests.test_queue import ALL, queue_of
from native_tests.world import World, wait_until
from rudderpipe.cli.redis_server import RedisServer

HASTY = """
import runpy, sys
from rudderpipe.queue import connect
connect.ANSWER_TIMEOUT_S = 0.3
module = sys.argv.pop(1)
sys.argv[0] = module
runpy.run_module(module, run_name="__main__")
"""
"""A process of ours that waits a third of a second for an answer of Redis, not ten."""
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
    """An event of each, which fills most of a block."""
    for user in users:
        assert client.track(f"u{user}", "e", {"text": "x" * 50_000})


def lost(path: Path) -> int:
    """How many answers a flusher said that it has given up."""
    return path.read_text().count("no answer in time") if path.exists() else 0


def positions(redis: Any) -> set[str]:
    """The blocks of which Redis knows how far it has them."""
    rings = redis.keys("{rudder}:rudderpipe:rudderEventsQueue:account:" + "?" * 16)
    return {name for ring in rings for name in redis.hkeys(ring) if name.isdigit()}


@pytest.mark.parametrize("ends", [False, True], ids=["the ring goes on", "the ring has ended"])
@pytest.mark.parametrize("done", [False, True], ids=["redis gets it late", "redis did it at once"])
def test_a_late_add_adds_nothing(
    world: World, redis_server: RedisServer, gate: Gate, redis: Any, directory: Path, ends: bool, done: bool
) -> None:
    """The flusher has repeated it over another connection, and gone on or ended the ring."""
    world.explicit |= {"redis": gate.address, "autostart": False, "flush_at": 2, "linger_s": 60}
    client = world.client()
    track(client, 0)
    log = directory / "flusher.log"
    with log.open("wb") as file:
        flusher = world.start("-c", HASTY, "rudderpipe.flusher", stdout=file, stderr=file)
    wait_until(lambda: redis.llen(f"{P}wait") == 1)
    gate.stop("add_jobs", before=not done)
    track(client, 1, 2)
    assert gate.reached.wait(10)
    blocks = positions(redis)
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
        assert positions(redis) == set()
    else:
        track(client, 5, 6)
        wait_until(lambda: redis.llen(f"{P}wait") == 4 and not blocks & positions(redis))

    gate.release(redis)

    if ends:
        assert redis.llen(f"{P}wait") == 0
        account = redis.hgetall("{rudder}:rudderpipe:rudderEventsQueue:account")
        assert (account["queued"], account["delivered"]) == ("0", "5")
    else:
        assert redis.llen(f"{P}wait") == 4
        events = world.status().events
        assert (events.accepted, events.queued, events.in_ring, events.balanced) == (7, 7, 0, True)
