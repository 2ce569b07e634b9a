"""What a host can do to a ring: no room, removed files, other users, other pid namespaces, too many processes."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from native_tests.processes import Processes, wait_until
from rudderpipe.ring import layout as at
from rudderpipe.ring import location, memory
from rudderpipe.ring.ring import Ring, find

AS_ROOT = [] if os.geteuid() == 0 else ["--map-root-user"]
TRACKS_AND_REPORTS = """
import logging, rudderpipe
logging.basicConfig()
client = rudderpipe.Client(max_internal_queue_size=100_000)
print(sum(client.track('u', 'e', {'x': 'y' * 400}) for _ in range(20_000)))
try: rudderpipe.Client(when_full='raise').track('u', 'e')
except rudderpipe.RingError as error: print(type(error).__name__)
"""


def with_shared_memory(processes: Processes, mount: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program that tracks where the shell command ``mount`` has changed /dev/shm."""
    processes.explicit["autostart"] = False
    script = f'{mount} && exec "$0" -c "$1"'
    return subprocess.run(
        ["unshare", *AS_ROOT, "--mount", "sh", "-c", script, sys.executable, TRACKS_AND_REPORTS],
        env=processes.environment,
        capture_output=True,
        timeout=60,
        check=False,
    )


def ring_of(processes: Processes) -> Ring:
    """Return the pipe's present ring."""
    ring: Ring = wait_until(lambda: find(processes.settings))
    return ring


def track(client: Any, start: int, end: int) -> int:
    """Track numbered events, and return how many were accepted."""
    return sum(client.track("u", "e", {"n": number}) for number in range(start, end))


@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        ("mount -t tmpfs -o size=64k tmpfs /dev/shm", "no room for the first"),
        ("mount -t tmpfs -o ro tmpfs /dev/shm", "read-only"),
        ("mount -t tmpfs tmpfs /dev && true", "there is no /dev/shm"),
    ],
)
def test_without_shared_memory_events_are_refused_with_a_reason(processes: Processes, mount: str, reason: str) -> None:
    """The call returns False, or raises where that was asked for.

    At most one line a second says what to do. No signal ends the process.
    """
    done = with_shared_memory(processes, mount)

    said = done.stderr.decode()
    assert done.returncode == 0, said
    assert done.stdout.decode().split() == ["0", "RingUnavailable"]
    assert reason in said
    assert said.count("\n") < 20


@pytest.mark.parametrize(("size", "least", "most"), [("1m", 1_000, 2_000), ("8m", 11_000, 14_000)])
def test_a_small_shared_memory_refuses_events_and_raises_no_signal(
    processes: Processes, size: str, least: int, most: int
) -> None:
    """The ring of 32 MiB does not fit. The events that fit are accepted, and the others are refused and counted."""
    done = with_shared_memory(processes, f"mount -t tmpfs -o size={size} tmpfs /dev/shm")

    accepted, error = done.stdout.decode().split()
    assert done.returncode == 0, done.stderr
    assert least < int(accepted) < most
    assert error == "EventRefused"
    assert "reason=no_block" in done.stderr.decode()


@pytest.mark.parametrize("removed", ["segment", "lock file", "both"])
def test_removed_files_of_a_running_pipe_lose_nothing(processes: Processes, removed: str) -> None:
    """systemd's RemoveIPC or ``rm`` removes such files.

    An idle producer keeps the old ring and a busy one moves to a new ring. One operator's flusher serves both.
    """
    processes.explicit["autostart"] = False
    flusher = processes.start("-m", "rudderpipe.flusher")
    idle, busy = processes.client(), processes.client()
    assert track(idle, 0, 5) + track(busy, 5, 10) == 10
    processes.delivered(10)
    assert track(idle, 10, 13) == 3
    old = ring_of(processes)

    if removed != "lock file":
        memory.remove(old.segment.name)
    if removed != "segment":
        old.locks.path.unlink()
    accepted = 13
    wait_until(lambda: old.segment.is_linked() is False)

    def moved() -> bool:
        nonlocal accepted
        accepted += track(busy, accepted, accepted + 1)
        ring = find(processes.settings)
        return ring is not None and ring.segment.epoch != old.segment.epoch

    wait_until(moved)
    processes.delivered(accepted)
    accepted += track(idle, accepted, accepted + 5)
    processes.delivered(accepted)
    flusher.terminate()

    assert flusher.wait(10) == 0
    assert processes.plane.stats()["duplicates"] == 0
    assert processes.plane.stats()["events"] == accepted


