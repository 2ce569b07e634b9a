"""Simulated processes at one ring: a test can kill a process at any of its stores, or look at the ring there.

All of them live in this Python process, on one real segment. Their locks behave as the kernel's locks do between
processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any
from weakref import WeakSet

from rudderpipe.process import fork
from rudderpipe.process.clock import Clock
from rudderpipe.process.locks import LockFile
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.memory import Segment
from rudderpipe.ring.reclaim import Reclaimer
from rudderpipe.ring.ring import Ring
from tests.fakes import drain, producer_of, ring_of

_HEADER, _SLOT, _BLOCK = (
    {value: name for name, value in vars(at).items() if name.startswith(prefix)} for prefix in ("H_", "S_", "B_")
)


class Killed(BaseException):
    """The exception that stands for SIGKILL: after it, nothing that the process does has an effect."""


def name_of(layout: at.Layout, view: str, key: int | slice) -> str:
    """Return the layout's name for the word that a store went to."""
    if view in ("lock", "unlock"):
        return f"{view} {key}"
    if view != "words" or isinstance(key, slice):
        return view
    if key < layout.granted:
        return _HEADER.get(key, f"header {key}")
    if key < layout.slot0:
        return f"{'GRANTED' if key < layout.drained else 'DRAINED'}[{(key - layout.granted) % layout.slots}]"
    if key < layout.sequence:
        slot, word = divmod(key - layout.slot0, at.SLOT_WORDS)
        return f"{_SLOT.get(word, word)}[{slot}]"
    for name, start, end in (
        ("SEQUENCE", layout.sequence, layout.released),
        ("RELEASED", layout.released, layout.read),
        ("READ", layout.read, layout.block0),
    ):
        if key < end:
            return f"{name}[{key - start}]"
    block, word = divmod(key - layout.block0, layout.block_words)
    if word >= at.B_COPIES:
        return f"COPY OF {_BLOCK.get(word + at.B_SLOT - at.B_COPIES)}[{block}]"
    return f"{_BLOCK[word]}[{block}]"


class View:
    """One process's view of the segment: the process counts each store and sees each load."""

    def __init__(self, process: Process, name: str, view: memoryview) -> None:
        self._process = process
        self._name = name
        self._view = view

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, key: Any) -> Any:
        found = self._view[key]
        if self._process.after_load is not None:
            if isinstance(key, slice):  # a copy, because the memory may change later
                copied = memoryview(bytes(found))
                found = copied.cast("Q") if self._name == "words" else copied
            self._process.after_load()
        return found.toreadonly() if isinstance(key, slice) else found

    def __setitem__(self, key: Any, value: Any) -> None:
        self._process.store(self._name, self._view, key, value)


class Seen(Segment):
    """The segment as one process sees it; ``view`` makes its three views from the real ones."""

    def __init__(self, real: Segment, view: Callable[[str, memoryview], Any]) -> None:
        self.name, self.layout = real.name, real.layout
        self._real, self._shared = real, real._shared
        self.memory = view("memory", real.memory)
        self.words = view("words", real.words)
        self.entries = view("entries", real.entries)

    def __del__(self) -> None:
        """Leave the descriptor open, because it belongs to the real segment."""


class Locks(LockFile):
    """One process's side of the lock file; ``holders`` stands for the kernel's table of locks."""

    def __init__(self, real: LockFile, process: Process, holders: dict[int, Process]) -> None:
        self.path, self._fd, self.inode, self._descriptor = real.path, real._fd, real.inode, real._descriptor
        self._process = process
        self._holders = holders
        self.forget()

    def __del__(self) -> None:
        """Leave the descriptor open, because it belongs to the real lock file."""

    def try_lock(self, byte: int) -> bool:
        process = self._process
        if process.is_dead:
            return False
        taken = self._holders.setdefault(byte, process) is process
        if taken:
            process.note("lock", byte)
        return taken

    def unlock(self, byte: int) -> None:
        if self._holders.get(byte) is self._process:
            del self._holders[byte]
            self._process.note("unlock", byte)

    def remove(self) -> None:
        self._process.unlink("unlink the lock file", super().remove)

    def _wait(self, byte: int, timeout_s: float) -> bool:
        return False  # no other process runs meanwhile


