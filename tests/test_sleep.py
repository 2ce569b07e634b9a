"""The sleep of the flusher process: what ends it, and what happens when nothing ends it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.ring_set import Rings
from rudderpipe.flusher.sleep import Sleep
from rudderpipe.process import fork
from rudderpipe.ring import flusher_lock, location, memory, wake_pipe
from rudderpipe.ring import layout as at
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring, open_ring
from rudderpipe.ring.wake_pipe import WakePipe
from tests.crash_simulation import simulation_of
from tests.fakes import FakeClock, FakeSink, settings_of


class Night:
    """A flusher process with one ring, and a producer of that ring."""

    def __init__(self, directory: Path, **settings: object) -> None:
        self.clock = FakeClock()
        self.settings = settings_of(directory, ring_bytes=1 << 20, **settings)
        self.sink = FakeSink()
        self.producer = Producer(self._open, lambda _ring: None, self.clock)
        self.ring = self.producer.enter() or pytest.fail("there is no ring")
        self.rings = Rings(self.settings, self._make, self.clock, stays=True)
        assert self.rings.enter()
        self.sleep = Sleep(self.rings, self.settings, self.clock)
        self.fifo = wake_pipe.path_of(self.ring.locks.path)

    def _open(self) -> Ring:
        return open_ring(self.settings, self.clock)

    def _make(self, ring: Ring, *, lingers: bool) -> Flusher:
        return Flusher(ring, self.sink, self.settings, self.clock, lingers=lingers)

    def cycles(self, count: int) -> None:
        """Run some cycles of the flusher's loop, each with the pause or sleep after it."""
        for _ in range(count):
            self.sleep.after(self.rings.work())

    def fall_asleep(self) -> None:
        """Run the loop until the producers can see that the flusher sleeps, and then the one more cycle."""
        self.cycles_until(lambda: self.is_asleep)
        assert not self.rings.work()

    def doze(self) -> None:
        """Run the loop until only a request must wake the flusher, and then the one more cycle."""
        self.cycles_until(lambda: bool(self.number & 1))
        assert not self.rings.work()

    def cycles_until(self, reached: Callable[[], bool]) -> int:
        """Run cycles until this holds, and return how many."""
        for count in range(100):
            if reached():
                return count
            self.cycles(1)
        pytest.fail("the flusher stays awake")

    @property
    def number(self) -> int:
        return int(self.ring.words[at.H_ASLEEP])

    @property
    def is_asleep(self) -> bool:
        return self.number > 0 and not self.number & 1

    def sleeps_on(self) -> bool:
        """Let the flusher sleep, and return whether the sleep ended by itself, so that it goes on after a cycle."""
        before = self.number
        self.sleep.after(0)
        return self.number == before

    @property
    def events(self) -> list[str]:
        return [event for batch in self.sink.batches for event in batch]


NightOf = Callable[..., Night]


@pytest.fixture(name="night_of")
def _night_of(tmp_path: Path) -> Iterator[NightOf]:
    made: list[Night] = []

    def make(**settings: object) -> Night:
        made.append(Night(tmp_path, **settings))
        return made[-1]

    yield make
    for night in made:
        for where in location.of_pipe(night.settings):
            memory.remove(where.segment)


def test_an_event_wakes_the_flusher(night_of: NightOf) -> None:
    """An event that is due at once is delivered without any time passing."""
    night = night_of(flush_at=1)
    night.fall_asleep()
    now_s = night.clock.now_s

    assert night.producer.append(b"1") is None
    assert not night.sleeps_on()
    assert night.rings.work()

    assert night.events == ["1"]
    assert night.clock.now_s == now_s


def test_a_chunk_of_events_wakes_the_flusher(night_of: NightOf) -> None:
    """As a single event does."""
    night = night_of()
    night.fall_asleep()

    assert night.producer.append_chunk([b"1"]) == (1, None)

    assert not night.sleeps_on()


def refuse(producer: Producer) -> None:
    """Have the ring refuse an event."""
    producer.slot.block.count_limit = 0
    assert producer.ring is not None
    producer.ring.segment.words[at.H_CAP] = producer.ring.segment.words[at.H_CAP_CHECK] = 0
    assert producer.append(b"2") is not None


@pytest.mark.parametrize("request_", [Producer.ask_flush, Producer.await_queue, refuse])
def test_a_request_wakes_the_flusher(night_of: NightOf, request_: Callable[[Producer], object]) -> None:
    """A flush, a wait for delivery and a refused event cannot wait until the sleep ends by itself."""
    night = night_of()
    assert night.producer.append(b"1") is None
    night.fall_asleep()

    request_(night.producer)

    assert not night.sleeps_on()


def test_a_request_ends_a_doze_and_an_event_does_not(night_of: NightOf) -> None:
    """The flusher looks at the events by itself 20 ms later. A flush must not wait for that."""
    night = night_of()
    night.doze()
    now_s = night.clock.now_s
    assert night.producer.append(b"1") is None
    assert night.sleeps_on()
    assert night.clock.now_s - now_s == pytest.approx(0.02)

    night.producer.ask_flush()

    assert not night.sleeps_on()
    night.cycles(1)
    assert night.events == ["1"]


