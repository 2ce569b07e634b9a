"""The admin address of the flusher, its service manager, and the server of all admin addresses under bad clients."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from native_tests.manager import Manager
from native_tests.processes import Processes, wait_until
from rudderpipe.errors import RudderpipeError
from rudderpipe.service import http
from rudderpipe.service.http import AdminServer, Response, Responses
from rudderpipe.testing.redis_server import RedisServer

parser: Any = pytest.importorskip("prometheus_client.parser", reason="needs the extra metrics")

LARGE = 64 << 20
"""More than any socket keeps for its reader."""


def asked(url: str) -> tuple[int, dict[str, Any]]:
    """Get the URL; return the status and the JSON."""
    try:
        with urllib.request.urlopen(url) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def scraped(url: str) -> dict[str, float]:
    """Return the metrics, each by its name and the values of all labels but the first."""
    found: dict[str, float] = {}
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            first = [name for name in ("pipe", "queue") if name in sample.labels]
            labels = [value for name, value in sorted(sample.labels.items()) if name not in first]
            found[" ".join((sample.name.removeprefix("rudderpipe_"), *labels))] = sample.value
    return found


class Flusher:
    """An operator's flusher with an admin address."""

    def __init__(self, processes: Processes, directory: Path, **variables: str) -> None:
        self._log = directory / "flusher.log"
        processes.explicit["autostart"] = False
        names = [f"{name}={value}" for name, value in variables.items()]
        with self._log.open("ab") as log:
            self.process = processes.start_program(
                *("env", *names, sys.executable, "-m", "rudderpipe.flusher", "--verbose"),
                *("--admin", "127.0.0.1:0"),
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: "address=" in self.log)
        self.url = f"http://{self.log.split('address=')[1].split()[0]}"

    @property
    def log(self) -> str:
        """Return what it logged."""
        return self._log.read_text()


def test_a_flusher_shows_rings_queue_and_itself(
    processes: Processes, redis_server: RedisServer, directory: Path
) -> None:
    """The one target of a host that Prometheus scrapes."""
    processes.explicit["redis"] = redis_server.url
    flusher = Flusher(processes, directory)
    wait_until(lambda: asked(f"{flusher.url}/readyz")[0] == 200)
    client = processes.client()
    assert client.track("u", "e")
    assert client.flush()

    found = scraped(flusher.url)

    assert (found["events_accepted_total"], found["events_left_total queued"], found["redis_up"]) == (1, 1, 1)
    assert found["process_resident_memory_bytes"] > 1_000_000
    wait_until(lambda: scraped(flusher.url)["queue_jobs waiting"] == 1)
    status, alive = asked(f"{flusher.url}/healthz")
    assert (status, alive["status"], alive["rings"]) == (200, "alive", 1)
    _, shown = asked(f"{flusher.url}/status.json")
    assert (shown["pipe"], shown["ring"]["accepted"]) == (processes.settings.pipe_name, 1)
    client.shutdown(0)
    flusher.process.terminate()
    assert flusher.process.wait(30) == 0


def test_a_flusher_whose_admin_address_is_in_use_has_not_started(
    processes: Processes, redis_server: RedisServer
) -> None:
    """The log never has a start without an end, and the exit code says that a restart does not help."""
    processes.explicit |= {"redis": redis_server.url, "autostart": False}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"

        ended = processes.run("-m", "rudderpipe.flusher", "--verbose", "--admin", where)

    said = f"option --admin: cannot listen on {where}: Address already in use; the program has not started"
    assert (ended.returncode, said in ended.stderr.decode()) == (2, True)
    assert "flusher started" not in ended.stderr.decode()


def test_without_redis_a_flusher_is_alive_and_ready_and_a_scrape_does_not_wait(
    processes: Processes, redis_server: RedisServer, directory: Path
) -> None:
    """A stopped Redis takes calls and never responds. Neither a restart nor a pod without traffic would help."""
    processes.explicit["redis"] = redis_server.url
    client = processes.client(autostart=False)
    assert client.track("u", "e")
    flusher = Flusher(processes, directory)
    wait_until(lambda: scraped(flusher.url).get("queue_jobs waiting") == 1)
    pid = redis_server.client().info()["process_id"]
    os.kill(pid, signal.SIGSTOP)

    assert client.track("u", "e")
    client.flush(0.1)
    found = wait_until(lambda: (each := scraped(flusher.url)) and each["redis_up"] == 0 and each)

    assert "queue_jobs waiting" not in found
    assert found["events_accepted_total"] == 2
    assert [asked(f"{flusher.url}{path}")[0] for path in ("/healthz", "/readyz", "/status.json")] == [200] * 3
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: scraped(flusher.url).get("queue_jobs waiting", 0) == 2)