class Process:
    """One process at the ring, which dies instead of its N-th store when ``kill_at`` is N."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.is_dead = False
        self.kill_at = 0
        self.stores = 0
        self.after_store: Callable[[], object] | None = None
        self.after_load: Callable[[], object] | None = None
        self.steps: list[tuple[str, Any]] | None = None
        """The stores, and the locks taken and given back, in order; None while nothing is recorded."""
        self.last: tuple[str, Any] = ("nothing", 0)
        self.ring = Ring(self.seen(simulation.ring.segment), Locks(simulation.ring.locks, self, simulation.holders))

    def seen(self, real: Segment) -> Seen:
        """Return a segment whose views count their stores for this process."""
        return Seen(real, lambda name, view: View(self, name, view))

    def store(self, name: str, view: memoryview, key: Any, value: Any) -> None:
        """Make a store, or die instead; a store of many bytes is then made by half."""
        if self.is_dead:
            return
        if self._dies_at(name, key):
            if isinstance(key, slice):
                half = len(value) // 2
                view[key.start : key.start + half] = value[:half]
            raise Killed
        view[key] = value
        if self.after_store is not None:
            self.after_store()

    def unlink(self, name: str, unlink: Callable[[], None]) -> None:
        """Remove a file, or die instead."""
        if self.is_dead:
            return
        if self._dies_at(name, 0):
            raise Killed
        unlink()

    def _dies_at(self, name: str, key: Any) -> bool:
        self.stores += 1
        self.last = (name, key)
        self.note(name, key)
        if self.stores == self.kill_at:
            self.die()
        return self.is_dead

    def note(self, name: str, key: Any) -> None:
        """Record a step, while steps are recorded."""
        if self.steps is not None:
            self.steps.append((name, key))

    def die(self) -> None:
        """End this process: the kernel frees its locks, and another process gets its pid."""
        self.is_dead = True
        words, layout = self.simulation.ring.words, self.simulation.ring.layout
        for byte, holder in list(self.simulation.holders.items()):
            if holder is self:
                del self.simulation.holders[byte]
                if byte >= at.LOCK_SLOT and words[layout.slot(byte - at.LOCK_SLOT) + at.S_PID]:
                    words[layout.slot(byte - at.LOCK_SLOT) + at.S_START] = 1

    def run(self, operation: Callable[[], object], kill_at: int = 0) -> bool:
        """Run the operation, and die at its N-th store; return True if the operation came to its end."""
        self.kill_at = self.stores + kill_at if kill_at else 0
        try:
            operation()
        except Killed:
            return False
        self.kill_at = 0
        return True

    def named(self) -> list[str]:
        """Return the recorded steps by name."""
        return [name_of(self.ring.layout, name, key) for name, key in self.steps or []]


class Writer:
    """A producer in a process of its own, with what it was promised. Each event holds the writer's name and its
    number."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        self.name = name
        self.process = simulation.process()
        self.producer = producer_of(self.process.ring, simulation.clock)
        self.accepted: list[str] = []
        self.in_flight: list[str] = []
        """The events of the call under way."""
        self.taken = 0
        """The number of accepted events that have left the ring for good."""
        self.handed = 0
        """The number of further events that may have left the ring, because a flusher died while it committed them."""

    @property
    def slot(self) -> int:
        """Return the number of the producer's slot."""
        return self.producer.slot.number

    def texts(self, count: int, size: int = 0) -> list[str]:
        """Return the next events, each with this many bytes or as few as its name takes."""
        return [f"{self.name}:{len(self.accepted) + number}:".ljust(size, "x") for number in range(count)]

    def write(self, size: int = 0) -> str | None:
        """Append the next event; return the reason if it was refused."""
        self.in_flight = self.texts(1, size)
        reason = self.producer.append(self.in_flight[0].encode())
        if reason is None:
            self.accepted += self.in_flight
        self.in_flight = []
        return reason

    def write_chunk(self, count: int, size: int = 0) -> str | None:
        """Append the next events as one chunk; return the reason if one was refused."""
        self.in_flight, reason = self.texts(count, size), None
        while self.in_flight and reason is None:
            number, reason = self.producer.append_chunk([text.encode() for text in self.in_flight])
            self.accepted += self.in_flight[:number]
            del self.in_flight[:number]
        self.in_flight = []
        return reason

    def landed(self, found: list[str]) -> list[str]:
        """Return those events of the call under way that were found, which must be the first ones."""
        landed = [text for text in self.in_flight if text in found]
        assert landed == self.in_flight[: len(landed)], "of a chunk, an event is missing before another one"
        return landed

    def write_all(self, count: int, size: int = 0) -> None:
        """Append this many events, and check that none is refused."""
        assert [reason for reason in (self.write(size) for _ in range(count)) if reason] == []

    def fork(self) -> Writer:
        """Return the child of the writer's process, which has appended nothing yet; the parent goes on as before."""
        child = self.process.simulation.writer()
        child.producer = copy(self.producer)
        child.producer.slot = copy(self.producer.slot)
        child.producer.slot.open_ring = lambda: child.process.ring
        child.producer.slot.ring = child.process.ring
        forgetters, fork._forgetters = fork._forgetters, WeakSet([child.producer])
        try:
            fork.PAGE[0] = 0  # what a child finds
            child.producer.ask_flush()
        finally:
            fork._forgetters = forgetters
        return child

    def own(self, texts: list[str]) -> list[str]:
        """Return those of the texts that this writer wrote."""
        return [text for text in texts if text.startswith(f"{self.name}:")]

    def room(self) -> int:
        """Return how many bytes still fit into the open block as one event."""
        block = self.producer.slot.block
        return block.limit - block.at - 8 * block.count - 1


