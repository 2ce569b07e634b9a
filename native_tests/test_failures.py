"""What an application learns about events that fail after their call returned True."""

from __future__ import annotations

import logging
import textwrap
from typing import Any

import pytest

from native_tests.processes import Processes, wait_until
from rudderpipe import DeliveryError
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer

EVENTS = 30


@pytest.fixture(name="pipe", params=["direct", "queue"])
def _pipe(request: pytest.FixtureRequest, processes: Processes) -> Processes:
    """Return a pipe to a data plane that refuses the write key, in direct mode and with a queue."""
    if request.param == "queue":
        server: RedisServer = request.getfixturevalue("redis_server")
        processes.explicit["redis"] = f"unix://{server.socket}"
    processes.plane.misbehaviour = Misbehaviour(status=401)
    return processes


def failures_in(log: pytest.LogCaptureFixture) -> int:
    """Return how many failed events the log's lines stand for."""
    lines = [record.getMessage() for record in log.records if "events failed" in record.getMessage()]
    assert all("status 401" in line and "rudderpipe failed" in line for line in lines)
    return sum(int(line.rpartition("count=")[2]) for line in lines)


def test_a_flush_is_false_when_events_failed(pipe: Processes, caplog: pytest.LogCaptureFixture) -> None:
    """A refused write key would otherwise go unnoticed: each call returned True, and the flush was complete."""
    client = pipe.client(flush_at=10)
    assert all(client.track("u", f"e{number}") for number in range(EVENTS))

    result = client.flush(20, until="delivered")

    assert result.complete
    assert not result
    assert (result.failed, result.delivered) == (EVENTS, 0)
    assert "status 401" in result.reason
    client.shutdown()
    assert failures_in(caplog) == EVENTS


def test_a_flush_ends_after_the_callbacks_of_its_events(processes: Processes) -> None:
    """A script decides by the failures it was told about which exit code it returns."""
    processes.plane.misbehaviour = Misbehaviour(status=401)
    failed: list[Any] = []
    called: list[Any] = []
    client = processes.client(flush_at=10, on_error=lambda error, messages: failed.append((error, messages)))
    for number in range(EVENTS):
        client.track("u", f"e{number}", callback=called.append)

    assert not client.flush(20)

    assert len(called) == EVENTS
    assert all(isinstance(error, DeliveryError) and error.status == 401 for error in called)
    names = [[message["event"] for message in messages] for _, messages in failed]
    assert names == [[f"e{number}" for number in range(first, first + 10)] for first in (0, 10, 20)]
    assert {error.status for error, _ in failed} == {401}


def test_a_flush_with_a_callback_passes_it_the_failure(processes: Processes) -> None:
    """The Node SDK's form of a flush has no other way to learn it."""
    processes.plane.misbehaviour = Misbehaviour(status=401)
    client = processes.client()
    results: list[Any] = []
    client.track("u", "e")

    client.flush(lambda error, result: results.append((error, result)))
    wait_until(lambda: results)

    [(error, result)] = results
    assert isinstance(error, DeliveryError)
    assert "status 401" in str(error)
    assert result.failed == 1


def test_a_callback_may_take_no_argument(processes: Processes) -> None:
    """JavaScript's functions may, and so may those of the Node SDK's users."""
    calls: list[int] = []
    client = processes.client()

    client.track("u", "e", callback=lambda: calls.append(1))

    assert client.flush(20)
    assert calls == [1]


def test_a_later_failure_is_logged_by_the_next_event(pipe: Processes, caplog: pytest.LogCaptureFixture) -> None:
    """A web worker neither flushes nor ends, so its calls look at the ring about once a second."""
    client = pipe.client()
    client.track("u", "first")
    wait_until(lambda: pipe.status().events.failed == 1)

    def is_logged() -> bool:
        client.track("u", "more")
        return failures_in(caplog) > 0

    wait_until(is_logged, 20.0)


SCRIPT = """
    import sys
    import rudderpipe

    client = rudderpipe.Client()
    for number in range(40):
        client.track("u", "large", {"text": "x" * 5_000_000})
    client.track("u", "e")
    if "flush" in sys.argv:
        client.flush(20)
"""


@pytest.mark.parametrize("flushes", [True, False])
def test_the_log_names_every_refused_and_failed_event_by_the_end(processes: Processes, flushes: bool) -> None:
    """The log has a line a second for each reason, and the last of them must not be lost with the process."""
    processes.plane.misbehaviour = Misbehaviour(status=401)
    ended = processes.run("-c", textwrap.dedent(SCRIPT), *(["flush"] if flushes else []))

    lines = [line for line in ended.stderr.decode().splitlines() if " count=" in line]
    counts = {line.rpartition(" reason=")[2].partition(" ")[0]: 0 for line in lines}
    for line in lines:
        counts[line.rpartition(" reason=")[2].partition(" ")[0]] += int(line.rpartition("count=")[2])
    assert counts == {"too_large": 40, **({"failed": 1} if flushes else {})}


def test_a_shutdown_says_what_stays_in_the_ring(
    processes: Processes, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A shutdown that Redis keeps waiting has lost nothing, and its reader must know that."""
    processes.explicit["redis"] = f"unix://{redis_server.socket}"
    redis_server.kill()
    client = processes.client()
    client.track("u", "e")

    with caplog.at_level(logging.WARNING, "rudderpipe"):
        client.shutdown(0.5)

    assert "stay in the ring" in caplog.text
    assert "events=1" in caplog.text


def test_a_shutdown_that_does_not_wait_warns_of_nothing(processes: Processes, caplog: pytest.LogCaptureFixture) -> None:
    """Workers of gunicorn end in this way, and a warning at each ordinary stop would be a false alarm."""
    client = processes.client()
    client.track("u", "e")

    with caplog.at_level(logging.WARNING, "rudderpipe"):
        client.shutdown(0)

    assert "stay in the ring" not in caplog.text
