"""Managers of senders that share queues in memory. Their senders are stand-ins, which end when they are asked to."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any, cast

import pytest

from rudderpipe.queue import route
from rudderpipe.queue.queue_set import QueueSet
from rudderpipe.queue.route import QueuePlace, Route
from rudderpipe.sender.children import FAILURES, SILENT_S, STABLE_S, STARTS, Children
from rudderpipe.sender.manager import Manager
from rudderpipe.sender.manager_state import healthz, readyz
from rudderpipe.sender.sender import AWAY_S
from rudderpipe.service.calls import Calls, Ended
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock

HOME = QueuePlace("rudder")
LEASE_S = 10.0
_numbers = itertools.count()


class CallsAtOnce(Calls):
    """Calls that have ended when they have begun. Their results come in another order."""

    def __init__(self) -> None:
        self._results: deque[Ended] = deque()

    def begin(self, owner: Hashable, call: Callable[[], Any]) -> bool:
        try:
            self._results.append(Ended(owner, call()))
        except Exception as error:  # noqa: BLE001  # as in the original
            self._results.append(Ended(owner, error))
        return False

    def next(self, wait_s: float) -> Ended | None:
        return self._results.pop() if self._results else None

    def close(self) -> None:
        pass


class FakeProcess:
    """A sender's process, which writes a line whenever it is looked at.

    With ``hangs`` it does not end when it is asked to, and while ``is_silent`` it writes nothing.
    """

    def __init__(self, *, hangs: bool = False) -> None:
        self.pid = 7
        self.returncode: int | None = None
        self.is_silent = False
        self._hangs = hangs
        reading, self._writing = os.pipe()
        self.stdout = os.fdopen(reading, "rb", buffering=0)

    def poll(self) -> int | None:
        if self.returncode is None and not self.is_silent:
            os.write(self._writing, b"a line\nthe beginning of ")
        elif self._writing >= 0 and self.returncode is not None:
            self._end()
        return self.returncode

    def _end(self) -> None:
        os.close(self._writing)
        self._writing = -1

    def terminate(self) -> None:
        self.returncode = None if self._hangs else 0

    def kill(self) -> None:
        self.returncode = -9

    def wait(self) -> int:
        assert self.returncode is not None
        return self.returncode

    def forget(self) -> None:
        """Close the pipe."""
        self.stdout.close()
        if self._writing >= 0:
            self._end()


class FakeQueues:
    """The queues in memory, each with a store."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.stores: dict[QueuePlace, FakeStore] = {}

    def queue(self, place: QueuePlace) -> FakeQueue:
        return FakeQueue(self.stores.setdefault(place, FakeStore(self.clock)))

    def close(self) -> None:
        pass


