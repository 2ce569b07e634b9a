"""An obstacle on this host fails no event; after its removal the events are delivered in order."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from native_tests.faulty_plane import FaultyPlane
from native_tests.processes import Processes, wait_until
from native_tests.proxy import context_of
from rudderpipe.testing.redis_server import RedisServer

EVENTS = 1000


@pytest.mark.parametrize("queue", [True, False], ids=["queue", "direct"])
def test_a_thousand_events_wait_for_a_usable_ca_file(
    processes: Processes, redis_server: RedisServer, tmp_path: Path, queue: bool
) -> None:
    """Each event may have two attempts, so a counted attempt would fail events. The log says once what is wrong."""
    path = tmp_path / "ca.pem"
    path.mkdir()
    authority = trustme.CA()
    with FaultyPlane(context=context_of(authority.issue_cert("127.0.0.1"))) as plane:
        processes.explicit |= {
            "data_plane_url": plane.url,
            "ca_file": str(path),
            "flush_at": 1,
            "max_attempts": 2,
            "max_jobs_per_request": 50,
            "linger_s": 30,
        }
        if queue:
            processes.explicit["redis"] = redis_server.url
        client = processes.client()
        for number in range(EVENTS):
            assert client.track("u", "e", {"n": number})
        client.flush(0)
        wait_until(lambda: "ca_file cannot be used" in processes.log())
        process = processes.sender() if queue else processes.flusher()
        if queue:
            wait_until(lambda: processes.status().events.queued == EVENTS)

        path.rmdir()
        authority.cert_pem.write_to_path(str(path))
        wait_until(lambda: len(plane.accepted) >= EVENTS)

        assert process.is_running()
        numbers = [event["properties"]["n"] for request in plane.requests for event in request.events]
        assert numbers == list(range(EVENTS))
        wait_until(lambda: processes.status().events.delivered == EVENTS)
        assert processes.status().events.failed == 0
        said = [line for line in processes.log().splitlines() if "ca_file cannot be used" in line]
        assert len(said) == 1
