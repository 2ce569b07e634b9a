"""The command ``rudderpipe demo``, which kills a worker and the sender under load and counts lost events.

The command ends every process that it started, also when it is interrupted.
"""

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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import msgspec
import psutil

from rudderpipe import settings as settings_module
from rudderpipe.cli.progress import Progress
from rudderpipe.errors import RudderpipeError
from rudderpipe.observe import account
from rudderpipe.process import runtime_dir
from rudderpipe.ring import memory
from rudderpipe.ring.ring import find_all
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK
from rudderpipe.settings import Settings
from rudderpipe.testing.redis_server import RedisServer, executable

WORKERS = 4
CLIENTS = 4
DRAIN_S = 40.0
SENDER_S = 30.0
"""Additional seconds of load, at most, until a sender runs and can be killed."""
END_S = 10.0
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERRUPTED = 128


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


class Load:
    """Clients that send requests as fast as the application responds, and keep the ids of the accepted events."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)]
        self.accepted: list[str] = []
        self.broken = 0

    def start(self) -> None:
        """Start the clients."""
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._over.is_set():
            connection = UnixConnection(self._path)
            try:
                connection.request("GET", "/")
                self.accepted += msgspec.json.decode(connection.getresponse().read(), type=list[str])
            except (OSError, http.client.HTTPException, msgspec.DecodeError):
                self.broken += 1  # the worker was killed; the events that it had accepted must still arrive
            finally:
                connection.close()

    def stop(self) -> None:
        """Stop the clients after their current requests."""
        self._over.set()
        for thread in self._threads:
            thread.join()


class _Ended(BaseException):
    """A signal that ends the demonstration."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def demo(seconds: float) -> int:
    """Run the demonstration; return exit code 0 only when no event was lost."""
    if importlib.util.find_spec("gunicorn") is None:
        raise RudderpipeError("the demo needs gunicorn: pip install 'rudderpipe[demo]'")
    try:
        with ExitStack() as stack:
            stack.enter_context(_signals())
            return _demonstrate(stack, seconds)
    except _Ended as ended:
        print(f"\n{signal.Signals(ended.number).name}: all started processes have ended; no account is printed")
        return _INTERRUPTED + ended.number


@contextmanager
def _signals() -> Iterator[None]:
    """End the demonstration at the first signal, and ignore later ones while its processes end."""

    def end(number: int, _frame: FrameType | None) -> None:
        for each in _ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise _Ended(number)

    noticed = [number for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {number: signal.signal(number, end) for number in noticed}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _demonstrate(stack: ExitStack, seconds: float) -> int:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rudderpipe-demo-")))
    stack.callback(print, "ended       redis")  # runs after the callbacks below
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
            "spool_dir": str(directory / "spool"),
            "flush_interval_ms": 500,
            "linger_s": 10.0,
        },
        environment={},
    )
    stack.callback(_end_own_processes, settings)
    master = _start_application(stack, settings, directory)
    print(f"gunicorn    {WORKERS} preloaded workers (pid {master.pid})")
    return _run(settings, master, Load(directory / "app.sock"), url, seconds)


def _start_data_plane(stack: ExitStack) -> tuple[subprocess.Popen[bytes], str]:
    command = [sys.executable, "-m", "rudderpipe", "data-plane", "--port", "0"]
    plane = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)  # noqa: S603  # our own
    stack.callback(_end, "data plane", plane)
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
            "spool_dir",
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
    # In a session of its own, because Ctrl-C must reach only the demonstration, which ends its processes in order.
    environment = {**os.environ, **variables}
    master = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603  # our own
    stack.callback(_end, "gunicorn", master)
    while True:
        try:
            connection = UnixConnection(path)
            connection.connect()
            connection.close()
            return master
        except OSError:
            if master.poll() is not None:
                raise RudderpipeError(f"gunicorn ended with exit code {master.returncode}") from None
            time.sleep(0.05)