class FakeSet:
    """The connections of one thread of a host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._number = next(_numbers)

    def queue(self, place: QueuePlace) -> FakeQueue:
        self._host.asked.add((self._number, place))
        return self._host.queue(place)

    def close(self) -> None:
        pass


class Host:
    """A manager and its senders."""

    def __init__(self, scene: Scene, settings: Settings, **options: Any) -> None:
        self.senders: dict[str, FakeProcess] = {}
        self.processes: list[FakeProcess] = []
        self.starts: list[str] = []
        self.refused: set[str] = set()
        """The queues that this host does not reach."""
        self.asked: set[tuple[int, QueuePlace]] = set()
        """The queues that each set of connections has reached."""
        self.plane = ""
        self.hangs = self.is_silent = False
        self.is_abandoned = False
        self._scene = scene
        self.children = Children(cast("Any", self._start), scene.clock, lambda: self.is_abandoned)
        self.manager = Manager(
            settings,
            self.children,
            scene.clock,
            calls=CallsAtOnce(),
            home=cast("Any", scene.queues.queue(HOME)),
            queues=lambda: cast("QueueSet", FakeSet(self)),
            abandoned=lambda: self.is_abandoned,
            **options,
        )

    def _start(self, place: QueuePlace) -> FakeProcess:
        self.senders[place.prefix] = FakeProcess(hangs=self.hangs)
        self.senders[place.prefix].is_silent = self.is_silent
        self.processes.append(self.senders[place.prefix])
        self.starts.append(place.prefix)
        return self.senders[place.prefix]

    def queue(self, place: QueuePlace) -> FakeQueue:
        """Return a queue as this host reaches it."""
        queue = self._scene.queues.queue(place)
        queue.away = place.prefix in self.refused
        queue.plane = self.plane
        return queue

    @property
    def running(self) -> set[str]:
        """The queues with a sender."""
        return {prefix for prefix, process in self.senders.items() if process.returncode is None}


class Scene:
    """Hosts that share the queues of a route."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.queues = FakeQueues(self.clock)
        self.settings = Settings(redis="redis://a", autostart=False, **settings)
        self.home = self.queues.queue(HOME)
        self.route: Route = route.of_text("", self.settings)
        self.hosts: list[Host] = []
        """The hosts whose managers work."""
        self.all: list[Host] = []

    def scale(self, count: int) -> None:
        """Add a generation, and seal the one before it."""
        number = len(self.route.generations)
        places = [QueuePlace(f"rudder-{number}-{each}") for each in range(count)]
        for place in self.route.current.queues:
            self.queues.queue(place).call("seal_queue", [], number)
        self.route = self.route.with_queues(places, self.clock.time_ms())
        self.home.store.route = self.route.text

    def retire(self, number: int) -> None:
        """Retire a generation."""
        self.route = self.route.with_retired(number, self.clock.time_ms())
        self.home.store.route = self.route.text

    def host(self, **options: Any) -> Host:
        """Start a manager."""
        self.hosts.append(Host(self, self.settings, **options))
        self.all.append(self.hosts[-1])
        return self.hosts[-1]

    def passes(self, seconds: float) -> None:
        """Let time pass, while all managers work twice a second."""
        end_s = self.clock.now_s + seconds
        while self.clock.now_s < end_s:
            for host in self.hosts:
                host.manager.work()
            self.clock.now_s += 0.5


@pytest.fixture(name="scene_of")
def _scene_of() -> Iterator[Callable[..., Scene]]:
    """Yield a function that returns a scene with settings, whose pipes are closed at the end."""
    scenes: list[Scene] = []

    def make(**settings: Any) -> Scene:
        scenes.append(Scene(**settings))
        return scenes[-1]

    yield make
    for process in (process for scene in scenes for host in scene.all for process in host.processes):
        process.forget()


@pytest.fixture(name="scene")
def _scene(scene_of: Callable[..., Scene]) -> Scene:
    """Return one queue, without a route."""
    return scene_of()


@pytest.fixture(name="shared")
def _shared(scene: Scene) -> Scene:
    """Return eight queues that are open, because the one before them was never used."""
    scene.scale(8)
    scene.retire(0)
    return scene


def names(count: int, number: int = 1) -> set[str]:
    """Return the queues of a generation."""
    return {f"rudder-{number}-{each}" for each in range(count)}


def test_without_a_route_the_one_queue_has_a_sender(scene: Scene) -> None:
    """So a manager may be used everywhere."""
    host = scene.host()

    scene.passes(5)

    assert host.starts == ["rudder"]


def test_a_queue_gets_no_sender_before_the_queues_before_it_are_drained(scene: Scene) -> None:
    """Otherwise later events of a user would be delivered before earlier ones."""
    host = scene.host()
    scene.home.add(7, [("{}", 1)], {}, [])
    scene.passes(5)
    scene.scale(2)
    scene.passes(60)
    assert host.running == {"rudder"}

    store = scene.home.store
    store.line.clear()
    scene.passes(5)

    assert host.running == {"rudder", *names(2)}
    assert all(scene.queues.queue(QueuePlace(name)).store.opened for name in names(2))


def test_a_seal_that_redis_has_forgotten_is_made_again(scene: Scene) -> None:
    """A failover may forget it after every flusher has ended. The queues behind it would never be open."""
    host = scene.host()
    scene.scale(2)
    scene.home.store.seal = ""

    scene.passes(5)

    assert host.running == {"rudder", *names(2)}
    assert scene.home.store.seal == "0 0"


def test_an_opening_that_redis_has_forgotten_is_stored_again(shared: Scene) -> None:
    """A server that restarts empty forgets it. Otherwise the queues of the next generation would never be open."""
    host = shared.host()
    shared.passes(5)
    queue = shared.queues.queue(shared.route.current.queues[-1])
    assert queue.store.opened

    queue.store.opened = False
    shared.passes(5)
    shared.scale(2)
    shared.passes(5)

    assert queue.store.opened
    assert host.running == {*names(8), *names(2, 2)}


