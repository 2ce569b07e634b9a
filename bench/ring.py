"""The cost of handing 450 bytes to another process: our ring, compared with what Python programs use for that.

Each round puts a burst that fits, from 1 and from 4 processes at once, while one other process takes the events out.
Then it waits, untimed, until all are out. The cost of each step of an append is measured afterwards, alone.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import report
from bench.forked import at_once
from bench.peers import PROPERTIES
from bench.report import Result, Rig
from rudderpipe.messages import build
from rudderpipe.process import fork
from rudderpipe.process.clock import Clock
from rudderpipe.ring import layout as at
from rudderpipe.ring import memory
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.fence import fence
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.reclaim import Reclaimer
from rudderpipe.ring.ring import Ring, open_ring
from rudderpipe.settings import Settings

BURST = 2_000
STEPS = 5_000
EVENT = b"x" * 450


class Way(ABC):
    """One way of an event from a process to another, made before the fork."""

    taken = 0

    @abstractmethod
    def put(self) -> Callable[[bytes], object]:
        """Return the timed call, for a producer."""

    @abstractmethod
    def take(self) -> int:
        """Take what is there in the consumer, waiting for a moment, and return how many."""

    def run(self, producers: int, rounds: int) -> list[float]:
        """Return the microseconds of one put, for each producer and round."""
        done = multiprocessing.get_context("fork").Value("Q", 0)
        consumer = os.fork()
        if not consumer:
            while True:
                done.value += self.take()

        def produce(_number: int) -> list[float]:
            put, clock = self.put(), time.perf_counter
            put(EVENT)
            figures = []
            for turn in range(1, rounds + 1):
                started = clock()
                for _ in range(BURST):
                    put(EVENT)
                figures.append((clock() - started) / BURST * 1e6)
                while done.value < turn * BURST * producers:
                    time.sleep(0.001)
            return figures

        try:
            return [figure for figures in at_once(producers, produce) for figure in figures]
        finally:
            os.kill(consumer, 9)
            os.waitpid(consumer, 0)


class OurRing(Way):
    """An append. The consumer does what the flusher does, with a sink that takes everything at once."""

    def __init__(self, directory: Path) -> None:
        self.ring: Ring = open_ring(
            Settings(pipe=f"bench-ring-{os.getpid()}", runtime_dir=str(directory), max_internal_queue_size=100_000),
            Clock(),
        )
        self.consumer: Consumer | None = None

    def producer(self) -> Producer:
        """Return this process's producer."""
        return Producer(lambda: self.ring, lambda _ring: None, Clock())

    def put(self) -> Callable[[bytes], object]:
        return self.producer().append

    def take(self) -> int:
        if self.consumer is None:
            self.consumer, self.reclaimer = Consumer(self.ring), Reclaimer(self.ring)
        self.consumer.refresh(whole=True)
        self.consumer.tidy()
        taken = 0
        while batch := self.consumer.next_batch(100, 460_800):
            taken += self.consumer.release([batch])
        if not taken:
            self.reclaimer.work()
            time.sleep(0.001)
        return taken


class StandardQueue(Way):
    """``multiprocessing.Queue``, whose put only hands the bytes to a thread of the same process."""

    def __init__(self) -> None:
        self.queue: multiprocessing.Queue[bytes] = multiprocessing.get_context("fork").Queue()

    def put(self) -> Callable[[bytes], object]:
        return self.queue.put

    def take(self) -> int:
        self.queue.get()
        return 1


class FasterFifo(Way):
    """``faster-fifo``, also a ring in shared memory, in C++ and under a mutex."""

    def __init__(self) -> None:
        from faster_fifo import Queue

        self.queue = Queue(max_size_bytes=64 << 20)

    def put(self) -> Callable[[bytes], object]:
        return self.queue.put  # type: ignore[no-any-return]  # it has no types

    def take(self) -> int:
        return len(self.queue.get_many(max_messages_to_get=100, timeout=60))


