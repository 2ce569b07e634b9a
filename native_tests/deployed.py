"""The recipes of docs/deploy, run with a test's own paths, ports, Redis and data plane, under requests."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil
import pytest

from native_tests.pages import DOCS
from native_tests.processes import Processes, free_port, wait_until
from rudderpipe.testing.redis_server import RedisServer

yaml: Any = pytest.importorskip("yaml", reason="needs pyyaml, of the extra test")
RECIPES = DOCS / "deploy"
BIN = Path(sys.executable).parent
CLIENTS = 3
PAUSE_S = 0.002


class Deployment:
    """One recipe on this machine, with a folder in place of each folder that it names."""

    def __init__(self, processes: Processes, directory: Path, redis: RedisServer) -> None:
        self.processes = processes
        self.directory = directory
        self.port = free_port()
        self.flusher_port = free_port()
        self.sender_port = free_port()
        self.web_port = free_port()
        self._own = {
            "https://dataplane.example.com": processes.plane.url,
            "redis://localhost:6379/0": redis.url,
            "redis://redis:6379/0": redis.url,
            "/srv/shop/venv/bin": str(BIN),
            "/srv/shop": str(directory),
            "/etc/rudderpipe": str(directory / "etc"),
            "/run/secrets/rudderpipe": str(directory / "etc"),
            "/run/secrets": str(directory / "etc"),
            "/var/lib/rudderpipe": str(directory / "state"),
            "/var/log/supervisor": str(directory),
            "user=shop": f"user={getpass.getuser()}",
            "127.0.0.1:8000": f"127.0.0.1:{self.port}",
            "127.0.0.1:9120": f"127.0.0.1:{self.flusher_port}",
            "127.0.0.1:9122": f"127.0.0.1:{self.sender_port}",
            "127.0.0.1:9770": f"127.0.0.1:{self.web_port}",
            "0.0.0.0:9120": f"127.0.0.1:{self.flusher_port}",
            "0.0.0.0:9122": f"127.0.0.1:{self.sender_port}",
        }
        processes.explicit["flush_interval_ms"] = 60_000  # so the last events leave the ring only by a drain
        kept = ("pipe", "runtime_dir", "flush_interval_ms")
        self._isolated = {f"RUDDERPIPE_{name.upper()}": str(processes.explicit[name]) for name in kept}
        processes.explicit |= {"redis": redis.url, "autostart": False}
        for path in (RECIPES / "app").iterdir():
            shutil.copy(path, directory)
        (directory / "etc").mkdir()
        for name in ("shop.key", "write_key"):
            (directory / "etc" / name).write_text("WRITE_KEY\n")
            (directory / "etc" / name).chmod(0o400)

    def move_sender(self) -> None:
        """Give the next sender another port."""
        self.sender_port = free_port()
        self._own |= {f"{host}:9122": f"127.0.0.1:{self.sender_port}" for host in ("127.0.0.1", "0.0.0.0")}

    def own(self, text: str) -> str:
        """Return a recipe's text with this test's own paths, ports and addresses."""
        for shown in sorted(self._own, key=len, reverse=True):
            text = text.replace(shown, self._own[shown])
        return text

    def text_of(self, name: str) -> str:
        """Return a file of docs/deploy, with this test's own values."""
        return self.own((RECIPES / name).read_text())

    def environment(self, **more: str) -> dict[str, str]:
        """Return a service's environment: nothing of this process's but what every service has."""
        return {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "XDG_STATE_HOME": os.environ["XDG_STATE_HOME"],
            "PORT": str(self.port),
            **{name: self.own(value) for name, value in more.items()},
            **self._isolated,
        }

    def start(self, *command: str, environment: Mapping[str, str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program in the folder of the application."""
        process = subprocess.Popen(
            command, cwd=self.directory, env=dict(environment), start_new_session=True, **options
        )
        self.processes.started.append(process)
        return process

    def deliver_the_rest(self, orders: Orders) -> None:
        """Run a sender of an operator until every accepted event has arrived."""
        self.processes.explicit |= {"write_key": "WRITE_KEY", "data_plane_url": self.processes.plane.url}
        sender = self.processes.start("-m", "rudderpipe.sender")
        orders.assert_arrived(self.processes)
        sender.kill()  # it may not even have begun, if nothing was left
        sender.wait()

    def ring_events(self) -> int:
        """Return how many events wait in the pipe's ring, which is gone once it is empty and not used any more."""
        ring = self.processes.status().ring
        return ring.in_ring if ring else 0

    def workers(self, server: subprocess.Popen[bytes]) -> set[int]:
        """Return the pids of a server's own children."""
        return {child.pid for child in psutil.Process(server.pid).children()}

    def end(self) -> None:
        """Kill what a manager that this test started would leave behind."""
        for process in self.processes.started:
            with suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.Error):
                        child.kill()


class Orders:
    """Requests to the application, each of which has a number and sends one event with it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.accepted: set[str] = set()
        self.sent: set[str] = set()
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def _send(self, first: int) -> None:
        for number in range(first, 1_000_000, CLIENTS):
            if self._stop.wait(PAUSE_S):
                return
            url = f"http://127.0.0.1:{self._port}/orders/{number}?user=u{number % 50}"
            with self._lock:
                self.sent.add(str(number))
            try:
                with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=20) as response:
                    accepted = json.loads(response.read())["accepted"]
            except (OSError, HTTPException, ValueError):
                continue  # the application stops or starts: whether it accepted the event is not known
            if accepted:
                with self._lock:
                    self.accepted.add(str(number))

    def more(self, count: int = 100) -> None:
        """Wait until so many more were accepted."""
        wanted = len(self.accepted) + count
        wait_until(lambda: len(self.accepted) >= wanted, describe=lambda: len(self.accepted))

    @contextmanager
    def running(self) -> Iterator[Orders]:
        """Send requests from several clients until the end of the block."""
        threads = [threading.Thread(target=self._send, args=(first,)) for first in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def assert_arrived(self, processes: Processes) -> None:
        """Check that each accepted event arrived, once, and that none arrived that was not sent."""
        wait_until(lambda: self.accepted <= set(arrived(processes)), describe=lambda: self._missing(processes))
        found = arrived(processes)
        assert set(found) <= self.sent
        assert [number for number, times in found.items() if times > 1] == []

    def _missing(self, processes: Processes) -> str:
        missing = sorted(self.accepted - set(arrived(processes)))
        return f"{len(missing)} of {len(self.accepted)} have not arrived: {missing[:10]}"


def arrived(processes: Processes) -> Counter[str]:
    """Return how often each order arrived at the data plane."""
    bodies = [json.loads(body) for body in processes.plane.last_events()]
    return Counter(event["properties"]["order"] for body in bodies for event in body["batch"])


def responds(port: int, path: str, **headers: str) -> bool:
    """Return whether an address responds with 200."""
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException):
        return False


def takes_signals(server: subprocess.Popen[bytes]) -> bool:
    """Return whether uWSGI can be asked to end: before a worker has its handlers, the master's signal to it is lost."""
    for worker in psutil.Process(server.pid).children():
        with suppress(psutil.Error, OSError):
            status = Path(f"/proc/{worker.pid}/status").read_text()
            caught = re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
            is_worker = "uwsgi.ini" in worker.cmdline()  # and no daemon that is attached
            if is_worker and caught is not None and not int(caught[1], 16) >> (signal.SIGHUP - 1) & 1:
                return False
    return True


def stop(process: subprocess.Popen[bytes], within_s: float = 40) -> float:
    """Stop a program as a service manager does. Return how long it took."""
    began_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(within_s) == 0
    return time.monotonic() - began_s


def manifests(name: str) -> list[dict[str, Any]]:
    """Return the manifests of a file for Kubernetes."""
    return list(yaml.safe_load_all((RECIPES / "kubernetes" / name).read_text()))


def variables(text: str) -> dict[str, str]:
    """Return the variables of an environment file."""
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))
