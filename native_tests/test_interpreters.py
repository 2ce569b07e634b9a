"""Several interpreters in one process, as uWSGI and mod_wsgi have when several applications are mounted."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from native_tests.processes import Processes, wait_until
from rudderpipe.cli.demo import UnixConnection
from rudderpipe.ring import location
from rudderpipe.testing.redis_server import RedisServer

APPLICATION = """
import sys
import rudderpipe

sys.setswitchinterval(1e-5)
client = rudderpipe.Client()

def application(environ, start_response):
    accepted = sum(client.track("user", "event", {"text": "x" * 300}) for _ in range(100))
    start_response("200 OK", [("content-type", "text/plain")])
    return [b"%d" % accepted]
"""

# Each interpreter has a thread of its own, and all threads begin at once.
SUB_INTERPRETERS = """
import os, sys, threading
sys.setswitchinterval(1e-5)
if sys.version_info >= (3, 13):
    import _interpreters as interpreters
    made = [interpreters.create("legacy") for _ in range(3)]
else:
    import _xxsubinterpreters as interpreters
    made = [interpreters.create(isolated=False) for _ in range(3)]
reading, writing = os.pipe()
program = f'''
import os, sys
sys.path[:] = {sys.path!r}
import rudderpipe
client = rudderpipe.Client()
accepted = sum(client.track("user", "event", {{"text": "x" * 300}}) for _ in range(10_000))
os.write({writing}, b"%d " % accepted)
'''
threads = [threading.Thread(target=interpreters.run_string, args=(each, program)) for each in made]
for thread in threads: thread.start()
for thread in threads: thread.join()
os.close(writing)
print(sum(map(int, os.read(reading, 1000).split())), flush=True)
os._exit(0)  # an interpreter with sub-interpreters can hang at its end
"""


class Mounted:
    """uWSGI with two mounted applications, in a mount namespace with a container's 64 MB of shared memory."""

    def __init__(self, processes: Processes, directory: Path) -> None:
        self.processes = processes
        self.directory = directory
        self.socket = directory / "app.sock"
        for name in ("one", "two"):
            (directory / f"{name}.py").write_text(APPLICATION)
        uwsgi = str(Path(sys.executable).with_name("uwsgi"))
        mounts = [f"--mount=/{name}={directory / name}.py" for name in ("one", "two")]
        command = [uwsgi, "--binary-path", uwsgi, "--http-socket", str(self.socket), "--manage-script-name", *mounts]
        command += ["--master", "--processes", "2", "--threads", "8", "--disable-logging", "--die-on-term"]
        command += ["--logto", str(directory / "uwsgi.log")]
        script = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$0" "$@"'
        self.process = processes.start_program("unshare", "--mount", "sh", "-c", script, *command)
        wait_until(self.socket.exists)

    def get(self, path: str) -> int:
        """Return how many events of one request were accepted."""
        connection = UnixConnection(self.socket)
        try:
            connection.request("GET", path)
            return int(connection.getresponse().read())
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """Return what ``status`` prints in the mount namespace with the rings."""
        command = ["nsenter", "--target", str(self.process.pid), "--mount", sys.executable, "-m", "rudderpipe"]
        done = subprocess.run(
            [*command, "status", "--json"], env=self.processes.environment, capture_output=True, timeout=60, check=False
        )
        assert done.stdout, done.stderr
        found: dict[str, Any] = msgspec.json.decode(done.stdout)
        return found


def test_two_mounted_applications_with_threads_lose_nothing(processes: Processes, directory: Path) -> None:
    """Tens of thousands of events go through two interpreters of each process.

    All arrive once, and the account of all rings together balances. One flusher process serves both rings.
    """
    processes.explicit |= {"when_full": "block", "block_timeout_ms": 60_000, "max_jobs_per_request": 50, "linger_s": 60}
    server = Mounted(processes, directory)
    wait_until(lambda: _responds(server))
    counts = [0] * 8

    def ask(number: int) -> None:
        for turn in range(50):
            counts[number] += server.get("/one" if (turn + number) % 2 else "/two")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    before = server.get("/one")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(counts) == 8 * 50 * 100
    accepted = sum(counts) + before + 100  # and the first request
    processes.delivered(accepted)
    stats = processes.plane.stats()
    assert (stats["unique_message_ids"], stats["duplicates"]) == (accepted, 0)
    wait_until(lambda: server.status()["events"]["in_ring"] == 0)
    status = server.status()
    assert status["events"]["accepted"] == status["events"]["delivered"] == accepted
    assert status["events"]["balanced"]
    assert len(status["rings"]) >= 2
    wait_until(lambda: len(processes.own_processes()) == 1)


def test_a_killed_flusher_of_two_mounted_applications_loses_nothing(
    processes: Processes, directory: Path, redis_server: RedisServer
) -> None:
    """The next flusher serves the rings of all interpreters, and goes on at the offsets that Redis has."""
    processes.explicit |= {"when_full": "block", "block_timeout_ms": 60_000, "max_jobs_per_request": 50, "linger_s": 60}
    processes.explicit |= {"redis": redis_server.url, "flush_at": 100}
    server = Mounted(processes, directory)
    wait_until(lambda: _responds(server))
    accepted = 100

    def ask_until_delivered(count: int) -> bool:
        nonlocal accepted  # the application goes on tracking, because only its events start another flusher
        accepted += server.get("/one") + server.get("/two")
        return bool(processes.plane.stats()["unique_message_ids"] >= count)

    wait_until(lambda: ask_until_delivered(200))
    for _ in range(2):
        for process in processes.own_processes():
            if "rudderpipe.flusher" in process.cmdline():
                process.kill()
        wait_until(partial(ask_until_delivered, accepted + 200))

    processes.delivered(accepted)
    wait_until(lambda: server.status()["events"]["delivered"] == accepted)
    events = server.status()["events"]
    assert (events["accepted"], events["in_ring"], events["balanced"]) == (accepted, 0, True)
    assert processes.plane.stats()["duplicates"] == 0


def _responds(server: Mounted) -> bool:
    try:
        return server.get("/two") == 100
    except (OSError, http.client.HTTPException, ValueError):
        return False


def test_sub_interpreters_have_a_ring_each(processes: Processes) -> None:
    """Three interpreters take turns every 10 microseconds, and none overwrites another one's events."""
    processes.explicit |= {"max_internal_queue_size": 100_000, "max_jobs_per_request": 50, "ring_bytes": 64 << 20}

    done = processes.run("-c", SUB_INTERPRETERS)

    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) == 30_000, done.stderr.decode()
    processes.delivered(30_000)
    wait_until(lambda: location.of_pipe(processes.settings) == [])
    assert processes.plane.stats()["duplicates"] == 0
