"""The order of the ring's stores, which ``ring/layout.py`` documents: another process may rely on what it sees."""

from __future__ import annotations

import _thread
from collections.abc import Iterator
from pathlib import Path

import pytest

from rudderpipe.ring import fence
from rudderpipe.ring import layout as at
from tests.crash_simulation import Process, Simulation, Writer, simulation_of
from tests.fakes import FakeClock

FENCE = ["release", "acquire"]
FENCE_CALL = ["acquire", *FENCE]
LOCKED, UNLOCKED = f"lock {at.LOCK_CLAIM}", f"unlock {at.LOCK_CLAIM}"


class NotedLock:
    """A lock that records each acquire and each release as a step of its process."""

    def __init__(self, process: Process, real: _thread.RLock) -> None:
        self._process = process
        self._real = real

    def acquire(self) -> bool:
        taken = self._real.acquire()
        self._process.note("acquire", 0)
        return taken

    def release(self) -> None:
        self._process.note("release", 0)
        self._real.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@pytest.fixture(name="simulation")
def _simulation(tmp_path: Path) -> Iterator[Simulation]:
    with simulation_of(tmp_path, FakeClock()) as simulation:
        yield simulation


@pytest.fixture(name="writer")
def _writer(simulation: Simulation, monkeypatch: pytest.MonkeyPatch) -> Writer:
    """Return a writer whose use of locks is recorded."""
    writer = simulation.writer()
    writer.producer._lock = NotedLock(writer.process, writer.producer._lock)  # type: ignore[assignment]  # records
    writer.producer.fence = fence.fence  # also on a processor that needs none
    monkeypatch.setattr(fence, "RLock", lambda: NotedLock(writer.process, _thread.RLock()))
    return writer


def steps_of(writer: Writer, size: int = 0) -> list[str]:
    """Return the steps of the writer's next append, in order."""
    writer.process.steps = []
    writer.write_all(1, size)
    return writer.process.named()


def has_fence(steps: list[str]) -> bool:
    """Return True if a lock is released and then another one acquired."""
    return "release" in steps and "acquire" in steps[steps.index("release") :]


def under_the_claim_lock(steps: list[str]) -> list[str]:
    """Return the steps under the claim lock, and check that it was taken once."""
    assert steps.count(LOCKED) == steps.count(UNLOCKED) == 1
    return steps[steps.index(LOCKED) + 1 : steps.index(UNLOCKED)]


def test_an_append_stores_bytes_then_end_then_count(writer: Writer) -> None:
    """The count is stored last, after a fence, which is the release and acquire of a lock."""
    writer.write_all(4)

    assert steps_of(writer) == ["acquire", "memory", "memory", "entries", "acquire", *FENCE, "B_COUNT[0]", "release"]


def test_a_chunk_stores_all_bytes_then_all_ends_then_one_count(writer: Writer) -> None:
    """A chunk within room and credits has one copy, one store of end offsets, one fence and one count."""
    writer.write_all(4)
    writer.process.steps = []
    assert writer.write_chunk(3) is None

    assert writer.process.named() == ["acquire", "memory", "entries", "acquire", *FENCE, "B_COUNT[0]", "release"]


def test_the_first_append_stores_the_slots_pid_last(writer: Writer) -> None:
    """The rest of the slot is stored before its pid. Credits and block come afterwards, all under the claim lock."""
    steps = [step for step in steps_of(writer) if step not in ("acquire", "release")]
    slot = len(steps) - 1 - steps[::-1].index("S_PID[0]")

    assert {"S_START[0]", "S_IMAGE[0]", "S_LEFT[0]", "H_SLOTS_USED"} <= set(steps[:slot])
    assert steps[:3] == [LOCKED, f"lock {at.LOCK_SLOT}", "S_PID[0]"]
    assert steps[slot + 1 : slot + 4] == [UNLOCKED, LOCKED, "GRANTED[0]"]
    assert steps.index("SEQUENCE[0]") < steps.index(UNLOCKED, slot + 2) < steps.index("memory")


def test_a_claim_stores_number_then_header_then_sequence(writer: Writer) -> None:
    """NEXT comes first, and the block's SEQUENCE after its header and a fence. The old block's count and seal come
    last, all under the claim lock."""
    writer.write_all(4, 15_000)
    steps = under_the_claim_lock(steps_of(writer, 15_000))
    words = ("B_SLOT", "B_BASE", "B_RUN", "B_HEAD")
    header = {f"{word}[1]" for word in ("B_COUNT", "B_CHECK", "B_SUM", *words, *(f"COPY OF {word}" for word in words))}
    sequence = "SEQUENCE[1]"

    last = max(steps.index(word) for word in header)
    assert steps.index("H_NEXT") < min(steps.index(word) for word in header)
    assert has_fence(steps[last : steps.index(sequence)])
    assert steps.index("B_COUNT[0]") < steps.index(sequence), "a later event could overtake an interrupted one"
    assert steps[steps.index(sequence) + 1 :] == ["B_TENURE[1]", "B_COUNT[0]", *FENCE_CALL, "B_SEALED[0]"]