def test_a_flusher_dozes_on_while_events_come(night_of: NightOf) -> None:
    """So that they need not wake it. It falls asleep when none came during a doze."""
    night = night_of()
    night.doze()
    number = night.number
    for count in range(5):
        assert night.producer.append(b"%d" % count) is None
        night.cycles(1)
        assert night.number == number
    night.cycles(2)

    assert night.is_asleep


def test_events_gather_after_a_cycle_that_moved_some(night_of: NightOf) -> None:
    """So that they share a call of the sink. A flush does not wait for them."""
    night = night_of(flush_at=1)
    night.fall_asleep()
    assert night.producer.append(b"1") is None
    night.cycles(2)
    assert night.events == ["1"]
    number, now_s = night.number, night.clock.now_s
    assert number & 1
    for count in range(2, 5):
        assert night.producer.append(b"%d" % count) is None

    night.cycles(1)
    assert night.clock.now_s - now_s == pytest.approx(0.02)
    assert night.number == number
    assert night.events == ["1", "2", "3", "4"]
    for _ in range(3):  # in no time, so that the clock alone does not tell the two dozes apart
        night.producer.ask_flush()
        now_s = night.clock.now_s
        night.sleep.after(1)
        assert night.clock.now_s == now_s


def test_events_that_are_many_need_not_gather(night_of: NightOf) -> None:
    """A backlog is moved without a pause, so that the ring does not fill."""
    night = night_of(flush_at=10)
    night.cycles(1)
    for _ in range(1_000):
        assert night.producer.append(b"1") is None
    now_s = night.clock.now_s

    night.cycles(1)
    assert night.clock.now_s == now_s


def test_a_process_wakes_the_flusher_once_in_each_sleep(night_of: NightOf) -> None:
    """The flusher takes a moment to wake up, in which other events must cost no system call."""
    night = night_of()
    night.fall_asleep()
    reader = WakePipe(night.fifo)
    for number in range(5):
        assert night.producer.append(b"%d" % number) is None
    night.producer.ask_flush()
    assert os.read(reader.fd, 100) == b"."

    night.cycles(1)
    night.fall_asleep()
    assert night.producer.append(b"6") is None
    assert os.read(reader.fd, 100) == b"."
    reader.close()


def test_a_forked_child_wakes_the_flusher_too(night_of: NightOf) -> None:
    """Even if its parent has done so in the same sleep."""
    night = night_of()
    night.fall_asleep()
    reader = WakePipe(night.fifo)
    assert night.producer.append(b"1") is None

    fork.PAGE[0] = 0  # what a child finds
    assert night.producer.append(b"2") is None

    assert os.read(reader.fd, 100) == b".."
    reader.close()


@pytest.mark.parametrize(("interval_ms", "at_most_s"), [(20_000, 0.5), (200, 0.25), (1, 0.051)])
def test_a_lost_wake_up_delays_an_event_by_no_more_than_the_interval_and_50_ms(
    night_of: NightOf, interval_ms: int, at_most_s: float
) -> None:
    """Here the FIFO is gone, so that the byte goes nowhere. A producer that is killed before it writes is the same."""
    night = night_of(flush_at=1, flush_interval_ms=interval_ms)
    night.fall_asleep()
    night.fifo.unlink()
    now_s = night.clock.now_s
    assert night.producer.append(b"1") is None

    assert night.sleeps_on()
    assert night.rings.work()

    assert night.events == ["1"]
    assert night.clock.now_s - now_s <= at_most_s + 0.001


def test_an_event_just_before_the_sleep_is_found_in_the_last_look(night_of: NightOf) -> None:
    """Its producer has read that the flusher is awake, so it writes no byte."""
    other = night_of()
    cycles = other.cycles_until(lambda: other.is_asleep)
    night = night_of(flush_at=1)
    night.cycles(cycles - 1)
    assert not night.rings.work()
    now_s = night.clock.now_s
    assert night.producer.append(b"1") is None

    night.sleep.after(0)
    assert night.is_asleep
    night.cycles(1)

    assert night.events == ["1"]
    assert night.clock.now_s - now_s == pytest.approx(0.002), "a store of the producer is visible after 2 ms"


def test_a_fifo_that_was_removed_is_made_again(night_of: NightOf) -> None:
    """So that only the wake-ups of one sleep are lost."""
    night = night_of(flush_at=1)
    night.fall_asleep()
    night.fifo.unlink()
    assert night.sleeps_on()

    assert night.producer.append(b"1") is None

    assert not night.sleeps_on()


