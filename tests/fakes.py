"""Stand-ins that a test owns: time, and a ring whose locks and memory are its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rudderpipe.flusher.queue_sink import CommitResult
from rudderpipe.process.clock import Clock
from rudderpipe.ring import layout as at
from rudderpipe.ring import location
from rudderpipe.ring.consumer import Batch, Consumer
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring, open_ring
from rudderpipe.settings import Settings

_numbers = itertools.count()


class FakeClock(Clock):
    """Moves only when told to, or when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.stepped_ms = 0
        """By how much the time of day was set, in which ``now_s`` has no part."""

    def time_ms(self) -> int:
        return 1_700_000_000_000 + int(self.now_s * 1000) + self.stepped_ms

    def monotonic_s(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def settings_of(directory: Path, **others: Any) -> Settings:
    """Settings of a pipe of a name nobody else has."""
    own = {"pipe": f"test-{os.getpid()}-{next(_numbers)}", "runtime_dir": str(directory)}
    return Settings(**{**own, **others})


def pipe_of(directory: Path, pipe: str, cap: int = 100) -> Settings:
    """Settings of a pipe that has a name already."""
    return settings_of(directory, pipe=pipe, ring_bytes=1 << 20, max_internal_queue_size=cap)


def pipe_called(ring: Ring) -> str:
    """The name of the pipe that a ring belongs to."""
    return next(iter(location.readings(ring.locks.path.parent, ring.locks.path.stem))).pipe


@contextmanager
def ring_of(directory: Path, clock: Clock, *, cap: int = 1000, size_bytes: int = 1 << 20) -> Iterator[Ring]:
    """A real ring of a name nobody else has; removed afterwards."""
    ring = open_ring(settings_of(directory, ring_bytes=size_bytes, max_internal_queue_size=cap), clock)
    try:
        yield ring
    finally:
        from rudderpipe.ring import memory

        memory.remove(ring.segment.name)


def producer_of(ring: Ring, clock: Clock) -> Producer:
    """A producer of that ring, which looks for no flusher."""
    return Producer(lambda: ring, lambda _ring: None, clock)


def texts(cut: Batch | None) -> list[str]:
    """The events of a cut that holds JSON numbers or strings without commas."""
    return cut.data.decode().split(",") if cut else []


def drain(consumer: Consumer, at_once: int = 1000) -> list[str]:
    """All that is committed, taken and released."""
    consumer.refresh()
    found: list[str] = []
    while cut := consumer.next_batch(at_once, 4_000_000):
        found += texts(cut)
        consumer.release([cut])
    consumer.tidy()
    return found


class FakeSink:
    """Keeps what it gets; fails when told to."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.trouble: Exception | None = None
        self.seen: tuple[int, int] | None = None
        self.ends = 0

    def known(self) -> dict[int, int]:
        return {}

    def commit(self, cuts: Sequence[Batch], freed: Sequence[int]) -> CommitResult:
        if self.trouble is not None:
            raise self.trouble
        self.batches += [texts(cut) for cut in cuts]
        return CommitResult([at.H_DELIVERED] * len(cuts))

    def acknowledged(self) -> tuple[int, int] | None:
        return self.seen

    def ended(self, ring: Ring) -> None:
        self.ends += 1

    def close(self) -> None:
        self.ends += 100
