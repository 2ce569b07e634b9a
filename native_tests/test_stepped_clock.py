"""A step of the clock, or another time namespace, never makes a living process look dead."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from native_tests.faulty_plane import FaultyPlane
from native_tests.processes import Processes, wait_until
from native_tests.test_sender_process import Senders
from rudderpipe.ring import counters
from rudderpipe.ring.ring import find
from rudderpipe.testing.redis_server import RedisServer

AS_ROOT = [] if os.geteuid() == 0 else ["--map-root-user"]
STAT = Path("/proc/stat")
LAST_LEASE = "{rudder}:rudderpipe:rudderEventsQueue:lease:last"
IS_GONE = """
import sys
from rudderpipe import settings
from rudderpipe.process.clock import Clock
from rudderpipe.errors import RingUnavailable
from rudderpipe.ring.ring import find, open_ring
found = settings.load()
if sys.argv[1] == "owner":
    print(find(found).owner(0).is_gone())
else:
    try:
        print(open_ring(found, Clock()) is not None)
    except RingUnavailable as error:
        print(error.reason)
"""


class SteppedClock:
    """The boot time in /proc/stat, as processes in a mount namespace of their own see it.

    A step of the clock moves the boot time, and with it every start time that is derived from it.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "stat"
        self.path.write_text(STAT.read_text())

    def step(self, seconds: int) -> None:
        """Step the clock in the same file, because the file is mounted already."""
        lines = [line.split() for line in self.path.read_text().splitlines()]
        moved = [[line[0], str(int(line[1]) + seconds)] if line[0] == "btime" else line for line in lines]
        self.path.write_text("".join(" ".join(line) + "\n" for line in moved))

    def command(self, *command: str) -> list[str]:
        """Return the command that runs the given one with this clock."""
        script = f'mount --bind "{self.path}" /proc/stat && exec "$@"'
        return ["unshare", *AS_ROOT, "--mount", "sh", "-c", script, "sh", *command]


@pytest.fixture(name="stepped")
def _stepped(directory: Path) -> SteppedClock:
    return SteppedClock(directory)


@pytest.fixture(name="senders")
def _senders(redis_server: RedisServer, directory: Path) -> Iterator[Senders]:
    with FaultyPlane() as plane:
        senders = Senders(redis_server, plane, directory)
        yield senders
        senders.end()


def test_a_step_of_the_clock_moves_no_lease(senders: Senders, redis_server: RedisServer, stepped: SteppedClock) -> None:
    """Two senders of one host see a step of 5 s.

    The standby must not take the lease, and each event arrives once and in order.
    """
    client = redis_server.text_client()
    command = stepped.command(sys.executable, "-m", "rudderpipe.sender", "--verbose")
    senders.start(*command)
    wait_until(lambda: client.get(LAST_LEASE))
    senders.start(*command)
    wait_until(lambda: "standing by" in senders.log)
    lease = client.get(LAST_LEASE)

    stepped.step(5)

    names = [f"m{number}" for number in range(30)]
    requests = senders.plane.requests
    for count, name in enumerate(names, 1):
        senders.add(name)
        wait_until(partial(lambda least: len(requests) >= least, count))
    assert client.get(LAST_LEASE) == lease
    assert [name for request in requests for name in request.ids] == names
    client.close()


def result_of(processes: Processes, what: str, *command: str) -> str:
    """Return what a process under that command prints about the ring."""
    done = subprocess.run(
        [*command, sys.executable, "-c", IS_GONE, what],
        env=processes.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_a_step_of_the_clock_makes_no_producer_look_dead(processes: Processes, stepped: SteppedClock) -> None:
    """The same holds for a process in another time namespace."""
    processes.explicit["autostart"] = False
    assert processes.client().track("u", "e")
    stepped.step(5)

    assert result_of(processes, "owner", *stepped.command()) == "False"
    assert result_of(processes, "owner", "unshare", *AS_ROOT, "--time", "--boottime", "5000", "--fork") == "False"


def test_a_ring_with_a_living_producer_gets_no_second_lock_file(processes: Processes, stepped: SteppedClock) -> None:
    """The ring's lock file was removed. With another one, two processes could claim at once."""
    processes.explicit["autostart"] = False
    assert processes.client().track("u", "e")
    ring = find(processes.settings)
    assert ring is not None
    ring.locks.path.unlink()
    stepped.step(5)

    assert "is in use" in result_of(processes, "adopt", *stepped.command())
    assert counters.read(ring).in_ring == 1
