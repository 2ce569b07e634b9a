"""What a checkpoint may stand behind, and how many events a ring has beyond it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from rudderpipe.errors import RingUnavailable
from rudderpipe.ingestion.checkpoint import KIND, Checkpoint, Counts, SourceState
from rudderpipe.ingestion.checkpoint_file import CheckpointFile
from rudderpipe.ingestion.destination import RingDestination
from rudderpipe.ingestion.engine import Engine
from rudderpipe.ingestion.events import Events
from rudderpipe.ingestion.plan import Step
from rudderpipe.ingestion.run import Items
from rudderpipe.ingestion.source import Source
from rudderpipe.messages.defaults import Defaults
from rudderpipe.process.clock import Clock
from rudderpipe.ring import location, memory
from rudderpipe.ring.consumer import Consumer
from rudderpipe.settings import Settings
from rudderpipe.transports.ring import Pipe
from tests.fakes import settings_of


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Iterator[Settings]:
    """Yield the settings of a pipe whose ring no flusher drains."""
    own = msgspec.structs.replace(settings_of(tmp_path), runtime_dir=str(tmp_path), autostart=False, ring_bytes=8 << 20)
    yield own
    memory.remove(location.own(own).segment)


def opened(settings: Settings) -> RingDestination:
    """Return the destination of one run."""
    destination = RingDestination(Pipe(settings, Clock()), Clock(), is_own=True)
    destination.open()
    return destination


def put(destination: RingDestination, number: int) -> None:
    """Append so many events, of which one call takes as many as the producer has credits for."""
    while number:
        number -= destination.append([b"{}"] * number)[0]


def drain(destination: RingDestination, number: int) -> None:
    """Take so many events out of the ring, one by one, as a flusher does."""
    consumer = Consumer(destination.ring)
    for _ in range(number):
        consumer.refresh(whole=True)
        batch = consumer.next_batch(1, 0)
        assert batch is not None
        consumer.release([batch])


def test_a_milestone_is_behind_when_all_events_before_it_have_left_the_ring(settings: Settings) -> None:
    """Later events do not matter."""
    destination = opened(settings)
    assert destination.milestone().is_behind()
    put(destination, 3)
    milestone = destination.milestone()
    put(destination, 2)

    assert not milestone.is_behind()
    drain(destination, 2)
    assert not milestone.is_behind()
    drain(destination, 1)
    assert milestone.is_behind()


def test_a_later_run_finds_how_many_events_the_ring_has_beyond_a_place(settings: Settings) -> None:
    """Also those that have left it, and only of the same ring."""
    first = opened(settings)
    put(first, 3)
    milestone = first.milestone()
    put(first, 5)
    first.pipe.shut()

    second = opened(settings)

    assert second.already(milestone.epoch, milestone.accepted) == 5
    put(second, 2)
    drain(second, 4)
    assert second.already(milestone.epoch, milestone.accepted) == 7
    assert second.already(milestone.epoch + 1, milestone.accepted) == 0
    shared = RingDestination(second.pipe, Clock(), is_own=False)
    assert shared.already(milestone.epoch, milestone.accepted) == 0


def test_a_milestone_of_a_removed_ring_waits_for_the_ring_that_has_its_events(settings: Settings) -> None:
    """Its events were moved there, and they are not safe before they have left that one too."""
    destination = opened(settings)
    put(destination, 3)
    milestone = destination.milestone()
    memory.remove(destination.ring.segment.name)
    destination.pipe.producer.look()  # as every process does about once a second
    put(destination, 1)

    assert not milestone.is_behind()
    drain(destination, 4)
    assert milestone.is_behind()


def engine_of(destination: RingDestination, found: Checkpoint) -> Engine:
    """Return the engine of a run with this checkpoint, which is not stored."""
    events = Events(Defaults(None, None, None), None)
    return Engine(destination, events, CheckpointFile(None, found), Clock())


def test_the_checkpoint_stands_behind_what_left_the_ring_and_the_next_run_skips_the_rest(settings: Settings) -> None:
    """The first run ends without a word, as by a kill; in between a part of its events has left the ring."""
    source = Source("iterable:x", "x")
    found = Checkpoint(KIND, "pipe", "options", [SourceState(source.path, source.id_name)], Counts())
    messages = [{"type": "track", "userId": f"u{number}", "event": "e"} for number in range(640)]
    destination = opened(settings)
    engine = engine_of(destination, found)
    engine.open()
    items = Items(engine, Step(source, found.sources[0], None, is_done=False), "x")
    steps = items.steps(iter(messages[:320]))
    for _ in steps:
        engine._add_place()  # as four times a second
    drain(destination, 200)
    engine.save()
    engine.close()
    destination.pipe.shut()

    place = found.sources[0].position.number - 1
    assert 0 < place <= 200
    assert found.counts.accepted == place
    again = opened(settings)
    second = engine_of(again, found)
    second.open()
    items = Items(second, Step(source, found.sources[0], found.sources[0].position, is_done=False), "x")
    for _ in items.steps(iter(messages)):
        pass

    result = second.result(complete=True)
    assert (result.already, result.accepted) == (320 - place, 320)
    assert second.counts.accepted == 640
    consumer = Consumer(again.ring)
    consumer.refresh(whole=True)
    users = []
    while batch := consumer.next_batch(1_000, 4_000_000):
        users += [each["userId"] for each in msgspec.json.decode(b"[%b]" % bytes(batch.data))]
        consumer.release([batch])
    assert users == [f"u{number}" for number in range(200, 640)]
    second.close()


def test_a_ring_that_cannot_be_used_is_an_error(settings: Settings, tmp_path: Path) -> None:
    """It is not waited for forever."""
    (tmp_path / "file").touch()
    wrong = msgspec.structs.replace(settings, runtime_dir=str(tmp_path / "file"))
    with pytest.raises(RingUnavailable):
        opened(wrong)
