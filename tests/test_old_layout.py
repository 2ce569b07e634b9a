"""A ring of layout 3, which this version drains and reclaims, and into which its producers never write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rudderpipe.process import identity, locks
from rudderpipe.process.clock import Clock
from rudderpipe.ring import counters, flusher_lock, location, memory
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.reclaim import Reclaimer
from rudderpipe.ring.ring import Ring, find_all, open_ring
from rudderpipe.settings import Settings
from tests.fakes import FakeClock, drain, settings_of
from tests.old_ring import OldRing

GONE = (1 << 22) + 1
"""A pid that no process has (PID_MAX_LIMIT)."""


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path, ring_bytes=1 << 20)


@pytest.fixture(name="old")
def _old(settings: Settings, tmp_path: Path) -> Iterator[OldRing]:
    lock_file = locks.shared(tmp_path / f"{settings.pipe_name}.lock")
    lock_file.mark("old")
    yield OldRing(memory.segment_name(settings.pipe_name), lock_file.inode)
    for where in location.of_pipe(settings):
        memory.remove(where.segment)


def found_by(settings: Settings) -> Ring:
    """Return the ring as this version finds it."""
    (ring,) = find_all(settings)
    return ring


def test_a_thousand_events_of_dead_producers_are_drained(settings: Settings, old: OldRing) -> None:
    """Some of the events take several blocks. Afterwards slots and blocks are free, and the ring can end."""
    expected = []
    for number in range(4):
        producer = old.producer(GONE, 1, identity.me().namespace)
        for event in range(250):
            text = f"{number}:{event}:".ljust(150_000 if event == 100 else 450, "x")
            producer.append(text.encode())
            expected.append(text)
        old.words[producer.header + 1] = old.words[16] - 1
    ring = found_by(settings)
    assert ring.layout.format.version == 3
    consumer, reclaimer = Consumer(ring), Reclaimer(ring)
    assert counters.read(ring).in_ring == 1000

    found = drain(consumer, 70)
    assert reclaimer.work() == 4

    assert found == expected
    counts = counters.read(ring)
    assert (counts.accepted, counts.in_ring, counts.queued, counts.corrupt) == (1000, 0, 1000, 0)
    assert ring.blocks_in_use() == []
    assert ring.try_close()


def test_producers_of_the_old_layout_see_the_heartbeat(settings: Settings, old: OldRing, clock: FakeClock) -> None:
    """The old version's producers report a missing flusher after 30 s unless its heartbeat is a time of day. This
    version can read such a heartbeat."""
    ring = found_by(settings)
    assert counters.read(ring).heartbeat_ms == 0
    assert flusher_lock.take(ring, clock)
    clock.now_s += 0.2
    flusher_lock.beat(ring, clock)

    assert old.words[34] == clock.time_ms()
    assert ring.heartbeat_ms(clock) == clock.monotonic_ms()
    clock.now_s += 0.4
    assert flusher_lock.is_kept(ring, clock)
    old.words[34] = Clock().time_ms() - 5000
    assert 4000 < Clock().monotonic_ms() - counters.read(ring).heartbeat_ms < 60_000


def test_a_flusher_goes_on_where_the_last_one_stopped(settings: Settings, old: OldRing) -> None:
    """Offsets mean the same in both layouts."""
    producer = old.producer(GONE, 1, identity.me().namespace)
    for event in range(300):
        producer.append(f"{event}:".ljust(450, "x").encode())
    consumer = Consumer(found_by(settings))
    consumer.refresh()
    batch = consumer.next_batch(170, 1_000_000)
    assert batch is not None
    consumer.release([batch])

    rest = drain(Consumer(found_by(settings)))

    assert [int(text.split(":")[0]) for text in rest] == list(range(170, 300))


def test_a_living_producer_goes_on_in_its_old_ring(settings: Settings, old: OldRing) -> None:
    """A process of the earlier version may still append while this version drains."""
    me = identity.me()
    producer, ring = old.producer(*me), found_by(settings)
    consumer, reclaimer = Consumer(ring), Reclaimer(ring)
    found = []
    for event in range(500):
        producer.append(str(event).encode())
        if event % 50 == 0:
            found += drain(consumer)
            assert reclaimer.work() == 0
    found += drain(consumer)

    assert found == [str(event) for event in range(500)]


def test_no_producer_of_this_version_enters_the_old_ring(settings: Settings, old: OldRing, clock: FakeClock) -> None:
    """Producers of this version use a ring of their own beside the old one."""
    assert old.words[at.H_VERSION] == 3
    ring = open_ring(settings, clock)

    assert ring.layout.format.version == at.VERSION
    assert {found.layout.format.version for found in find_all(settings)} == {3, at.VERSION}
