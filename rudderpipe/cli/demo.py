"""``rudderpipe demo``: the whole pipe under load, with a worker and the sender killed half way, and its account."""

from __future__ import annotations

import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import msgspec
import psutil

from rudderpipe import settings as settings_module
from rudderpipe.cli import status
from rudderpipe.cli.progress import Progress
from rudderpipe.cli.redis_server import RedisServer, executable
from rudderpipe.errors import SettingsError
from rudderpipe.settings import Settings
from rudderpipe.signals import EXIT_FAILED, EXIT_OK

WORKERS = 4
CLIENTS = 4
DRAIN_S = 40.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


class Load:
    """Some clients that ask the application as fast as it answers, and remember what it said it accepted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)]
        self.accepted: list[str] = []
        self.broken = 0

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._over.is_set():
            connection = UnixConnection(self._path)
            try:
                connection.request("GET", "/")
                self.accepted += msgspec.json.decode(connection.getresponse().read(), type=list[str])
            except (OSError, http.client.HTTPException, msgspec.DecodeError):
                self.broken += 1  # its worker was killed; what that had accepted must arrive all the same
            finally:
                connection.close()

    def stop(self) -> None:
        """Let the requests under way end."""
        self._over.set()
        for thread in self._threads:
            thread.join()


def demo(seconds: float) -> int:
    """The command; an exit code: 0 only when nothing was lost."""
    if importlib.util.find_spec("gunicorn") is None:
        raise SettingsError("demo", "needs gunicorn: pip install 'rudderpipe[demo]'")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rudderpipe-demo-")))
        redis_server = stack.enter_context(RedisServer(directory))
        print(f"redis       {executable()} on a unix socket")
        plane, url = _start_data_plane(stack)
        print(f"data plane  {url} (pid {plane.pid})")
        settings = settings_module.load(
            {
                "write_key": "DEMO_WRITE_KEY",
                "data_plane_url": url,
                "redis": redis_server.url,
                "pipe": f"demo-{os.getpid()}",
                "runtime_dir": str(directory / "run"),
                "flush_interval_ms": 500,
                "linger_s": 1.0,
            },
            environment={},
        )
        master = _start_application(stack, settings, directory)
        print(f"gunicorn    {WORKERS} preloaded workers (pid {master.pid})")
        return _run(settings, master, Load(directory / "app.sock"), url, seconds)


def _start_data_plane(stack: ExitStack) -> tuple[subprocess.Popen[bytes], str]:
    command = [sys.executable, "-m", "rudderpipe", "data-plane", "--port", "0"]
    plane = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603  # our own
    stack.callback(_end, plane)
    assert plane.stdout is not None
    line = plane.stdout.readline().decode()
    return plane, next(word.rstrip(",") for word in line.split() if word.startswith("http://"))


def _start_application(stack: ExitStack, settings: Settings, directory: Path) -> subprocess.Popen[bytes]:
    variables = {
        f"RUDDERPIPE_{name.upper()}": str(getattr(settings, name))
        for name in (
            "write_key",
            "data_plane_url",
            "redis",
            "pipe",
            "runtime_dir",
            "flush_interval_ms",
            "linger_s",
        )
    }
    path = directory / "app.sock"
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--preload",
        "--workers",
        str(WORKERS),
        "--bind",
        f"unix:{path}",
    ]
    command += ["--log-level", "critical", "rudderpipe.cli.demo_app:application"]
    master = subprocess.Popen(command, env={**os.environ, **variables})  # noqa: S603  # our own
    stack.callback(_end, master)
    while True:
        try:
            connection = UnixConnection(path)
            connection.connect()
            connection.close()
            return master
        except OSError:
            if master.poll() is not None:
                raise SettingsError("demo", f"gunicorn ended with exit code {master.returncode}") from None
            time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(10)


def _run(settings: Settings, master: subprocess.Popen[bytes], load: Load, url: str, seconds: float) -> int:
    progress = Progress()
    started_s = time.monotonic()
    load.start()
    killed = False
    while (elapsed_s := time.monotonic() - started_s) < seconds:
        time.sleep(0.1)
        _show(settings, progress, elapsed_s)
        if not killed and elapsed_s > seconds / 2:
            killed = True
            progress.end()
            _kill(settings, master)
    load.stop()
    print(f"load over   {len(load.accepted):,} events accepted in answered requests; draining")
    while time.monotonic() - started_s < seconds + DRAIN_S:
        events = status.read(settings).events
        if not events.in_ring and not events.queued:
            break
        _show(settings, progress, time.monotonic() - started_s)
        time.sleep(0.05)
    elapsed_s = time.monotonic() - started_s
    progress.end()
    return _account(settings, load, url, elapsed_s)


def _show(settings: Settings, progress: Progress, elapsed_s: float) -> None:
    events = status.read(settings).events
    progress.show(
        f"{elapsed_s:5.1f} s   {events.accepted:,} accepted = {events.in_ring:,} in ring + {events.queued:,} queued + "
        f"{events.delivered:,} delivered + {events.failed:,} failed"
    )


def _kill(settings: Settings, master: subprocess.Popen[bytes]) -> None:
    worker = psutil.Process(master.pid).children()[0]
    worker.send_signal(signal.SIGKILL)
    print(f"killed      worker {worker.pid} with SIGKILL")
    ring = status.read(settings).ring
    flusher = psutil.Process(ring.flusher_pid) if ring else None
    for sender in flusher.children() if flusher else []:
        sender.send_signal(signal.SIGKILL)
        print(f"killed      sender {sender.pid} with SIGKILL")


def _account(settings: Settings, load: Load, url: str, elapsed_s: float) -> int:
    events = status.read(settings).events
    with urllib.request.urlopen(f"{url}/stats") as answer:  # noqa: S310  # our own data plane
        stats = msgspec.json.decode(answer.read(), type=dict[str, int])
    with urllib.request.urlopen(f"{url}/message_ids") as answer:  # noqa: S310  # our own data plane
        arrived = set(msgspec.json.decode(answer.read(), type=list[str]))
    unique = stats["unique_message_ids"]
    missing = len(set(load.accepted) - arrived)
    lost = max(missing, events.accepted - unique)
    print()
    cut = events.accepted - len(load.accepted)
    print(f"accepted    {events.accepted:>9,}  ({cut:,} of them in requests cut by the kill)")
    print(f"delivered   {stats['events']:>9,}")
    print(f"unique      {unique:>9,}")
    print(f"lost        {lost:>9,}")
    print(f"duplicates  {stats['duplicates']:>9,}  (same id; in flight when the sender was killed)")
    print(f"refused     {sum(events.refused.values()):>9,}")
    print(f"events/s    {events.accepted / elapsed_s:>9,.0f}  (in {elapsed_s:.1f} s)")
    return EXIT_OK if not lost and events.balanced and events.accepted else EXIT_FAILED
