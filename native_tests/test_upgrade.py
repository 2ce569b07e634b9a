"""An upgrade from one version to the next, with events in a ring of the previous layout."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from native_tests.faulty_plane import FaultyPlane
from native_tests.processes import Processes, wait_until
from rudderpipe.process import identity, locks, runtime_dir
from rudderpipe.ring import layout as at
from rudderpipe.ring import location, memory
from rudderpipe.ring.location import RingLocation
from rudderpipe.ring.memory import open_fd
from tests.old_ring import OldRing

RECORDED = Path(__file__).parent / "data" / "ring-layout-3.gz"
"""A ring of layout 3 that a version of that layout left.

It has 1,000 events of one ended process, of which 100 were delivered. Its flusher was killed (-9) in a request.
"""
EVENTS, DELIVERED = 1_000, 100

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture(name="faulty")
def _faulty(processes: Processes) -> object:
    with FaultyPlane() as plane:
        processes.explicit |= {"data_plane_url": plane.url, "max_jobs_per_request": 50}
        yield plane


def old_place(processes: Processes) -> RingLocation:
    """Return the location where a version of layout 3 has the pipe's ring."""
    return RingLocation(runtime_dir.ensure(processes.settings.runtime_dir), processes.settings.pipe_name, 3)


def restore(processes: Processes) -> None:
    """Put the recorded ring into its place, with a lock file of its own."""
    where, data = old_place(processes), bytearray(gzip.decompress(RECORDED.read_bytes()))
    lock_file = locks.shared(where.lock_file)
    words = memoryview(data).cast("Q")
    words[at.H_LOCK_INODE] = lock_file.inode
    lock_file.mark(where.record(words[at.H_EPOCH]))
    fd = open_fd(where.segment, makes=True)
    os.write(fd, data)
    os.close(fd)


def numbers(plane: FaultyPlane) -> list[int]:
    """Return the numbers of the events that arrived."""
    return [event["properties"]["n"] for request in plane.requests for event in request.events]


@pytest.mark.parametrize("autostart", [True, False])
def test_the_events_of_an_old_ring_are_delivered_once(
    processes: Processes, faulty: FaultyPlane, *, autostart: bool
) -> None:
    """The first event's flusher or an operator's flusher delivers them. Then the old ring is removed."""
    processes.explicit["autostart"] = autostart
    restore(processes)
    assert processes.status().events.accepted == EVENTS
    assert processes.status().events.in_ring == EVENTS - DELIVERED

    if not autostart:
        processes.start("-m", "rudderpipe.flusher")
    assert processes.client().track("u", "e", {"n": EVENTS})

    faulty.wait_for(lambda: len(numbers(faulty)) > EVENTS - DELIVERED)
    wait_until(lambda: old_place(processes).segment not in memory.names())
    assert not old_place(processes).lock_file.exists()
    assert sorted(numbers(faulty)) == list(range(DELIVERED, EVENTS + 1))
    old = [number for number in numbers(faulty) if number < EVENTS]
    assert old == sorted(old)


def test_an_old_and_a_new_process_use_a_ring_each(processes: Processes, faulty: FaultyPlane) -> None:
    """While the old flusher lives, it alone serves the old ring. Once it has ended, the new flusher serves it too."""
    processes.explicit |= {"autostart": False, "linger_s": 0.2}
    where = old_place(processes)
    lock_file = locks.shared(where.lock_file)
    lock_file.mark("0000000000000001\n")
    old = OldRing(where.segment, lock_file.inode)
    holder = processes.start("-c", HOLDER, str(where.lock_file), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    producer = old.producer(*identity.me())
    lock_file.try_lock(at.LOCK_SLOT + producer.slot)
    processes.start("-m", "rudderpipe.flusher")
    client = processes.client()
    for number in range(0, 100, 2):
        assert client.track("u", "e", {"n": number})
        producer.append(b'{"type":"track","messageId":"old-%d","properties":{"n":%d}}' % (number, number + 1))

    faulty.wait_for(lambda: len(numbers(faulty)) >= 50)
    assert sorted(numbers(faulty)) == list(range(0, 100, 2))
    assert {ring.name for ring in processes.status().rings} == {where.segment, location.own(processes.settings).segment}
    assert client.flush(10)

    holder.kill()
    producer.append(b'{"type":"track","messageId":"old-last","properties":{"n":100}}')
    faulty.wait_for(lambda: len(numbers(faulty)) >= 101)
    assert sorted(numbers(faulty)) == list(range(101))

    lock_file.unlock(at.LOCK_SLOT + producer.slot)
    old.words[1024 + 3] = 1  # the producer has left
    wait_until(lambda: where.segment not in memory.names())
    assert [ring.name for ring in processes.status().rings] == [location.own(processes.settings).segment]


def test_an_old_process_can_start_the_new_flusher(processes: Processes, faulty: FaultyPlane) -> None:
    """The package is upgraded below a running process whose flusher dies.

    The new flusher must understand the old arguments and settings.
    """
    restore(processes)
    arguments = [
        "-m",
        "rudderpipe.flusher",
        "--stdin",
        "--detach",
        "--log",
        str(processes.explicit["runtime_dir"]) + "/x.log",
    ]
    settings = {name: value for name, value in processes.explicit.items() if name != "max_jobs_per_request"}

    assert processes.run(*arguments, stdin=msgspec.json.encode(settings)).returncode == 0

    faulty.wait_for(lambda: len(numbers(faulty)) >= EVENTS - DELIVERED)
    wait_until(lambda: not processes.own_processes())
    assert sorted(numbers(faulty)) == list(range(DELIVERED, EVENTS))
    assert processes.status().rings == []
