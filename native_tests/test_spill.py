"""Redis is away for longer than the ring holds. The flusher puts events on a disk, and may be killed at any step."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from native_tests.processes import Processes, wait_until
from native_tests.succession import users_in
from rudderpipe import Client
from rudderpipe.flusher.spill import Spill
from rudderpipe.ring import memory
from rudderpipe.service.signals import EXIT_UNAVAILABLE
from rudderpipe.testing.redis_server import RedisServer

CAP = 500
PROGRAM = """
import os, signal, sys
from rudderpipe.flusher import spill, spilling
from rudderpipe.flusher.__main__ main
from rudderpipe.service import bootstrap

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def after(owner, name, number):
    original, calls = getattr(owner, name), []
    def wrapped(*arguments):
        result = original(*arguments)
        calls.append(1)
        if len(calls) == number:
            die()
        return result
    setattr(owner, name, wrapped)

def before(owner, name):
    setattr(owner, name, lambda *_: die())

def half(fd, data):
    os.write(fd, data[: len(data) // 2])
    die()

{kill}
sys.exit(bootstrap.guarded("flusher", main))
""".replace("__main__ main", "__main__ import main")
WHILE_SPILLING = {
    "within the write": "spill._write = half",
    "after the write, before the fsync": "after(spill, '_write', 1)",
    "after the fsync, before the events leave the ring": "after(spill.Spill, 'append', 1)",
}
WHILE_REPLAYING = {
    "after a call, before it is noted": "after(spilling.Spilling, 'passed', 2)",
    "before a segment is removed": "before(spill.Spill, 'remove_before')",
    "after a segment is removed": "after(spill.Spill, 'remove_before', 1)",
}


class Outage:
    """A pipe whose Redis is away and comes back. Users are numbered in the order of their events."""

    def __init__(self, processes: Processes, redis_server: RedisServer, directory: Path, **more: Any) -> None:
        self.processes = processes
        self.redis = redis_server
        self.spill = directory / "spill"
        processes.explicit |= {"redis": redis_server.url, "autostart": False, "flush_at": 5, "flush_interval_ms": 20}
        processes.explicit |= {"max_internal_queue_size": CAP, "when_full": "block", "block_timeout_ms": 20_000}
        processes.explicit |= {"spill_dir": str(self.spill), **more}
        self.client: Client = processes.client()
        self.sent = 0

    def send(self, count: int) -> None:
        """Send so many events."""
        for number in range(self.sent, self.sent + count):
            assert self.client.track(f"u{number}", "e")
        self.sent += count

    def start(self, kill: str = "") -> subprocess.Popen[bytes]:
        """Start a flusher. ``kill`` is code that has it killed at some step."""
        log = Path(self.processes.explicit["runtime_dir"]) / "flusher.log"
        log.parent.mkdir(mode=0o700, exist_ok=True)
        with log.open("ab") as file:
            return self.processes.start("-c", PROGRAM.format(kill=kill), stdout=file, stderr=file)

    def log(self) -> str:
        """Return what the flushers logged."""
        return (Path(self.processes.explicit["runtime_dir"]) / "flusher.log").read_text()

    def look(self) -> tuple[int, int, int]:
        """Return how many events are in the ring, in the spill and queued, after a check of the account."""
        events = self.processes.status().events
        assert events.balanced
        assert events.in_ring + events.spilled + events.queued == events.accepted
        assert min(events.in_ring, events.spilled, events.queued, CAP - events.in_ring) >= 0
        return events.in_ring, events.spilled, events.queued

    def segments(self) -> list[Path]:
        """Return the files of the spill."""
        return sorted(self.spill.glob("*/*/*"))

    def end(self) -> None:
        """Check that each event is in the queue once, in order, and nothing on the disk."""
        assert self.client.flush(30).complete
        wait_until(lambda: self.look() == (0, 0, self.sent), describe=self.look)
        assert users_in(self.redis.text_client()) == [f"u{number}" for number in range(self.sent)]
        assert self.segments() == []


@pytest.fixture(name="outage")
def _outage(processes: Processes, redis_server: RedisServer, directory: Path) -> Outage:
    return Outage(processes, redis_server, directory)


def died(process: subprocess.Popen[bytes]) -> None:
    """Wait until the process has died of SIGKILL."""
    assert process.wait(30) == -signal.SIGKILL


def test_events_wait_on_a_disk_while_redis_is_away(outage: Outage) -> None:
    """Ten times what the ring holds. Those that come while the spill is emptied go behind it."""
    flusher = outage.start()
    outage.send(100)
    wait_until(lambda: outage.look() == (0, 0, 100))
    outage.redis.kill()
    outage.send(10 * CAP)
    wait_until(lambda: outage.look()[1] > 8 * CAP, describe=outage.look)
    (segment,) = outage.segments()
    assert b'"userId":"u200"' in segment.read_bytes()
    assert b"WRITE_KEY" not in segment.read_bytes()
    assert [path.stat().st_mode & 0o777 for path in (segment, segment.parent, outage.spill)] == [0o600, 0o700, 0o700]
    printed = outage.processes.run("-m", "rudderpipe", "status").stdout.decode()
    assert " spilled: balanced" in printed
    assert "in the spill, which takes" in printed
    assert "its oldest events go to the spill" in outage.log()

    outage.redis.start()
    while not outage.log().count("the spill is empty again"):
        outage.send(20)
        outage.look()
    outage.end()
    assert flusher.poll() is None


@pytest.mark.parametrize("step", WHILE_SPILLING)
def test_a_flusher_that_dies_while_it_spills_loses_and_doubles_nothing(outage: Outage, step: str) -> None:
    """The next one finds each event in the ring or in the spill, or in both."""
    outage.redis.kill()
    flusher = outage.start(WHILE_SPILLING[step])
    outage.send(CAP - 5)
    died(flusher)
    outage.look()
    outage.start()
    outage.send(CAP)
    wait_until(lambda: outage.look()[1])
    outage.redis.start()
    outage.end()
    assert ("was not whole" in outage.log()) == (step == "within the write")


@pytest.mark.parametrize("step", WHILE_REPLAYING)
def test_a_flusher_that_dies_while_it_empties_the_spill_loses_and_doubles_nothing(outage: Outage, step: str) -> None:
    """The queue's offsets say what it has of the spill."""
    outage.redis.kill()
    first = outage.start()
    outage.send(3 * CAP)
    wait_until(lambda: outage.look()[1] > CAP)
    first.kill()
    first.wait()
    outage.redis.start()
    flusher = outage.start(WHILE_REPLAYING[step])
    died(flusher)
    outage.look()
    outage.start()
    outage.send(CAP)
    outage.end()


def test_redis_goes_away_again_and_again_and_flushers_die(outage: Outage) -> None:
    """The account balances at each look."""
    for turn in range(4):
        outage.redis.kill()
        flusher = outage.start()
        outage.send(CAP + 100 * turn)
        wait_until(lambda: outage.look()[1])
        if turn % 2:
            outage.redis.start()
            outage.send(50)
        flusher.kill()
        flusher.wait()
        outage.look()
        if not turn % 2:
            outage.redis.start()
    outage.start()
    outage.end()


def restart_the_machine(outage: Outage) -> tuple[int, int]:
    """Let events be in the spill, and empty the shared memory. Return how many are gone with it, and how many are left.

    Redis is away from before to after.
    """
    outage.redis.kill()
    flusher = outage.start()
    outage.send(3 * CAP)
    wait_until(lambda: sum(outage.look()[:2]) == 3 * CAP and outage.look()[1] > CAP)
    flusher.kill()
    flusher.wait()
    in_ring, _, _ = outage.look()
    (epoch,) = {int(path.parent.name, 16) for path in outage.segments()}
    log = Spill(outage.processes.settings, epoch)
    assert log.open()
    spilled = log.events  # also those that the flusher had not yet taken out of the ring when it was killed
    log.close()
    outage.client._intake.leave()  # noqa: SLF001  # its process is gone, too
    run = Path(outage.processes.explicit["runtime_dir"])
    for lock_file in run.glob("*.lock"):
        memory.remove(memory.segment_name(lock_file.stem))
        lock_file.unlink()
    outage.client = outage.processes.client()
    return in_ring, spilled


def test_the_spill_outlives_the_ring(outage: Outage) -> None:
    """A restart of the machine empties shared memory. What was in the ring is gone, and the spill goes first."""
    in_ring, spilled = restart_the_machine(outage)
    outage.start()
    for number in range(100):
        assert outage.client.track(f"new{number}", "e")
    wait_until(lambda: "rings are gone" in outage.log())
    outage.redis.start()

    assert outage.client.flush(30).complete
    users = [f"u{number}" for number in range(spilled)] + [f"new{number}" for number in range(100)]
    assert users_in(outage.redis.text_client()) == users
    assert in_ring + spilled >= 3 * CAP
    wait_until(lambda: not outage.segments())


def test_what_cannot_be_read_of_a_spill_holds_up_no_later_events(outage: Outage) -> None:
    """It is named by the command and the doctor. ``drain`` sends the rest, and says that something is left."""
    _, spilled = restart_the_machine(outage)
    (path,) = outage.segments()
    kept = path.rename(outage.spill.parent / "kept")
    path.mkdir()
    outage.redis.start()
    for number in range(100):
        assert outage.client.track(f"new{number}", "e")
    later = [f"new{number}" for number in range(100)]

    drained = outage.processes.run("-m", "rudderpipe", "drain", "--timeout", "7")

    assert b"spills of rings that are gone still have events" in drained.stderr
    assert drained.returncode == EXIT_UNAVAILABLE
    assert users_in(outage.redis.text_client()) == later
    status = outage.processes.run("-m", "rudderpipe", "status").stdout.decode()
    assert "with events of 1 gone ring" in status
    assert f"The files of the spill cannot be read, or not removed: Is a directory: {path}." in status
    assert f"Is a directory: {path}" in outage.processes.run("-m", "rudderpipe", "doctor").stdout.decode()
    path.rmdir()
    kept.rename(path)
    outage.start()
    wait_until(lambda: not outage.segments())
    assert users_in(outage.redis.text_client()) == later + [f"u{number}" for number in range(spilled)]


def test_a_full_spill_leaves_events_in_the_ring(
    processes: Processes, redis_server: RedisServer, directory: Path
) -> None:
    """The limit is exact, and what does not fit is sent from the ring."""
    outage = Outage(processes, redis_server, directory, max_spill_bytes=1 << 20, block_timeout_ms=1000)
    outage.start()
    outage.send(20)
    wait_until(lambda: outage.look() == (0, 0, 20))
    outage.redis.kill()
    payload = {"text": "x" * 1000}
    while outage.client.track(f"u{outage.sent}", "e", payload):
        outage.sent += 1
    assert outage.sent > CAP
    assert sum(path.stat().st_size for path in outage.segments()) <= 1 << 20
    assert "no room, max_spill_bytes is 1,048,576" in outage.log()
    assert "SpillFilling" in outage.processes.run("-m", "rudderpipe", "status", "--json").stdout.decode()

    outage.redis.start()
    outage.end()


def test_a_drain_empties_the_spill_too(outage: Outage) -> None:
    """It says what is left while Redis is away, and it acts as a flusher."""
    outage.redis.kill()
    flusher = outage.start()
    outage.send(2 * CAP)
    wait_until(lambda: outage.look()[1])
    flusher.kill()
    flusher.wait()
    while_away = outage.processes.run("-m", "rudderpipe", "drain", "--timeout", "1")
    in_ring, spilled, _ = outage.look()
    said = f"{in_ring:,} events left in the ring; {spilled:,} events left in the spill"
    assert (while_away.returncode, said in while_away.stdout.decode()) == (4, True)
    outage.redis.start()
    drained = outage.processes.run("-m", "rudderpipe", "drain")

    assert (drained.returncode, f"{2 * CAP:,} queued" in drained.stdout.decode()) == (0, True)
    outage.end()


def test_the_number_of_queues_changes_while_events_are_in_the_spill(outage: Outage) -> None:
    """They go to the new queues, in order, because the old one is sealed before it has them."""
    flusher = outage.start()
    outage.send(20)
    wait_until(lambda: outage.look()[2] == 20)
    outage.redis.kill()
    outage.send(2 * CAP)
    wait_until(lambda: outage.look()[1] > CAP)
    flusher.kill()
    flusher.wait()
    outage.redis.start()
    redis = outage.redis.text_client()
    redis.delete("{rudder}:rudderEventsQueue:wait")  # as if they were delivered
    scaled = outage.processes.run("-m", "rudderpipe", "scale", "--queues", "2", "--timeout", "0")
    assert scaled.returncode in (0, 4), scaled.stderr
    outage.start()
    outage.send(100)

    assert outage.client.flush(30).complete
    wait_until(lambda: not outage.segments())
    users = [users_in(redis, f"{{rudder-{place}}}") for place in range(2)]
    assert users_in(redis) == []
    assert sorted([*users[0], *users[1]], key=number_of) == [f"u{number}" for number in range(20, outage.sent)]
    for each in users:
        assert each == sorted(each, key=number_of)


def number_of(user: str) -> int:
    """Return the number in a user's name."""
    return int(user[1:])
