"""``rudderpipe send`` with real processes: it goes on where it was, whatever ended it."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from native_tests.processes import Processes, wait_until
from rudderpipe.ring import memory
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer

MANY = 12_000


def lines(first: int, end: int) -> bytes:
    """Return lines of events without message ids."""
    return b"".join(
        b'{"type":"track","userId":"u%d","event":"Imported","properties":{"n":%d,"text":"%b"}}\n' % (n, n, b"x" * 300)
        for n in range(first, end)
    )


@pytest.fixture(name="send")
def _send(processes: Processes) -> Callable[..., dict[str, Any]]:
    """Return a function that runs the command to its end, and returns its summary and what it said."""
    del processes.explicit["pipe"]
    # The flusher must not end between two runs, because that would end the ring too.
    processes.explicit |= {"linger_s": 30, "max_internal_queue_size": 1_000}

    def run(*arguments: str, code: int = 0) -> dict[str, Any]:
        done = processes.run("-m", "rudderpipe", "send", *arguments, "--json")
        assert done.returncode == code, done.stderr.decode()
        return {"said": done.stderr.decode(), **(json.loads(done.stdout) if done.stdout else {})}

    return run


def begun(processes: Processes, events: int, *arguments: str) -> subprocess.Popen[bytes]:
    """Start the command against a slow data plane; return it when so many events have arrived, and some are certain."""
    processes.plane.misbehaviour = Misbehaviour(delay_ms=3)
    process = processes.start("-m", "rudderpipe", "send", *arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    wait_until(lambda: processes.plane.stats()["events"] >= events)
    wait_until(lambda: any(map(is_certain, Path(os.environ["XDG_STATE_HOME"]).rglob("*.checkpoint"))))
    return process


def is_certain(checkpoint: Path) -> bool:
    """Return whether a checkpoint has a place behind the first record."""
    return bool(json.loads(checkpoint.read_bytes())["counts"]["accepted"])


def arrived(processes: Processes) -> tuple[int, int]:
    """Return how many events have arrived, and how many of them have ids of their own."""
    stats = processes.plane.stats()
    return stats["events"], stats["unique_message_ids"]


@pytest.mark.parametrize("queue", [False, True])
def test_a_killed_send_goes_on_without_a_gap_or_a_repetition(
    processes: Processes, send: Callable[..., dict[str, Any]], directory: Path, redis_server: RedisServer, queue: bool
) -> None:
    """The ring is still there, so the next run skips exactly the events that the ring had accepted."""
    if queue:
        processes.explicit["redis"] = redis_server.url
    path = directory / "events.ndjson"
    path.write_bytes(lines(0, MANY))
    process = begun(processes, 1_000, str(path), "--rate", "6k/s")
    process.kill()
    process.wait()
    processes.plane.misbehaviour = Misbehaviour()

    summary = send(str(path))

    assert summary["resumed_from"]["number"] > 1
    assert summary["already"] > 0
    assert summary["accepted"] + summary["already"] == MANY - summary["resumed_from"]["number"] + 1
    assert arrived(processes) == (MANY, MANY)
    assert "everything was sent" in processes.run("-m", "rudderpipe", "send", str(path)).stdout.decode()
    assert arrived(processes) == (MANY, MANY)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_send_hands_over_and_says_how_to_go_on(
    processes: Processes, send: Callable[..., dict[str, Any]], directory: Path, number: signal.Signals
) -> None:
    """What was accepted is delivered, and the next run has nothing to skip."""
    path = directory / "events.ndjson"
    path.write_bytes(lines(0, MANY))
    process = begun(processes, 1_000, str(path))
    process.send_signal(number)
    _, said = process.communicate(timeout=30)

    assert process.returncode == 128 + number
    assert b"run the same command again to go on there" in said
    processes.plane.misbehaviour = Misbehaviour()
    summary = send(str(path))
    assert (summary["already"], summary["complete"]) == (0, True)
    assert arrived(processes) == (MANY, MANY)


def test_after_the_ring_was_removed_it_goes_on_at_the_checkpoint(
    processes: Processes, send: Callable[..., dict[str, Any]], directory: Path
) -> None:
    """As after a reboot: what the ring had and nobody took is sent again, with the same ids."""
    path = directory / "events.ndjson"
    path.write_bytes(lines(0, MANY))
    process = begun(processes, 1_000, str(path))
    process.kill()
    for each in processes.own_processes():
        each.kill()
        each.wait()
    own = tuple(path.stem for path in Path(processes.explicit["runtime_dir"]).glob("send-*.lock"))
    for name in filter(lambda name: name.endswith(own), memory.names()):  # other tests have rings beside this one's
        memory.remove(name)
    before, _ = arrived(processes)
    processes.plane.misbehaviour = Misbehaviour()

    summary = send(str(path))

    assert summary["resumed_from"]["number"] > 1
    assert summary["already"] == 0
    events, ids = arrived(processes)
    assert ids == MANY
    assert events - before <= MANY - summary["resumed_from"]["number"] + 1


def test_a_file_that_has_grown_goes_on_and_a_changed_one_is_named(
    processes: Processes, send: Callable[..., dict[str, Any]], directory: Path
) -> None:
    """A changed file is not sent by its old place. ``--again`` sends it from its beginning."""
    path = directory / "events.ndjson"
    path.write_bytes(lines(0, 100))
    assert send(str(path))["accepted"] == 100
    with path.open("ab") as file:
        file.write(lines(100, 130))

    assert send(str(path))["accepted"] == 30
    assert arrived(processes) == (130, 130)
    path.write_bytes(lines(1_000, 1_200))
    said = send(str(path), code=2)["said"]
    assert "has changed since the checkpoint" in said
    assert "--again" in said
    assert arrived(processes) == (130, 130)
    assert send(str(path), "--again")["accepted"] == 200
    assert arrived(processes) == (330, 330)


def test_a_checkpoint_that_cannot_be_written_stops_nothing(
    send: Callable[..., dict[str, Any]], directory: Path
) -> None:
    """The end says what it means."""
    path, checkpoint = directory / "events.ndjson", directory / "checkpoint"
    path.write_bytes(lines(0, 100))
    Path(f"{checkpoint}.new").mkdir()

    summary = send(str(path), "--checkpoint", str(checkpoint))

    assert summary["accepted"] == 100
    assert f"the checkpoint {checkpoint} could not be written" in summary["said"]


def test_large_records_and_an_empty_file(
    processes: Processes, send: Callable[..., dict[str, Any]], directory: Path
) -> None:
    """A record of almost 4 MB is sent, and one of 5 MB is refused, between its neighbours."""
    path, empty = directory / "events.ndjson", directory / "empty.ndjson"
    empty.touch()
    large = b'{"type":"track","userId":"u","event":"e","properties":{"text":"%b"}}\n'
    texts = [b"x" * 3_990_000, b"y" * 5_000_000]
    path.write_bytes(lines(0, 70) + large % texts[0] + lines(70, 100) + large % texts[1] + lines(100, 130))

    summary = send(str(empty), str(path), "--rejects", str(directory / "rejects"), code=1)

    assert (summary["accepted"], summary["delivered"], summary["rejected"]) == (131, 131, 1)
    assert arrived(processes) == (131, 131)
    [reject] = map(json.loads, (directory / "rejects").read_bytes().splitlines())
    assert (reject["line"], reject["source"]) == (102, str(path))
    assert (len(reject["text"]), reject["size_bytes"]) == (1_000, len(large % texts[1]) - 1)


def test_what_comes_before_the_damage_of_a_compressed_file_is_sent(
    processes: Processes, send: Callable[..., dict[str, Any]], directory: Path
) -> None:
    """The error names the place, and the whole file goes on there."""
    path = directory / "events.ndjson.gz"
    whole = gzip.compress(lines(0, 20_000))
    path.write_bytes(whole[: len(whole) // 2])

    summary = send(str(path), code=1)

    assert "is damaged near byte" in summary["said"]
    assert 0 < summary["accepted"] < 20_000
    assert summary["complete"] is False
    path.write_bytes(whole)
    assert send(str(path))["accepted"] == 20_000 - summary["accepted"]
    assert arrived(processes) == (20_000, 20_000)


@pytest.mark.usefixtures("send")
def test_the_pipe_is_shown_by_the_name_of_the_file(processes: Processes, directory: Path) -> None:
    """``rings`` shows it while it runs."""
    path = directory / "my events (1).ndjson"
    path.write_bytes(lines(0, MANY))
    process = begun(processes, 500, str(path))

    shown = processes.run("-m", "rudderpipe", "rings").stdout.decode()
    process.kill()
    process.wait()

    assert "send-my_events_1_.ndjson-" in shown


@pytest.mark.usefixtures("send")
@pytest.mark.parametrize("queue", [False, True])
def test_a_terminal_shows_how_far_it_is_and_what_holds_it_up(
    processes: Processes, directory: Path, redis_server: RedisServer, queue: bool
) -> None:
    """With rich a bar is drawn. Warnings come with file and line, at most ten of a kind."""
    if queue:
        processes.explicit["redis"] = redis_server.url
    path = directory / "events.ndjson"
    path.write_bytes(lines(0, 3_000) + b"nonsense\n" * 15 + lines(0, 3_000))
    processes.plane.misbehaviour = Misbehaviour(503)
    ours, theirs = pty.openpty()
    process = processes.start("-m", "rudderpipe", "send", str(path), stderr=theirs, stdout=subprocess.PIPE)
    os.close(theirs)
    seen = bytearray()

    def shows(word: bytes) -> bool:
        if select.select([ours], [], [], 0.05)[0]:
            with suppress(OSError):  # the command has ended
                seen.extend(os.read(ours, 65_536))
        return word in seen

    wait_until(lambda: shows(b"status 503"), describe=lambda: seen)
    processes.plane.misbehaviour = Misbehaviour()
    wait_until(lambda: shows(b"more lines refused"), describe=lambda: seen)
    printed, _ = process.communicate(timeout=30)
    os.close(ours)

    assert process.returncode == 1
    assert b"6,000 accepted, 6,000 delivered, 0 failed, 15 lines rejected" in printed
    squeezed = re.sub(rb"\s|\x1b\[[0-9;?]*[a-zA-Z]", b"", seen)  # a narrow terminal breaks lines
    assert squeezed.count(b":isnotJSON") == 11
    assert b"MB(" in squeezed, bytes(squeezed).decode()[:600]


def test_a_pipe_that_nobody_writes_to_can_be_stopped(processes: Processes, directory: Path) -> None:
    """The command waits for a writer when it opens the pipe, and must hear the signal there."""
    del processes.explicit["pipe"]
    pipe = directory / "events"
    os.mkfifo(pipe)
    process = processes.start("-m", "rudderpipe", "send", str(pipe), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    wait_until(lambda: list(Path(processes.explicit["runtime_dir"]).glob("send-events*.log")))  # of its flusher
    process.send_signal(signal.SIGINT)

    _, said = process.communicate(timeout=30)

    assert process.returncode == 128 + signal.SIGINT
    assert b"stopped after 0 records" in said


def test_a_file_is_sent_by_one_process_at_a_time(
    processes: Processes, send: Callable[..., dict[str, Any]], directory: Path
) -> None:
    """Two would share one checkpoint, and each would skip the events of the other."""
    path = directory / "events.ndjson"
    path.write_bytes(lines(0, MANY))
    process = begun(processes, 500, str(path))

    said = send(str(path), code=2)["said"]
    process.kill()
    process.wait()

    assert "is being sent by another process" in said


def test_the_import_of_rudderpipe_does_not_load_the_ingestion() -> None:
    """Most applications never need it."""
    program = "import sys, rudderpipe; print([each for each in sys.modules if 'ingestion' in each])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_memory_stays_flat_with_a_million_rejects(tmp_path: Path) -> None:
    """Rejects are counted by kind, and their texts are not kept."""
    path = tmp_path / "events"
    with path.open("wb") as file:
        for number in range(1_000_000):
            file.write(b'{"type":"track","userId":"u","properties":{"k%d":1}}\n' % number)
    program = (
        "import psutil, sys\n"
        "from rudderpipe.cli.main import main\n"
        "code = main(['send', sys.argv[1], '--dry-run', '--json'])\n"
        "print(psutil.Process().memory_info().rss >> 20, code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, check=True, text=True)

    summary, last = done.stdout.splitlines()
    assert json.loads(summary)["rejected"] == 1_000_000
    assert done.stderr.count("event: is missing or blank") == 11  # ten lines, and how many more there were
    used_mib, code = map(int, last.split())
    assert code == 1
    assert used_mib <= 80
