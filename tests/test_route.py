"""The route as text, and the names of the queues of a generation."""

from __future__ import annotations

from collections import Counter
from typing import cast

import msgspec
import pytest

from rudderpipe.errors import QueueUnavailable
from rudderpipe.queue import route
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.route import Generation, QueuePlace
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock

SETTINGS = Settings(redis="redis://a")


def test_without_a_route_there_is_the_queue_of_the_settings() -> None:
    """This is generation 0, and new events go to it."""
    found = route.of_text("", SETTINGS)

    assert found.generations == found.living == (Generation(0, (QueuePlace("rudder"),)),)
    assert found.current.queues[0].settings(SETTINGS).redis_address == SETTINGS.redis_address


def test_a_route_is_read_as_it_was_written() -> None:
    """The text is compared in Redis, so a later change must begin with the same bytes."""
    first = route.of_text("", SETTINGS).with_queues([QueuePlace("rudder-0"), QueuePlace("rudder-1", 1)], 5)
    second = first.with_queues([QueuePlace("rudder-2-0")], 7).with_retired(0, 9)

    assert route.of_text(first.text, SETTINGS) == first
    assert [each.number for each in second.generations] == [0, 1, 2]
    assert [each.number for each in second.living] == [1, 2]
    assert second.current.made_ms == 7
    assert [each.number for each in second.counted(route.CLOCKS_DIFFER_MS)] == [0, 1, 2]
    assert [each.number for each in second.counted(route.CLOCKS_DIFFER_MS + 9)] == [1, 2]
    assert route.of_text(second.text, SETTINGS) == second


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "nonsense",
        '{"generations":[{"number":0}]}',
        '{"generations":[{"number":0,"queues":[]}]}',
        '{"generations":[{"number":1,"queues":[{"prefix":"rudder"}]}]}',
    ],
)
def test_a_text_that_is_no_route_is_refused(text: str) -> None:
    """Events must not go to a queue that was guessed."""
    with pytest.raises(ValueError, match=r"generations|JSON|malformed|required|missing|length"):
        route.of_text(text, SETTINGS)


def test_a_process_whose_list_of_servers_is_too_short_uses_no_route() -> None:
    """It would use a queue of the same name on another server. A server that has only retired queues may be gone."""
    home = cast("Queue", FakeQueue(FakeStore(FakeClock())))
    both = msgspec.structs.replace(SETTINGS, redis="redis://a redis://b")
    known = route.of_text("", both)
    made = route.store(home, both, known, known.with_queues([QueuePlace("rudder-0"), QueuePlace("rudder-1", 1)], 5))

    assert route.read(home, both) == made
    with pytest.raises(QueueUnavailable, match="give all processes the same list"):
        route.read(home, SETTINGS)
    later = route.store(home, both, made, made.with_queues([QueuePlace("rudder-2-0")], 7))
    retired = route.store(home, both, later, later.with_retired(0, 9).with_retired(1, 9))
    assert route.read(home, SETTINGS) == retired


def test_a_later_version_may_add_to_the_route() -> None:
    """Its text is kept as it is, so that a change by this version is refused in Redis and not made on a guess."""
    text = '{"generations":[{"number":0,"queues":[{"prefix":"rudder","weight":3}]}],"more":1}'
    assert route.of_text(text, SETTINGS).text == text


def test_the_names_of_one_node_are_counted() -> None:
    """A Node SDK shares a queue by this name. No name is used by two generations."""
    assert route.names_of("rudder", 1, 3, {""}, lambda _name: "") == ["rudder-0", "rudder-1", "rudder-2"]
    assert route.names_of("rudder", 2, 2, {""}, lambda _name: "") == ["rudder-2-0", "rudder-2-1"]


@pytest.mark.parametrize(("count", "masters"), [(8, 8), (16, 3), (4, 5), (64, 80)])
def test_every_master_of_a_cluster_gets_its_share(count: int, masters: int) -> None:
    """The plain names leave masters without a queue. A number behind a name moves its queue."""
    bounds = [number * route.SLOTS // masters for number in range(masters)]

    def node_of(name: str) -> str:
        return str(max(place for place, bound in enumerate(bounds) if bound <= route.slot_of(f"{{{name}}}:q:wait")))

    names = route.names_of("rudder", 1, count, set(map(str, range(masters))), node_of)

    load = Counter(map(node_of, names))
    assert len(set(names)) == count
    assert max(load.values()) - min(load.get(str(node), 0) for node in range(masters)) <= 1
    assert names == route.names_of("rudder", 1, count, set(map(str, range(masters))), node_of)


def test_a_slot_is_that_of_the_hash_tag() -> None:
    """The number is the one that ``CLUSTER KEYSLOT`` returns."""
    assert route.slot_of("{foo}:bar") == 12_182
    assert route.slot_of("{123456789}:q") == 12_739


def test_the_expected_route_is_the_one_that_the_first_flusher_makes() -> None:
    """A view that cannot read the route takes it. On a cluster the names depend on its masters."""
    settings = Settings(redis=("redis://a", "redis://b", "redis://c"), queues=4)

    found = route.expected(settings)

    assert found is not None
    assert [each.number for each in found.living] == [0, 1]
    assert [(each.prefix, each.server) for each in found.current.queues] == [
        ("rudder-0", 0),
        ("rudder-1", 1),
        ("rudder-2", 2),
        ("rudder-3", 0),
    ]
    assert route.expected(SETTINGS) is None
    assert route.expected(Settings(redis="redis+cluster://a:7001,b:7002", queues=4)) is None
