"""Real processes and a data plane that refuses requests. Good events arrive in order, with few more requests."""

from __future__ import annotations

import pytest

from native_tests.faulty_plane import FaultyPlane, Request, Step, answer, depends
from native_tests.processes import Processes, wait_until
from rudderpipe.testing.redis_server import RedisServer

EVENTS = 50


def numbers(request: Request) -> list[int]:
    """Return the numbers of a request's events."""
    return [event["properties"]["n"] for event in request.events]


def refusing(guilty: int) -> Step:
    """Return a step of a data plane that refuses one event."""
    return depends(lambda request: answer(400, b"bad") if guilty in numbers(request) else answer())


def limited(size_bytes: int) -> Step:
    """Return a step of a data plane that limits the size of requests."""
    return depends(
        lambda request: answer(413, b"large") if int(request.headers["content-length"]) > size_bytes else answer()
    )


@pytest.mark.parametrize("queue", [True, False], ids=["queue", "direct"])
@pytest.mark.parametrize("kind", ["one bad event", "a limit"])
def test_a_refused_backlog_arrives_in_order_with_few_requests(
    processes: Processes, redis_server: RedisServer, kind: str, queue: bool
) -> None:
    """Fifty batches wait. One event is bad, or a request may have at most 5 kB."""
    with FaultyPlane(answer(503)) as plane:
        processes.explicit |= {"data_plane_url": plane.url, "flush_at": 1, "max_jobs_per_request": 50, "linger_s": 30}
        processes.explicit["gzip"] = False
        if queue:
            processes.explicit["redis"] = redis_server.url
        client = processes.client()
        for number in range(EVENTS):
            assert client.track("u", "e", {"n": number, "x": "x" * 600})
        client.flush(0)
        plane.wait_for(lambda: plane.requests)
        if queue:
            wait_until(lambda: processes.status().events.queued == EVENTS)
        plane.then(refusing(17) if kind == "one bad event" else limited(5_000))
        before = len(plane.requests)
        good = EVENTS - (kind == "one bad event")
        plane.wait_for(lambda: len(plane.accepted) >= good)
        wait_until(lambda: processes.status().events.delivered + processes.status().events.failed == EVENTS)

        taken = [number for request in plane.requests[before:] for number in numbers(request)]
        assert list(dict.fromkeys(taken)) == sorted(set(taken))
        assert len(plane.accepted) == len(set(plane.accepted)) == good
        assert processes.status().events.failed == EVENTS - good
        assert len(plane.requests) - before <= (16 if kind == "one bad event" else 33)
