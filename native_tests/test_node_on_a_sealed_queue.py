"""A Node SDK that shares one of several queues, and goes on adding to it when the queue is sealed."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from native_tests.peers import Peers, inner
from native_tests.processes import Processes, wait_until
from native_tests.test_hot_user import look
from rudderpipe.flusher import lanes
from rudderpipe.log_text import counted
from rudderpipe.testing.data_plane import Misbehaviour

SHARED = "rudder-3"
BASE = f"{{{SHARED}}}:rudderEventsQueue:"


@pytest.fixture(name="start_sender")
def _start_sender(peers: Peers) -> Callable[[str], subprocess.Popen[bytes]]:
    """Return a function that starts the sender of one queue. The pipe has four queues."""
    processes = peers.processes
    processes.explicit |= {"queues": 4, "autostart": False, "flush_at": 5, "max_attempts": 1}

    def start(prefix: str) -> subprocess.Popen[bytes]:
        explicit = dict(processes.explicit)
        processes.explicit |= {"prefix": prefix, "queues": 1}
        sender = processes.start("-m", "rudderpipe.sender", stderr=subprocess.DEVNULL)
        processes.explicit = explicit
        return sender

    return start


def scale(processes: Processes, *more: str) -> subprocess.Popen[bytes]:
    """Start the command for two queues."""
    return processes.start("-m", "rudderpipe", "scale", "--queues", "2", *more, stdout=subprocess.PIPE)


def test_its_events_are_delivered_and_do_not_hold_up_the_change(peers: Peers, start_sender: Any) -> None:
    """It does not see the seal. It delivers its events itself, and so does the queue's sender."""
    processes = peers.processes
    processes.start("-m", "rudderpipe.flusher")
    for place in range(4):
        start_sender(f"rudder-{place}")
    client, sdk = processes.client(), peers.sdk(own_prefix=SHARED)
    calls = peers.node.start("calls", prefix=f"{{{SHARED}}}")
    ours = theirs = 0

    def send() -> None:
        nonlocal ours
        for _ in range(20):
            assert client.track(f"ours {ours}", "e")
            ours += 1

    def add(count: int) -> None:
        nonlocal theirs
        sdk.ask(track=count, start=theirs)
        theirs += count

    add(10)
    send()
    assert processes.delivered(ours + theirs)
    assert scale(processes, "--timeout", "0").wait(60) == 4
    assert peers.redis.exists(f"{{{SHARED}}}:rudderpipe:rudderEventsQueue:sealed")
    add(10)
    assert processes.delivered(ours + theirs)

    calls.call("pause")
    add(5)
    wait_until(lambda: events_in(peers, "paused") == 5)
    sdk.kill()
    # Twice, because Redis may read the last command of a dead worker after the first question.
    wait_until(lambda: not any(is_waiting(peers) for _ in range(2)))
    send()  # so that the flusher meets the seal at once
    assert scale(processes).wait(60) == 0
    assert events_in(peers, "paused") == 5
    found = look(36, processes.settings)
    jobs = peers.redis.llen(f"{BASE}paused")
    assert found.state == "warn"
    assert found.text.startswith(f"{SHARED} at ")
    assert found.text.endswith(f" has {counted(jobs, 'job')} and 0 failed jobs")
    assert "RUDDERPIPE_PREFIX" in found.fix
    by_node = sum(each.by_node for each in peers.seen)
    calls.call("resume")
    for place in range(2):
        start_sender(f"rudder-2-{place}")

    assert processes.delivered(ours + theirs)
    assert sum(each.by_node for each in peers.seen) == by_node
    assert look(36, processes.settings).text == "no jobs in 5 retired queues"
    users = [event["userId"] for event in peers.sent()]
    assert sorted(users) == sorted([*(f"ours {n}" for n in range(ours)), *(f"u{n}" for n in range(theirs))])


def test_a_failed_job_holds_up_the_change_until_a_tool_retries_it(peers: Peers, start_sender: Any) -> None:
    """Bull's ``retry`` puts it in line again, and the sender of the sealed queue delivers it."""
    processes = peers.processes
    processes.start("-m", "rudderpipe.flusher")
    user = next(f"u{n}" for n in itertools.count() if lanes.user_of(f"u{n}") % 4 == 3)
    processes.plane.misbehaviour = Misbehaviour(400)
    start_sender(SHARED)
    client = processes.client()
    assert client.track(user, "e")
    (failed,) = wait_until(lambda: peers.redis.zrange(f"{BASE}failed", 0, -1))
    processes.plane.misbehaviour = Misbehaviour()
    command = scale(processes, "--timeout", "0")
    assert b"1 failed job to retry or to delete" in command.communicate()[0]
    assert command.returncode == 4
    assert client.track(user, "e")  # so that the flusher meets the seal at once

    calls = peers.node.start("calls", prefix=f"{{{SHARED}}}")
    calls.job(failed, "retry")

    assert processes.delivered(1)
    command = scale(processes)
    assert command.wait(60) == 0


def is_waiting(peers: Peers) -> bool:
    """Return whether a worker of Node waits for a job. Redis gives it to one whose end it has not read yet."""
    return any(client["cmd"] == "brpoplpush" for client in peers.redis.client_list())


def events_in(peers: Peers, state: str) -> int:
    """Return the number of events in the jobs of a list of the shared queue."""
    jobs = [peers.redis.hgetall(f"{BASE}{name}") for name in peers.redis.lrange(f"{BASE}{state}", 0, -1)]
    return sum(len(inner(job)["request"]["data"]["batch"]) for job in jobs)
