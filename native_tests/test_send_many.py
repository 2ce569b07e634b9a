"""``send_many`` through Redis, while its process or the flusher is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from native_tests.processes import Processes, wait_until
from rudderpipe import Sent
from rudderpipe.testing.redis_server import RedisServer

COUNT = 30_000
ENDLESS = """
import itertools, rudderpipe
client = rudderpipe.Client(when_full="block", block_timeout_ms=60_000)
client.send_many({"type": "track", "userId": str(number), "event": "e"} for number in itertools.count())
"""


def came(processes: Processes) -> list[int]:
    """Return the numbers of the events that the data plane got, each once, in the order in which they came first."""
    events = (event for body in processes.plane.last_events() for event in json.loads(body)["batch"])
    return list(dict.fromkeys(int(event["userId"]) for event in events))


def test_a_killed_flusher_loses_nothing_of_many_messages(processes: Processes, redis_server: RedisServer) -> None:
    """The iterable kills it. Every message arrives, in order, and none went to Redis twice."""
    processes.explicit |= {"redis": f"unix://{redis_server.socket}", "max_jobs_per_request": 50}
    client = processes.client(when_full="block", block_timeout_ms=60_000)

    def messages() -> Iterator[dict[str, Any]]:
        for number in range(COUNT):
            if number == COUNT // 3:
                flusher = processes.flusher()
                flusher.kill()
                flusher.wait(30)
            yield {"type": "track", "userId": str(number), "event": "e"}

    assert client.send_many(messages()) == Sent(COUNT)
    assert wait_until(lambda: client.track(str(COUNT), "e") and client.flush(5, until="delivered"))

    assert came(processes)[:COUNT] == list(range(COUNT))
    events = processes.status().events
    assert events.balanced
    assert events.delivered == events.accepted == client.counts()["accepted"]


def test_a_killed_process_has_sent_the_first_messages(processes: Processes, redis_server: RedisServer) -> None:
    """It is killed in the middle of its work, and no message is missing before another one."""
    processes.explicit |= {"redis": f"unix://{redis_server.socket}", "max_jobs_per_request": 50}
    process = processes.start("-c", ENDLESS)
    wait_until(lambda: (found := processes.status().events) is not None and found.accepted > 3_000)
    process.kill()
    process.wait()

    wait_until(lambda: (found := processes.status().events).accepted == found.delivered)
    found = came(processes)
    assert found == list(range(len(found)))
    assert len(found) > 3_000
