"""One user with half of all events is visible in every view, and the doctor finds out who it is."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from native_tests.processes import Processes, wait_until
from rudderpipe.flusher import lanes
from rudderpipe.observe.doctor import run
from rudderpipe.observe.doctor.check import CHECKS, Finding
from rudderpipe.observe.doctor.examination import Examination
from rudderpipe.observe.flow import Watch
from rudderpipe.observe.reader import Reader
from rudderpipe.settings import Settings
from rudderpipe.testing.redis_server import RedisServer

EVENTS = 2000
HOT = "load-test@example.com"
QUEUES = 4


@pytest.fixture(name="pipe")
def _pipe(processes: Processes, redis_server: RedisServer) -> Processes:
    processes.explicit |= {"redis": redis_server.url, "autostart": False, "flush_interval_ms": 50}
    return processes


def send(pipe: Processes, *, is_hot: bool) -> None:
    """Send events of many users, or every second one of the same, and let a flusher add them to the queues."""
    client = pipe.client()
    for number in range(EVENTS):
        assert client.track(HOT if is_hot and number % 2 else f"user {number}", "e")
    pipe.start("-m", "rudderpipe.flusher")
    wait_until(lambda: pipe.status().events.queued == EVENTS)


def look(number: int, settings: Settings, *, shows_user: bool = False) -> Finding:
    """Return the finding of one check."""
    return run.finding(CHECKS[number], Examination(settings, environment={}, shows_user=shows_user))


def test_a_user_with_half_of_the_events_is_found_in_one_of_four_queues(pipe: Processes) -> None:
    """The id is personal data, so that it is printed only on demand."""
    pipe.explicit["queues"] = QUEUES
    send(pipe, is_hot=True)
    settings, hot = pipe.settings, f"rudder-{lanes.user_of(HOT) % QUEUES}"

    found = look(34, settings)

    text = re.fullmatch(
        rf"{hot} gets (\d+)% of the events; the user with the checksum (\w+) has (\d+)% of its newest 200 events, "
        r"about (\d+)% of all",
        found.text,
    )
    assert text is not None, found.text
    assert found.state == "warn"
    assert text[2] == f"{lanes.user_of(HOT):08x}"
    assert int(text[1]) == pytest.approx(62, abs=5)
    assert int(text[4]) == pytest.approx(50, abs=5)
    assert HOT not in msgspec.json.encode(found).decode()
    assert f"the user '{HOT}' has " in look(34, settings, shows_user=True).text
    printed = pipe.run("-m", "rudderpipe", "doctor", "--only", "redis", "--show-user").stdout.decode()
    assert HOT in printed
    flow = Watch(settings, Reader(settings, patience_s=10)).read()
    (finding,) = [each for each in flow.findings if each.code == "queue_share"]
    assert finding.text == f"Queue {hot} gets {text[1]}% of the events; an equal share is 25%."


def test_the_queues_that_can_be_read_are_judged(pipe: Processes, redis_server: RedisServer, directory: Path) -> None:
    """The one that cannot is named. It is not the one with the many events here."""
    (directory / "other").mkdir()
    other = RedisServer(directory / "other")
    other.start()
    pipe.explicit |= {"redis": f"{redis_server.url} {other.url}", "queues": 6}
    try:
        send(pipe, is_hot=True)
    finally:
        other.kill()
    hot = lanes.user_of(HOT) % 6
    assert hot % 2 == 0, "the queue is on the first server"

    found = look(34, pipe.settings)

    assert found.state == "warn"
    assert re.match(rf"rudder-{hot} gets \d+% of the events of 3 queues; the user with the checksum", found.text), found
    assert found.text.endswith("; rudder-1, rudder-3, rudder-5 cannot be read")
    assert "look at check 16" in found.fix


@pytest.mark.parametrize("own", [{"queues": QUEUES}, {"lanes": 8}])
def test_many_users_are_no_trouble(pipe: Processes, own: dict[str, int]) -> None:
    """Their shares are about equal."""
    pipe.explicit |= own
    send(pipe, is_hot=False)

    found = look(34, pipe.settings)

    assert found.state == "ok", found


def test_a_user_with_half_of_the_events_uses_one_of_eight_lanes(pipe: Processes) -> None:
    """More lanes do not help either."""
    pipe.explicit["lanes"] = 8
    send(pipe, is_hot=True)

    found = look(34, pipe.settings)

    assert (found.state, f"{lanes.user_of(HOT):08x}" in found.text) == ("warn", True)
    assert found.text.endswith("and one of 8 lanes")


def test_a_pipe_with_one_queue_and_one_lane_has_nothing_to_spread(pipe: Processes) -> None:
    """All events take the same way."""
    assert look(34, pipe.settings).state == "skip"