class Pipe(Way):
    """``os.write`` to a pipe, which is atomic up to 4,096 bytes and blocks when 64 KiB wait."""

    def __init__(self) -> None:
        self.reads, self.writes = os.pipe()
        self.rest = 0

    def put(self) -> Callable[[bytes], object]:
        writes, write = self.writes, os.write
        return lambda data: write(writes, data)

    def take(self) -> int:
        self.rest += len(os.read(self.reads, 65_536))
        taken, self.rest = divmod(self.rest, len(EVENT))
        return taken


def steps(ring: OurRing) -> dict[str, list[float]]:
    """Return the cost of each part of a call in microseconds.

    The parts are measured alone, so they add up only roughly.
    """
    producer = ring.producer()
    producer.append(EVENT)
    lock, block = producer._lock, producer.slot.block  # noqa: SLF001  # the benchmark measures these parts
    words, memory, entries = block.words, block.memory, block.entries
    start, entry, counter = block.at, block.entry - 1, at.H_CORRUPT
    end = start + len(EVENT)
    where = ring.ring.layout.slot(at.SLOTS - 1)
    locks = ring.ring.locks

    def locked() -> None:
        lock.acquire()
        lock.release()

    def stores() -> None:
        memory[start:end] = EVENT
        memory[end] = at.COMMA
        entries[entry] = end

    def count() -> None:
        words[where] = counter

    def claim_lock() -> None:
        try:
            locks.lock(at.LOCK_CLAIM, 0)
        finally:
            locks.release(at.LOCK_CLAIM)

    parts: dict[str, Callable[[], object]] = {
        "an empty call": lambda: None,
        "the check for a fork (promise 5)": lambda: fork.PAGE[0],
        "the same check by getpid, for comparison": os.getpid,
        "mutual exclusion (6)": locked,
        "the fence before the count, where one is needed (1)": fence,
        "event, comma, end offset": stores,
        "the count": count,
        "the claim lock, once in 64 and in 145 (3, 4)": claim_lock,
        "making the message (build.track)": lambda: build.track("123456", "Item Viewed", PROPERTIES, *[None] * 5),
    }
    figures: dict[str, list[float]] = {}
    for name, part in parts.items():
        figures[name] = []
        for _ in range(9):
            started = time.perf_counter()
            for _ in range(STEPS):
                part()
            figures[name].append((time.perf_counter() - started) / STEPS * 1e6)
    producer.leave()
    return figures


def results(rounds: int, *, alone: bool) -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as directory:
        ours = OurRing(Path(directory))
        try:
            ways: dict[str, Callable[[], Way]] = {"rudderpipe's ring": lambda: ours}
            if not alone:
                ways |= {"os.write to a pipe": Pipe, "faster-fifo": FasterFifo, "multiprocessing.Queue": StandardQueue}
            rig = Rig(events=BURST, note="for each producer, while one other process takes the events")
            for producers, said in ((1, "1 producer"), (4, "4 producers")):
                samples = {name: way().run(producers, rounds) for name, way in ways.items()}
                yield Result(f"ring_{producers}", f"one put of {len(EVENT)} bytes, {said}", "us", samples, rig)
            parts = steps(ours)
            empty = statistics.median(parts.pop("an empty call"))
            less = {name: [(figure - empty) * 1000 for figure in figures] for name, figures in parts.items()}
            rig = Rig(events=STEPS, note="each part alone, less an empty call")
            yield Result("ring_parts", "the parts of a call", "ns", less, rig, compared=False)
        finally:
            memory.remove(ours.ring.segment.name)


def main() -> None:
    parser = report.options(__doc__, rounds=25)
    parser.add_argument("--alone", action="store_true", help="only our ring")
    arguments = parser.parse_args()
    report.publish(results(arguments.rounds, alone=arguments.alone), arguments.results)


if __name__ == "__main__":
    main()
