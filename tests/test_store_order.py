"""The order of the ring's stores, as layout.py documents it: what another process may see, it may see from then on."""

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
    """A lock that writes down what is done with it."""

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
def _stage(tmp_path: Path) -> Iterator[Simulation]:
    with simulation_of(tmp_path, FakeClock()) as simulation:
        yield simulation


@pytest.fixture(name="writer")
def _writer(simulation: Simulation, monkeypatch: pytest.MonkeyPatch) -> Writer:
    """Its locks are noted."""
    writer = simulation.writer()
    writer.producer._lock = NotedLock(writer.process, writer.producer._lock)  # type: ignore[assignment]  # notes
    writer.producer.fence = fence.fence  # also on a processor that needs none
    monkeypatch.setattr(fence, "RLock", lambda: NotedLock(writer.process, _thread.RLock()))
    return writer


def steps_of(writer: Writer, size: int = 0) -> list[str]:
    """What the writer's next append does, in order."""
    writer.process.steps = []
    writer.write_all(1, size)
    return writer.process.named()


def has_fence(steps: list[str]) -> bool:
    """Whether a lock is released and another one acquired in the course of these."""
    return "release" in steps and "acquire" in steps[steps.index("release") :]


def under_the_claim_lock(steps: list[str]) -> list[str]:
    """What was done while the claim lock was held; checks that it was taken once."""
    assert steps.count(LOCKED) == steps.count(UNLOCKED) == 1
    return steps[steps.index(LOCKED) + 1 : steps.index(UNLOCKED)]


def test_an_append_is_bytes_end_fence_count(writer: Writer) -> None:
    """The count is the last of its stores, and a lock is released and acquired before it."""
    writer.write_all(4)

    assert steps_of(writer) == ["acquire", "memory", "memory", "entries", "acquire", *FENCE, "B_COUNT[0]", "release"]


def test_the_first_append_takes_the_slot_last(writer: Writer) -> None:
    """A slot's pid is stored when all else of it is; grant and block come afterwards, all under the claim lock."""
    steps = [step for step in steps_of(writer) if step not in ("acquire", "release")]
    slot = len(steps) - 1 - steps[::-1].index("S_PID[0]")

    assert {"S_START[0]", "S_IMAGE[0]", "S_LEFT[0]", "H_SLOTS_USED"} <= set(steps[:slot])
    assert steps[:3] == [LOCKED, f"lock {at.LOCK_SLOT}", "S_PID[0]"]
    assert steps[slot + 1 : slot + 4] == [UNLOCKED, LOCKED, "GRANTED[0]"]
    assert steps.index("SEQUENCE[0]") < steps.index(UNLOCKED, slot + 2) < steps.index("memory")


def test_a_claim_is_number_header_fence_sequence(writer: Writer) -> None:
    """NEXT before all of it, the block's SEQUENCE after its header and a fence; then the old block's count, and its
    seal. All of it under the claim lock."""
    writer.write_all(4, 15_000)
    steps = under_the_claim_lock(steps_of(writer, 15_000))
    words = ("B_SLOT", "B_BASE", "B_RUN", "B_HEAD")
    header = {f"{word}[1]" for word in ("B_COUNT", "B_CHECK", "B_SUM", *words, *(f"COPY OF {word}" for word in words))}
    sequence = "SEQUENCE[1]"

    last = max(steps.index(word) for word in header)
    assert steps.index("H_NEXT") < min(steps.index(word) for word in header)
    assert has_fence(steps[last : steps.index(sequence)])
    assert steps.index("B_COUNT[0]") < steps.index(sequence), "an event whose append was cut could be overtaken"
    assert steps[steps.index(sequence) + 1 :] == ["B_TENURE[1]", "B_COUNT[0]", *FENCE_CALL, "B_SEALED[0]"]


def test_a_claim_of_a_run_shows_the_first_block_last(writer: Writer) -> None:
    """Each block's SEQUENCE comes after its own header and a fence, the first block's after all the others'."""
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


def test_a_drain_is_settling_read_drained_counter_room(simulation: Simulation, writer: Writer) -> None:
    """What was is written down before anything moves, and forgotten when all is counted; one block after the other;
    a producer that saw the new ROOM finds the new sums."""
    writer.write_all(4, 20_000)
    drainer = simulation.drainer()
    cut = drainer.consumer.next_batch(10, 1_000_000)
    assert cut is not None
    drainer.process.steps = []
    drainer.consumer.release([cut])

    assert drainer.process.named() == [
        *("H_DRAINED_BEFORE", "H_COMMITTED_BEFORE", "H_COMMIT_INTENT"),
        *("READ[0]", "DRAINED[0]", "READ[1]", "DRAINED[0]"),
        *("H_QUEUED", "H_COMMIT_INTENT", "H_ROOM"),
    ]


def test_a_cut_stores_nothing(simulation: Simulation, writer: Writer) -> None:
    """Nor do looking and going back: what was handed out is the ring's until it is released."""
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
    """Cut in between, the others are orphans of a tenure that ended."""
    writer.write_all(1, 150_000)
    writer.producer.leave()
    drainer = simulation.drainer()
    cut = drainer.consumer.next_batch(10, 1_000_000)
    assert cut is not None
    drainer.consumer.release([cut])
    drainer.process.steps = []
    drainer.consumer.tidy()

    assert drainer.process.named() == ["RELEASED[0]", "RELEASED[1]", "RELEASED[2]"]


def test_who_leaves_says_so_last(writer: Writer) -> None:
    """The last count, the seal, the rest of the grant; then that it left, and only then is the slot's lock free."""
    writer.write_all(5)
    writer.process.steps = []
    writer.producer.leave()
    steps = [step for step in writer.process.named() if step not in ("acquire", "release")]

    assert steps == ["B_COUNT[0]", "B_SEALED[0]", "GRANTED[0]", "S_LEFT[0]", f"unlock {at.LOCK_SLOT}"]


def test_a_dead_slot_is_free_after_all_else(simulation: Simulation, writer: Writer) -> None:
    """Its grant is given back and ROOM moved before its pid goes, under the claim lock; its own lock is free last."""
    writer.write_all(5)
    writer.process.die()
    drainer = simulation.drainer()
    drainer.process.steps = []
    drainer.keep_house()

    steps = drainer.process.named()
    assert steps[0] == f"lock {at.LOCK_SLOT}"
    assert under_the_claim_lock(steps) == ["B_SEALED[0]", "GRANTED[0]", "H_ROOM", "S_PID[0]"]
    assert steps[-1] == f"unlock {at.LOCK_SLOT}"
