"""The sink for several queues, over queues in memory. The test says when each call ends, and how."""

from __future__ import annotations

import copy
import itertools
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rudderpipe.errors import QueueBehind, QueueSealed, QueueUnavailable
from rudderpipe.flusher import lanes, queue_cursor, sinks
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.queue_sink import QueueSink, Sink
from rudderpipe.flusher.queues_sink import QueuesSink
from rudderpipe.flusher.route_file import RouteFile, path_of
from rudderpipe.queue import route, seal
from rudderpipe.ring import counters
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings
from tests.crash_simulation import simulation_of
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock, producer_of, ring_of
from tests.spread import NO_ANSWER, QUEUES, USERS, Spread, as_queue, result_of, spread_of


@pytest.fixture(name="spread")
def _spread(ring: Ring, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spread:
    return spread_of(ring, clock, tmp_path, monkeypatch)


def test_each_user_has_one_queue(spread: Spread) -> None:
    """The first flusher of an unused queue makes the queues, and seals that queue."""
    spread.send(100)
    spread.work()

    assert spread.everything() == list(range(100))
    for place in range(3):
        users = {number % USERS for number in spread.numbers(f"rudder-{place}")}
        assert users == {number for number in range(USERS) if lanes.user_of(f"u{number}") % 3 == place}
    assert spread.numbers("rudder") == []
    assert spread.stores["rudder"].seal == "0 0"
    found = counters.read(spread.ring)
    assert (found.queued, found.in_ring) == (100, 0)


def test_the_bytes_that_make_events_due_are_those_of_all_queues(spread: Spread) -> None:
    """Otherwise the jobs of many queues would hold few events each."""
    spread.settings = msgspec.structs.replace(spread.settings, flush_at=10_000, max_batch_bytes=2_000)
    spread.start()
    spread.send(1)
    spread.work()

    spread.send(100)
    waiting = spread.flusher.work() + spread.flusher.work()
    spread.send(200)
    moved = spread.flusher.work()

    assert (waiting, moved) == (0, 300)  # about 2,300 and 7,000 bytes, for three queues
    assert spread.everything() == list(range(301))


def test_a_batch_leaves_when_every_queue_has_its_part(spread: Spread) -> None:
    """The other queues go on while one does not answer, far beyond what is offered at once, and nothing leaves."""
    spread.send(20)
    spread.work()
    spread.calls.held["rudder-1"] = []
    behind = []

    for _ in range(8):
        spread.send(100)
        spread.work(12)
        behind.append(counters.read(spread.ring).in_ring)

    others = {number for place in (0, 2) for number in spread.numbers(f"rudder-{place}")}
    assert others == {n for n in range(820) if lanes.user_of(f"u{n % USERS}") % 3 != 1}
    assert behind == list(range(100, 900, 100))
    assert spread.ring.words[at.H_DOWN_MS] == 0
    spread.calls.let_go("rudder-1")
    spread.work(40)
    assert spread.everything() == list(range(820))
    assert counters.read(spread.ring).in_ring == 0


def test_a_queue_that_refuses_holds_its_own_part(spread: Spread) -> None:
    """The ring shows that a sink is away, so that ``status`` says it."""
    spread.send(20)
    spread.work()
    spread.stores["rudder-0"].away = True
    spread.send(50)
    spread.work(10)

    assert len(spread.everything()) < 70
    assert spread.ring.words[at.H_DOWN_MS]
    spread.stores["rudder-0"].away = False
    spread.work(10)
    assert spread.everything() == list(range(70))
    assert spread.ring.words[at.H_DOWN_MS] == 0


def test_a_queue_that_is_not_needed_may_be_away(spread: Spread) -> None:
    """Otherwise an idle ring would look held up long after the queue is back."""
    spread.send(20)
    spread.work()
    away = lanes.user_of(f"u{20 % USERS}") % 3 - 1
    spread.stores[f"rudder-{away % 3}"].away = True
    spread.work()
    spread.send(1)
    spread.work()

    assert counters.read(spread.ring).in_ring == 0
    assert spread.sinks[-1].acknowledged() is not None
    assert spread.ring.words[at.H_DOWN_MS] == 0


@pytest.mark.parametrize("runs", [True, False], ids=["executed", "not executed"])
@pytest.mark.parametrize("dies", [True, False], ids=["the flusher dies", "the flusher goes on"])
def test_a_lost_answer_doubles_and_loses_nothing(spread: Spread, runs: bool, dies: bool) -> None:
    """Other queues have their part already. The term rises before the call is made again."""
    spread.send(20)
    spread.work()
    spread.calls.held["rudder-1"] = []
    spread.send(30)
    spread.work()
    term = spread.ring.words[at.H_TERM]
    calls = spread.calls
    if dies:
        spread.start()
    calls.let_go("rudder-1", NO_ANSWER, runs=runs)
    spread.work(10)

    assert spread.everything() == list(range(50))
    assert spread.ring.words[at.H_TERM] == term + 1


def test_the_call_of_a_dead_flusher_changes_nothing_later(spread: Spread) -> None:
    """Its successor has fenced the queue, even if the block is free and its offsets are gone."""
    spread.send(20)
    spread.work()
    spread.calls.held["rudder-1"] = []
    spread.send(30)
    spread.work()
    (late,) = [call for _, call in spread.calls.held["rudder-1"]]
    spread.start()
    spread.work()
    spread.producer.leave()
    spread.producer = producer_of(spread.ring, spread.clock)
    spread.work()
    spread.send(40)
    spread.work()
    (kept,) = spread.stores["rudder-1"].rings.values()
    assert [block for block in kept if block.isdigit()] == ["2"]
    assert isinstance(result_of(late), QueueBehind)
    assert spread.everything() == list(range(90))


def test_a_new_generation_begins_when_all_queues_of_the_last_are_sealed(spread: Spread) -> None:
    """An answer that is under way decides what is in the old queue, so nothing is added before it is known."""
    spread.send(20)
    spread.work()
    spread.calls.held["rudder-2"] = []
    spread.send(30)
    spread.work()
    spread.reshard("rudder-2-0", "rudder-2-1")
    seal.seal(as_queue(spread.queue("rudder-0")), 1)
    spread.send(30)
    spread.work()

    assert "rudder-2-0" not in spread.stores or not spread.numbers("rudder-2-0")
    spread.calls.let_go("rudder-2", NO_ANSWER)
    spread.work(10)
    assert spread.everything() == list(range(80))
    assert [spread.stores[f"rudder-{place}"].seal != "" for place in range(3)] == [True] * 3
    assert spread.numbers("rudder-2-0") + spread.numbers("rudder-2-1")


def test_an_idle_flusher_seals_too(spread: Spread) -> None:
    """The route is read again after a while. A ring without events must not hold up the change."""
    spread.send(20)
    spread.work()
    spread.reshard("rudder-2-0")
    spread.work(10)

    assert all(spread.stores[f"rudder-{place}"].seal for place in range(3))


def test_an_idle_flusher_sees_that_replicas_have_followed(
    ring: Ring, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without new events, a replica of one queue is asked as well. While it lacks events, that stays known."""
    spread = spread_of(ring, clock, tmp_path, monkeypatch, redis_replicas=1, redis_replicas_strict=False)
    for prefix in ("rudder", *(f"rudder-{place}" for place in range(3))):
        spread.queue(prefix)
        store = spread.stores[prefix]
        store.follows = prefix != "rudder-1"
        store.replicate()
    spread.send(40)
    spread.work(10)
    assert spread.everything() == list(range(40))
    assert counters.read(ring).in_ring == 0
    assert ring.words[at.H_UNCONFIRMED_MS]

    spread.stores["rudder-1"].follows = True
    spread.stores["rudder-1"].replicate()
    spread.work()

    assert not ring.words[at.H_UNCONFIRMED_MS]


def test_one_queue_becomes_several_while_events_flow(spread: Spread) -> None:
    """The flusher of one queue meets the seal, and another sink takes the place of its own."""
    spread.settings = msgspec.structs.replace(spread.settings, queues=1)
    sink = QueueSink(spread.settings, spread.ring, spread.letters, spread.clock)
    spread.flusher = Flusher(spread.ring, sink, spread.settings, spread.clock, next_sink=spread.sink)
    spread.send(20)
    spread.work()
    assert spread.numbers("rudder") == list(range(20))
    spread.reshard("rudder-0", "rudder-1")
    seal.seal(as_queue(spread.queue("rudder")), 0)
    spread.send(20)
    spread.work()

    assert spread.everything() == list(range(40))
    assert spread.numbers("rudder") == list(range(20))


def test_a_flusher_of_one_queue_reads_the_route_first(spread: Spread) -> None:
    """Redis may have forgotten the seal in a failover. What is in the later queues must not be added again."""
    spread.send(10)
    spread.work()
    spread.stores["rudder"].seal = ""
    spread.settings = msgspec.structs.replace(spread.settings, queues=1)
    sink = QueueSink(spread.settings, spread.ring, spread.letters, spread.clock)
    spread.flusher = Flusher(spread.ring, sink, spread.settings, spread.clock, next_sink=spread.sink)
    spread.send(10)
    spread.work()

    assert spread.numbers("rudder") == []
    assert spread.everything() == list(range(20))


def test_a_flusher_of_one_queue_counts_nothing_before_it_has_read_the_route(spread: Spread) -> None:
    """What the other queues have would look like events that Redis has lost."""
    spread.send(20)
    spread.work()
    spread.settings = msgspec.structs.replace(spread.settings, queues=1)
    sink = QueueSink(spread.settings, spread.ring, spread.letters, spread.clock)
    spread.flusher = Flusher(spread.ring, sink, spread.settings, spread.clock, next_sink=spread.sink)
    spread.work()

    assert [store.account["added"] for store in spread.stores.values()] == [
        len(spread.numbers(prefix)) for prefix in spread.stores
    ]
    assert all(ring["unsure"] == 0 for store in spread.stores.values() for ring in store.rings.values())


def test_events_of_retired_queues_stay_counted(spread: Spread) -> None:
    """Otherwise they would look like events that Redis has lost."""
    spread.send(20)
    spread.work()
    spread.reshard("rudder-2-0")
    spread.work()
    for place in range(3):
        queue = spread.queue(f"rudder-{place}")
        queue.complete(queue.take(100, 1 << 20))
    spread.work()
    assert spread.ring.words[at.H_ACKED] == 20
    home = as_queue(spread.queue("rudder"))
    known = route.read(home, spread.settings)
    for number in (0, 1):
        known = route.store(home, spread.settings, known, known.with_retired(number, spread.clock.time_ms()))
    spread.work()
    assert len(spread.sinks[-1].used.past) == 0
    spread.start()
    spread.send(5)
    spread.work()

    assert spread.ring.words[at.H_ACKED] == 20
    assert sum(store.account["added"] for store in spread.stores.values()) == 25


def deliver(spread: Spread, *prefixes: str) -> None:
    """Deliver all jobs of these queues."""
    for prefix in prefixes:
        queue = spread.queue(prefix)
        queue.complete(queue.take(1000, 1 << 20))


def test_retired_queues_keep_what_they_have_counted(spread: Spread) -> None:
    """Redis forgets a ring after 30 days without a write, and a ring may live longer."""
    spread.send(20)
    spread.work()
    spread.reshard("rudder-2-0")
    spread.work()
    deliver(spread, "rudder-0", "rudder-1", "rudder-2")
    home = as_queue(spread.queue("rudder"))
    known = route.read(home, spread.settings)
    for number in (0, 1):
        known = route.store(home, spread.settings, known, known.with_retired(number, spread.clock.time_ms()))
    spread.start()
    spread.send(1)
    spread.work()

    def written() -> list[bool]:
        rings = [ring for place in range(3) for ring in spread.stores[f"rudder-{place}"].rings.values()]
        return [ring["term"] == spread.ring.words[at.H_TERM] for ring in rings]

    assert written() == [True] * 3
    at.bump(spread.ring.words, at.H_TERM)
    spread.work()
    assert written() == [False] * 3
    spread.clock.now_s += 24 * 3600
    spread.work()
    assert written() == [True] * 3


@pytest.mark.parametrize("queues", [1, 3])
def test_each_queue_hears_of_the_flusher_at_its_start_and_once_a_day(spread: Spread, queues: int) -> None:
    """`rudderpipe scale` counts on what it hears, and Redis forgets a ring that it has not heard of for 30 days."""
    if queues == 1:
        spread.settings = msgspec.structs.replace(spread.settings, queues=1)
        sink = QueueSink(spread.settings, spread.ring, spread.letters, spread.clock)
        spread.flusher = Flusher(spread.ring, sink, spread.settings, spread.clock, next_sink=spread.sink)
    heard: list[list[int]] = []
    for _ in range(3):
        spread.send(20)
        spread.work()
        used = [store for store in spread.stores.values() if store.account["added"]]
        heard.append([moment for store in used for moment in store.fenced_ms.values()])
        spread.clock.now_s += 20 * 3600

    assert [len(moments) for moments in heard] == [queues] * 3
    assert heard[0] == heard[1]
    assert min(heard[2]) - max(heard[1]) >= 24 * 3600 * 1000


@pytest.mark.parametrize("dies", [False, True], ids=["the flusher goes on", "the flusher is killed"])
def test_delivered_events_are_not_lost_when_redis_forgets_them(spread: Spread, dies: bool) -> None:
    """As with one queue, only events that were not known to be delivered may be lost."""
    spread.send(40)
    spread.work()
    deliver(spread, "rudder-0", "rudder-1")
    spread.work()
    before = spread.ring.words[at.H_ACKED]
    assert 0 < before < 40
    for place in (0, 1) if not dies else (1,):
        spread.stores[f"rudder-{place}"].rings.clear()
    if dies:
        spread.start()
        spread.send(1)
    spread.work(10)

    assert spread.ring.words[at.H_ACKED] == before
    assert spread.ring.words[at.H_ACKED_FAILED] == 0


def test_events_that_redis_forgot_are_counted_although_queues_are_slow(spread: Spread) -> None:
    """In each look one of them does not say in time what it has, as on a busy host."""
    spread.send(40)
    spread.work(10)
    spread.stores["rudder-1"].rings.clear()
    slow, other = "rudder-0", "rudder-2"
    spread.calls.kind, spread.calls.held = "count", {slow: []}
    for _ in range(6):
        spread.sinks[-1].acknowledged()
        slow, other = other, slow
        spread.calls.held[slow] = []
        spread.calls.let_go(other)
    spread.sinks[-1].keep_house()

    assert sum(ring["added"] for store in spread.stores.values() for ring in store.rings.values()) == 40


@pytest.mark.parametrize("loses", ["the route", "everything"])
@pytest.mark.parametrize("queues", [3, 2], ids=["the same setting", "another setting"])
def test_a_route_that_redis_forgot_is_stored_again(spread: Spread, loses: str, queues: int) -> None:
    """The first server was started without its data. The others still have the queues, and earlier ones are sealed."""
    spread.send(20)
    spread.work()
    spread.reshard("rudder-2-0", "rudder-2-1")
    spread.work(10)
    spread.calls.held["rudder-2-1"] = []
    spread.send(20)
    spread.work(4)
    text = spread.stores["rudder"].route
    home = spread.stores["rudder"]
    vars(home).update(vars(FakeStore(spread.clock)) if loses == "everything" else {"route": ""})
    found = route.read(as_queue(spread.queue("rudder")), spread.settings)
    another = route.with_queues(as_queue(spread.queue("rudder")), spread.settings, found, queues)
    route.store(as_queue(spread.queue("rudder")), spread.settings, found, another)
    spread.work(5)
    spread.calls.let_go("rudder-2-1")
    spread.send(20)
    spread.work(20)

    assert spread.everything() == list(range(60))
    assert counters.read(spread.ring).in_ring == 0
    assert home.route == text


@pytest.mark.parametrize("queues", [1, 2, 3])
def test_a_flusher_that_starts_knows_a_route_that_redis_forgot(spread: Spread, queues: int) -> None:
    """No other process knows it. The events that wait for one queue are in the others already."""
    spread.send(20)
    spread.work()
    spread.calls.held["rudder-1"] = []
    spread.send(40)
    spread.work()
    home = spread.stores["rudder"]
    text = home.route
    vars(home).update(vars(FakeStore(spread.clock)))
    spread.settings = msgspec.structs.replace(spread.settings, queues=queues)
    spread.start()
    spread.send(20)
    spread.work(20)

    assert spread.everything() == list(range(80))
    assert home.route == text


def test_a_fresh_host_makes_no_queues_while_later_ones_are_in_use(spread: Spread) -> None:
    """The first server has lost its data. Without the route it is not known what other generations have."""
    spread.send(20)
    spread.work()
    spread.reshard("rudder-2-0", "rudder-2-1")
    spread.work(10)
    home: Any = spread.queue("rudder")
    known = route.read(home, spread.settings)
    for prefix in ("rudder", "rudder-0"):
        vars(spread.stores[prefix]).update(vars(FakeStore(spread.clock)))
    RouteFile(spread.ring, spread.settings).remove()
    spread.start()
    spread.send(20)
    spread.work()
    assert spread.ring.words[at.H_DOWN_MS]
    assert counters.read(spread.ring).in_ring == 20

    route.store_again(home, spread.settings, route.read(home, spread.settings), known)
    spread.work(20)

    added = [number for prefix in ("rudder-2-0", "rudder-2-1") for number in spread.numbers(prefix)]
    assert sorted(added) == list(range(20, 40))
    assert not spread.ring.words[at.H_DOWN_MS]


def test_a_route_of_another_ring_is_not_known(spread: Spread) -> None:
    """The file is that of a pipe, which may get another ring, or another Redis."""
    spread.send(20)
    spread.work()
    file = RouteFile(spread.ring, spread.settings)
    assert file.read() == route.read(as_queue(spread.queue("rudder")), spread.settings)

    assert RouteFile(spread.ring, msgspec.structs.replace(spread.settings, redis="redis://b")).read() is None
    spread.ring.segment.words[at.H_EPOCH] += 1
    assert RouteFile(spread.ring, spread.settings).read() is None
    file.remove()
    assert file.read() is None


@pytest.mark.parametrize("queues", [1, 3])
def test_events_of_a_flusher_that_found_no_route_are_delivered(spread: Spread, queues: int) -> None:
    """The first server has lost its data, and the flusher started before another process stored the route again."""
    spread.send(20)
    spread.work()
    spread.reshard("rudder-2-0", "rudder-2-1")
    spread.work(10)
    home: Any = spread.queue("rudder")
    for number in (0, 1):
        known = route.read(home, spread.settings)
        route.store(home, spread.settings, known, known.with_retired(number, 7))
    known = route.read(home, spread.settings)
    for prefix in ("rudder", *QUEUES):
        vars(spread.stores[prefix]).update(vars(FakeStore(spread.clock)))
    RouteFile(spread.ring, spread.settings).remove()
    spread.settings = msgspec.structs.replace(spread.settings, queues=queues)
    spread.start()
    spread.send(20)
    spread.flusher.work()
    spread.work(1)
    assert not spread.numbers("rudder-2-0")[10:]

    route.store_again(home, spread.settings, route.read(home, spread.settings), known)
    spread.send(20)
    spread.work(20)

    found = route.read(home, spread.settings)
    assert found.current == known.current
    places = {place.prefix for each in found.living for place in each.queues}
    assert {prefix for prefix in spread.stores if spread.numbers(prefix)} <= places
    assert spread.everything() == list(range(20, 60))


def test_the_first_of_two_routes_stays(spread: Spread) -> None:
    """Two flushers must not replace each other's route again and again."""
    first = route.of_text("", spread.settings).with_queues([route.QueuePlace("rudder-0")], 1)
    later = route.of_text("", spread.settings).with_queues([route.QueuePlace("rudder-0"), route.QueuePlace("x")], 2)
    retired = first.with_retired(0, 3)
    assert first.is_ahead_of(later)
    assert not later.is_ahead_of(first)
    assert not first.is_ahead_of(retired)
    assert not retired.is_ahead_of(first)
    assert later.with_queues([route.QueuePlace("y")], 3).is_ahead_of(first)
    assert retired.with_queues([route.QueuePlace("y")], 3).extends(first)
    assert not later.with_queues([route.QueuePlace("y")], 3).extends(first)
    assert not first.extends(retired)


def test_a_seal_without_a_later_route_stops_the_flusher(spread: Spread) -> None:
    """Events stay in the ring, because no other place for them is known."""
    spread.send(20)
    spread.work()
    seal.seal(as_queue(spread.queue("rudder-1")), 1)
    spread.send(20)
    spread.work(10)
    assert counters.read(spread.ring).in_ring > 0

    spread.reshard("rudder-2-0")
    spread.work(10)
    assert spread.everything() == list(range(40))


def test_a_queue_that_is_back_gets_no_more_jobs_at_once_than_redis_takes(
    clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs may be as small as one event."""
    calls: list[int] = []
    add = FakeQueue.add

    def added(self: FakeQueue, epoch: int, batches: Any, *more: Any, **named: Any) -> Any:
        calls.append(len(batches))
        return add(self, epoch, batches, *more, **named)

    monkeypatch.setattr(FakeQueue, "add", added)
    with ring_of(tmp_path, clock, cap=4000, size_bytes=4 << 20) as ring:
        spread = spread_of(ring, clock, tmp_path, monkeypatch, queues=2, flush_at=10_000, max_batch_bytes=1024)
        spread.calls.held["rudder-1"] = []
        for number in range(4000):
            event = b'{"userId":"u%d","n":%d,"x":"%b"}' % (number % USERS, number, b"x" * 500)
            assert spread.producer.append(event) is None
        spread.work(100)
        spread.calls.let_go("rudder-1")
        spread.work(20)

        assert spread.everything() == list(range(4000))
        assert 500 < max(calls) <= 1100


def test_a_damaged_event_costs_only_itself(spread: Spread) -> None:
    """The events around it keep their order, also beside a queue that is behind."""
    spread.send(10)
    assert spread.producer.append(b'{"userId":') is None
    spread.send(10)
    spread.work(20)

    assert spread.everything() == list(range(20))
    assert counters.read(spread.ring).corrupt == 1


def test_a_flush_is_served_under_steady_load(spread: Spread) -> None:
    """Events that came later must not hold it up, although the flusher always holds some."""
    spread.send(20)
    spread.work()
    spread.calls.held["rudder-1"] = []
    spread.send(40)
    spread.producer.ask_flush()
    spread.work(3)
    spread.calls.held["rudder-0"] = []
    spread.send(40)
    spread.work(3)
    tickets = spread.ring.words[at.H_TICKETS_SERVED]
    assert counters.read(spread.ring).in_ring == 80

    spread.calls.let_go("rudder-1")
    spread.work(3)

    assert 0 < counters.read(spread.ring).in_ring <= 40
    assert spread.ring.words[at.H_TICKETS_SERVED] == tickets + 1


def test_a_queue_that_has_not_yet_said_what_it_counted_is_no_trouble(spread: Spread) -> None:
    """So it is after each start. A queue that is away is a trouble."""
    spread.calls.kind, spread.calls.held = "count", {prefix: [] for prefix in QUEUES}
    spread.send(20)
    spread.work()
    sink = spread.sinks[-1]

    assert sink.acknowledged() is None
    spread.stores["rudder-1"].away = True
    spread.calls.let_go("rudder-1")
    with pytest.raises(QueueUnavailable):
        sink.acknowledged()


def test_what_all_queues_have_counted_is_acknowledged(spread: Spread) -> None:
    """A queue that does not answer counts as it did last."""
    spread.send(20)
    spread.work()
    for place in range(3):
        queue = spread.queue(f"rudder-{place}")
        queue.complete(queue.take(1, 1))
    delivered = sum(len(store.delivered) for store in spread.stores.values())
    assert delivered == 3
    sink = spread.sinks[-1]

    seen = sink.acknowledged()

    assert seen is not None
    counted = seen.events
    assert 3 <= counted < 20
    for place in range(3):
        queue = spread.queue(f"rudder-{place}")
        queue.complete(queue.take(100, 1 << 20))
    spread.stores["rudder-1"].away = True
    seen = sink.acknowledged()
    assert seen is not None
    assert counted < seen.events < 20


def test_an_ended_ring_is_forgotten_by_all_queues(spread: Spread) -> None:
    """A late call then adds nothing to any of them."""
    spread.send(20)
    spread.work()
    spread.producer.leave()
    spread.work()
    spread.flusher.drain(spread.clock.now_s + 1)

    assert all(ring["ended"] for store in spread.stores.values() for ring in store.rings.values())
    assert len(spread.stores) == 4


def test_a_flusher_that_is_stopped_waits_for_a_queue_that_must_forget_the_ring(
    spread: Spread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the queue would keep its offsets, and a change of the number of queues would wait for 30 days."""
    spread.send(20)
    spread.work()
    spread.producer.leave()
    spread.work()
    store = spread.stores["rudder-1"]
    store.away = True
    sleep = spread.clock.sleep

    def sleep_until_it_is_back(seconds: float) -> None:
        sleep(seconds)
        store.away = store.away and spread.clock.now_s < back_s

    back_s = spread.clock.now_s + 3
    monkeypatch.setattr(spread.clock, "sleep", sleep_until_it_is_back)
    spread.flusher.drain(spread.clock.now_s + 10)

    assert all(ring["ended"] for each in spread.stores.values() for ring in each.rings.values())


@pytest.mark.parametrize("queues", [1, 3])
def test_events_that_redis_forgot_are_counted_when_the_ring_ends(spread: Spread, queues: int) -> None:
    """Nothing else would count them any more. A second call, after a lost answer, counts no others as lost."""
    sink: Sink = spread.sinks[-1]
    if queues == 1:
        spread.settings = msgspec.structs.replace(spread.settings, queues=1)
        sink = QueueSink(spread.settings, spread.ring, spread.letters, spread.clock)
        spread.flusher = Flusher(spread.ring, sink, spread.settings, spread.clock)
    spread.send(40)
    spread.work()
    spread.producer.leave()
    spread.work()
    prefix = "rudder-1" if queues > 1 else "rudder"
    lost = len(spread.numbers(prefix))
    store = spread.stores[prefix]
    for forgotten in (store.rings, store.account, store.added, store.line, store.jobs):
        forgotten.clear()
    spread.flusher.drain(spread.clock.now_s + 1)
    sink.ended(spread.ring)

    assert 0 < lost == sum(each.account["lost"] + each.account["unsure"] for each in spread.stores.values())


@pytest.mark.parametrize("runs", [True, False], ids=["executed", "not executed"])
def test_events_that_redis_forgot_are_counted_also_if_the_answer_is_lost(spread: Spread, runs: bool) -> None:
    """The ring ends only when a look has found that all its events are counted."""
    spread.send(40)
    spread.work()
    store = spread.stores["rudder-1"]
    lost = len(spread.numbers("rudder-1"))
    for forgotten in (store.rings, store.account, store.added, store.line, store.jobs):
        forgotten.clear()
    spread.calls.kind, spread.calls.held = "restore", {"rudder-1": []}
    with pytest.raises(QueueUnavailable):
        spread.sinks[-1].ended(spread.ring)
    spread.calls.let_go("rudder-1", NO_ANSWER, runs=runs)
    for _ in range(3):
        spread.clock.now_s += 1.0
        with suppress(QueueUnavailable):
            spread.sinks[-1].ended(spread.ring)

    assert all(each.rings[spread.ring.segment.epoch]["ended"] for each in spread.stores.values())
    assert 0 < lost == sum(each.account["lost"] + each.account["unsure"] for each in spread.stores.values())


def test_a_look_of_before_the_last_events_is_not_the_last_one(spread: Spread) -> None:
    """The later ones would pass for those that a queue has forgotten."""
    spread.send(40)
    spread.work(10)
    spread.calls.kind, spread.calls.held = "count", {"rudder-0": []}
    spread.sinks[-1].acknowledged()
    store = spread.stores["rudder-1"]
    former = copy.deepcopy((store.rings, store.account, store.added, store.line, store.jobs))
    spread.calls.let_go("rudder-0")
    spread.send(40)
    for _ in range(20):  # too short for another look
        spread.clock.now_s += 0.01
        spread.flusher.work()
    lost = len(spread.numbers("rudder-1"))
    store.rings, store.account, store.added, store.line, store.jobs = former
    lost -= len(spread.numbers("rudder-1"))
    spread.sinks[-1].ended(spread.ring)

    assert 0 < lost == sum(each.account["lost"] + each.account["unsure"] for each in spread.stores.values())


def test_the_setting_chooses_the_sink(ring: Ring, clock: FakeClock) -> None:
    """One queue keeps the sink that knows nothing of others."""
    settings = Settings(redis="redis://a", write_key="KEY", autostart=False)
    assert type(sinks.make_sink(settings, ring, None, clock)) is QueueSink
    several = msgspec.structs.replace(settings, queues=2)
    assert type(sinks.make_sink(several, ring, None, clock)) is QueuesSink


@pytest.mark.parametrize("last", ["answered", "executed", "executed later"])
def test_a_flusher_killed_at_any_store_doubles_and_loses_nothing(
    clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Between any two stores into the ring. Its last call of one queue is executed, or later, and the number of queues
    changes before the next flusher begins."""
    stores: dict[str, FakeStore] = {}

    def queue_of(settings: Settings, *_: Any, **__: Any) -> FakeQueue:
        return FakeQueue(stores.setdefault(settings.prefix, FakeStore(clock)))

    monkeypatch.setattr(queue_cursor, "Queue", queue_of)
    monkeypatch.setattr(route, "Queue", queue_of)
    with simulation_of(tmp_path, clock) as simulation:
        for number in itertools.count(1):
            simulation.reset()
            stores.clear()
            victim = simulation.process()
            path_of(victim.ring.locks.path).unlink(missing_ok=True)  # of the ring that was reset
            spread = Spread(simulation.process().ring, clock, tmp_path, queues=2)
            spread.stores = stores
            spread.send(20)
            spread.work(2)
            spread.send(20)
            is_over = victim.run(partial(_work_at, victim.ring, spread, holds=last != "answered"), number)
            late = spread.calls.held.pop("rudder-1", [])
            victim.die()
            if last == "executed":
                assert [result_of(call) for _, call in late] == [None] * len(late)
            spread.reshard("rudder-2-0", "rudder-2-1", "rudder-2-2")
            spread.ring = simulation.process().ring
            spread.start()
            spread.send(5)
            spread.work(10)
            for _, call in late if last == "executed later" else []:
                assert isinstance(result_of(call), (QueueBehind, QueueSealed))

            assert spread.everything() == list(range(45)), f"killed at store {number}, {victim.last}"
            assert counters.read(spread.ring).in_ring == 0
            if is_over:
                assert number > 20
                break


def _work_at(ring: Ring, spread: Spread, *, holds: bool) -> None:
    """Let a flusher work at this view of the ring. With ``holds``, a queue does not answer its first call."""
    spread.ring = ring
    spread.start()
    if holds:
        spread.calls.held["rudder-1"] = []
    spread.work(3)
