"""Events that go to a disk while a queue is away, over queues in memory."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from rudderpipe.flusher import lanes, queue_cursor, spill
from rudderpipe.flusher.spill import Spill
from rudderpipe.observe import account
from rudderpipe.queue import seal
from rudderpipe.queue.replicas import Replicas
from rudderpipe.ring import counters
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import Ring
from tests.fakes import FakeClock, producer_of
from tests.spread import (
    AWAY,
    CAP,
    NO_ANSWER,
    QUEUES,
    USERS,
    Spread,
    as_queue,
    fill,
    restart,
    segments,
    set_away,
    spill_always,
    spilled,
    spread_of,
    with_spill,
)

_spread = pytest.fixture(name="spread")(with_spill)


def test_only_the_part_of_the_queue_that_is_away_is_spilled(spread: Spread) -> None:
    """The others go on for three times what the ring holds."""
    spread.send(20)
    spread.work()
    set_away(spread, "rudder-1")
    fill(spread, 3 * CAP)

    own = [number for number in range(20, 3 * CAP + 20) if lanes.user_of(f"u{number % USERS}") % 3 == 1]
    others = {number for place in (0, 2) for number in spread.numbers(f"rudder-{place}")}
    assert len(others) > 2 * CAP - 100
    assert 0 < spilled(spread) <= len(own)
    assert spread.ring.words[at.H_DOWN_MS]
    set_away(spread)
    spread.work(60)

    assert spread.everything() == list(range(3 * CAP + 20))
    assert (spilled(spread), segments(spread), spread.ring.words[at.H_DOWN_MS]) == (0, [], 0)


@pytest.mark.parametrize("runs", [True, False], ids=["the call ran", "the call did not run"])
@pytest.mark.parametrize("end", ["answered", "lost", "after a kill"])
def test_a_call_without_an_answer_does_not_keep_events_in_the_ring(spread: Spread, end: str, runs: bool) -> None:
    """Its events go to the spill, and are in the queue once, whatever becomes of the call."""
    spread.send(30)
    spread.work()
    spread.calls.held["rudder-1"] = []
    fill(spread, 2 * CAP)
    assert spilled(spread) > 0
    assert spread.ring.room() > 0

    calls = spread.calls
    if end == "after a kill":
        restart(spread)
        spread.work()
    if runs or end != "answered":
        calls.let_go("rudder-1", NO_ANSWER if end == "lost" else None, runs=runs)
    else:
        calls.let_go("rudder-1", AWAY, runs=False)
    spread.work(60)

    assert spread.everything() == list(range(2 * CAP + 30))
    assert (spilled(spread), segments(spread)) == (0, [])


def test_events_behind_the_spill_do_not_overtake_it(spread: Spread) -> None:
    """The ring has later events of the same users while the spill is emptied, call by call."""
    set_away(spread, "rudder", *QUEUES)
    fill(spread, 2 * CAP)
    assert spilled(spread) > CAP
    set_away(spread)
    while spilled(spread):
        spread.send(10)
        spread.clock.now_s += 0.01
        spread.flusher.work()
    spread.work(40)

    assert spread.everything() == sorted(spread.everything())


def test_a_flusher_that_finds_no_redis_spills_too(spread: Spread) -> None:
    """It does not know the route, and so not which queue each event must go to."""
    spread.send(30)
    spread.work()
    set_away(spread, "rudder", *QUEUES)
    restart(spread)
    fill(spread, 2 * CAP)
    assert spilled(spread) > CAP
    restart(spread)
    fill(spread, 200)
    set_away(spread)
    spread.work(60)

    assert spread.everything() == list(range(2 * CAP + 230))


def test_a_damaged_event_does_not_stop_the_spill(spread: Spread) -> None:
    """It is counted as corrupt, as with a queue that is there."""
    set_away(spread, "rudder", *QUEUES)
    spread.work()
    assert spread.producer.append(b'{"userId":"u0",') is None
    fill(spread, 2 * CAP)
    assert spilled(spread) > CAP
    set_away(spread)
    spread.work(60)

    assert spread.everything() == list(range(2 * CAP))
    assert counters.read(spread.ring).corrupt == 1


def test_offsets_are_kept_until_no_file_has_events_of_their_block(
    spread: Spread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then those of the blocks go, and those of the files."""
    spread.send(30)
    spread.work()
    (kept,) = spread.stores["rudder-1"].rings.values()
    assert [name for name in kept if name.isdigit()] == ["1"]
    set_away(spread, "rudder-1")
    spill_always(spread, monkeypatch)
    spread.send(100)
    spread.work()
    spread.producer.leave()
    spread.producer = producer_of(spread.ring, spread.clock)
    spread.send(100)
    spread.work()
    assert spread.ring.left().keys() == {2}
    set_away(spread)
    spread.calls.held["rudder-1"] = []
    spread.work()
    assert spread.calls.held["rudder-1"]
    assert "1" in kept
    spread.calls.let_go("rudder-1")
    spread.flusher.work()
    assert str(spill.tenure_of(1)) in kept
    spread.work()
    spread.send(100)
    spread.work(60)

    assert spread.everything() == list(range(330))
    assert [name for name in kept if name.isdigit()] == ["2"]