def test_a_claim_of_a_run_publishes_the_first_block_last(writer: Writer) -> None:
    """Each block's SEQUENCE comes after the block's own header and a fence."""
    writer.write_all(1)
    steps = under_the_claim_lock(steps_of(writer, 150_000))

    shown = [step for step in steps if step.startswith("SEQUENCE")]
    assert sorted(shown[:-1]) == ["SEQUENCE[2]", "SEQUENCE[3]"]
    assert shown[-1] == "SEQUENCE[1]"
    for block in (1, 2, 3):
        header = [step for step in steps if step.startswith(("B_", "COPY OF B_")) and step.endswith(f"[{block}]")]
        assert header.pop() == f"B_TENURE[{block}]"
        last = max(steps.index(step) for step in header)
        assert len(header) == 12
        assert has_fence(steps[last : steps.index(f"SEQUENCE[{block}]")])


def test_a_commit_stores_intent_then_offsets_then_counter_then_room(simulation: Simulation, writer: Writer) -> None:
    """The intent is stored before any counter moves, and cleared when all is counted. A producer that sees the new ROOM
    finds the new sums."""
    writer.write_all(4, 20_000)
    drainer = simulation.drainer()
    batch = drainer.consumer.next_batch(10, 1_000_000)
    assert batch is not None
    drainer.process.steps = []
    drainer.consumer.release([batch])

    assert drainer.process.named() == [
        *("H_DRAINED_BEFORE", "H_COMMITTED_BEFORE", "H_COMMIT_INTENT"),
        *("READ[0]", "DRAINED[0]", "READ[1]", "DRAINED[0]"),
        *("H_QUEUED", "H_COMMIT_INTENT", "H_ROOM"),
    ]


def test_taking_a_batch_stores_nothing(simulation: Simulation, writer: Writer) -> None:
    """Looking and going back store nothing either. Events in a batch stay in the ring until they are released."""
    drainer = simulation.drainer()
    writer.write_all(4, 20_000)
    drainer.process.steps = []
    drainer.consumer.refresh(whole=True)
    drainer.consumer.pending()
    drainer.consumer.next_batch(3, 1_000_000)
    drainer.consumer.rewind()
    drainer.consumer.tidy()

    assert drainer.process.named() == []


def test_a_run_is_released_from_its_first_block_on(simulation: Simulation, writer: Writer) -> None:
    """After a kill in between, the other blocks are orphans of a tenure that has ended."""
    writer.write_all(1, 150_000)
    writer.producer.leave()
    drainer = simulation.drainer()
    batch = drainer.consumer.next_batch(10, 1_000_000)
    assert batch is not None
    drainer.consumer.release([batch])
    drainer.process.steps = []
    drainer.consumer.tidy()

    assert drainer.process.named() == ["RELEASED[0]", "RELEASED[1]", "RELEASED[2]"]


def test_a_leaving_producer_stores_that_it_left_last(writer: Writer) -> None:
    """Last count, seal and unused credits come first. The slot's lock is free only after S_LEFT."""
    writer.write_all(5)
    writer.process.steps = []
    writer.producer.leave()
    steps = [step for step in writer.process.named() if step not in ("acquire", "release")]

    assert steps == ["B_COUNT[0]", "B_SEALED[0]", "GRANTED[0]", "S_LEFT[0]", f"unlock {at.LOCK_SLOT}"]


def test_a_dead_producers_slot_is_freed_last(simulation: Simulation, writer: Writer) -> None:
    """The credits are given back and ROOM moves before the slot's pid goes, under the claim lock. The slot's own lock
    is free last."""
    writer.write_all(5)
    writer.process.die()
    drainer = simulation.drainer()
    drainer.process.steps = []
    drainer.keep_house()

    steps = drainer.process.named()
    assert steps[0] == f"lock {at.LOCK_SLOT}"
    assert under_the_claim_lock(steps) == ["B_SEALED[0]", "GRANTED[0]", "H_ROOM", "S_PID[0]"]
    assert steps[-1] == f"unlock {at.LOCK_SLOT}"
