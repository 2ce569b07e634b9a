"""The spills of rings that are gone, which queues get before the events of the rings that are there."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from rudderpipe.errors import RingUnavailable
from rudderpipe.flusher import spill
from rudderpipe.flusher.gone_rings import GoneRings
from rudderpipe.flusher.queues_sink import QueuesSink
from rudderpipe.observe import findings, spill_state
from rudderpipe.observe.doctor import run
from rudderpipe.observe.doctor.check import CHECKS
from rudderpipe.observe.doctor.examination import Examination
from rudderpipe.observe.spill_state import SpillState
from rudderpipe.queue.route import QueuePlace
from rudderpipe.ring import counters, location, memory
from rudderpipe.ring.ring import RingView
from tests.fakes import FakeClock, producer_of, ring_of
from tests.spread import (
    CAP,
    QUEUES,
    ManualCalls,
    Spread,
    fill,
    restart,
    segments,
    set_away,
    spilled,
    with_spill,
)

_spread = pytest.fixture(name="spread")(with_spill)


class AfterRestart:
    """A pipe after a restart of the machine: the spill of its ring is there, and a new ring is in the ring's place."""

    def __init__(self, spread: Spread) -> None:
        self.spread = spread
        self.first, self.gone = 30, spilled(spread)
        """How many events were queued before, and how many are in the spill."""
        self.later = 2 * CAP + self.first
        """The number of the first event of the new ring."""
        self.epoch = spread.ring.segment.epoch
        self.rings = GoneRings(spread.settings, partial(sink_of, spread), spread.clock)

    def begin(self) -> None:
        """Start the new flusher."""
        self.spread.must_wait = self.rings.are_ahead
        self.rings.work()
        self.spread.start()

    def work(self, cycles: int = 20) -> None:
        """Let the process work as long as that, beside the rings and for them."""
        for _ in range(cycles):
            self.spread.work(1)
            self.rings.work()

    def shown(self) -> SpillState:
        """Return what views show of the spill, after a check of what the command and the doctor make of it."""
        rings = [counters.read(self.spread.ring)]
        found = spill_state.read(self.spread.settings, rings)
        assert found is not None
        said = " ".join(each.text for each in findings.of_spill(found))
        result = run.finding(CHECKS[35], Examination(self.spread.settings))
        assert ("gone ring" in said) == bool(found.rings_gone)
        if found.trouble:
            assert found.trouble in said
            assert result.state == "fail"
            assert result.text == found.trouble
        else:
            assert ("gone ring" in result.text) == bool(found.rings_gone)
        return found

    def is_busy(self) -> bool:
        """Return whether the spill is not empty."""
        return self.rings.is_busy

    @property
    def earlier(self) -> list[int]:
        """The events that were accepted before the restart and are not lost with the ring."""
        return list(range(self.first + self.gone))


@pytest.fixture(name="after")
def _after(spread: Spread, clock: FakeClock, tmp_path: Path) -> Iterator[AfterRestart]:
    spread.send(30)
    spread.work()
    set_away(spread, "rudder", *QUEUES)
    fill(spread, 2 * CAP)
    restart(spread)  # a lost call is not executed later
    spread.sinks[-1]._spilling._spill.close()  # type: ignore[union-attr]  # there is a spill_dir
    memory.remove(spread.ring.segment.name)
    with ring_of(tmp_path, clock, cap=CAP) as ring:
        spread.settings = msgspec.structs.replace(spread.settings, pipe="new", runtime_dir=str(tmp_path))
        folder = Path(spread.settings.spill_dir or "")
        next(folder.glob("*.spill")).rename(folder / "new.queue.spill")
        after = AfterRestart(spread)
        spread.ring = ring
        spread.producer = producer_of(ring, clock)
        yield after


def sink_of(spread: Spread, ring: RingView, must_wait: Callable[[QueuePlace], bool]) -> QueuesSink:
    """Return a sink of the spread's queues for another ring."""
    return QueuesSink(spread.settings, ring, spread.letters, spread.clock, calls=ManualCalls(), must_wait=must_wait)


def test_the_spill_of_a_gone_ring_is_sent_first(after: AfterRestart, caplog: pytest.LogCaptureFixture) -> None:
    """Its term is above that of the flusher that is gone, and its events count for the ring that is gone."""
    spread = after.spread
    after.begin()
    spread.send(100)
    after.work(5)
    assert after.is_busy()
    assert (after.shown().rings_gone, after.shown().trouble) == (1, "")
    assert "rings are gone, each queue gets what their spills have before other events rings=1" in caplog.text
    set_away(spread)
    spread.work(5)
    assert len(spread.everything()) == after.first
    after.work()

    assert not after.is_busy()
    assert spread.everything() == [*after.earlier, *range(after.later, after.later + 100)]
    counted = [store.rings[after.epoch]["added"] for store in spread.stores.values() if store.rings]
    assert sum(counted) == after.first + after.gone
    assert segments(spread) == []


