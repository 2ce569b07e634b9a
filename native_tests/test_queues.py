"""Several queues on several Redis servers, one of which is stopped or dies."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from native_tests.processes import Processes, wait_until
from native_tests.redis_forms import Cluster, ending
from native_tests.user_events import USERS, UserEvents
from rudderpipe.flusher import lanes
from rudderpipe.process import runtime_dir
from rudderpipe.process.clock import Clock
from rudderpipe.queue import gate, job, route
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.queue_set import QueueSet
from rudderpipe.queue.route import QueuePlace
from rudderpipe.settings import Settings
from rudderpipe.testing.redis_server import RedisServer

QUEUES = 3


class Servers:
    """Three Redis servers as a list, with a queue on each."""

    def __init__(self, directory: Path, processes: Processes) -> None:
        self.all: list[RedisServer] = []
        for number in range(QUEUES):
            place = directory / f"r{number}"
            place.mkdir()
            self.all.append(RedisServer(place, persistent=True))
            self.all[-1].start()
        self.processes = processes
        processes.explicit |= {
            "redis": " ".join(server.url for server in self.all),
            "queues": QUEUES,
            "autostart": False,
            "flush_at": 5,
            "flush_interval_ms": 50,
        }
        self.users = UserEvents(processes.client())

    def events(self, place: int) -> list[int]:
        """Return the events that are in a queue, in the order in which they will be delivered."""
        redis = self.all[place].text_client()
        base = f"{{rudder-{place}}}:rudderEventsQueue:"
        return [
            msgspec.json.decode(event)["properties"]["n"]
            for name in reversed(redis.lrange(f"{base}wait", 0, -1))
            for event in job.read(redis.hget(f"{base}{name}", "data").encode()).events
        ]

    def expected(self, place: int) -> list[int]:
        """Return the events that belong into a queue, in order."""
        return [n for n in range(self.users.sent) if lanes.user_of(f"u{n % USERS}") % QUEUES == place]

    def wait_for(self, *places: int) -> None:
        """Wait until these queues have all of their events, and check that they have nothing else."""
        for place in places:
            wait_until(lambda place=place: len(self.events(place)) >= len(self.expected(place)))  # type: ignore[misc]  # mypy cannot infer the default
            assert self.events(place) == self.expected(place)

    def end(self) -> None:
        """Kill the servers."""
        for server in self.all:
            server.kill()


@pytest.fixture(name="servers")
def _servers(directory: Path, processes: Processes) -> Iterator[Servers]:
    servers = Servers(directory, processes)
    yield servers
    servers.end()


@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.parametrize("dies", [False, True], ids=["the flusher goes on", "the flusher is killed"])
def test_a_server_that_is_away_holds_only_its_queue(servers: Servers, how: str, dies: bool) -> None:
    """The others get their events, also from a flusher that starts meanwhile. Nothing is lost or added twice."""
    processes = servers.processes
    flusher = processes.start("-m", "rudderpipe.flusher")
    servers.users.send(200)
    servers.wait_for(0, 1, 2)
    away = servers.all[2]
    assert away.process is not None
    if how == "stopped":
        away.process.send_signal(signal.SIGSTOP)
    else:
        away.kill()

    servers.users.send(400)
    servers.wait_for(0, 1)
    if dies:
        flusher.kill()
        flusher.wait()
        flusher = processes.start("-m", "rudderpipe.flusher")
    servers.users.send(400)
    servers.wait_for(0, 1)
    if how == "stopped":
        away.process.send_signal(signal.SIGCONT)
    else:
        away.start()
    servers.wait_for(0, 1, 2)

    wait_until(lambda: processes.status().events.in_ring == 0)
    events = processes.status().events
    assert (events.accepted, events.queued, events.lost, events.balanced) == (1000, 1000, 0, True)
    assert servers.users.client.flush(10)


@pytest.mark.parametrize("queues", [QUEUES, 1])
def test_the_first_server_restarts_empty_while_a_queue_is_away_and_the_flusher_dies(
    servers: Servers, directory: Path, queues: int
) -> None:
    """It loses what had left the ring. The others get each event once, although no process knows the route any more."""
    processes = servers.processes
    flusher = processes.start("-m", "rudderpipe.flusher")
    servers.users.send(200)
    servers.wait_for(0, 1, 2)
    wait_until(lambda: processes.status().events.in_ring == 0)
    lost = len(servers.events(0))
    first, away = servers.all[0], servers.all[2]
    assert away.process is not None
    away.process.send_signal(signal.SIGSTOP)
    servers.users.send(200)
    servers.wait_for(0, 1)

    flusher.kill()
    flusher.wait()
    first.kill()
    for path in (directory / "r0").glob("appendonly*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    first.start()
    processes.explicit["queues"] = queues
    processes.start("-m", "rudderpipe.flusher")
    servers.users.send(200)
    away.process.send_signal(signal.SIGCONT)

    servers.wait_for(1, 2)
    wait_until(lambda: servers.events(0) == servers.expected(0)[lost:])
    wait_until(lambda: (events := processes.status().events).balanced and events.queued == 600)


def test_a_flush_waits_for_the_delivery_of_all_queues(servers: Servers) -> None:
    """The flusher counts in every queue what became of the events."""
    processes = servers.processes
    processes.start("-m", "rudderpipe.flusher")
    servers.users.send(100)
    servers.wait_for(0, 1, 2)

    settings = processes.settings
    for place in range(QUEUES):
        _deliver(settings, place)
    result = servers.users.client.flush(10, until="delivered")

    assert result
    assert processes.status().events.delivered == 100
    assert processes.status().events.balanced


def _deliver(settings: Settings, place: int) -> None:
    queue = Queue(QueuePlace(f"rudder-{place}", place).settings(settings), Clock())
    while taken := queue.take(1000, 1 << 30):
        queue.complete(taken)
    queue.close()


class Deliverer(threading.Thread):
    """Senders of all queues, which deliver what the gate lets them."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self.delivered: dict[str, list[int]] = {}
        self.count = 0
        self.ends = threading.Event()

    def run(self) -> None:
        """Take a few jobs of each queue in turn, of the newest queues first."""
        queues = QueueSet(self._settings, Clock())
        while not self.ends.wait(0.02):
            known = route.read(queues.home, self._settings)
            for generation in reversed(known.living):
                for place in generation.queues:
                    if gate.is_open(queues.queue, known, generation.number, place):
                        self._deliver(queues.queue(place))
        queues.close()

    def _deliver(self, queue: Queue) -> None:
        taken = queue.take(5, 1 << 30)
        for each in taken:
            assert each.job is not None
            for event in each.job.events:
                found = msgspec.json.decode(event)
                self.delivered.setdefault(found["userId"], []).append(found["properties"]["n"])
                self.count += 1
        queue.complete(taken)


