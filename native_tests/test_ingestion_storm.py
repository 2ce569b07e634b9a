"""``rudderpipe send`` while its process, flusher, sender and Redis are killed at random: every record arrives."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from native_tests.processes import Processes, command_of
from rudderpipe.testing.redis_server import RedisServer

EACH = 100_000
KILLING_S = 25.0
REQUEST_EVENTS = 1_000
ARGUMENTS = ("--map", "userId=id", "--map", "properties.n=n", "--event", "Imported", "--rate", "14k/s")


def write_files(directory: Path) -> list[str]:
    """Write records in three formats, of which one mapping makes messages."""
    rows = [(f"u{number % 1000}", number) for number in range(3 * EACH)]
    first, second, third = directory / "a.ndjson.gz", directory / "b.csv", directory / "c.json"
    with gzip.open(first, "wb", compresslevel=1) as file:
        file.writelines(b'{"id":"%b","n":%d}\n' % (user.encode(), number) for user, number in rows[:EACH])
    second.write_text("id,n\n" + "".join(f"{user},{number}\n" for user, number in rows[EACH : 2 * EACH]))
    third.write_text(json.dumps([{"id": user, "n": number} for user, number in rows[2 * EACH :]]))
    return [str(first), str(second), str(third)]


def victims(processes: Processes, word: str) -> Iterator[psutil.Process]:
    """Yield the pipe's own processes whose command contains a word."""
    for each in processes.own_processes():
        if word in " ".join(command_of(each)):
            yield each


@pytest.mark.timeout(170)
@pytest.mark.parametrize("killed", [["send", "flusher"], ["send", "send", "send", "flusher", "sender", "redis"]])
def test_every_record_arrives_whatever_is_killed(
    processes: Processes, redis_server: RedisServer, directory: Path, killed: list[str]
) -> None:
    """After the last run the data plane has seen the id of every record.

    An id comes twice only where the data plane's response was not seen: at a kill of the sender or of Redis.
    """
    seed = int(os.environ.get("STORM_SEED", "1"))
    del processes.explicit["pipe"]
    processes.explicit |= {"redis": redis_server.url, "linger_s": 30, "max_jobs_per_request": 25, "lease_ms": 1_000}
    paths = write_files(directory)
    command = ("-m", "rudderpipe", "send", *paths, *ARGUMENTS, "--json")
    chance, kills = random.Random(seed), Counter[str]()
    end_s = time.monotonic() + KILLING_S
    process = processes.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while time.monotonic() < end_s:
        time.sleep(chance.uniform(0.2, 1.2))  # lets it work between two kills; nothing waits for a moment of it
        what = chance.choice(killed)
        if what == "redis":
            redis_server.kill()
            time.sleep(chance.uniform(0, 0.5))
            redis_server.start()
        elif what == "send":
            process.send_signal(chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        else:
            for each in victims(processes, f"rudderpipe.{what}"):
                each.kill()
                kills[what] += 1
        kills[what] += what in ("redis", "send")
        if process.poll() is not None or what == "send":
            _, said = process.communicate(timeout=60)
            if process.returncode == 0:
                break
            stopped = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 130, 143)  # before its handler, and after
            assert process.returncode in (*stopped, 4), said
            process = processes.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    printed, said = process.communicate(timeout=120)
    if process.returncode:
        assert process.returncode == 4, said  # Redis was away at its start
        done = processes.run(*command)
        assert done.returncode == 0, done
    stats = processes.plane.stats()

    assert kills["send"] > 3, kills
    assert stats["unique_message_ids"] == 3 * EACH, (kills, said, printed)
    repeated = stats["events"] - stats["unique_message_ids"]
    assert repeated <= (kills["sender"] + kills["redis"]) * REQUEST_EVENTS, (repeated, kills)