@pytest.mark.parametrize(("content", "mode"), [(b"theirs" * 1000, 0o600), (b"", 0o666)], ids=["theirs", "empty"])
def test_another_users_segment_of_the_same_name_is_left_alone(processes: Processes, content: bytes, mode: int) -> None:
    """The event is refused with the reason. The segment is neither read, nor written, nor removed."""
    processes.explicit["autostart"] = False
    path = Path("/dev/shm") / location.own(processes.settings).segment
    path.write_bytes(content)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        path.chmod(mode)
    else:
        path.chmod(0o644)  # refused for the same reason, because others may read it
    try:
        client = processes.client()
        assert not client.track("u", "e")
        assert "belongs to another user" in client.flush().reason
        client.shutdown()
        flusher = processes.run("-m", "rudderpipe.flusher")
        status = processes.run("-m", "rudderpipe", "status")
        assert path.read_bytes() == content
    finally:
        path.unlink()
    for done in (flusher, status):
        assert done.returncode == 4
        assert "belongs to another user or can be read by others" in done.stderr.decode()
        assert b"Traceback" not in done.stderr


def test_a_producer_without_a_slot_is_refused_and_counted(processes: Processes) -> None:
    """Of 550 processes 512 get a slot. The others get the reason, and the account has every refusal."""
    processes.explicit |= {"autostart": False, "ring_bytes": 64 << 20}
    code = """
import os, sys, logging, rudderpipe
logging.basicConfig()
client = rudderpipe.Client(when_full='raise')
done, go = os.pipe()
for number in range(550):
    if not os.fork():
        answer = None
        while answer is None:
            try:
                client.track('u', 'e', {'n': number})
                answer = b'1'
            except rudderpipe.EventRefused:
                pass  # the claim lock was busy, because 550 processes begin at once
            except rudderpipe.RingUnavailable as error:
                if 'slots are taken' in str(error):  # otherwise the claim lock was busy when the ring was opened
                    answer = b'0'
        os.write(go, answer)
        sys.stdin.read()  # until the test has read the status
        client._intake.leave()
        os._exit(0)
found = b''
while len(found) < 550: found += os.read(done, 550)
print(found.count(b'1'), flush=True)
for _ in range(550): os.wait()
"""
    program = processes.start("-c", code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None
    assert int(program.stdout.readline()) == at.SLOTS

    assert processes.status().events.accepted == at.SLOTS
    assert program.stdin is not None
    program.stdin.close()
    program.wait(60)
    assert processes.status().events.refused["no_slot"] == 550 - at.SLOTS
    assert program.stderr is not None
    assert b"all of its 512 slots are taken reason=no_slot" in program.stderr.read()
    flusher = processes.start("-m", "rudderpipe.flusher")
    processes.delivered(at.SLOTS)
    flusher.terminate()
    assert flusher.wait(10) == 0
    assert find(processes.settings) is None


def test_a_producer_of_another_pid_namespace_is_known_by_its_lock(processes: Processes) -> None:
    """The pid of such a producer means nothing here.

    Its slot stays taken while it lives, and is free again after its death.
    """
    code = (
        "import os, sys, rudderpipe; client = rudderpipe.Client()\n"
        "for line in sys.stdin: print(os.getpid(), client.track('u', 'e', {'n': int(line)}), flush=True)\n"
    )
    processes.explicit["autostart"] = False
    processes.start("-m", "rudderpipe.flusher")
    guest = subprocess.Popen(
        ["unshare", *AS_ROOT, "--pid", "--fork", "--kill-child", sys.executable, "-c", code],
        env=processes.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    processes.started.append(guest)  # type: ignore[arg-type]  # its pipes carry text
    assert guest.stdin is not None
    assert guest.stdout is not None
    for number in range(3):
        print(number, file=guest.stdin, flush=True)
        assert guest.stdout.readline() == "1 True\n"
        processes.delivered(number + 1)  # the flusher has checked the slot meanwhile
        assert [producer.pid for producer in processes.status().ring.producers] == [1]  # type: ignore[union-attr]  # it exists

    guest.kill()
    guest.wait()

    wait_until(lambda: not ring_of(processes).slots_in_use())


def test_a_producer_stopped_inside_its_claim_delays_no_other(processes: Processes) -> None:
    """Calls of other producers return within milliseconds and are refused as busy.

    They are accepted again after the stopped producer's death.
    """
    processes.explicit["autostart"] = False
    code = (
        "import os, signal, rudderpipe\n"
        "from rudderpipe.ring import claims\n"
        "claims._find_free = lambda *_: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "rudderpipe.Client().track('u', 'e')\n"
    )
    client = processes.client()
    assert track(client, 0, 1) == 1
    stopped = processes.start("-c", code)
    wait_until(lambda: psutil.Process(stopped.pid).status() == psutil.STATUS_STOPPED)

    results = [client.track("u", "e", {"n": number}) for number in range(1, 500)]
    assert not any(results[-100:])
    stopped.send_signal(signal.SIGKILL)
    stopped.wait()

    assert client.track("u", "e", {"n": 500})
    found = processes.status()
    assert found.events.accepted == sum(results) + 2
    assert found.events.refused == {"busy": results.count(False)}


def test_clients_after_shutdown_leave_nothing_in_the_process(processes: Processes) -> None:
    """Many clients, one after the other, must not use up descriptors and mappings."""
    me = psutil.Process()

    def used() -> tuple[int, int]:
        gc.collect()
        maps = [found for found in me.memory_maps(grouped=False) if processes.explicit["pipe"] in found.path]
        return me.num_fds(), len(maps)

    counts = []
    for number in range(6):
        client = processes.client(pipe=f"{processes.explicit['pipe']}-{number}")
        assert track(client, 0, 10) == 10
        client.shutdown()
        processes._clients.clear()  # noqa: SLF001  # no other reference may keep the client
        del client
        wait_until(lambda: not processes.own_processes())
        counts.append(used())

    assert len(set(counts[1:])) == 1, counts
    assert counts[-1][1] == 0
    assert list(Path("/dev/shm").glob(f"*{processes.explicit['pipe']}*")) == []


@pytest.mark.parametrize("forks", [True, False])
def test_an_application_that_closes_all_descriptors_can_track(processes: Processes, forks: bool) -> None:
    """Daemons close all descriptors when they start. Other files then get the numbers of ours."""
    code = f"""
import os, time, rudderpipe
client = rudderpipe.Client()
assert client.track('u', 'e', {{'n': -1}})
if {forks} and os.fork():
    os._exit(0)
os.closerange(3, 1000)
others = [os.open('/dev/null', os.O_RDONLY) for _ in range(10 if not {forks} else 0)]
accepted = n = 0
until = time.monotonic() + 20
while accepted < 50 and time.monotonic() < until:
    accepted += client.track('u', 'e', {{'n': n}})
    n += 1
for fd in others: os.fstat(fd)
assert accepted == 50
"""
    processes.explicit["autostart"] = False
    flusher = processes.start("-m", "rudderpipe.flusher")
    done = processes.run("-c", code)
    assert done.returncode == 0, done.stderr

    processes.delivered(51)
    wait_until(lambda: not ring_of(processes).slots_in_use())
    flusher.terminate()
    assert flusher.wait(10) == 0
    assert processes.plane.stats()["events"] == 51


def test_a_pipe_has_two_descriptors_and_closes_both(processes: Processes) -> None:
    """Clients that share a pipe share its descriptors, and the last one closes them."""
    processes.explicit["autostart"] = False
    me = psutil.Process()
    before = me.num_fds()

    pipes = [f"{processes.explicit['pipe']}-{number}" for number in range(30)]
    clients = [processes.client(pipe=pipe) for pipe in pipes for _ in range(2)]
    assert all(client.track("u", "e") for client in clients)
    assert me.num_fds() - before == 2 * len(pipes)
    for client in clients[::2]:
        client.shutdown(0)
    assert me.num_fds() - before == 2 * len(pipes)
    for client in clients[1::2]:
        client.shutdown(0)

    assert me.num_fds() == before
    assert not any(client.track("u", "e") for client in clients)
    assert clients[1].counts() == {"accepted": 2, "closed": 2}


def test_a_client_with_other_settings_than_its_flusher_warns_once(
    processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process started the flusher, so the flusher uses the settings of that process."""
    code = "import rudderpipe; c = rudderpipe.Client(flush_at=7, max_attempts=3); assert c.track('u', 'e'); input()"
    other = processes.start("-c", code, stdin=subprocess.PIPE)
    processes.flusher()

    client = processes.client()

    def warned() -> list[str]:
        assert client.track("u", "e")
        return [message for message in caplog.messages if "uses other settings" in message]

    wait_until(warned)
    assert len(warned()) == 1
    assert "this client: flush_at, max_attempts; give" in warned()[0]
    assert other.poll() is None
