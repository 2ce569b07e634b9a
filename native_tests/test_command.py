"""The command ``rudderpipe``, as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from native_tests.processes import Processes, command_of, wait_until
from rudderpipe.ring import memory
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer

KINDS: dict[str, dict[str, object]] = {
    "identify": {"userId": "u", "traits": {"plan": "Free"}},
    "track": {"userId": "u", "event": "Item Viewed", "properties": {"revenue": 19.95}},
    "page": {"anonymousId": "a", "name": "Home"},
    "screen": {"userId": "u", "name": "Settings"},
    "group": {"userId": "u", "groupId": 7},
    "alias": {"userId": "new", "previousId": "old"},
}


DEEP = b'{"type":"track","userId":"u","event":"e","properties":' + b'{"a":' * 5000 + b"1" + b"}" * 5001 + b"\n"
ODD = (
    b'{"type":["track"]}\n{"type":"track","userId":"u","event":"e","timestamp":"yesterday"}\n'
    b'{"type":"track","userId":"u","event":"half \\ud83d","properties":{"a":0.12345678901234567890123,"b":1E400}}\n'
)


def lines(count: int) -> bytes:
    """Return events of all kinds, one in each line."""
    kinds = list(KINDS.items())
    made = ({"type": kind, **message} for kind, message in (kinds[n % len(kinds)] for n in range(count)))
    return b"".join(json.dumps(message).encode() + b"\n" for message in made)


@pytest.mark.parametrize("through_redis", [False, True])
def test_send_delivers_a_file_and_reports_the_result(
    processes: Processes, redis_server: RedisServer, directory: Path, *, through_redis: bool
) -> None:
    """Bad lines are named with their numbers and do not stop the others. The exit code says that there were some."""
    redis = redis_server.url if through_redis else "none"
    del processes.explicit["pipe"]
    path = directory / "events.ndjson"
    path.write_bytes(
        lines(100) + b'nonsense\n[1]\n{"type":"zzz"}\n\n{"type":"track","userId":"u"}\n' + DEEP + ODD + lines(1)
    )

    done = processes.run("-m", "rudderpipe", "send", str(path), "--redis", redis, "--flush-at", "30", "--json")

    assert done.returncode == 1
    summary = json.loads(done.stdout)
    assert {**summary, "seconds": 0, "rejects": {}} == {
        "read": 109,
        "accepted": 102,
        "already": 0,
        "delivered": 102,
        "failed": 0,
        "rejected": 7,
        "rejects": {},
        "warnings": [],
        "seconds": 0,
        "resumed_from": None,
        "complete": True,
        "left_over": 0,
    }
    assert sum(summary["rejects"].values()) == 7
    said = done.stderr.decode()
    for number, word in (
        (101, "JSON"),
        (102, "object"),
        (103, "type"),
        (105, "event"),
        (106, "deep"),
        (107, "type"),
        (108, "timestamp"),
    ):
        assert f"line {number}: " in said
        assert word in said
    assert processes.plane.stats()["unique_message_ids"] == 102
    bodies = b"".join(processes.plane.last_events())
    assert b'"event":"half \xef\xbf\xbd"' in bodies
    assert b'"properties":{"a":0.12345678901234567890123,"b":1E+400}' in bodies


def test_send_waits_for_room_in_the_ring(processes: Processes) -> None:
    """There are more events than the ring may hold, and a slow data plane. All events arrive."""
    del processes.explicit["pipe"]
    processes.plane.misbehaviour = Misbehaviour(delay_ms=2)

    done = processes.run("-m", "rudderpipe", "send", "--max-internal-queue-size", "50", stdin=lines(600))

    assert done.returncode == 0, done.stderr
    assert b"600 accepted, 600 delivered, 0 failed" in done.stdout
    assert processes.plane.stats()["events"] == 600


def test_send_reports_failed_events(processes: Processes) -> None:
    """A response of 401 makes the exit code 1, and the summary counts the failed events."""
    del processes.explicit["pipe"]
    processes.plane.misbehaviour = Misbehaviour(401, times=1)

    done = processes.run("-m", "rudderpipe", "send", "--json", stdin=lines(50))

    assert done.returncode == 1
    summary = json.loads(done.stdout)
    assert (summary["accepted"], summary["delivered"], summary["failed"]) == (50, 30, 20)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["send", "--redis", "http://x"], "redis"),
        (["send", "--flush-at", "none"], "flush_at"),
        (["send", "--write-key", ""], "write_key"),
        (["send", "/does/not/exist"], "no such file"),
        (["send", "--config", sys.executable], "is not TOML"),
        (["send", "--redis", "redis://127.0.0.1:1"], "127.0.0.1:1"),
    ],
)
def test_a_mistake_is_reported_in_one_line(processes: Processes, arguments: list[str], word: str) -> None:
    """Wrong settings, a missing file and an unreachable Redis give no traceback, and an exit code that is not 0."""
    done = processes.run("-m", "rudderpipe", *arguments)

    assert done.returncode in (2, 4)
    assert word in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_status_shows_ring_queue_and_account(processes: Processes, redis_server: RedisServer) -> None:
    """The text and the JSON have the same numbers, and the account balances."""
    processes.explicit["redis"] = redis_server.url
    client = processes.client()
    processes.plane.misbehaviour = Misbehaviour(503)
    for _ in range(45):
        client.track("u", "e")
    assert client.flush(10)
    wait_until(lambda: (queue := processes.status().queue) and queue.active)

    shown = processes.run("-m", "rudderpipe", "status")
    printed = processes.status_json()

    assert shown.returncode == 0, shown
    text = shown.stdout.decode()
    assert "45 accepted = 0 in ring + 45 queued + 0 delivered + 0 failed: balanced" in text
    assert "2 waiting, 1 active, 0 delayed, 0 failed" in text
    assert printed["events"]["queued"] == 45
    [producer] = printed["ring"]["producers"]
    assert (producer["pid"], producer["accepted"], producer["in_ring"]) == (os.getpid(), 45, 0)
    assert "oldest    " in text
    assert printed["jobs"].pop("oldest_job_age_s") > 0
    assert {**printed["jobs"], "bytes": bool(printed["jobs"]["bytes"])} == {
        "waiting": 2,
        "active": 1,
        "delayed": 0,
        "failed": 0,
        "paused": False,
        "completed": 0,
        "bytes": True,
        "eviction": "",
        "generations": [],
        "lanes": [],
        "odd_fields": 0,
        "other_plane": "",
        "max_bytes": None,
        "oldest_failed_age_s": None,
    }


@pytest.mark.parametrize("trouble", ["none", "ring", "jobs", "balance", "away"])
def test_the_exit_code_of_status_is_0_only_when_all_is_well(
    processes: Processes, redis_server: RedisServer, trouble: str
) -> None:
    """A health check looks at the exit code alone."""
    processes.explicit |= {"redis": redis_server.url, "autostart": False}
    client = processes.client()
    assert client.track("u", "e")
    if trouble != "ring":
        assert processes.run("-m", "rudderpipe", "drain").returncode == 0
    if trouble in ("none", "balance"):
        processes.start("-m", "rudderpipe.sender")
        wait_until(lambda: processes.status().events.delivered == 1)
    if trouble == "balance":
        for key in redis_server.client().scan_iter("{rudder}:rudderpipe:*"):
            if redis_server.client().type(key) == b"hash":
                redis_server.client().hincrby(key, "delivered", 5)
    if trouble == "away":
        processes.explicit["redis"] = "redis://127.0.0.1:1"

    done = processes.run("-m", "rudderpipe", "status")

    assert done.returncode == {"none": 0, "away": 4}.get(trouble, 1), done
    words = {
        "none": b": balanced",
        "ring": b"no process serves it",
        "jobs": b"no sender has the queue",
        "balance": b"does NOT balance",
        "away": b"127.0.0.1:1",
    }
    assert words[trouble] in done.stdout


def test_status_of_a_pipe_without_a_ring_makes_nothing(processes: Processes) -> None:
    """No process sends, and status says that there is no ring."""
    done = processes.run("-m", "rudderpipe", "status")

    assert done.returncode == 0
    assert b"this pipe has no ring" in done.stdout
    assert [path for path in Path(processes.explicit["runtime_dir"]).iterdir() if path.suffix == ".lock"] == []


def demonstration(processes: Processes, directory: Path, seconds: float) -> subprocess.Popen[bytes]:
    """Start the demonstration, whose directory is in the test's directory."""
    command = ["env", f"TMPDIR={directory}", sys.executable, "-m", "rudderpipe", "demo", "--seconds", str(seconds)]
    return processes.start_program(*command, stdout=-1, stderr=-1)


