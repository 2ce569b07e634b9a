"""The route in a real Redis, a single one and a cluster."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from native_tests.redis_forms import Cluster, ending
from native_tests.test_queue import add, queue_of
from rudderpipe import settings as settings_module
from rudderpipe.errors import QueueUnavailable
from rudderpipe.process.clock import Clock
from rudderpipe.queue import pause, route, scaling, seal
from rudderpipe.queue.keys import Keys
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.queue_set import QueueSet
from rudderpipe.settings import Settings
from rudderpipe.testing.redis_server import RedisServer


@pytest.fixture(name="settings")
def _settings(redis_server: RedisServer) -> Settings:
    return settings_module.load({"redis": redis_server.url}, environment={})


def test_of_two_processes_that_make_a_route_one_makes_it(redis_server: RedisServer, settings: Settings) -> None:
    """Both then use the same queues. A repeated call changes nothing."""
    first, second = queue_of(redis_server), queue_of(redis_server)
    known = [route.read(home, settings) for home in (first, second)]

    made = route.store(first, settings, known[0], route.with_queues(first, settings, known[0], 2))
    other = route.store(second, settings, known[1], route.with_queues(second, settings, known[1], 3))

    assert made == other == route.read(second, settings)
    assert [len(each.queues) for each in made.generations] == [1, 2]
    more = route.with_queues(first, settings, made, 3)
    assert route.store(first, settings, made, more) == route.store(first, settings, made, more) == more


def test_only_an_unused_queue_gets_more_queues_by_itself(redis_server: RedisServer, settings: Settings) -> None:
    """A process whose setting differs from what is in use must not change where events go."""
    home = queue_of(redis_server)
    assert route.establish(home, settings, 1) == route.read(home, settings)
    assert not redis_server.client().exists(home.keys.route)
    add(home, 1)
    assert len(route.establish(home, settings, 4).generations) == 1

    redis_server.client().flushall()
    other = queue_of(redis_server, prefix="rudder-3")
    seal.seal(other, 1)
    with pytest.raises(QueueUnavailable, match="redis has forgotten the route"):
        route.establish(home, settings, 4)
    assert len(route.establish(home, settings, 1).generations) == 1

    redis_server.client().flushall()
    other.raise_term(7, 1, [])  # its generation was the last one
    assert len(route.establish(home, settings, 4).current.queues) == 4
    assert len(route.establish(home, settings, 2).current.queues) == 4


def test_the_queues_of_a_change_are_paused_as_those_of_before(settings: Settings) -> None:
    """Otherwise a change would end the pause. A pause of one queue alone is no pause of all."""
    with closing(QueueSet(settings, Clock())) as queues:

        def paused_after(count: int) -> set[bool]:
            made = scaling.begin(queues, settings, count).current
            return {queues.queue(place).counts().paused for place in made.queues}

        assert paused_after(2) == {False}
        pause.set_all_paused(queues, pauses=True)
        assert paused_after(3) == {True}
        pause.set_all_paused(queues, pauses=False)
        pause.set_paused(queues.queue(queues.route().current.queues[0]), pauses=True)
        assert paused_after(2) == {False}


def test_a_running_change_stores_a_route_that_redis_forgot(redis_server: RedisServer, settings: Settings) -> None:
    """No flusher and no manager has read it yet. The queues of before may be sealed already."""
    with closing(QueueSet(settings, Clock())) as queues:
        scaling.begin(queues, settings, 2)
        known = scaling.begin(queues, settings, 3)
        seal.seal(queues.queue(known.generations[1].queues[0]), 1)
        redis_server.client().delete(queues.home.keys.route)

        found = scaling.retire(queues, settings, known)

        assert found == route.read(queues.home, settings)
        assert found.current == known.current


def test_a_route_that_cannot_be_read_stops_its_reader(redis_server: RedisServer, settings: Settings) -> None:
    """The text of another version is neither used nor replaced."""
    home = queue_of(redis_server)
    redis_server.client().set(home.keys.route, '{"queues":3}')

    with pytest.raises(QueueUnavailable, match="the route in Redis cannot be read"):
        route.establish(home, settings, 3)
    assert redis_server.client().get(home.keys.route) == b'{"queues":3}'


def test_each_master_of_a_cluster_gets_a_queue(directory: Path) -> None:
    """Each queue's keys are then in one slot, and the slots are on all masters."""
    with ending(Cluster(directory)) as redis:
        settings = settings_module.load({"redis": redis.url}, environment={})
        home = Queue(settings, Clock())

        made = route.establish(home, settings, 3)

        slots = [_slot_of(redis, place.prefix) for place in made.current.queues]
        assert Counter(map(redis.holder, slots)) == {0: 1, 1: 1, 2: 1}
        for place in made.current.queues:
            queue = Queue(place.settings(settings), Clock())
            add(queue, 1)
            queue.close()
        home.close()


def _slot_of(redis: Any, prefix: str) -> int:
    return int(redis.ask(0, "CLUSTER", "KEYSLOT", Keys(prefix, "rudderEventsQueue").wait))
