"""The sender as operators run it, with health checks, under a service manager, as PID 1, and beside uWSGI."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from native_tests.faulty_plane import FaultyPlane
from native_tests.manager import Manager
from native_tests.processes import wait_until
from rudderpipe import settings as settings_module
from rudderpipe.process.clock import Clock
from rudderpipe.queue import job
from rudderpipe.queue.queue import Queue
from rudderpipe.testing.redis_server import RedisServer


class Senders:
    """Processes on one queue, which write one log."""

    def __init__(self, server: RedisServer, plane: FaultyPlane, directory: Path) -> None:
        self.plane = plane
        self.queue = Queue(settings_module.load({"redis": server.url}, environment={}), Clock())
        self._directory = directory
        self._started: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RUDDERPIPE_")},
            "RUDDERPIPE_REDIS": server.url,
            "RUDDERPIPE_DATA_PLANE_URL": plane.url,
            "RUDDERPIPE_LEASE_MS": "1000",
        }

    @property
    def log(self) -> str:
        """Return the log of all processes."""
        return (self._directory / "log").read_text()

    def start(self, *command: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own."""
        with (self._directory / "log").open("ab") as log:
            self._started.append(
                subprocess.Popen(
                    command, env={**self.environment, **variables}, stdout=log, stderr=log, start_new_session=True
                )
            )
        return self._started[-1]

    def sender(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a sender."""
        return self.start(sys.executable, "-m", "rudderpipe.sender", "--verbose", *arguments, **variables)

    def add(self, *names: str) -> None:
        """Add a job of one event for each message id."""
        for name in names:
            event = b'{"userId":"u","messageId":"%b"}' % name.encode()
            self.queue.add(7, [(job.build(event, "KEY", "t", 7), 1)], {}, [])

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.queue.close()


@pytest.fixture(name="senders")
def _senders(redis_server: RedisServer, directory: Path) -> Iterator[Senders]:
    with FaultyPlane() as plane:
        senders = Senders(redis_server, plane, directory)
        yield senders
        senders.end()


def admin_of(senders: Senders) -> str:
    """Wait for an admin server, and return its URL."""

    def found() -> str:
        return next((line.split("address=")[1] for line in senders.log.splitlines() if "address=" in line), "")

    return f"http://{wait_until(found)}"


def asked(url: str) -> tuple[int, dict[str, Any]]:
    """Get the URL; return the status and the JSON."""
    try:
        with urllib.request.urlopen(url) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_a_sender_answers_health_checks(senders: Senders) -> None:
    """Monitoring needs the state of the lease and the number of waiting jobs. Another path gets the list of paths."""
    senders.sender("--admin", "127.0.0.1:0")
    url = admin_of(senders)
    wait_until(lambda: asked(f"{url}/readyz")[0] == 200)
    status, vitals = asked(f"{url}/healthz")
    assert (status, vitals["status"], vitals["lease"], vitals["waiting_jobs"]) == (200, "alive", "held", 0)
    paths = ["/healthz", "/metrics", "/readyz", "/status.json"]
    assert asked(f"{url}/nothing") == (404, {"error": "not found", "paths": paths})
    request = urllib.request.Request(f"{url}/healthz", data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="405") as caught:
        urllib.request.urlopen(request)
    caught.value.close()
    assert urllib.request.urlopen(urllib.request.Request(f"{url}/healthz", method="HEAD")).read() == b""


def test_a_sender_without_redis_is_alive_but_not_ready(senders: Senders, redis_server: RedisServer) -> None:
    """A restart of the sender would not bring Redis back."""
    senders.sender("--admin", "0", RUDDERPIPE_STALL_TIMEOUT_S="1")
    url = admin_of(senders)
    wait_until(lambda: asked(f"{url}/readyz")[0] == 200)
    senders.add("m")
    redis_server.kill()

    wait_until(lambda: asked(f"{url}/readyz")[0] == 503)

    assert asked(f"{url}/healthz")[0] == 200
    redis_server.start()
    wait_until(lambda: asked(f"{url}/readyz")[0] == 200)


def test_a_sender_that_makes_no_progress_is_not_alive(senders: Senders) -> None:
    """The check of liveness fails while jobs wait and a request hangs, so that the sender is started again."""
    senders.plane.hold()
    senders.add("m")
    senders.sender("--admin", "127.0.0.1:0", RUDDERPIPE_STALL_TIMEOUT_S="1", RUDDERPIPE_TIMEOUT_S="600")
    url = admin_of(senders)

    wait_until(lambda: asked(f"{url}/healthz")[0] == 503)

    assert "nothing has moved" in asked(f"{url}/healthz")[1]["reason"]
    senders.plane.let_go()
    wait_until(lambda: asked(f"{url}/healthz")[0] == 200)


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", "::1:80", "256.256.256.256:1"])
def test_an_invalid_admin_address_ends_with_code_2(senders: Senders, address: str) -> None:
    """The exit code tells a service manager that a restart will not help."""
    assert senders.sender("--admin", address).wait(30) == 2
    assert "option --admin: " in senders.log


def test_an_admin_address_in_use_is_named(senders: Senders) -> None:
    """The error must hold the address, because the settings may come from several places."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        assert senders.sender("--admin", where).wait(30) == 2
    assert f"option --admin: cannot listen on {where}: Address already in use" in senders.log


@pytest.fixture(name="manager")
def _manager(directory: Path) -> Iterator[Manager]:
    manager = Manager(directory)
    yield manager
    manager.close()


def test_a_service_manager_gets_ready_watchdog_and_stopping(senders: Senders, manager: Manager) -> None:
    """systemd starts the sender again if the watchdog messages stop."""
    sender = senders.sender(NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="500000")

    (_, status) = manager.receives("READY=1")
    assert status.startswith("STATUS=serving ")
    for _ in range(3):
        manager.receives("WATCHDOG=1")
    senders.plane.hold()
    senders.add("m")
    senders.plane.wait_for(lambda: senders.plane.requests)
    sender.terminate()
    manager.receives("STOPPING=1")
    senders.plane.let_go()
    assert sender.wait(30) == 0


def test_a_sender_runs_as_pid_1_of_a_container(senders: Senders) -> None:
    """PID 1 gets no default signal handlers, but SIGTERM must still end the sender with 0."""
    unshare = shutil.which("unshare")
    assert unshare, "unshare is missing: it is in util-linux"
    senders.add("m")
    shell = senders.start(
        *(unshare, "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child=TERM"),
        *(sys.executable, "-m", "rudderpipe.sender", "--verbose"),
    )
    senders.plane.wait_for(lambda: senders.plane.accepted == ["m"])
    children = Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split()
    (inside,) = (int(child) for child in children)
    (numbers,) = [
        line.split() for line in Path(f"/proc/{inside}/status").read_text().splitlines() if line.startswith("NSpid:")
    ]
    assert numbers[-1] == "1"

    os.kill(inside, signal.SIGTERM)

    assert shell.wait(30) == 0
    assert "draining" in senders.log


@pytest.mark.parametrize(
    "prefix",
    ["trap '' TERM INT; exec", "exec 0<&- 1>&- 2>&-; exec", "exec nohup"],
    ids=["signals ignored", "no standard descriptors", "nohup"],
)
def test_a_sender_works_with_inherited_signals_and_descriptors(senders: Senders, prefix: str) -> None:
    """Shells and tools may start it with ignored signals or without standard descriptors."""
    senders.add("m")
    sender = senders.start("sh", "-c", f'{prefix} "{sys.executable}" -m rudderpipe.sender')
    senders.plane.wait_for(lambda: senders.plane.accepted == ["m"])

    sender.terminate()

    assert sender.wait(30) == 0


def test_a_sender_runs_as_a_daemon_of_uwsgi(senders: Senders, directory: Path) -> None:
    """It ends together with uWSGI and releases its lease, so that another sender can start at once."""
    (directory / "app.py").write_text("def application(environ, start):\n    start('200 OK', [])\n    return [b'']\n")
    uwsgi = senders.start(
        str(Path(sys.executable).with_name("uwsgi")),
        *("--master", "--die-on-term", "--http-socket", "127.0.0.1:0", "--wsgi-file", str(directory / "app.py")),
        *("--attach-daemon", f"{sys.executable} -m rudderpipe.sender --verbose"),
    )
    senders.add("m")
    senders.plane.wait_for(lambda: senders.plane.accepted == ["m"])

    uwsgi.terminate()
    uwsgi.wait(30)

    wait_until(lambda: "draining" in senders.log)
    senders.sender()
    senders.add("n")
    senders.plane.wait_for(lambda: senders.plane.accepted == ["m", "n"])
