"""The processes of one pipe, which a native test starts, finds and kills."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil

from rudderpipe import Client
from rudderpipe import settings as settings_module
from rudderpipe.observe import snapshot
from rudderpipe.observe.snapshot import Snapshot
from rudderpipe.ring import memory
from rudderpipe.settings import Settings
from rudderpipe.testing.data_plane import DataPlaneServer

_numbers = itertools.count()
PATIENCE_S = 30.0
_ports: set[int] = set()
_held: list[int] = []


def wait_until(
    what: Callable[[], Any], patience_s: float = PATIENCE_S, describe: Callable[[], object] | None = None
) -> Any:
    """Return the first true result of ``what``, which is called again and again.

    A failure shows the result of ``describe``.
    """
    deadline_s = time.monotonic() + patience_s
    pause = time.sleep
    while not (result := what()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {patience_s} s: {describe() if describe else what}")
        pause(0.01)
    return result


def free_port(*above: int) -> int:
    """Return a free port of loopback, also with the given offsets above it free; no other call returns one of them.

    The ports are held without listening. On Linux a server that sets SO_REUSEADDR, as all here do, can still bind them.
    """
    while True:
        sockets: list[socket.socket] = []
        try:
            port = _hold(0, sockets)
            for number in above:
                _hold(port + number, sockets)
        except (OSError, OverflowError):  # OverflowError: the number is too large for a port
            port = 0
        if port and sys.platform == "linux":
            _held.extend(each.detach() for each in sockets)  # detached sockets stay open, without a warning
        else:
            for each in sockets:
                each.close()
        if port and port not in _ports:
            _ports.add(port)
            return port


def _hold(port: int, sockets: list[socket.socket]) -> int:
    sockets.append(socket.socket())
    sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sockets[-1].bind(("127.0.0.1", port))
    return int(sockets[-1].getsockname()[1])


class Processes:
    """One pipe with its settings, its clients and its processes."""

    def __init__(self, directory: Path, plane: DataPlaneServer) -> None:
        self.plane = plane
        self.explicit: dict[str, Any] = {
            "write_key": "WRITE_KEY",
            "data_plane_url": plane.url,
            "pipe": f"native-{os.getpid()}-{next(_numbers)}",
            "runtime_dir": str(directory / "run"),
            "flush_interval_ms": 200,
            "linger_s": 0.2,
            "max_jobs_per_request": 1,
        }
        self.within: tuple[str, ...] = ()
        """The words before each command, which run it on another host."""
        self._clients: list[Client] = []
        self.started: list[subprocess.Popen[bytes]] = []

    @property
    def settings(self) -> Settings:
        """Return the settings that the explicit ones make."""
        return settings_module.load(self.explicit, environment={})

    @property
    def environment(self) -> dict[str, str]:
        """Return the same settings as environment variables."""
        own = {f"RUDDERPIPE_{name.upper()}": str(value) for name, value in self.explicit.items()}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RUDDERPIPE_")}
        return {**kept, **own}

    def client(self, **settings: Any) -> Client:
        """Return a new client of this pipe."""
        client = Client(**{**self.explicit, **settings})
        self._clients.append(client)
        return client

    def adopt(self, client: Client) -> None:
        """Take over a client that other code made on this pipe, to close it at the end."""
        self._clients.append(client)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a Python program with this pipe's variables, in a process group of its own."""
        return self.start_program(sys.executable, *arguments, **options)

    def start_program(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start any program in the same way."""
        process = subprocess.Popen([*self.within, *command], env=self.environment, start_new_session=True, **options)
        self.started.append(process)
        return process

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a Python program to its end."""
        return subprocess.run(
            [*self.within, sys.executable, *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def status(self) -> Snapshot:
        """Return what ``rudderpipe status`` reports."""
        return snapshot.take(self.settings)

    def status_json(self) -> dict[str, Any]:
        """Return what ``rudderpipe status --json`` prints."""
        printed: dict[str, Any] = msgspec.json.decode(self.run("-m", "rudderpipe", "status", "--json").stdout)
        return printed

    def flusher(self) -> psutil.Process:
        """Wait for the flusher's process and return it."""

        def find() -> psutil.Process | None:
            ring = self.status().ring
            return psutil.Process(ring.flusher_pid) if ring and ring.flusher_pid else None

        found: psutil.Process = wait_until(find)
        return found

    def sender(self) -> psutil.Process:
        """Wait for the sender that the flusher keeps, and return its process."""
        children: list[psutil.Process] = wait_until(self.flusher().children)
        return children[0]

    def delivered(self, count: int) -> bool:
        """Wait until the data plane has so many different events."""
        return bool(wait_until(lambda: self.plane.stats()["unique_message_ids"] >= count))

    def own_processes(self) -> list[psutil.Process]:
        """Return the processes, such as flushers and senders, whose command line names this pipe's directory."""
        return [
            process
            for process in psutil.process_iter()
            if self.explicit["runtime_dir"] in " ".join(command_of(process)) and process.pid != os.getpid()
        ]

    def log(self) -> str:
        """Return what autostarted processes logged."""
        path = Path(self.explicit["runtime_dir"]) / f"{self.settings.pipe_name}.log"
        return path.read_text() if path.exists() else ""

    def end(self) -> None:
        """Kill what is left, and remove the segment."""
        for client in self._clients:
            client._intake.leave()  # noqa: SLF001  # without the flush, which could wait for a flusher that does not exist
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()
        own = self.own_processes()
        for process_left in own:
            process_left.kill()
        wait_until(lambda: all(map(is_over, own)))  # before their ring is removed: a living one may make it anew
        for lock_file in Path(self.explicit["runtime_dir"]).glob("*.lock"):
            prefix = memory.segment_name("").replace(str(os.getuid()), str(lock_file.stat().st_uid))
            memory.remove(f"{prefix}{lock_file.stem}")  # a test may have become another user


def is_over(process: psutil.Process) -> bool:
    """Return True if the process is gone, or a zombie that its parent has not collected."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE or not process.is_running()
    except psutil.NoSuchProcess:
        return True


def command_of(process: psutil.Process) -> list[str]:
    """Return a process's command line, which is empty once it is gone."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