def test_a_manager_looks_at_an_earlier_queue_once_for_all_its_queues(shared: Scene) -> None:
    """With hundreds of queues it would else have a connection for each pair of them."""
    host = shared.host()
    shared.passes(5)
    shared.queues.queue(shared.route.current.queues[-1]).add(7, [("{}", 1)], {}, [])
    shared.scale(8)

    shared.passes(5)

    assert host.running == names(8)
    assert len(host.asked) == 8 + 8 + 8


def test_the_sender_of_a_retired_queue_ends(shared: Scene) -> None:
    """It ends without waiting for another manager, because none takes the queue."""
    host = shared.host()
    shared.passes(5)
    assert host.running == names(8)
    shared.scale(2)
    shared.passes(5)
    shared.retire(1)

    shared.passes(5)

    assert host.running == names(2, 2)


def test_a_manager_that_comes_gets_its_share_after_two_leases(shared: Scene) -> None:
    """Until then its senders stand by, so that a manager that fails at once costs no hand-over."""
    first = shared.host()
    shared.passes(60)
    second = shared.host()

    shared.passes(2 * LEASE_S - 1)

    assert first.running == names(8)
    assert len(second.running) == 4
    shared.passes(4)
    assert first.running == names(8) - second.running
    assert len(first.starts) == 8


def test_the_queues_of_a_manager_that_is_silent_go_to_the_others(shared: Scene) -> None:
    """It may be killed at any moment. Its membership lapses."""
    first, second = shared.host(), shared.host()
    shared.passes(60)
    assert len(second.running) == 4

    shared.hosts.remove(second)
    shared.passes(LEASE_S + 3)

    assert first.running == names(8)


def test_a_queue_whose_sender_ends_again_and_again_goes_to_another_manager(shared: Scene) -> None:
    """The first choice tries again, and gets the queue back once its sender runs."""
    first, second = shared.host(), shared.host()
    shared.passes(60)
    queue = min(second.running)
    for _ in range(FAILURES):
        second.senders[queue].returncode = 1
        shared.passes(8)

    shared.passes(3)
    assert queue in first.running
    assert queue in second.running
    shared.passes(STABLE_S)

    assert queue not in first.running
    assert queue in second.running
    assert second.starts.count(queue) == 1 + FAILURES


def test_a_queue_that_a_manager_does_not_reach_goes_to_another_one(shared: Scene) -> None:
    """Its own sender goes on trying. The queue comes back with the connection."""
    first, second = shared.host(), shared.host()
    shared.passes(60)
    queue = min(second.running)
    second.refused.add(queue)

    shared.passes(2 * LEASE_S + 5)

    assert queue in first.running & second.running
    second.refused.clear()
    shared.passes(5)
    assert queue not in first.running


def test_queues_with_jobs_for_another_data_plane_stay_with_the_manager_of_that_one(shared: Scene) -> None:
    """The manager of the wrong data plane can deliver nothing from them, although it reaches them."""
    first = shared.host()
    first.plane = "a"
    for place in shared.route.current.queues:
        shared.queues.queue(place).store.plane = "a"
        shared.queues.queue(place).add(7, [("{}", 1)], {}, [])
    shared.passes(60)
    second = shared.host()
    second.plane = "b"

    shared.passes(3 * LEASE_S)

    assert first.running == names(8)
    assert second.starts == []
    assert readyz(second.manager.state, shared.clock.now_s).status == 503


def test_a_manager_that_comes_and_goes_at_once_costs_no_sender_its_queue(shared: Scene) -> None:
    """Nothing was handed over yet."""
    first = shared.host()
    shared.passes(60)
    second = shared.host()
    shared.passes(5)
    shared.hosts.remove(second)
    second.manager.drain(shared.clock.now_s + 10)

    shared.passes(5)

    assert first.running == names(8)
    assert len(first.starts) == 8


def test_a_queue_that_no_manager_reaches_keeps_its_manager(shared: Scene) -> None:
    """No manager does better, so there is nothing to hand over."""
    first, second = shared.host(), shared.host()
    shared.passes(60)
    queue = min(second.running)
    first.refused.add(queue)
    second.refused.add(queue)

    shared.passes(20 * LEASE_S)

    assert queue in second.running
    assert queue not in first.running