def test_a_request_wakes_the_flusher_after_a_wake_up_was_lost(night_of: NightOf) -> None:
    """The event finds no FIFO. The sleep goes on, with the FIFO made again."""
    night = night_of()
    night.fall_asleep()
    night.fifo.unlink()
    assert night.producer.append(b"1") is None
    assert night.sleeps_on()
    assert not night.rings.work()

    night.producer.ask_flush()

    assert not night.sleeps_on()
    night.cycles(1)
    assert night.events == ["1"]


def test_a_sleep_ends_when_waiting_events_are_due(night_of: NightOf) -> None:
    """The interval begins when the first event wakes the flusher, not at the last look before it."""
    night = night_of(flush_interval_ms=1_000)
    night.fall_asleep()
    assert night.sleeps_on()
    night.clock.now_s += 0.4
    appended_s = night.clock.now_s
    assert night.producer.append(b"1") is None
    assert not night.sleeps_on()
    while not night.events:
        night.cycles(1)

    assert night.clock.now_s - appended_s == pytest.approx(1, abs=0.05)


def test_the_flush_at_th_event_is_noticed_while_others_wait(night_of: NightOf) -> None:
    """A flusher that knows of waiting events falls asleep again. An event wakes it, and a doze follows."""
    night = night_of(flush_at=3)
    for number in range(2):
        assert night.producer.append(b"%d" % number) is None
        night.fall_asleep()
    assert night.producer.append(b"2") is None
    assert not night.sleeps_on()
    night.cycles(1)

    assert night.events == ["0", "1", "2"]


def test_no_umask_changes_the_mode_of_the_fifo(tmp_path: Path) -> None:
    """Its owner could not open it."""
    before = os.umask(0o777)
    try:
        WakePipe(tmp_path / "fifo").close()
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "fifo").stat().st_mode) == 0o600


def test_a_file_in_place_of_the_fifo_stays_as_it_is(night_of: NightOf) -> None:
    """A producer that wakes the flusher must not write into another program's file."""
    night = night_of()
    night.fall_asleep()
    night.fifo.unlink()
    night.fifo.write_text("text")

    assert night.producer.append(b"1") is None

    assert night.fifo.read_text() == "text"


def test_a_flusher_without_a_fifo_looks_about_20_times_a_second(night_of: NightOf) -> None:
    """Something else has the name, or the directory's file system has no FIFOs."""
    night = night_of(flush_at=1)
    night.fifo.touch()
    night.cycles(100)
    assert not night.number
    now_s = night.clock.now_s

    assert night.producer.append(b"1") is None
    night.cycles(1)

    assert night.events == ["1"]
    assert night.clock.now_s - now_s <= 0.05


def test_a_fifo_that_cannot_be_made_costs_no_descriptors(night_of: NightOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The FIFOs of the other rings are made once, however often the flusher tries to make the last one."""
    night = night_of()
    for number in (1, 2):
        monkeypatch.setattr(location, "current", lambda number=number: number)
        assert Producer(night._open, lambda _ring: None, night.clock).enter()
    night.cycles(100)
    before = len(list(Path("/dev/fd").iterdir()))
    assert len(night.rings.wake_paths()) == 3
    for path in night.rings.wake_paths():
        path.unlink()
        path.touch()
        night.cycles(30)

        assert len(list(Path("/dev/fd").iterdir())) <= before
        path.unlink()


def test_a_stop_ends_every_sleep(night_of: NightOf) -> None:
    """The signal may come just before the sleep begins."""
    night = night_of()
    night.fall_asleep()
    now_s = night.clock.now_s
    night.sleep.end()

    night.sleep.after(0)
    assert night.clock.now_s == now_s
    night.cycles(8)

    assert night.clock.now_s - now_s < 0.04


def test_a_flusher_that_dies_asleep_leaves_no_flusher_asleep(night_of: NightOf) -> None:
    """Its successor is awake, and each producer has written one byte at the most meanwhile."""
    night = night_of()
    night.ring.words[at.H_ASLEEP] = 12_345
    for number in range(5):
        assert night.producer.append(b"%d" % number) is None

    assert flusher_lock.take(night.ring, night.clock)

    assert not night.number


def test_a_producer_reads_the_word_after_its_count(tmp_path: Path) -> None:
    """A flusher may fall asleep between the two. It would not look again before the end of its sleep."""
    with simulation_of(tmp_path, FakeClock()) as simulation:
        writer = simulation.writer()
        writer.write_all(1)
        reader = WakePipe(wake_pipe.path_of(simulation.ring.locks.path))

        def fall_asleep() -> None:
            if writer.process.last[1] == writer.producer.slot.block.count_at:
                simulation.ring.words[at.H_ASLEEP] = 2

        writer.process.after_store = fall_asleep
        writer.write_all(1)

        assert os.read(reader.fd, 100) == b"."
        reader.close()


def test_the_fifo_goes_with_its_ring(night_of: NightOf) -> None:
    """A pipe that has ended leaves no file."""
    night = night_of()
    night.fall_asleep()
    night.producer.leave()
    assert night.fifo.exists()

    night.rings.drain(night.clock.now_s + 10)

    assert not night.fifo.exists()
