"""Two clients of one application with the same Redis, the default queue and different data planes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from native_tests.processes import Processes, wait_until
from rudderpipe.errors import AnotherDataPlane
from rudderpipe.testing.data_plane import DataPlaneServer, Misbehaviour
from rudderpipe.testing.redis_server import RedisServer


@pytest.fixture(name="other")
def _other(directory: Path) -> Iterator[Processes]:
    """Yield the processes of another pipe to another data plane."""
    with DataPlaneServer(0, Misbehaviour()) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        processes = Processes(directory, server)
        yield processes
        processes.end()
        server.shutdown()
        thread.join()


@pytest.fixture(name="both")
def _both(processes: Processes, other: Processes, redis_server: RedisServer) -> tuple[Processes, Processes]:
    for one in (processes, other):
        one.explicit |= {"redis": redis_server.url, "flush_at": 1}
    other.explicit["write_key"] = "OTHER_KEY"
    return processes, other


def test_no_event_goes_to_the_other_clients_data_plane(both: tuple[Processes, Processes]) -> None:
    """The second client's events wait in its ring until the queue is empty, and the log says so."""
    ours, theirs = both
    ours.plane.misbehaviour = Misbehaviour(503)
    first = ours.client()
    for number in range(5):
        assert first.track(f"a{number}", "e")
    wait_until(lambda: ours.plane.stats()["refused"] > 0)
    second = theirs.client()
    for number in range(5):
        assert second.track(f"b{number}", "e")
    wait_until(lambda: f"has jobs for the data plane {ours.settings.plane_id}" in theirs.log())
    assert not second.flush(0.5, until="delivered").complete
    assert theirs.status().events.in_ring == 5
    shown = theirs.run("-m", "rudderpipe", "status").stdout.decode()
    assert f"The jobs of the queue are for another data plane, {ours.settings.plane_id}." in shown
    assert "another data plane" not in ours.run("-m", "rudderpipe", "status").stdout.decode()

    ours.plane.misbehaviour = Misbehaviour()
    assert ours.delivered(5)

    assert theirs.delivered(5)
    assert ours.plane.stats()["unique_message_ids"] == theirs.plane.stats()["unique_message_ids"] == 5


def test_create_persistence_queue_refuses_the_queue_of_another_data_plane(both: tuple[Processes, Processes]) -> None:
    """The error, which the callback gets too, tells the developer to choose another queue name."""
    ours, theirs = both
    ours.plane.misbehaviour = Misbehaviour(503)
    assert ours.client().track("a", "e")
    wait_until(lambda: ours.plane.stats()["refused"] > 0)
    redis = theirs.explicit.pop("redis")
    client = theirs.client()

    with pytest.raises(AnotherDataPlane, match="another queue_name") as caught:
        client.create_persistence_queue(redis)
    results: list[Any] = []
    client.create_persistence_queue(redis, callback=results.append)
    client.create_persistence_queue(redis, queue_name="another")
    assert client.track("b", "e")

    assert caught.value.owner == ours.settings.plane_id
    wait_until(lambda: results)
    assert isinstance(results[0], AnotherDataPlane)
    assert theirs.delivered(1)


def test_the_adopt_command_gives_a_queue_to_a_moved_data_plane(both: tuple[Processes, Processes]) -> None:
    """The command shows to which data plane the queue belongs. An adoption takes all its jobs too."""
    ours, theirs = both
    ours.plane.misbehaviour = Misbehaviour(503)
    client = ours.client()
    assert client.track("a", "e")
    wait_until(lambda: ours.plane.stats()["refused"] > 0)
    for process in ours.own_processes():
        process.kill()

    shown = theirs.run("-m", "rudderpipe", "queue")
    assert shown.returncode == 1
    assert ours.settings.plane_id.encode() in shown.stdout
    checked = theirs.run("-m", "rudderpipe.flusher", "--check")
    assert checked.returncode == 1
    assert b"rudderpipe queue --adopt" in checked.stderr
    assert theirs.run("-m", "rudderpipe", "queue", "--adopt").returncode == 0
    assert theirs.run("-m", "rudderpipe", "queue").returncode == 0

    theirs.start("-m", "rudderpipe.sender")
    assert theirs.delivered(1)


def test_the_old_sender_releases_its_job_when_the_queue_is_adopted(
    both: tuple[Processes, Processes],
) -> None:
    """The old sender lives and waits for its next attempt. The new data plane's sender must deliver the job."""
    ours, theirs = both
    ours.plane.misbehaviour = Misbehaviour(503)
    assert ours.client().track("a", "e")
    wait_until(lambda: ours.plane.stats()["refused"] > 2)

    assert theirs.run("-m", "rudderpipe", "queue", "--adopt").returncode == 0
    theirs.start("-m", "rudderpipe.sender")

    assert theirs.delivered(1)
    assert b"0 failed jobs" in theirs.run("-m", "rudderpipe", "failed", "list").stdout


def test_two_addresses_of_one_data_plane_can_share_a_queue(both: tuple[Processes, Processes]) -> None:
    """``data_plane_id`` declares that an internal and an external URL mean the same server."""
    ours, theirs = both
    for processes in both:
        processes.explicit["data_plane_id"] = "main"
    theirs.explicit["autostart"] = "flusher"
    ours.plane.misbehaviour = Misbehaviour(503)
    assert ours.client().track("a", "e")
    wait_until(lambda: ours.plane.stats()["refused"] > 0)
    assert theirs.client().track("b", "e")

    ours.plane.misbehaviour = Misbehaviour()

    assert ours.delivered(2)