def test_spilled_events_do_not_count_as_lost(spread: Spread) -> None:
    """Redis has fewer events than have left the ring."""
    spread.send(30)
    spread.work()
    set_away(spread, "rudder-1")
    fill(spread, 2 * CAP)
    assert spilled(spread)
    set_away(spread)
    spread.clock.now_s += 30
    assert spread.sinks[-1].acknowledged() is not None
    assert spread.sinks[-1].acknowledged() is not None
    assert all(ring["unsure"] == 0 for store in spread.stores.values() for ring in store.rings.values())
    found = account.of_ring(spread.ring).events
    assert found.in_ring + found.spilled + found.queued == found.accepted == 2 * CAP + 30
    assert found.balanced


def test_a_ring_with_a_spill_does_not_end(spread: Spread, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis would take nothing of it any more. The ring itself is empty."""
    spread.settings = msgspec.structs.replace(spread.settings, linger_s=0)
    restart(spread)
    spread.flusher._lingers = True  # as one that was started automatically
    set_away(spread, "rudder", *QUEUES)
    spill_always(spread, monkeypatch)
    fill(spread, CAP)
    spread.producer.leave()
    spread.work(10)
    assert (counters.read(spread.ring).in_ring, spilled(spread)) == (0, CAP)
    assert spread.ring.words[at.H_DOWN_MS]
    spread.clock.now_s += 60
    assert not spread.flusher.finished()
    spread.flusher.drain(spread.clock.now_s + 5)
    assert spread.ring.words[at.H_CLOSED] == 0
    set_away(spread)
    spread.work(60)
    spread.clock.now_s += 60
    assert spread.flusher.finished()
    assert spread.everything() == list(range(CAP))


def test_the_spill_goes_to_the_queues_of_the_next_generation(spread: Spread) -> None:
    """What the old queues have of it stays there."""
    spread.send(30)
    spread.work()
    set_away(spread, "rudder-1", "rudder-2")
    fill(spread, 2 * CAP)
    set_away(spread)
    spread.flusher.work()
    spread.reshard("rudder-2-0", "rudder-2-1")
    for prefix in QUEUES:
        seal.seal(as_queue(spread.queue(prefix)), 1)
    spread.send(50)
    spread.work(60)

    numbers = [number for prefix in (*QUEUES, "rudder-2-0", "rudder-2-1") for number in spread.numbers(prefix)]
    assert sorted(numbers) == list(range(2 * CAP + 80))
    for user in range(USERS):
        own = [number for number in numbers if number % USERS == user]
        assert own == sorted(own)
    for place in range(2):
        found = {number % USERS for number in spread.numbers(f"rudder-2-{place}")}
        assert found <= {number for number in range(USERS) if lanes.user_of(f"u{number}") % 2 == place}


@pytest.mark.parametrize("is_early", [False, True])
def test_events_that_meet_a_seal_while_the_route_is_away_go_to_the_spill(spread: Spread, is_early: bool) -> None:
    """It is not known to which queues they go. A call to another queue ends before they fill the ring, or after."""
    spread.send(30)
    spread.work()
    spread.reshard("rudder-2-0", "rudder-2-1")
    seal.seal(as_queue(spread.queue("rudder-1")), 1)
    spread.calls.held["rudder-2"] = []
    spread.send(30)
    set_away(spread, "rudder")
    spread.work()
    if is_early:
        spread.calls.let_go("rudder-2")
    fill(spread, 2 * CAP)

    assert spilled(spread) > CAP
    if not is_early:
        spread.calls.let_go("rudder-2")
    set_away(spread)
    spread.work(60)

    assert spread.everything() == list(range(2 * CAP + 60))


@pytest.mark.parametrize("fails_over", [False, True])
def test_replicas_must_have_what_leaves_the_spill(
    ring: Ring, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_over: bool
) -> None:
    """A master that was promoted gets what it lacks from the spill."""
    spread = spread_of(
        ring, clock, tmp_path, monkeypatch, spill_dir=str(tmp_path / "spill"), redis_replicas=1, queues=2
    )
    monkeypatch.setattr(queue_cursor, "Replicas", Replicas)
    spread.send(20)
    spread.work(1)
    for store in spread.stores.values():
        store.follows = True
    spread.work(20)
    for store in spread.stores.values():
        store.follows = False
    fill(spread, 2 * CAP)
    assert spilled(spread) > CAP
    if fails_over:
        for store in spread.stores.values():
            store.fail_over()
    for store in spread.stores.values():
        store.follows = True
    spread.work(80)

    assert spread.everything() == list(range(2 * CAP + 20))
    assert segments(spread) == []


def test_a_spill_is_open_in_one_process(spread: Spread) -> None:
    """Such as one of two flushers on hosts that share the disk, if their rings had one epoch."""
    set_away(spread, "rudder", *QUEUES)
    fill(spread, 2 * CAP)
    other = Spill(spread.settings, spread.ring.segment.epoch)
    assert not other.open()
    assert spill.unused(spread.settings) == []
    spread.sinks[-1].close()
    assert spill.unused(spread.settings) == [spread.ring.segment.epoch]
