"""Stand-ins for time and for a sink, and rings with a name, locks and memory of their own."""

from __future__ import annotations

import itertools
import os
import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.flusher.dead_letters import DeadLetters
from rudderpipe.flusher.direct_sink import DirectSink
from rudderpipe.flusher.queue_sink import Acknowledged, CommitResult
from rudderpipe.flusher.redelivery import Redelivery
from rudderpipe.process.clock import Clock
from rudderpipe.ring import layout as at
from rudderpipe.ring import location
from rudderpipe.ring.consumer import Batch, Consumer
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring, RingView, open_ring
from rudderpipe.settings import Settings

_numbers = itertools.count()


class FakeClock(Clock):
    """A clock that moves only when a test moves it, or when the code under test sleeps."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.stepped_ms = 0
        """The step of the time of day alone; the monotonic clock does not see it."""

    def time_ms(self) -> int:
        return 1_700_000_000_000 + int(self.now_s * 1000) + self.stepped_ms

    def monotonic_s(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def wait(self, files: Sequence[int], seconds: float) -> list[int]:
        ready, _, _ = select.select(files, [], [], 0)
        if not ready:
            self.now_s += seconds
        return ready


def settings_of(directory: Path, **others: Any) -> Settings:
    """Return settings of a pipe with a name of its own."""
    own = {"pipe": f"test-{os.getpid()}-{next(_numbers)}", "runtime_dir": str(directory)}
    return Settings(**{**own, **others})


def pipe_of(directory: Path, pipe: str, cap: int = 100) -> Settings:
    """Return settings of a pipe with this name."""
    return settings_of(directory, pipe=pipe, ring_bytes=1 << 20, max_internal_queue_size=cap)


def pipe_called(ring: Ring) -> str:
    """Return the name of the pipe that a ring belongs to."""
    return next(iter(location.readings(ring.locks.path.parent, ring.locks.path.stem))).pipe


@contextmanager
def ring_of(directory: Path, clock: Clock, *, cap: int = 1000, size_bytes: int = 1 << 20) -> Iterator[Ring]:
    """Yield a real ring with a name of its own, and remove it afterwards."""
    ring = open_ring(settings_of(directory, ring_bytes=size_bytes, max_internal_queue_size=cap), clock)
    try:
        yield ring
    finally:
        from rudderpipe.ring import memory

        memory.remove(ring.segment.name)


def producer_of(ring: Ring, clock: Clock) -> Producer:
    """Return a producer of the ring that looks for no flusher."""
    return Producer(lambda: ring, lambda _ring: None, clock)


def texts(batch: Batch | None) -> list[str]:
    """Return the events of a batch that holds JSON numbers, or strings without commas."""
    return batch.data.decode().split(",") if batch else []


def drain(consumer: Consumer, at_once: int = 1000) -> list[str]:
    """Take and release all committed events, and return them."""
    consumer.refresh()
    found: list[str] = []
    while batch := consumer.next_batch(at_once, 4_000_000):
        found += texts(batch)
        consumer.release([batch])
    consumer.tidy()
    return found


def redelivery_of(settings: Settings, plane: object, letters: DeadLetters, clock: Clock, *rings: Ring) -> Redelivery:
    """Return a redelivery that knows these rings. ``plane`` takes the place of the data plane."""
    redelivery = Redelivery(settings, cast("DataPlane", plane), letters, clock)
    for ring in rings:
        redelivery.enter(ring)
    return redelivery


def direct_sink(ring: Ring, settings: Settings, plane: object, letters: DeadLetters, clock: Clock) -> DirectSink:
    """Return the sink of direct mode with a redelivery of its own."""
    return DirectSink(settings, ring.segment.epoch, redelivery_of(settings, plane, letters, clock, ring), clock)


class FakeSink:
    """A sink that keeps its batches, and raises ``trouble`` if that is set."""

    batches_at_once = 50
    queues = 1
    kept = 0
    has_spilled = False

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.trouble: Exception | None = None
        self.seen: Acknowledged | None = None
        self.ends = 0

    def known(self) -> dict[int, int]:
        return {}

    def commit(self, batches: Sequence[Batch], freed: Sequence[int]) -> CommitResult:
        if self.trouble is not None:
            raise self.trouble
        self.batches += [texts(batch) for batch in batches]
        return CommitResult([at.H_DELIVERED] * len(batches))

    def acknowledged(self) -> Acknowledged | None:
        return self.seen

    def keep_house(self) -> None:
        pass

    def ended(self, ring: RingView) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.ends += 1

    def close(self) -> None:
        self.ends += 100
