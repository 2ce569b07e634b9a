"""A step of the clock, and a time namespace, change nothing about who lives."""

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
    """What /proc/stat says of the moment of the boot, for processes in a mount namespace of their own.

    A step of the clock moves that moment, and with it every time of day that is derived from it.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "stat"
        self.path.write_text(STAT.read_text())

    def step(self, seconds: int) -> None:
        """Step the clock, in place: the file is mounted already."""
        lines = [line.split() for line in self.path.read_text().splitlines()]
        moved = [[line[0], str(int(line[1]) + seconds)] if line[0] == "btime" else line for line in lines]
        self.path.write_text("".join(" ".join(line) + "\n" for line in moved))

    def command(self, *command: str) -> list[str]:
        """A command that sees this clock."""
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


def test_two_senders_of_one_host_keep_their_lease(
    senders: Senders, redis_server: RedisServer, stepped: SteppedClock
) -> None:
    """After a step of 5 s neither takes the other for dead: one lease, each event once, in order."""
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


def asked(processes: Processes, what: str, *command: str) -> str:
    """What a process under that command finds out."""
    done = subprocess.run(
        [*command, sys.executable, "-c", IS_GONE, what],
        env=processes.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_a_living_producer_is_not_taken_for_dead(processes: Processes, stepped: SteppedClock) -> None:
    """Neither after a step of the clock nor from another time namespace."""
    processes.explicit["autostart"] = False
    assert processes.client().track("u", "e")
    stepped.step(5)

    assert asked(processes, "owner", *stepped.command()) == "False"
    assert asked(processes, "owner", "unshare", *AS_ROOT, "--time", "--boottime", "5000", "--fork") == "False"


def test_a_ring_with_a_living_producer_is_not_adopted(processes: Processes, stepped: SteppedClock) -> None:
    """Its lock file was removed: another one would let two processes claim at once."""
    processes.explicit["autostart"] = False
    assert processes.client().track("u", "e")
    ring = find(processes.settings)
    assert ring is not None
    ring.locks.path.unlink()
    stepped.step(5)

    assert "is in use" in asked(processes, "adopt", *stepped.command())
    assert counters.read(ring).in_ring == 1