def test_senders_go_on_while_the_list_is_away(shared: Scene) -> None:
    """Their leases are in the queues' own servers. After that the shares are as before."""
    first, second = shared.host(), shared.host()
    shared.passes(60)
    before = first.running, second.running, len(first.starts), len(second.starts)

    shared.home.store.away = True
    shared.passes(5 * LEASE_S)
    shared.home.store.away = False
    shared.passes(5 * LEASE_S)

    assert before == (first.running, second.running, len(first.starts), len(second.starts))


def test_senders_go_on_when_redis_has_forgotten_list_and_route(scene: Scene) -> None:
    """No manager takes the queues of the others for its own meanwhile. One that knows the route stores it again."""
    scene.scale(8)
    first, second = scene.host(), scene.host()
    scene.passes(60)
    before = first.running, second.running, len(first.starts), len(second.starts)

    scene.home.store.members.clear()
    scene.home.store.route = ""
    scene.passes(5 * LEASE_S)

    assert before == (first.running, second.running, len(first.starts), len(second.starts))
    assert scene.home.store.route == scene.route.text


def test_the_first_queue_has_a_sender_again_when_redis_has_forgotten_the_route(shared: Scene) -> None:
    """It is retired, but a flusher that found no route may have added events to it."""
    host = shared.host()
    shared.passes(5)
    assert host.running == names(8)

    shared.home.store.route = ""
    shared.passes(5)

    assert host.running == {"rudder", *names(8)}


def test_with_several_senders_a_queue_every_manager_works_on_every_queue(scene_of: Callable[..., Scene]) -> None:
    """There is no lease, so there is nothing to share."""
    scene = scene_of(is_multi_processor=True)
    scene.scale(3)
    scene.retire(0)
    hosts = [scene.host(), scene.host()]

    scene.passes(60)

    assert [host.running for host in hosts] == [names(3), names(3)]


def test_a_stop_leaves_the_list_and_ends_all_senders(shared: Scene) -> None:
    """The other managers start their senders at once, and not when the membership lapses."""
    first, second = shared.host(), shared.host()
    shared.passes(60)
    shared.hosts.remove(second)

    second.manager.drain(shared.clock.now_s + 10)

    assert second.running == set()
    shared.passes(3)
    assert first.running == names(8)


