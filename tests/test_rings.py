"""One flusher process and the rings it serves, when somebody removes one of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rudderpipe.errors import RingUnavailable
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.rings import Rings
from rudderpipe.ring import segment
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import open_ring
from rudderpipe.settings import Settings
from tests.fakes import FakeClock, FakeSink, settings_of


class Pipe:
    """A pipe with its flusher, and producers that open its ring as they would."""

    def __init__(self, settings: Settings, clock: FakeClock, *, follow: bool) -> None:
        self.settings = settings
        self.clock = clock
        self.sink = FakeSink()
        self.trouble: RingUnavailable | None = None
        self.rings = Rings(self.open_next, clock, follow=follow)
        assert self.rings.enter()

    def open_next(self) -> Flusher | None:
        if self.trouble is not None:
            raise self.trouble
        ring = open_ring(self.settings, self.clock)
        return Flusher(ring, self.sink, self.settings, self.clock, lingers=not self.rings._follow)

    def producer(self) -> Producer:
        return Producer(lambda: open_ring(self.settings, self.clock), lambda _ring: None, self.clock)

    def cycles(self, count: int = 20) -> bool:
        """Some of them, a tenth of a second apart; whether the duty is finished."""
        for _ in range(count):
            self.clock.now_s += 0.1
            self.rings.work()
            if self.rings.finished():
                return True
        return False

    @property
    def events(self) -> list[str]:
        """What the sink has."""
        return [event for batch in self.sink.batches for event in batch]


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Iterator[Settings]:
    settings = settings_of(tmp_path, ring_bytes=1 << 20, flush_interval_ms=100, linger_s=1.0)
    yield settings
    segment.remove(segment.segment_name(settings.pipe_name))


@pytest.mark.parametrize("what", ["segment", "lock file"])
def test_a_managed_flusher_serves_the_removed_ring_and_the_next(
    settings: Settings, clock: FakeClock, what: str
) -> None:
    """An idle producer stays in the old ring, a busy one is in the new: both are drained, and the old one ends when its
    last producer has left it."""
    pipe = Pipe(settings, clock, follow=True)
    idle, busy = pipe.producer(), pipe.producer()
    idle.append(b"1")
    busy.append(b"2")
    assert idle.ring is not None
    if what == "segment":
        segment.remove(idle.ring.segment.name)
    else:
        idle.ring.locks.remove()
    pipe.cycles(5)
    clock.now_s += 2

    busy.append(b"3")
    pipe.cycles()
    assert pipe.events == ["1", "2", "3"]
    assert len(pipe.rings._served) == 2

    idle.append(b"4")
    assert not pipe.cycles()
    assert pipe.events == ["1", "2", "3", "4"]
    assert len(pipe.rings._served) == 1


def test_an_autostarted_flusher_ends_with_its_ring(settings: Settings, clock: FakeClock) -> None:
    """The producers start another one for the next ring."""
    pipe = Pipe(settings, clock, follow=False)
    producer = pipe.producer()
    producer.append(b"1")
    assert producer.ring is not None
    segment.remove(producer.ring.segment.name)
    pipe.cycles(5)
    clock.now_s += 2
    producer.append(b"2")

    assert pipe.cycles()
    assert pipe.events == ["1"]


def test_a_ring_that_cannot_be_made_is_tried_again(settings: Settings, clock: FakeClock) -> None:
    """While the old one is still served; with nothing left to serve it is an error."""
    pipe = Pipe(settings, clock, follow=True)
    producer = pipe.producer()
    producer.append(b"1")
    assert producer.ring is not None
    segment.remove(producer.ring.segment.name)
    pipe.trouble = RingUnavailable("name", "there is no /dev/shm")

    pipe.cycles()
    assert pipe.events == ["1"]
    producer.leave()
    with pytest.raises(RingUnavailable):
        pipe.cycles()