@pytest.mark.timeout(180)
def test_the_number_of_queues_changes_while_events_flow(servers: Servers) -> None:
    """From one queue to four to two. Command and flusher are killed in between, and the command is run again."""
    processes = servers.processes
    processes.explicit["queues"] = 1
    flusher = processes.start("-m", "rudderpipe.flusher")
    deliverer = Deliverer(processes.settings)
    deliverer.start()
    servers.users.send(300)
    for count in (4, 2):
        first = processes.start("-m", "rudderpipe", "scale", "--queues", str(count), stderr=subprocess.DEVNULL)
        servers.users.send(100)
        first.kill()
        first.wait()
        servers.users.send(100)
        flusher.kill()
        flusher.wait()
        servers.users.send(100)
        flusher = processes.start("-m", "rudderpipe.flusher")
        with servers.users.sending():
            ended = processes.run("-m", "rudderpipe", "scale", "--queues", str(count), "--timeout", "50")
        assert ended.returncode == 0, ended
        assert b"all earlier queues are drained" in ended.stdout
    servers.users.send(100)
    wait_until(lambda: deliverer.count >= servers.users.sent)

    deliverer.ends.set()
    deliverer.join()
    assert deliverer.delivered == servers.users.by_user()
    found = route.read(Queue(processes.settings, Clock()), processes.settings)
    assert [len(each.queues) for each in found.generations] == [1, 4, 2]
    assert [each.number for each in found.living] == [2]
    assert {place.server for each in found.generations for place in each.queues} == {0, 1, 2}
    events = processes.status().events
    assert (events.accepted, events.balanced) == (servers.users.sent, True)
    assert b"queues    generation 2: 2 queues, in use\n" in processes.run("-m", "rudderpipe", "status").stdout


