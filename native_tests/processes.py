"""What a native test starts, finds and kills."""

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
    what: Callable[[], Any], patience_s: float = PATIENCE_S, tell: Callable[[], object] | None = None
) -> Any:
    """The first true answer; foreign processes can only be asked again and again. ``tell``: what a failure shows."""
    deadline_s = time.monotonic() + patience_s
    pause = time.sleep
    while not (answer := what()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {patience_s} s: {tell() if tell else what}")
        pause(0.01)
    return answer


def free_port(*above: int) -> int:
    """Return a port of loopback that is free, and so are those so many above it; no other call gets one of them.

    They are held without listening: a server that sets SO_REUSEADDR, as all here do, can still have them on Linux.
    """
    while True:
        sockets: list[socket.socket] = []
        try:
            port = _hold(0, sockets)
            for number in above:
                _hold(port + number, sockets)
        except (OSError, OverflowError):  # the latter: there is no such port
            port = 0
        if port and sys.platform == "linux":
            _held.extend(each.detach() for each in sockets)  # open until the end, and no socket that it finds unclosed
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
    """One pipe: its settings, its clients, its processes."""

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
        self._clients: list[Client] = []
        self.started: list[subprocess.Popen[bytes]] = []

    @property
    def settings(self) -> Settings:
        """What the explicit settings make."""
        return settings_module.load(self.explicit, environment={})

    @property
    def environment(self) -> dict[str, str]:
        """The same settings as variables."""
        own = {f"RUDDERPIPE_{name.upper()}": str(value) for name, value in self.explicit.items()}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RUDDERPIPE_")}
        return {**kept, **own}

    def client(self, **settings: Any) -> Client:
        """A client of this pipe."""
        client = Client(**{**self.explicit, **settings})
        self._clients.append(client)
        return client

    def adopt(self, client: Client) -> None:
        """A client that something else made on this pipe."""
        self._clients.append(client)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a Python program with this pipe's variables, in a process group of its own."""
        return self.start_program(sys.executable, *arguments, **options)

    def start_program(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """The same of any program."""
        process = subprocess.Popen(command, env=self.environment, start_new_session=True, **options)
        self.started.append(process)
        return process

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run one to its end."""
        return subprocess.run(
            [sys.executable, *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def status(self) -> Snapshot:
        """What ``rudderpipe status`` knows."""
        return snapshot.take(self.settings)

    def status_json(self) -> dict[str, Any]:
        """What ``rudderpipe status --json`` prints."""
        printed: dict[str, Any] = msgspec.json.decode(self.run("-m", "rudderpipe", "status", "--json").stdout)
        return printed

    def flusher(self) -> psutil.Process:
        """The flusher's process, once there is one."""

        def find() -> psutil.Process | None:
            ring = self.status().ring
            return psutil.Process(ring.flusher_pid) if ring and ring.flusher_pid else None

        found: psutil.Process = wait_until(find)
        return found

    def sender(self) -> psutil.Process:
        """The sender that the flusher keeps."""
        children: list[psutil.Process] = wait_until(self.flusher().children)
        return children[0]

    def delivered(self, count: int) -> bool:
        """Wait until the data plane has so many different events."""
        return bool(wait_until(lambda: self.plane.stats()["unique_message_ids"] >= count))

    def own_processes(self) -> list[psutil.Process]:
        """Flushers and senders that log into this pipe's directory."""
        return [
            process
            for process in psutil.process_iter()
            if self.explicit["runtime_dir"] in " ".join(command_of(process)) and process.pid != os.getpid()
        ]

    def log(self) -> str:
        """What autostarted processes logged."""
        path = Path(self.explicit["runtime_dir"]) / f"{self.settings.pipe_name}.log"
        return path.read_text() if path.exists() else ""

    def end(self) -> None:
        """Kill what is left, and remove the segment."""
        for client in self._clients:
            client._intake.leave()  # noqa: SLF001  # without the flush, which may have nobody to wait for
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()
        for own in self.own_processes():
            own.kill()
        for lock_file in Path(self.explicit["runtime_dir"]).glob("*.lock"):
            prefix = memory.segment_name("").replace(str(os.getuid()), str(lock_file.stat().st_uid))
            memory.remove(f"{prefix}{lock_file.stem}")  # a test may have become another user


def command_of(process: psutil.Process) -> list[str]:
    """Return a process's command line, which is empty once it is gone."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
