"""The commands ``rings``, ``drain`` and ``status``, and how an operator empties a ring that no process serves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from native_tests.faulty_plane import FaultyPlane, answer
from native_tests.processes import Processes, is_over, wait_until
from native_tests.test_hot_user import look
from rudderpipe.observe import host_rings
from rudderpipe.ring import location
from rudderpipe.ring.ring import find_all
from rudderpipe.testing.redis_server import RedisServer

ANOTHER_USER = 54_320
"""A user id without an account."""

TRACKS = """
import sys, time
import rudderpipe
client = rudderpipe.Client()
print(sum(client.track("u", "e", {"n": n}) for n in range(500)), flush=True)
time.sleep(600)
"""

AS_ANOTHER_USER = """
import sys
import rudderpipe
client = rudderpipe.Client("k", "http://127.0.0.1:9", pipe=sys.argv[1], autostart=False)
print(sum(client.track("u", "e") for _ in range(3)), flush=True)
sys.stdin.read()
"""


def run(processes: Processes, *arguments: str) -> tuple[int, str, str]:
    """Run one command for this pipe; return its exit code, output and errors."""
    done = processes.run("-m", "rudderpipe", *arguments)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def rows(processes: Processes) -> list[dict[str, Any]]:
    """Return the rows of ``rings --json`` for this pipe."""
    found = msgspec.json.decode(run(processes, "rings", "--json")[1])
    return [row for row in found if row["pipe"] == processes.settings.pipe_name]


def leave_events(processes: Processes) -> None:
    """Leave 500 events in a ring, by killing application and flusher together as systemd's KillMode does."""
    processes.explicit["flush_interval_ms"] = 600_000
    processes.explicit["flush_at"] = 10_000
    application = processes.start("-c", TRACKS, stdout=subprocess.PIPE)
    assert application.stdout is not None
    assert application.stdout.readline() == b"500\n"
    flusher = processes.flusher()
    wait_until(lambda: rows(processes)[0]["flusher"] == flusher.pid)
    for pid in (application.pid, flusher.pid):
        os.kill(pid, signal.SIGKILL)
    application.wait()
    wait_until(lambda: is_over(flusher))


def test_a_ring_whose_processes_were_all_killed_is_shown_and_drained(processes: Processes) -> None:
    """The events stay in shared memory, and ``drain`` delivers each of them once."""
    leave_events(processes)

    (row,) = rows(processes)
    assert (row["events"], row["flusher"], row["interpreter"], row["layout"]) == (500, None, 0, 4)
    assert run(processes, "rings")[0] == 1
    code, output, _ = run(processes, "status")
    assert code == 1
    assert "500 events wait in the ring, and no process serves it." in output

    code, output, errors = run(processes, "drain", "--flush-at", "100", processes.settings.pipe_name)

    assert (code, errors) == (0, "")
    assert output == f"{row['ring']}: 500 delivered\n"
    stats = processes.plane.stats()
    assert (stats["unique_message_ids"], stats["duplicates"]) == (500, 0)
    assert rows(processes) == []
    assert find_all(processes.settings) == []


def test_a_ring_that_killed_processes_left_empty_is_named_until_it_is_removed(processes: Processes) -> None:
    """Its memory is taken until the machine restarts. The doctor of another pipe names it."""
    application = processes.start("-c", TRACKS, stdout=subprocess.PIPE)
    assert processes.delivered(500)
    flusher = processes.flusher()
    another = msgspec.structs.replace(processes.settings, pipe="another")
    name = f"{processes.settings.pipe_name}-v4"

    def named() -> bool:
        """Return whether the doctor names the ring, after a check that the command says the same."""
        (row,) = rows(processes)
        note = f"{name}: left over, without process and event; to remove it, run: rudderpipe drain "
        assert (note in run(processes, "rings")[1]) == row["is_left_over"]
        left = [each for each in host_rings.of_this_user(another.runtime_dir) if each.is_left_over]
        found = look(37, another)
        assert (found.state == "warn") == bool(left)
        return bool(row["is_left_over"])

    assert not named()
    flusher.kill()
    flusher.wait()
    wait_until(lambda: rows(processes)[0]["flusher"] is None)
    assert not named()
    assert rows(processes)[0]["producers"] == 1
    application.kill()
    application.wait()
    assert named()
    assert ", and serves the ring no more" in run(processes, "status")[1]

    assert run(processes, "drain", processes.settings.pipe_name)[0] == 0
    assert rows(processes) == []


def test_rings_shows_the_flusher_of_a_ring_and_its_start(processes: Processes) -> None:
    """``drain`` must leave such a ring to its flusher."""
    processes.explicit["linger_s"] = 60
    client = processes.client()
    assert client.track("u", "e")
    flusher = processes.flusher()
    wait_until(lambda: rows(processes)[0]["events"] == 0)

    (row,) = rows(processes)
    assert row["flusher"] == flusher.pid
    assert row["since"].endswith("Z")
    assert row["runtime_dir"] == processes.explicit["runtime_dir"]
    code, output, _ = run(processes, "drain")
    assert (code, output) == (3, f"{row['ring']}: pid {flusher.pid} already serves the ring\n")