def test_the_status_tells_what_is_drained_and_which_queue_has_no_sender(servers: Servers) -> None:
    """A sender of the first queue alone is not enough."""
    processes = servers.processes
    processes.start("-m", "rudderpipe.flusher")
    servers.users.send(100)
    servers.wait_for(0, 1, 2)
    ended = processes.run("-m", "rudderpipe", "scale", "--queues", "1", "--timeout", "0")
    assert ended.returncode == 4
    assert b"generation 1 (3 queues): " in ended.stdout
    places = [QueuePlace("rudder"), *(QueuePlace(f"rudder-{place}", place) for place in range(QUEUES))]
    queues = [Queue(place.settings(processes.settings), Clock()) for place in places]
    leases = [Lease(queue, 60_000, f"here {number} 1", lambda _holder: False) for number, queue in enumerate(queues)]

    for lease in leases:
        assert processes.status().lease is None
        assert lease.take()

    assert processes.status().lease is not None
    found = processes.status_json()["jobs"]
    assert [(each["number"], each["queues"], each["is_current"]) for each in found["generations"]] == [
        (1, 3, False),
        (2, 1, True),
    ]
    assert found["generations"][0]["jobs"] == found["waiting"] > 0
    for queue in queues:
        queue.close()


def test_no_number_is_changed_while_a_server_is_away(servers: Servers) -> None:
    """The command names the server. Nothing would be added anywhere until it is back."""
    processes = servers.processes
    servers.all[2].kill()
    ended = processes.run("-m", "rudderpipe", "scale", "--queues", "4")

    assert ended.returncode == 4
    assert str(servers.all[2].socket).encode() in ended.stderr
    assert not servers.all[0].client().exists("{rudder}:rudderpipe:rudderEventsQueue:route")


def test_the_command_drain_knows_the_queues(servers: Servers) -> None:
    """It does what a flusher does, also with the settings of one queue."""
    processes = servers.processes
    flusher = processes.start("-m", "rudderpipe.flusher")
    servers.users.send(100)
    servers.wait_for(0, 1, 2)
    flusher.kill()
    flusher.wait()
    servers.users.send(100)
    processes.explicit["queues"] = 1
    servers.users.client.shutdown(0)

    ended = processes.run("-m", "rudderpipe", "drain")

    assert ended.returncode == 0, ended
    servers.wait_for(0, 1, 2)


def test_a_cluster_takes_a_queue_on_each_master(processes: Processes, directory: Path) -> None:
    """While one master is away, the queues of the others go on, if the cluster allows that."""
    with ending(Cluster(directory)) as redis:
        for number in range(3):
            redis.ask(number, "CONFIG", "SET", "cluster-require-full-coverage", "no")
        own = {"redis": redis.url, "queues": 3, "autostart": False, "flush_at": 5, "flush_interval_ms": 50}
        processes.explicit |= own
        client = processes.client()
        processes.start("-m", "rudderpipe.flusher")
        for number in range(60):
            assert client.track(f"u{number}", "e", {"n": number})
        wait_until(lambda: processes.status().events.queued == 60)
        found = route.read(Queue(processes.settings, Clock()), processes.settings)
        slots = [route.slot_of(f"{{{place.prefix}}}:q") for place in found.current.queues]
        home = redis.holder(route.slot_of("{rudder}:q"))
        place, number = next((place, each) for place, each in enumerate(map(redis.holder, slots)) if each != home)
        redis.servers[number].kill()

        for number in range(60, 120):
            assert client.track(f"u{number}", "e", {"n": number})

        expected = [sum(lanes.user_of(f"u{n}") % 3 == each for n in range(120)) for each in range(3)]
        queues = [Queue(each.settings(processes.settings), Clock()) for each in found.current.queues]
        for each in {0, 1, 2} - {place}:
            wait_until(lambda each=each: queues[each].counts().events_queued == expected[each])  # type: ignore[misc]  # mypy cannot infer the default
        for queue in queues:
            queue.close()


def test_the_command_makes_queues_when_redis_has_forgotten_the_route(servers: Servers) -> None:
    """No flusher knows it any more either. The queues that are made by the setting are sealed."""
    processes = servers.processes
    flusher = processes.start("-m", "rudderpipe.flusher")
    servers.users.send(100)
    servers.wait_for(0, 1, 2)
    assert processes.run("-m", "rudderpipe", "scale", "--queues", "2", "--timeout", "0").returncode == 4
    flusher.kill()
    flusher.wait()
    servers.all[0].client().delete("{rudder}:rudderpipe:rudderEventsQueue:route")
    for path in runtime_dir.ensure(processes.settings.runtime_dir).glob("*.route"):
        path.unlink()
    processes.start("-m", "rudderpipe.flusher")
    servers.users.send(10)
    wait_until(lambda: (ring := processes.status().ring) is not None and ring.down_since_ms > 0)

    ended = processes.run("-m", "rudderpipe", "scale", "--queues", "3", "--timeout", "0")

    assert b"generation 2 has 3 queues: " in ended.stdout
    wait_until(lambda: processes.status().events.in_ring == 0)