class Simulation:
    """A ring, and the simulated processes at it."""

    def __init__(self, ring: Ring, clock: Clock) -> None:
        self.ring = ring
        self.clock = clock
        self.holders: dict[int, Process] = {}
        self.writers: list[Writer] = []
        self._fresh = bytes(ring.segment.memory[: ring.layout.data])

    def reset(self) -> None:
        """Make the ring as new, without any process."""
        self.ring.segment.memory[: self.ring.layout.data] = self._fresh
        self.holders.clear()
        self.writers.clear()

    def process(self) -> Process:
        """Add a process."""
        return Process(self)

    def writer(self) -> Writer:
        """Add a producer in a process of its own."""
        writer = Writer(self, f"w{len(self.writers)}")
        self.writers.append(writer)
        return writer

    def drainer(self) -> Drainer:
        """Add a flusher, after the last one has died."""
        return Drainer(self.process())

    def snapshot(self) -> Ring:
        """Return the ring as a process that starts now would see it, on a copy of the memory."""
        whole = memoryview(bytearray(self.ring.segment.memory))
        casts = {"memory": whole, "words": whole.cast("Q"), "entries": whole.cast(self.ring.layout.format.entry_code)}
        return Ring(
            Seen(self.ring.segment, lambda name, _view: casts[name]),
            Locks(self.ring.locks, self.process(), self.holders),
        )


class Drainer:
    """The ring's side of a flusher, in a process of its own."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.ring = process.ring
        assert self.ring.locks.try_lock(at.LOCK_FLUSHER), "another flusher has the lock"
        self.consumer = Consumer(self.ring)
        self.reclaimer = Reclaimer(self.ring)

    def drain(self, at_once: int = 1000) -> list[str]:
        """Take and release all committed events."""
        return drain(self.consumer, at_once)

    def keep_house(self) -> int:
        """Do what a flusher does four times a second; return the number of freed slots."""
        self.consumer.refresh(whole=True)
        self.consumer.tidy()
        return self.reclaimer.work()


@contextmanager
def simulation_of(directory: Path, clock: Clock, *, cap: int = 100, size_bytes: int = 1 << 20) -> Iterator[Simulation]:
    """Yield a simulation without processes, on a ring with a name of its own."""
    with ring_of(directory, clock, cap=cap, size_bytes=size_bytes) as ring:
        yield Simulation(ring, clock)