def test_a_service_manager_gets_ready_watchdog_and_stopping_of_a_flusher(
    processes: Processes, directory: Path, manager: Manager
) -> None:
    """systemd starts the flusher again if the watchdog messages stop."""
    flusher = Flusher(processes, directory, NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="500000")

    assert manager.receives("READY=1")[1] == f"STATUS=serving {processes.settings.pipe_name}"
    for _ in range(3):
        manager.receives("WATCHDOG=1")
    flusher.process.send_signal(signal.SIGTERM)

    assert flusher.process.wait(30) == 0


@pytest.fixture(name="manager")
def _manager(directory: Path) -> Iterator[Manager]:
    manager = Manager(directory)
    yield manager
    manager.close()


@pytest.fixture(name="server")
def _server() -> Iterator[tuple[str, int]]:
    def fails(_accept: str) -> Response:
        raise RudderpipeError("nothing that a client may see")

    answers: Responses = {
        "/ok": lambda accept: Response(200, {"accept": accept}),
        "/large": lambda _accept: Response(200, b"x" * LARGE, "text/plain"),
        "/fails": fails,
    }
    server = AdminServer(("127.0.0.1", 0), answers)
    server.start()
    yield server.address
    server.close()


def said(address: tuple[str, int], data: bytes) -> bytes:
    """Send bytes and return the first line of the response."""
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(data)
        return connection.makefile("rb").readline().strip()


def test_a_probe_is_served_among_400_silent_clients(server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of them are dropped, so that neither threads nor probes run out."""
    monkeypatch.setattr(http, "CONNECTION_S", 600)  # so that no client is dropped for its silence
    silent = [socket.create_connection(server, timeout=30) for _ in range(400)]
    try:
        for connection in silent[-10:]:
            connection.sendall(b"GET /ok")  # and nothing more
        assert asked(f"http://127.0.0.1:{server[1]}/ok")[0] == 200
        assert silent[0].recv(1) == b""
    finally:
        for connection in silent:
            connection.close()


def test_a_client_that_sends_slowly_is_dropped(server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """All bytes of a head have one deadline. Each byte alone would come in time."""
    monkeypatch.setattr(http, "CONNECTION_S", 0.5)
    with socket.create_connection(server, timeout=30) as connection:
        connection.setblocking(False)

        def is_dropped() -> bool:
            try:
                connection.send(b"G")
                return connection.recv(1) == b""
            except BlockingIOError:
                return False
            except OSError:
                return True

        assert wait_until(is_dropped)


def test_a_client_that_does_not_read_is_dropped(server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread ends, and the response with it."""
    monkeypatch.setattr(http, "CONNECTION_S", 0.5)
    with socket.create_connection(server, timeout=30) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        assert connection.recv(1)
        wait_until(lambda: not [each for each in threading.enumerate() if "process_request_thread" in each.name])
        received = 0
        try:
            while data := connection.recv(1 << 20):
                received += len(data)
        except ConnectionResetError:
            pass
    assert 0 < received < LARGE


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00\xff nonsense\r\n\r\n", b"HTTP/1.0 400 Bad Request"),
        (b"GET /ok HTTP/1.1\r\n" + b"x: y\r\n" * 150 + b"\r\n", b"HTTP/1.0 431 Request Header Fields Too Large"),
        (b"GET /ok HTTP/1.1\r\nx: " + b"a" * 20_000, b"HTTP/1.0 431 Request Header Fields Too Large"),
        (b"POST /ok HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}", b"HTTP/1.0 405 Method Not Allowed"),
        (b"GET /nothing HTTP/1.1\r\n\r\n", b"HTTP/1.0 404 Not Found"),
        (b"GET /fails HTTP/1.1\r\n\r\n", b"HTTP/1.0 500 Internal Server Error"),
        (b"GET /ok?x HTTP/1.1\r\n\r\n", b"HTTP/1.0 200 OK"),
    ],
    ids=["nonsense", "many headers", "a large header", "POST", "unknown", "error", "query"],
)
def test_what_a_server_says_to_a_request(server: tuple[str, int], data: bytes, status: bytes) -> None:
    """Each gets its response, and the next one is served."""
    assert said(server, data) == status
    assert asked(f"http://127.0.0.1:{server[1]}/ok") == (200, {"accept": ""})


def test_each_path_is_read_once_at_the_start() -> None:
    """The first scrape then pays for no modules. A path that fails stops neither the others nor the start."""
    read: queue.SimpleQueue[str] = queue.SimpleQueue()

    def fails(accept: str) -> Response:
        read.put(accept)
        raise RuntimeError

    def works(accept: str) -> Response:
        read.put(accept)
        return Response(200, {})

    server = AdminServer(("127.0.0.1", 0), {"/fails": fails, "/works": works})
    server.start()
    try:
        accepted = {read.get(timeout=30), read.get(timeout=30)}
    finally:
        server.close()

    assert accepted == {http.OPEN_METRICS}
