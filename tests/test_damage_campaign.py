"""Thousands of rings with one damaged word each: no other producer's event is lost, doubled or out of order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from copy import copy
from pathlib import Path

import pytest

from rudderpipe.ring import block_header
from rudderpipe.ring import layout as at
from tests.crash_simulation import Drainer, Simulation, Writer, name_of, simulation_of
from tests.fakes import FakeClock

ROUNDS = 1100
BITS = 1 << 64
RECOVERED = (*range(at.B_SLOT, at.B_SUM + 1), *range(at.B_COPIES, at.B_COPIES + 4))
"""Words of a block's header, any one of which may be damaged without harm even to that block."""
HEADER = [
    value
    for name, value in vars(at).items()
    if name.startswith("H_") and value >= at.H_NEXT and value != at.H_CLOSED  # opening the ring repairs H_CLOSED
]


@pytest.fixture(name="simulation")
def _simulation(tmp_path: Path, clock: FakeClock) -> Iterator[Simulation]:
    with simulation_of(tmp_path, clock, cap=1000, size_bytes=3 << 20) as simulation:
        yield simulation


class Image:
    """A ring in the middle of its life, which is damaged again and again, with three producers, one of them dead."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.writers = [simulation.writer() for _ in range(3)]
        drainer = simulation.drainer()
        for size in (0, 20_000, 450, 150_000, 30_000, 0):
            for writer in self.writers:
                writer.write_all(2, size)
            if size == 20_000:  # drain a part of the first blocks
                drainer.consumer.refresh()
                batch = drainer.consumer.next_batch(5, 1 << 20)
                assert batch is not None
                drainer.consumer.release([batch])
                for text in batch.data.decode().split(","):
                    self.writers[int(text[1])].taken += 1
        drainer.process.die()
        self.writers[2].process.die()
        layout, words = simulation.ring.layout, simulation.ring.words
        self.owners = {
            block: block_header.read(words, layout, block).slot for _, block in simulation.ring.blocks_in_use()
        }
        self._bytes = bytes(simulation.ring.segment.memory)
        self._holders = dict(simulation.holders)
        self._states = [(copy(writer.producer.slot), list(writer.accepted)) for writer in self.writers]

    def restore(self) -> None:
        """Put the ring and its processes back as they were."""
        self.simulation.ring.segment.memory[:] = self._bytes
        self.simulation.holders.clear()
        self.simulation.holders.update(self._holders)
        del self.simulation.writers[3:]
        for writer, (state, accepted) in zip(self.writers, self._states, strict=True):
            writer.producer.slot = copy(state)
            writer.producer.slot.block = copy(state.block)
            writer.accepted[:] = accepted

    def hurt(self, word: int) -> int | None:
        """Return the slot whose own events may suffer from damage to this word, or None when no event may suffer."""
        layout = self.simulation.ring.layout
        if word < layout.granted:
            return None
        if word < layout.slot0:
            return (word - layout.granted) % layout.slots
        if word < layout.sequence:
            return (word - layout.slot0) // at.SLOT_WORDS
        if word < layout.released:
            return None
        if word < layout.block0:
            return self.owners.get((word - layout.sequence) % layout.blocks)
        block, number = divmod(word - layout.block0, layout.block_words)
        return None if number in RECOVERED else self.owners.get(block)


def words_of(layout: at.Layout) -> list[int]:
    """Return every word that decides about events."""
    return [
        *HEADER,
        *range(layout.granted, layout.granted + 4),
        *range(layout.drained, layout.drained + 4),
        *(layout.slot(slot) + word for slot in range(4) for word in range(at.SLOT_WORDS)),
        *range(layout.sequence, layout.block(layout.blocks)),
    ]


def damage(chance: random.Random, words: memoryview, word: int) -> int:
    """Return a value that the word did not have: a flipped bit, an extreme, a random number or another word's value."""
    was = words[word]
    kinds = (
        was ^ (1 << chance.randrange(64)),
        was ^ (1 << chance.randrange(12)),
        chance.choice((0, 1, BITS - 1)),
        chance.randrange(BITS),
        (was + chance.choice((-1, 1))) % BITS,
        words[word + chance.choice((-1, 1, 16))],
    )
    value = chance.choice(kinds)
    return value if value != was else was ^ 1


def drained(drainer: Drainer) -> list[str]:
    """Return the committed events; overwritten bytes are no text and are replaced."""
    found: list[str] = []
    drainer.consumer.refresh()
    while batch := drainer.consumer.next_batch(7, 4_000_000):
        found += batch.data.decode(errors="replace").split(",")
        drainer.consumer.release([batch])
    drainer.consumer.tidy()
    return found


def check(image: Image, hurt: int | None, found: list[str], late: Writer) -> None:
    """Check that the events of all other producers are there, once and in order."""
    for writer in [*image.writers, late]:
        own, expected = writer.own(found), writer.accepted[writer.taken :]
        assert writer.slot == hurt or own == expected, f"{len(own)} of {writer.name} were found, not {len(expected)}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_damaged_word_hurts_no_other_producer(simulation: Simulation, seed: int) -> None:
    """Other producers and a new one append after the damage. The events of all healthy blocks arrive."""
    chance, image, layout = random.Random(seed), Image(simulation), simulation.ring.layout
    choices = words_of(layout)
    for _ in range(ROUNDS):
        image.restore()
        word = chance.choice(choices)
        value = damage(chance, simulation.ring.words, word)
        simulation.ring.words[word] = value
        try:
            late = simulation.writer()
            for writer in (late, *image.writers[:2]):
                written = {writer.write(size) for size in (0, 450, 70_000)}
                assert written <= {None, "full", "no_block", "no_slot"}
            drainer, found = simulation.drainer(), []
            for _ in range(3):
                found += drained(drainer)
                drainer.keep_house()
            check(image, image.hurt(word), found, late)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {value:#x} in {name_of(layout, 'words', word)}: {error}") from error
