"""Redis, settings, processes and their CPU, for the benchmarks of the whole way."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil

from rudderpipe.ring import memory
from rudderpipe.testing.redis_server import RedisServer


class Begin(msgspec.Struct):
    """The moment at which a producer makes its first call, and the CPU that its start has taken."""

    at_s: float
    """On the monotonic clock, which all processes share."""
    cpu_s: float


class Servers:
    """Redis, a directory, and our settings as variables. Events go directly while the first Redis does not run."""

    def __init__(self, directory: str, url: str, server: RedisServer, *others: RedisServer) -> None:
        self.directory = directory
        self.server = server
        self.redis = [server, *others]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RUDDERPIPE_")},
            "RUDDERPIPE_WRITE_KEY": "KEY",
            "RUDDERPIPE_DATA_PLANE_URL": url,
            **({"RUDDERPIPE_REDIS": " ".join(each.url for each in self.redis)} if server.process else {}),
            "RUDDERPIPE_RUNTIME_DIR": f"{directory}/run",
            "RUDDERPIPE_PIPE": f"bench-{os.getpid()}",
            "RUDDERPIPE_AUTOSTART": "false",
            "RUDDERPIPE_FLUSH_INTERVAL_MS": "200",
            "RUDDERPIPE_WHEN_FULL": "block",
            "RUDDERPIPE_BLOCK_TIMEOUT_MS": "60000",
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._producers: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a process whose CPU is counted under that name."""
        process = subprocess.Popen(command, env={**self.environment, **variables})
        self._processes[name] = process
        return process

    def producer(self, name: str, *command: str, **variables: str) -> None:
        """Start a process that prints a ``Begin`` before its first event."""
        process = subprocess.Popen(command, env={**self.environment, **variables}, stdout=subprocess.PIPE)
        self._processes[name] = self._producers[name] = process

    def begun(self) -> dict[str, Begin]:
        """Wait until every producer has begun."""
        found = {}
        for name, process in self._producers.items():
            assert process.stdout is not None
            found[name] = msgspec.json.decode(process.stdout.readline(), type=Begin)
        return found

    def program(self, name: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start our ``flusher`` or ``sender``."""
        return self.start(name, sys.executable, "-m", f"rudderpipe.{name}", **variables)

    def await_start(self) -> None:
        """Wait until the started processes have used almost no CPU for a third of a second."""
        before, now = -1.0, 0.0
        while now - before > 0.02:
            before = now
            time.sleep(0.33)
            now = sum(cpu_s(process.pid) for process in self._processes.values())

    def known(self) -> dict[str, int]:
        """Return the pid of each process, Redis included."""
        redis = {
            f"redis server {number}": each.process.pid for number, each in enumerate(self.redis, 1) if each.process
        }
        return {**redis, **{name: each.pid for name, each in self._processes.items()}}

    def end(self, *names: str) -> None:
        """Wait for the named processes to end by themselves, and end the others."""
        for name, process in self._processes.items():
            if name in names:
                process.wait()
            elif process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def servers(url: str, *, redis: int = 1) -> Iterator[Servers]:
    """Yield so many Redis servers, directory and settings, and remove all of it afterwards. With 0 none runs."""
    with tempfile.TemporaryDirectory(prefix="rp-") as directory, contextlib.ExitStack() as running:
        made = [RedisServer(_made(directory, number)) for number in range(max(1, redis))]
        for server in made[:redis]:
            running.enter_context(server)
        found = Servers(directory, url, *made)
        try:
            yield found
        finally:
            found.end()
            for lock_file in Path(directory, "run").glob("*.lock"):
                memory.remove(memory.segment_name(lock_file.stem))


def _made(directory: str, number: int) -> Path:
    path = Path(directory, f"redis-{number}")
    path.mkdir()
    return path


def cpu_s(pid: int) -> float:
    """Return user and system time of a process so far, also of one that has ended and was not collected."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def run_s(pid: int) -> float:
    """Return the CPU of a process and its living threads, in nanoseconds' steps where the kernel counts them."""
    try:
        tasks = [(each / "schedstat").read_text() for each in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return cpu_s(pid)
    return sum(int(task.split()[0]) for task in tasks) / 1e9


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    return float(psutil.Process(pid).memory_info().rss) / (1 << 20)