def is_sender(process: psutil.Process, directory: Path) -> bool:
    """Return True if the process is the demonstration's sender."""
    command = command_of(process)
    return "rudderpipe.sender" in command and str(directory) in " ".join(command)


def assert_nothing_is_left(process: subprocess.Popen[bytes], directory: Path) -> None:
    """Check that no process, no file and no shared memory is left."""
    place = str(directory / "rudderpipe-demo")
    assert [other for other in psutil.process_iter() if place in " ".join(command_of(other))] == []
    assert list(directory.glob("rudderpipe-demo*")) == []
    assert [name for name in memory.names() if f"-demo-{process.pid}." in name] == []


@pytest.mark.timeout(400)
def test_the_demonstration_loses_nothing(processes: Processes, directory: Path) -> None:
    """The demonstration runs gunicorn and Redis and kills processes. Its exit code is 0 only when no event is lost."""
    process = demonstration(processes, directory, 3)

    output, errors = process.communicate(timeout=300)

    text = output.decode()
    assert process.returncode == 0, (text, errors)
    for name in ("gunicorn", "flusher", "sender", "data plane", "redis"):
        assert f"ended       {name}" in text
    assert_nothing_is_left(process, directory)
    assert "killed      worker" in text
    assert "killed      sender" in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("lost")] == ["0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_all_processes_of_the_demonstration(
    processes: Processes, directory: Path, number: signal.Signals
) -> None:
    """A terminal sends the signal to the whole group, and here again while processes end."""
    process = demonstration(processes, directory, 60)
    wait_until(lambda: [other for other in psutil.process_iter() if is_sender(other, directory)])

    os.killpg(process.pid, number)
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=60)

    assert process.returncode == 128 + number, (output, errors)
    assert f"{number.name}: all started processes have ended" in output.decode()
    assert b"Traceback" not in errors
    assert_nothing_is_left(process, directory)


