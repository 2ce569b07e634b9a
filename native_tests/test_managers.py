"""Managers of senders that share several queues while they come and go, are killed, and queues are added."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from native_tests.manager import Manager
from native_tests.processes import Processes, is_over, wait_until
from native_tests.user_events import UserEvents
from rudderpipe.process.clock import Clock
from rudderpipe.queue import route
from rudderpipe.queue.queue import Queue
from rudderpipe.testing.redis_server import RedisServer

QUEUES = 8
KEYS = "{{{}}}:rudderpipe:rudderEventsQueue:{}"


def settings_with(server: RedisServer) -> dict[str, Any]:
    """Return the settings of several queues on one server."""
    return {
        "redis": server.url,
        "queues": QUEUES,
        "flush_at": 5,
        "flush_interval_ms": 50,
        "lease_ms": 1000,
    }


class Managers:
    """A pipe with several queues, and the managers of their senders."""

    def __init__(self, processes: Processes, server: RedisServer) -> None:
        self.processes = processes
        self.server = server
        processes.explicit |= settings_with(server) | {"autostart": False}
        self.users = UserEvents(processes.client())
        self.flusher = processes.start("-m", "rudderpipe.flusher")

    def start(self, *arguments: str, **options: Any) -> psutil.Process:
        """Start a manager."""
        return psutil.Process(self.processes.start("-m", "rudderpipe.sender", "--all", *arguments, **options).pid)

    def holders(self) -> dict[str, int]:
        """Return the pid of the sender that has the lease of each queue."""
        redis = self.server.text_client()
        names = [key.split("}")[0][1:] for key in redis.keys(KEYS.format("*", "lease"))]
        leases = {name: redis.get(KEYS.format(name, "lease")) for name in names}
        redis.close()
        return {name: int(lease.split()[3]) for name, lease in leases.items() if lease}

    def share(self, manager: psutil.Process) -> set[str]:
        """Return the queues whose lease a child of the manager has."""
        pids = {child.pid for child in manager.children()}
        return {name for name, pid in self.holders().items() if pid in pids and name != "rudder"}

    def wait_for_shares(self, *managers: psutil.Process) -> None:
        """Wait until each manager has its share of the queues, and no other senders run."""

        def are_shared() -> bool:
            shares = [self.share(manager) for manager in managers]
            queues = sum(len(manager.children()) for manager in managers)
            return sum(map(len, shares)) == QUEUES and all(shares) and queues == QUEUES + 1

        wait_until(are_shared, describe=lambda: [self.share(manager) for manager in managers])

    def delivered(self) -> dict[str, list[int]]:
        """Return the events of each user in the order in which they first arrived."""
        found: dict[str, dict[int, None]] = {}
        for body in self.processes.plane.last_events():
            for event in msgspec.json.decode(body)["batch"]:
                found.setdefault(event["userId"], {})[event["properties"]["n"]] = None
        return {user: list(numbers) for user, numbers in found.items()}

    def assert_in_order(self) -> None:
        """Wait until all events have arrived, and check that those of each user did so in order."""
        assert self.processes.delivered(self.users.sent)
        assert self.delivered() == self.users.by_user()


@pytest.fixture(name="managers")
def _managers(processes: Processes, redis_server: RedisServer) -> Iterator[Managers]:
    managers = Managers(processes, redis_server)
    yield managers
    for process in processes.started:
        if process.poll() is None:  # the sessions of its senders are not that of the manager
            for child in psutil.Process(process.pid).children():
                child.kill()


@pytest.mark.timeout(120)
def test_managers_share_the_queues_while_they_come_and_go(managers: Managers) -> None:
    """No event arrives twice, because a sender that is stopped hands over what it has not delivered.

    systemd signals the manager and its senders at once, and the manager signals its senders too.
    """
    plane = managers.processes.plane
    first, second = managers.start(), managers.start()
    with managers.users.sending():
        managers.wait_for_shares(first, second)
        third = managers.start()
        managers.wait_for_shares(first, second, third)
        plane.misbehaviour.delay_ms = 300
        begun = plane.stats()["requests"]
        wait_until(lambda: plane.stats()["requests"] > begun + 2 * QUEUES)  # a request of each sender is under way now
        for process in (*second.children(), second):
            process.terminate()
        assert second.wait(30) == 0
        plane.misbehaviour.delay_ms = 0
        managers.wait_for_shares(first, third)
    managers.assert_in_order()

    assert plane.stats()["duplicates"] == 0
    for manager in (first, third):
        manager.send_signal(signal.SIGTERM)
    assert [manager.wait(30) for manager in (first, third)] == [0, 0]
    assert managers.holders() == {}


@pytest.mark.timeout(120)
def test_nothing_is_lost_when_managers_and_senders_are_killed(managers: Managers) -> None:
    """Senders whose manager was killed end by themselves. One that was killed is started again."""
    first, second, third = managers.start(), managers.start(), managers.start()
    with managers.users.sending():
        managers.wait_for_shares(first, second, third)
        orphans = second.children()
        second.kill()
        killed = min(first.children(), key=lambda child: child.pid)
        killed.kill()
        wait_until(lambda: all(map(is_over, [*orphans, killed])))
        managers.wait_for_shares(first, third)

    managers.assert_in_order()
    events = managers.processes.status().events
    assert (events.accepted, events.failed, events.balanced) == (managers.users.sent, 0, True)


@pytest.mark.timeout(120)
def test_order_is_kept_while_the_number_of_queues_changes(managers: Managers) -> None:
    """The senders of the new queues wait until the one before them is drained."""
    managers.processes.plane.misbehaviour.delay_ms = 10
    managers.flusher.kill()
    managers.flusher.wait()
    managers.processes.explicit["queues"] = 1
    managers.processes.start("-m", "rudderpipe.flusher")
    first, second = managers.start(), managers.start()
    with managers.users.sending():
        wait_until(lambda: "rudder" in managers.holders())
        managers.users.send(1000)
        ended = managers.processes.run("-m", "rudderpipe", "scale", "--queues", "4", "--timeout", "50")

    assert ended.returncode == 0, ended
    managers.assert_in_order()
    queue = Queue(managers.processes.settings, Clock())
    assert [each.number for each in route.read(queue, managers.processes.settings).living] == [1]
    queue.close()
    wait_until(lambda: len(first.children()) + len(second.children()) == 4)


def test_a_manager_shows_its_senders_at_one_address(managers: Managers, directory: Path) -> None:
    """Monitoring needs the numbers of each queue, and a probe whether this host can work."""
    log = directory / "manager.log"
    with log.open("wb") as file:
        manager = managers.start("--admin", "127.0.0.1:0", stderr=file)
    managers.users.send(200)
    assert managers.processes.delivered(200)
    address = log.read_text().partition("address=")[2].split()[0]

    def counted() -> dict[str, float]:
        with urllib.request.urlopen(f"http://{address}/metrics") as response:
            families = text_string_to_metric_families(response.read().decode())
            return {
                sample.labels["queue"]: sample.value
                for family in families
                for sample in family.samples
                if sample.name == "rudderpipe_delivered_events_total"
            }

    wait_until(lambda: sum(counted().values()) == 200, describe=counted)
    assert set(counted()) == {f"{{{name}}}:rudderEventsQueue" for name in ("rudder", *managers.share(manager))}
    for path, status in (("healthz", "alive"), ("readyz", "ready")):
        with urllib.request.urlopen(f"http://{address}/{path}") as response:
            found = msgspec.json.decode(response.read())
        assert (found["status"], found["queues"], found["managers"]) == (status, QUEUES + 1, 1)
    assert all(
        f" rudderpipe.sender INFO [{name}] sender started " in log.read_text() for name in managers.share(manager)
    )
    shown = {word for child in manager.children() for word in child.cmdline() if word.startswith("--managed=")}
    assert shown == {f"--managed={name}" for name in ("rudder", *managers.share(manager))}


def test_a_manager_is_watched_by_a_service_manager(managers: Managers, directory: Path) -> None:
    """Its senders are watched by itself, and report nothing to the service manager."""
    service = Manager(directory)
    os.environ |= {"NOTIFY_SOCKET": service.path, "WATCHDOG_USEC": "500000"}
    try:
        manager = managers.start()
    finally:
        del os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"]

    assert service.receives("READY=1")[1].startswith("STATUS=sharing the queues ")
    managers.wait_for_shares(manager)
    for _ in range(3):
        service.receives("WATCHDOG=1")
    manager.terminate()
    service.receives("STOPPING=1")
    assert manager.wait(30) == 0
    service.close()


def test_a_manager_as_process_1_collects_all_that_end(managers: Managers) -> None:
    """In a container the orphans of other programs become its children. It must not take them for its senders."""
    unshare = shutil.which("unshare")
    assert unshare, "unshare is missing: it is in util-linux"
    command = f"(sleep 0.2 &); exec {sys.executable} -m rudderpipe.sender --all"
    shell = managers.processes.start_program(
        *(unshare, "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child=TERM"),
        *("sh", "-c", command),
    )
    managers.users.send(100)
    assert managers.processes.delivered(100)
    (manager,) = psutil.Process(shell.pid).children()

    wait_until(
        lambda: {child.status() for child in manager.children()} <= {psutil.STATUS_SLEEPING, psutil.STATUS_RUNNING}
    )
    assert len(manager.children()) == QUEUES + 1

    manager.terminate()
    assert shell.wait(30) == 0


def test_autostart_starts_a_manager_for_several_queues(processes: Processes, redis_server: RedisServer) -> None:
    """Flusher, manager and senders end by themselves once the application has ended and all is delivered."""
    processes.explicit |= settings_with(redis_server) | {"queues": 3, "autostart": True}
    client = processes.client()
    for number in range(100):
        client.track(f"u{number}", "e")
    assert processes.delivered(100)
    manager = processes.sender()
    senders = manager.children()
    assert len(senders) == 4

    client.shutdown()

    wait_until(lambda: all(map(is_over, [manager, *senders])))
    assert "manager of senders ended" in processes.log()


@pytest.mark.parametrize("has_spill", [False, True])
def test_autostart_replaces_the_sender_when_queues_are_added(
    processes: Processes, redis_server: RedisServer, directory: Path, has_spill: bool
) -> None:
    """The setting says one queue still. Its sender ends, and a manager starts those of all queues."""
    processes.explicit |= settings_with(redis_server) | {"queues": 1, "autostart": True, "linger_s": 5}
    if has_spill:  # the same sink then serves one queue and several
        processes.explicit["spill_dir"] = str(directory / "spill")
    client = processes.client()
    for number in range(100):
        client.track(f"u{number}", "e")
    assert processes.delivered(100)
    assert processes.sender().children() == []

    assert processes.run("-m", "rudderpipe", "scale", "--queues", "2", "--timeout", "0").returncode == 4
    for number in range(100):
        client.track(f"u{number}", "f")

    assert processes.delivered(200)
    assert len(processes.sender().children()) == 3


def test_a_second_signal_ends_a_manager_and_its_senders_at_once(managers: Managers) -> None:
    """An operator does not wait for requests that hang. The events of these may arrive twice."""
    managers.processes.plane.misbehaviour.delay_ms = 10_000
    process = managers.processes.start("-m", "rudderpipe.sender", "--all", stderr=subprocess.PIPE)
    manager = psutil.Process(process.pid)
    managers.users.send(200)
    wait_until(lambda: (jobs := managers.processes.status().queue) is not None and jobs.active == QUEUES)
    senders = manager.children()

    manager.terminate()
    assert process.stderr is not None
    while b"stopping the senders" not in process.stderr.readline():
        pass
    manager.terminate()

    assert process.wait(5) == 5
    wait_until(lambda: all(map(is_over, senders)), 5)
