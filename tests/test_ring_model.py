"""The ring against a plain list, whatever is done to it and whichever process is killed in the middle of it."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rudderpipe.ring import counters
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Batch
from tests.crash_simulation import Drainer, Simulation, Writer, simulation_of
from tests.fakes import FakeClock, producer_of, texts

CAP = 150
PRODUCERS = st.integers(0, 2)
SIZES = st.sampled_from([0, 0, 450, 20_000, 150_000])
STEPS = st.integers(1, 30)


class Interrupted(BaseException):
    """The exception that a signal handler raises."""


class RingModel(RuleBasedStateMachine):
    """Three producers and a flusher, each in a process of its own. A process that dies is replaced by another one."""

    @initialize()
    def open(self) -> None:
        self.stack = ExitStack()
        self.clock = FakeClock()
        directory = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.simulation: Simulation = self.stack.enter_context(simulation_of(Path(directory), self.clock, cap=CAP))
        self.writers = [self.simulation.writer() for _ in range(3)]
        self.drainer = self.simulation.drainer()
        self.held: list[Batch] = []
        self.found: list[str] = []
        self.inner: list[str] = []
        """The events that nested calls were promised, each with a number of its own."""
        self.names = itertools.count()

    # Producers.

    @rule(who=PRODUCERS, count=st.integers(1, 90), size=SIZES)
    def append(self, who: int, count: int, size: int) -> None:
        """Append until an event is refused."""
        for _ in range(count):
            reason = self.writers[who].write(size)
            if reason is not None:
                assert reason in ("full", "no_block")
                break

    @rule(who=PRODUCERS, count=st.integers(1, 90), size=SIZES)
    def append_chunk(self, who: int, count: int, size: int) -> None:
        """Append several events as one chunk, until an event is refused."""
        assert self.writers[who].write_chunk(1 if size > at.LARGE_BYTES else count, size) in (None, "full", "no_block")

    @rule(who=PRODUCERS, count=st.integers(1, 90), size=SIZES, step=STEPS)
    def kill_in_a_chunk(self, who: int, count: int, size: int, step: int) -> None:
        """Kill a producer at some store of a chunk, of which then the first events are in the ring, or none."""
        writer = self.writers[who]
        count = 1 if size > at.LARGE_BYTES else count
        if not writer.process.run(partial(writer.write_chunk, count, size), step):
            self.decide(writer)
            self.replace(who)

    @rule(who=PRODUCERS, size=SIZES, step=STEPS)
    def nested_append(self, who: int, size: int, step: int) -> None:
        """Append in a signal handler in the middle of an append, or right after it."""
        writer, text = self.writers[who], f"inner:{next(self.names)}:"
        done: list[str | None] = []

        def track() -> None:
            if not done and writer.process.stores >= last:
                done.append("busy")
                done[0] = writer.producer.append(text.encode())

        last = writer.process.stores + step
        writer.process.after_store = track
        writer.write(size)
        writer.process.after_store = None
        if done == [None]:
            self.inner.append(text)

    @rule(who=PRODUCERS, size=SIZES, step=STEPS)
    def interrupted_append(self, who: int, size: int, step: int) -> None:
        """Raise in a signal handler in the middle of an append, whose event is then in the ring or not."""
        writer = self.writers[who]

        def interrupt() -> None:
            if writer.process.stores >= last:
                writer.process.after_store = None
                raise Interrupted

        last = writer.process.stores + step
        writer.process.after_store = interrupt
        try:
            writer.write(size)
        except Interrupted:
            self.decide(writer)
        writer.process.after_store = None

    @rule(who=PRODUCERS)
    def fork(self, who: int) -> None:
        """Fork a producer; the child replaces the next producer, which dies."""
        following = (who + 1) % 3
        child = self.writers[who].fork()
        self.replace(following, child)

    @rule(who=PRODUCERS, size=SIZES, step=STEPS, leaves=st.booleans())
    def kill_producer(self, who: int, size: int, step: int, leaves: bool) -> None:
        """Kill a producer at some store of its next append, or of leaving."""
        writer = self.writers[who]
        if leaves:
            writer.process.run(writer.producer.leave, step)
        elif not writer.process.run(partial(writer.write, size), step):
            self.decide(writer)
        if leaves or writer.process.is_dead:
            self.replace(who)

    @rule(who=PRODUCERS)
    def leave(self, who: int) -> None:
        """Make a producer leave, and replace it."""
        self.writers[who].producer.leave()
        self.replace(who)

    @rule(seconds=st.sampled_from([0.1, 0.9, 5.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass, because credits depend on how long the last ones lasted."""
        self.clock.now_s += seconds

    def replace(self, who: int, by: Writer | None = None) -> None:
        """Replace this producer by another one, and end its process."""
        self.writers[who].process.die()  # this also frees a slot whose taking was interrupted
        self.writers[who] = by or self.simulation.writer()

    def decide(self, writer: Writer) -> None:
        """Find out how many of the events in flight are in the ring."""
        there = counters.read(self.simulation.ring).accepted - self.accepted()
        assert 0 <= there <= len(writer.in_flight)
        writer.accepted += writer.in_flight[:there]
        writer.in_flight = []

    # The flusher.

    @rule(count=st.integers(1, 90))
    def take_batch(self, count: int) -> None:
        """Take a batch."""
        self.drainer.consumer.refresh()
        batch = self.drainer.consumer.next_batch(count, 100_000)
        if batch is not None:
            assert batch.count == len(texts(batch))
            self.held.append(batch)

    @precondition(lambda self: self.held)
    @rule(count=st.integers(1, 3))
    def release(self, count: int) -> None:
        """Release the first batches, as when the sink has them."""
        for batch in self.held[:count]:
            self.found += texts(batch)
        assert self.drainer.consumer.release(self.held[:count]) == sum(batch.count for batch in self.held[:count])
        self.held = self.held[count:]

    @rule()
    def rewind(self) -> None:
        """Go back to the first batch, as when the sink has none of them."""
        self.drainer.consumer.rewind()
        self.held = []

    @rule()
    def keep_house(self) -> None:
        """Free blocks, and reclaim the slots of dead producers."""
        self.drainer.keep_house()

    @rule(what=st.sampled_from(["release", "house", "start"]), step=STEPS)
    def kill_flusher(self, what: str, step: int) -> None:
        """Kill the flusher at some store; another one goes on from what stands in the ring."""
        released = [text for batch in self.held for text in texts(batch)] if what == "release" else []
        process = self.drainer.process
        operation: Callable[[], Any] = self.drainer.keep_house
        if what == "release":
            operation = partial(self.drainer.consumer.release, self.held)
        elif what == "start":
            process.die()
            process = self.simulation.process()
            operation = partial(Drainer, process)
        process.run(operation, step)
        process.die()
        self.drainer = self.simulation.drainer()
        counts = counters.read(self.simulation.ring)
        moved = counts.accepted - counts.in_ring - len(self.found)
        # A release goes block by block, whatever the order of the batches was.
        there = set(texts(self.drainer.consumer.next_batch(10 * CAP, 1 << 30)))
        self.drainer.consumer.rewind()
        gone = [text for text in released if text not in there]
        assert len(gone) == moved
        self.found += gone
        self.held = []

    # What holds at every moment.

    def accepted(self) -> int:
        """Return the number of accepted events."""
        return sum(len(writer.accepted) for writer in self.simulation.writers) + len(self.inner)

    @invariant()
    def the_counters_are_exact(self) -> None:
        """Check the counters against the list, and that the cap is never exceeded."""
        counts = counters.read(self.simulation.ring)
        assert counts.accepted == self.accepted()
        assert counts.in_ring == counts.accepted - len(self.found) <= CAP
        assert counts.corrupt == 0
        assert counts.queued == counts.left

    def teardown(self) -> None:
        """Kill all processes, and check that all accepted events leave and that all of the room is free."""
        with self.stack:
            for writer in self.writers:
                writer.process.die()
            self.drainer.process.die()
            self.drainer = self.simulation.drainer()
            for _ in range(3):
                self.drainer.keep_house()
                self.found += self.drainer.drain(7)
            self.the_counters_are_exact()
            for writer in self.simulation.writers:
                assert writer.own(self.found) == writer.accepted
            assert sorted(text for text in self.found if text.startswith("inner")) == sorted(self.inner)
            ring, layout = self.simulation.ring, self.simulation.ring.layout
            assert ring.blocks_in_use() == []
            assert ring.slots_in_use() == []
            words = ring.words
            assert words[layout.granted : layout.drained].tolist() == words[layout.drained : layout.slot0].tolist()
            fresh = producer_of(self.simulation.process().ring, self.clock)
            assert sum(fresh.append(b"1") is None for _ in range(2 * CAP)) == CAP
            assert not any(words[at.H_REFUSED : at.H_REFUSED + len(at.REFUSALS)].tolist())


TestRingModel = RingModel.TestCase
TestRingModel.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