def test_an_error_ends_all_processes_of_the_demonstration(processes: Processes, directory: Path) -> None:
    """The application does not start. Redis and the data plane have started before."""
    processes.explicit["flush_at"] = "none"
    process = demonstration(processes, directory, 60)

    output, errors = process.communicate(timeout=60)

    assert process.returncode == 4, (output, errors)
    assert b"gunicorn ended with exit code" in errors
    del processes.explicit["flush_at"]
    assert_nothing_is_left(process, directory)


@pytest.mark.parametrize("command", ["status", "rings"])
def test_a_closed_output_ends_a_command_without_a_message(processes: Processes, command: str) -> None:
    """``head`` closes its input early. The exit code is the one that a shell reports for SIGPIPE."""
    reading, writing = os.pipe()
    os.close(reading)
    process = processes.start("-m", "rudderpipe", command, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)

    _, errors = process.communicate(timeout=60)

    assert (process.returncode, errors) == (141, b"")


def test_the_data_plane_command_fails_as_its_options_say(processes: Processes) -> None:
    """The options give status, number of times and delay. Afterwards the data plane counts what it accepts."""
    plane = processes.start("-m", "rudderpipe", "data-plane", "--port", "0", "--fail", "503", "--times", "2", stdout=-1)
    assert plane.stdout is not None
    line = plane.stdout.readline().decode()
    url = next(word.rstrip(",") for word in line.split() if word.startswith("http://"))
    processes.explicit["data_plane_url"] = url

    done = processes.run("-m", "rudderpipe", "send", "--json", stdin=lines(5))

    assert json.loads(done.stdout)["delivered"] == 5
    with urllib.request.urlopen(f"{url}/stats") as answer:
        stats = json.loads(answer.read())
    assert (stats["requests"], stats["refused"], stats["events"]) == (3, 2, 5)

    port = url.rpartition(":")[2]
    second = processes.run("-m", "rudderpipe", "data-plane", "--port", port)
    assert (second.returncode, second.stderr) == (
        4,
        f"rudderpipe: cannot listen on 127.0.0.1:{port}: Address already in use\n".encode(),
    )


@pytest.mark.parametrize("program", ["flusher", "sender"])
def test_a_program_without_settings_names_the_missing_one(program: str) -> None:
    """The exit code is 2, with one line and no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", f"rudderpipe.{program}"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr.startswith(f"rudderpipe.{program}: setting ".encode())
    assert done.stderr.count(b"\n") == 1