def _end(name: str, process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    print(f"ended       {name} (pid {process.pid})")


def _end_own_processes(settings: Settings) -> None:
    """End the flushers and senders of this pipe, and remove the rings that killed ones leave behind."""
    asked: set[int] = set()
    deadline_s = time.monotonic() + END_S
    while processes := _own_processes(settings):
        for process, name in processes:
            try:
                if time.monotonic() > deadline_s:
                    process.kill()
                elif process.pid not in asked:  # a second signal would end it before it has drained
                    asked.add(process.pid)
                    process.terminate()
                    print(f"ended       {name} (pid {process.pid})")
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs([process for process, _ in processes], timeout=0.2)
    for ring in find_all(settings):
        memory.remove(ring.segment.name)


def _own_processes(settings: Settings) -> list[tuple[psutil.Process, str]]:
    """Return the processes whose command line names this pipe's log, and their names.

    Starting processes and a sender without its flusher are among them.
    """
    log, found = str(runtime_dir.log_file(settings)), []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if log in command:
            found.append((process, "flusher" if "rudderpipe.flusher" in command else "sender"))
    return found


def _run(settings: Settings, master: subprocess.Popen[bytes], load: Load, url: str, seconds: float) -> int:
    progress = Progress()
    started_s = time.monotonic()
    load.start()
    worker = sender = None
    while (elapsed_s := time.monotonic() - started_s) < seconds or (not sender and elapsed_s < seconds + SENDER_S):
        time.sleep(0.1)
        _show(settings, progress, elapsed_s)
        if elapsed_s > seconds / 2:
            worker = worker or _kill("worker", psutil.Process(master.pid).children(), progress)
            sender = sender or _kill("sender", _senders(settings), progress)
    load.stop()
    if not worker or not sender:
        progress.end()
        print("no worker or no sender was running to be killed: the machine is too busy for this demonstration")
        return EXIT_FAILED
    print(f"load over   {len(load.accepted):,} events accepted in answered requests; draining")
    while time.monotonic() - started_s < elapsed_s + DRAIN_S:
        events = account.read(settings)
        if not events.in_ring and not events.queued:
            break
        _show(settings, progress, time.monotonic() - started_s)
        time.sleep(0.05)
    elapsed_s = time.monotonic() - started_s
    progress.end()
    return _account(settings, load, url, elapsed_s)


def _show(settings: Settings, progress: Progress, elapsed_s: float) -> None:
    events = account.read(settings)
    progress.show(
        f"{elapsed_s:5.1f} s   {events.accepted:,} accepted = {events.in_ring:,} in ring + {events.queued:,} queued + "
        f"{events.delivered:,} delivered + {events.failed:,} failed"
    )


def _senders(settings: Settings) -> list[psutil.Process]:
    return [process for process, name in _own_processes(settings) if name == "sender"]


def _kill(name: str, processes: list[psutil.Process], progress: Progress) -> int | None:
    """Kill the first process that still exists, and return its pid; None when none exists."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
        progress.end()
        print(f"killed      {name} {process.pid} with SIGKILL")
        return int(process.pid)
    return None


def _account(settings: Settings, load: Load, url: str, elapsed_s: float) -> int:
    events = account.read(settings)
    with urllib.request.urlopen(f"{url}/stats") as answer:  # noqa: S310  # our own data plane
        stats = msgspec.json.decode(answer.read(), type=dict[str, int])
    with urllib.request.urlopen(f"{url}/message_ids") as answer:  # noqa: S310  # our own data plane
        arrived = set(msgspec.json.decode(answer.read(), type=list[str]))
    unique = stats["unique_message_ids"]
    missing = len(set(load.accepted) - arrived)
    lost = max(missing, events.accepted - unique)
    print()
    cut = events.accepted - len(load.accepted)
    print(f"accepted    {events.accepted:>9,}  ({cut:,} of them in requests that the kill cut off)")
    print(f"delivered   {stats['events']:>9,}")
    print(f"unique      {unique:>9,}")
    print(f"lost        {lost:>9,}")
    print(f"duplicates  {stats['duplicates']:>9,}  (same id; in flight when the sender was killed)")
    print(f"refused     {sum(events.refused.values()):>9,}")
    print(f"events/s    {events.accepted / elapsed_s:>9,.0f}  (in {elapsed_s:.1f} s)")
    return EXIT_OK if not lost and events.balanced and events.accepted else EXIT_FAILED