def test_a_stop_while_the_list_is_away_does_not_say_that_senders_go_on(
    shared: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """The membership lapses by itself."""
    host = shared.host()
    shared.passes(60)
    shared.home.store.away = True

    host.manager.drain(shared.clock.now_s + 10)

    assert host.running == set()
    assert "senders go on" not in caplog.text


def test_a_sender_that_hangs_is_killed_at_the_end_of_a_stop(scene: Scene) -> None:
    """The service manager would kill this process otherwise, and the sender would go on."""
    host = scene.host()
    host.hangs = True
    scene.passes(5)
    begun_s = scene.clock.now_s

    host.manager.drain(begun_s + 10)

    assert host.senders["rudder"].returncode == -9
    assert scene.clock.now_s >= begun_s + 10


def test_a_sender_that_ends_is_started_again_ever_later(shared: Scene) -> None:
    """A cause that stays must not keep a core busy with starts."""
    host = shared.host()
    shared.passes(5)
    for _ in range(600):
        host.senders["rudder-1-0"].returncode = 1
        shared.passes(0.5)

    assert 10 < host.starts.count("rudder-1-0") < 20


def test_an_abandoned_manager_ends_with_its_last_sender(shared: Scene) -> None:
    """Autostarted senders end by themselves when their queues are empty."""
    host = shared.host()
    shared.passes(5)
    assert not host.manager.finished()
    host.is_abandoned = True
    for name in sorted(names(8)):
        assert not host.manager.finished()
        host.senders[name].returncode = 0
        shared.passes(0.5)

    assert host.manager.finished()
    assert len(host.starts) == 8


def test_an_abandoned_manager_does_not_wait_forever_for_a_queue_without_a_sender(shared: Scene) -> None:
    """Each start of the application would leave one more while a queue is away, or while one is not open."""
    host = shared.host()
    host.refused.add("rudder-1-0")
    shared.passes(5)
    host.is_abandoned = True
    for sender in host.senders.values():
        sender.returncode = 0
    shared.passes(AWAY_S - 5)
    assert not host.manager.finished()

    shared.passes(10)

    assert host.manager.finished()
    assert "rudder-1-0" not in host.starts


def test_senders_are_started_a_few_at_a_time(shared: Scene) -> None:
    """Hundreds that start at once would all be silent for so long that they are killed."""
    host = shared.host()
    host.is_silent = True
    shared.passes(10)
    assert len(host.starts) == STARTS

    for sender in host.senders.values():
        sender.is_silent = False
    shared.passes(2)

    assert host.running == names(8)


def test_a_silent_sender_is_killed_and_another_one_started(shared: Scene) -> None:
    """It may be stopped, or stalled. A sender that works writes a line each second."""
    host = shared.host()
    shared.passes(5)
    silent = host.senders["rudder-1-0"]
    silent.is_silent = True

    shared.passes(SILENT_S - 2)
    assert len(host.starts) == 8
    shared.passes(5)

    assert silent.returncode == -9
    assert host.running == names(8)
    assert len(host.starts) == 9
    assert set(host.children.lines) == {b"the beginning of a line"}


def test_senders_that_were_stopped_with_their_manager_are_not_killed(shared: Scene) -> None:
    """A container may be frozen for minutes. What the senders were sending would arrive twice."""
    host = shared.host()
    shared.passes(5)
    for sender in host.senders.values():
        sender.is_silent = True
    shared.clock.now_s += 10 * SILENT_S
    shared.passes(2)
    for sender in host.senders.values():
        sender.is_silent = False

    shared.passes(5)

    assert host.running == names(8)
    assert len(host.starts) == 8


def test_a_manager_that_cannot_read_the_route_gets_no_share(shared: Scene) -> None:
    """A later version has written it. Nobody would work on that share."""
    shared.home.store.route = '{"queues":3}'
    shared.host()

    shared.passes(5)

    assert shared.home.store.members == {}


def test_the_log_says_whether_there_are_senders_while_the_first_server_is_away(
    shared: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """A manager that starts then knows no queue, and one that was there goes on."""
    earlier = shared.host()
    shared.passes(5)
    shared.home.store.away = True
    caplog.clear()

    shared.passes(2)
    shared.host()
    shared.passes(2)

    lines = [record.getMessage().partition(" error=")[0] for record in caplog.records]
    said = "the list of managers cannot be read"
    assert [line for line in lines if line.startswith(said)] == [
        f"{said}, senders go on, trying again",
        f"{said}, no sender is started, trying again",
    ]
    assert all(each.returncode is None for each in earlier.senders.values())


def test_a_manager_is_ready_while_it_can_work_on_its_queues(shared: Scene) -> None:
    """Otherwise an update of all hosts would go on although the new version cannot work."""
    host = shared.host()

    def ready() -> tuple[int, str]:
        found = readyz(host.manager.state, shared.clock.now_s)
        assert isinstance(found.body, dict)
        return found.status, found.body.get("reason", "")

    assert ready() == (503, "the list of managers has not been read yet")
    shared.passes(5)
    assert ready() == (200, "")
    host.senders["rudder-1-3"].returncode = 1
    shared.passes(0.5)
    assert ready() == (503, "senders do not run: rudder-1-3")
    shared.passes(5)
    host.refused.add("rudder-1-0")
    shared.passes(2 * LEASE_S + 3)
    assert ready() == (503, "queues cannot be used: rudder-1-0")
    host.refused.clear()
    shared.home.store.away = True
    shared.passes(12)
    assert ready()[1].startswith("the list of managers has not been read for 1")
    shared.home.store.away = False
    shared.passes(3)
    assert ready() == (200, "")
    assert healthz(host.manager.state, shared.clock.now_s, 120).status == 200
    assert healthz(host.manager.state, shared.clock.now_s + 120, 120).status == 503
    host.manager.drain(shared.clock.now_s + 10)
    assert ready() == (503, "stopping")


def test_a_queue_that_an_abandoned_manager_has_delivered_goes_to_another_manager(shared: Scene) -> None:
    """Other applications go on adding to it. The abandoned manager still delivers what is in its other queues."""
    first, second = shared.host(), shared.host()
    shared.passes(60)
    second.is_abandoned = True
    queue = min(second.running)
    second.senders[queue].returncode = 0

    shared.passes(5)

    assert queue in first.running
    assert len(second.running) == 3
    assert not second.manager.finished()