def test_a_queue_that_is_away_holds_up_only_its_own_events(after: AfterRestart) -> None:
    """The other queues get the spill, and then the events of the new ring."""
    spread = after.spread
    set_away(spread, "rudder-1")
    after.begin()
    spread.send(100)
    after.work()
    assert all(spread.numbers(prefix)[-1] >= after.later for prefix in ("rudder-0", "rudder-2"))
    assert max(spread.numbers("rudder-1")) < after.first
    set_away(spread)
    after.work()

    assert spread.everything() == [*after.earlier, *range(after.later, after.later + 100)]
    assert not after.is_busy()


@pytest.mark.parametrize("is_open", [False, True], ids=["from the beginning", "later"])
def test_a_spill_that_cannot_be_read_holds_up_no_other_ring(
    after: AfterRestart, caplog: pytest.LogCaptureFixture, is_open: bool
) -> None:
    """The log names the disk's error, and the spill is sent when it can be read."""
    caplog.set_level(logging.INFO, "rudderpipe")
    spread = after.spread
    if is_open:
        after.begin()
    (path,) = segments(spread)
    kept = path.rename(path.parents[2] / "kept")
    path.mkdir()
    set_away(spread)
    if not is_open:
        after.begin()
    spread.send(100)
    after.work()
    assert spread.everything()[after.first :] == list(range(after.later, after.later + 100))
    assert after.is_busy()
    assert f"Is a directory path={path if is_open else path.parent}" in caplog.text
    assert after.shown().trouble == f"Is a directory: {path}"
    path.rmdir()
    kept.rename(path)
    after.work()

    found = sorted(number for prefix in spread.stores for number in spread.numbers(prefix))
    assert found == [*after.earlier, *range(after.later, after.later + 100)]
    assert not after.is_busy()
    assert "the spill can be read again" in caplog.text


def test_a_disk_that_can_only_be_read_holds_up_no_other_ring(
    after: AfterRestart, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The queues have all of the spill, and its files go when the disk takes changes."""
    spread = after.spread
    set_away(spread)
    (last,) = segments(spread)[-1:]
    last.write_bytes(last.read_bytes() + b"half of a record")

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", read_only)
        broken.setattr(spill, "_cut", read_only)
        after.begin()
        spread.send(100)
        after.work()
        assert spread.everything() == [*after.earlier, *range(after.later, after.later + 100)]
        assert segments(spread)
    assert "the disk of the spill refuses a change, old files stay, trying again" in caplog.text
    after.work()

    assert segments(spread) == []
    assert not after.is_busy()
    assert spread.everything() == [*after.earlier, *range(after.later, after.later + 100)]


def test_a_directory_that_cannot_be_read_hides_no_other_spill(
    after: AfterRestart, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as one that belongs to another user."""
    spread = after.spread
    set_away(spread)
    foreign = segments(spread)[0].parents[1] / f"{7:016x}"
    foreign.symlink_to(spread.settings.runtime_dir or "")
    after.begin()
    spread.send(100)
    after.work()

    assert spread.everything() == [*after.earlier, *range(after.later, after.later + 100)]
    assert after.is_busy()
    assert "the spill cannot be read, its events and later ones of its ring wait, trying again error=" in caplog.text
    assert str(foreign) in caplog.text


def test_a_ring_that_cannot_be_read_is_not_taken_for_gone(
    spread: Spread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis takes nothing more of a ring once it was told that the ring has ended. Other rings go on."""
    set_away(spread, "rudder", *QUEUES)
    fill(spread, 2 * CAP)
    set_away(spread)
    spread.sinks[-1]._spilling._spill.close()  # type: ignore[union-attr]  # there is a spill_dir
    where = SimpleNamespace(segment=spread.ring.segment.name)
    monkeypatch.setattr(location, "of_pipe", lambda _settings: [where])
    rings = GoneRings(spread.settings, lambda *_: pytest.fail("the ring is there"), spread.clock)

    def full(*_: Any, **__: Any) -> None:
        raise RingUnavailable(where.segment, "too many open files")

    with monkeypatch.context() as broken:
        broken.setattr(memory, "attach", full)
        assert rings.are_ahead(QueuePlace("rudder-0"))
        assert rings.work() == 0
        assert rings.is_busy
        assert not rings.are_ahead(QueuePlace("rudder-0"))
    assert "too many open files" in caplog.text
    spread.clock.now_s += 10
    assert rings.work() == 0
    assert not rings.is_busy