def test_a_failed_drain_keeps_the_events_and_says_why(processes: Processes) -> None:
    """The data plane is down. The exit code is 4, and the next drain delivers the events."""
    processes.explicit["autostart"] = False
    with FaultyPlane() as plane:
        processes.explicit["data_plane_url"] = plane.url
        plane.then(answer(503, b"down"))
        client = processes.client()
        for _ in range(10):
            assert client.track("u", "e")
        client.shutdown(0)

        code, output, errors = run(processes, "drain", "--timeout", "1")
        assert code == 4
        assert output.endswith(": 10 events left in the ring\n")
        assert "503" in errors

        plane.then(answer())
        assert run(processes, "drain")[0] == 0
        assert len(plane.accepted) == 10


def test_drain_can_empty_one_ring_of_several(processes: Processes) -> None:
    """The other rings stay as they are."""
    processes.explicit["autostart"] = False
    other = processes.client(pipe=f"{processes.explicit['pipe']}-other")
    client = processes.client()
    assert client.track("u", "e")
    assert other.track("u", "e")
    name = location.own(other.settings).stem

    code, output, _ = run(processes, "drain", "--ring", name)

    assert (code, output) == (0, f"{name}: 1 delivered\n")
    assert [row["events"] for row in rows(processes)] == [1]


def test_drain_puts_events_into_the_queue(processes: Processes, redis_server: RedisServer) -> None:
    """A sender delivers them from there, and the account balances."""
    processes.explicit |= {"autostart": False, "redis": redis_server.url, "flush_at": 5}
    client = processes.client()
    for _ in range(12):
        assert client.track("u", "e")

    code, output, errors = run(processes, "drain")

    assert (code, errors) == (0, "")
    assert output == f"{location.own(processes.settings).stem}: 12 queued\n"
    status = processes.status()
    assert (status.events.queued, status.events.in_ring, status.events.balanced) == (12, 0, True)


@pytest.mark.parametrize("command", ["status", "drain"])
def test_status_and_drain_of_an_unknown_pipe_list_the_existing_rings(processes: Processes, command: str) -> None:
    """The name may be misspelt, or the command may run with other settings."""
    processes.explicit["autostart"] = False
    assert processes.client().track("u", "e")
    there = location.own(processes.settings).stem

    code, output, errors = run(processes, command, "--pipe", "misspelt")

    assert there in output + errors
    assert code == (0 if command == "status" else 1)
    if command == "drain":
        pipe = location.own(processes.settings).pipe
        assert f"no such ring: {pipe}x; did you mean {pipe}?" in run(processes, command, f"{pipe}x")[2]


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, as root")
def test_root_sees_the_rings_of_every_user(processes: Processes, directory: Path) -> None:
    """A process that became the user looks at each ring, so that no file of root is left among the user's."""
    pipe = f"{processes.explicit['pipe']}-of-another"
    processes.explicit["autostart"] = False
    assert processes.client().track("u", "e")
    processes.explicit.pop("runtime_dir")
    as_another = [
        *("setpriv", "--reuid", str(ANOTHER_USER), "--regid", str(ANOTHER_USER), "--clear-groups"),
        # These rights are needed if Python is installed in root's home.
        *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"),
        sys.executable,
    ]
    process = processes.start_program(
        *as_another, "-c", AS_ANOTHER_USER, pipe, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    home = Path(f"/dev/shm/rudderpipe-{ANOTHER_USER}")
    name = f"rudderpipe-{ANOTHER_USER}-{pipe}-v4"
    try:
        assert process.stdout.readline() == b"3\n"
        found = msgspec.json.decode(run(processes, "rings", "--json")[1])
        (row,) = [row for row in found if row["pipe"] == pipe]
        assert (row["user"], row["events"], row["producers"]) == (str(ANOTHER_USER), 3, 1)
        assert row["flusher"] is None
        assert f"run as {ANOTHER_USER}: rudderpipe drain {pipe}\n" in run(processes, "rings")[1]
        assert {path.stat().st_uid for path in home.iterdir()} == {ANOTHER_USER}
        assert pipe in run(processes, "status", "--pipe", "misspelt")[1]
        command = [*as_another, "-m", "rudderpipe", "rings"]
        theirs = subprocess.run(command, env=processes.environment, capture_output=True, timeout=60, check=False)
        assert b"other users have rings that only they and root can see: root" in theirs.stdout
    finally:
        processes.explicit["runtime_dir"] = str(directory / "run")
        (Path("/dev/shm") / name).unlink(missing_ok=True)
        for path in home.glob(f"{pipe}*"):
            path.unlink()
        home.rmdir()
