"""One flusher process and the rings that it serves: all rings of its pipe, also when one of them is removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from rudderpipe.errors import QueueUnavailable, RingUnavailable
from rudderpipe.flusher import ring_set
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.ring_set import Rings
from rudderpipe.flusher.state import FlusherState, stalled
from rudderpipe.ring import counters, location, memory
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring, find_all, open_ring
from rudderpipe.settings import Settings
from tests.fakes import FakeClock, FakeSink, settings_of


class Pipe:
    """A pipe with its flusher, and with producers that open its ring as a client does."""

    def __init__(self, settings: Settings, clock: FakeClock, *, stays: bool) -> None:
        self.settings = settings
        self.clock = clock
        self.sink = FakeSink()
        self.state = FlusherState(clock.monotonic_s(), settings.stall_timeout_s)
        self.ended: list[Ring] = []
        self.rings = Rings(settings, self.make, clock, stays=stays, state=self.state, on_end=self.ended.append)

    def make(self, ring: Ring, *, lingers: bool) -> Flusher:
        return Flusher(ring, self.sink, self.settings, self.clock, lingers=lingers)

    def producer(self) -> Producer:
        return Producer(lambda: open_ring(self.settings, self.clock), lambda _ring: None, self.clock)

    def cycles(self, count: int = 20) -> bool:
        """Run some cycles, a tenth of a second apart; return True once the flusher is finished."""
        for _ in range(count):
            self.clock.now_s += 0.1
            self.rings.work()
            if self.rings.finished():
                return True
        return False

    @property
    def events(self) -> list[str]:
        """Return the events that the sink has."""
        return [event for batch in self.sink.batches for event in batch]


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Iterator[Settings]:
    settings = settings_of(tmp_path, ring_bytes=1 << 20, flush_interval_ms=100, linger_s=1.0)
    yield settings
    for where in location.of_pipe(settings):
        memory.remove(where.segment)


def producer_of_interpreter(number: int, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> Producer:
    """Return a producer that has entered the ring of that interpreter and appended one event."""
    with monkeypatch.context() as patch:
        patch.setattr(location, "current", lambda: number)
        producer = pipe.producer()
        assert producer.append(b"%d" % number) is None
    return producer


@pytest.mark.parametrize("stays", [True, False])
@pytest.mark.parametrize("what", ["segment", "lock file"])
def test_a_flusher_serves_the_removed_ring_and_the_next_one(
    settings: Settings, clock: FakeClock, what: str, *, stays: bool
) -> None:
    """An idle producer stays in the old ring, and a busy one moves to the new ring. Both are drained, and the old ring
    ends when its last producer has left."""
    pipe = Pipe(settings, clock, stays=stays)
    idle, busy = pipe.producer(), pipe.producer()
    idle.append(b"1")
    busy.append(b"2")
    assert pipe.rings.enter()
    assert idle.ring is not None
    if what == "segment":
        memory.remove(idle.ring.segment.name)
    else:
        idle.ring.locks.remove()
    pipe.cycles(5)
    clock.now_s += 2

    busy.append(b"3")
    pipe.cycles()
    assert pipe.events == ["1", "2", "3"]
    assert len(pipe.rings._served) == 2

    idle.append(b"4")
    assert not pipe.cycles()
    assert pipe.events == ["1", "2", "3", "4"]
    assert len(pipe.rings._served) == 1


def test_a_ring_that_cannot_be_made_is_tried_again(
    settings: Settings, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flusher still serves the old ring meanwhile. Without any ring to serve it raises the error."""
    pipe = Pipe(settings, clock, stays=True)
    producer = pipe.producer()
    producer.append(b"1")
    assert pipe.rings.enter()
    assert producer.ring is not None
    memory.remove(producer.ring.segment.name)

    def fails(*_: object, **__: object) -> Ring:
        raise RingUnavailable("name", "there is no /dev/shm")

    monkeypatch.setattr(ring_set, "open_ring", fails)

    pipe.cycles()
    assert pipe.events == ["1"]
    producer.leave()
    with pytest.raises(RingUnavailable):
        pipe.cycles()


def test_every_interpreter_has_a_ring_and_one_flusher_serves_them_all(
    settings: Settings, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Record locks do not keep threads of one process apart. Later rings are found too, and the empty ring of a
    subinterpreter is removed once its last producer has left."""
    pipe = Pipe(settings, clock, stays=True)
    assert pipe.rings.enter()
    producers = [producer_of_interpreter(number, pipe, monkeypatch) for number in range(3)]
    rings = [producer.ring for producer in producers]
    assert len({ring.segment.epoch for ring in rings if ring is not None}) == 3

    assert not pipe.cycles()
    assert sorted(pipe.events) == ["0", "1", "2"]
    assert len(pipe.rings._served) == len(find_all(settings)) == 3

    for producer in producers:
        producer.leave()
    assert not pipe.cycles()
    assert [ring.segment.name for ring in find_all(settings)] == [location.own(settings).segment]
    assert [path.name for path in Path(str(settings.runtime_dir)).glob("*.lock")] == [
        location.own(settings).lock_file.name
    ]


def test_an_autostarted_flusher_serves_the_ring_of_a_subinterpreter(
    settings: Settings, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flusher makes no ring that no producer uses, and ends with the last one."""
    pipe = Pipe(settings, clock, stays=False)
    producer = producer_of_interpreter(2, pipe, monkeypatch)

    assert pipe.rings.enter()
    assert not pipe.cycles()
    assert pipe.events == ["2"]
    assert len(find_all(settings)) == 1

    producer.leave()
    assert pipe.cycles()
    pipe.rings.close()
    assert find_all(settings) == []
    assert list(Path(str(settings.runtime_dir)).iterdir()) == []


def test_a_ring_under_a_name_of_an_earlier_version_is_served(tmp_path: Path, clock: FakeClock) -> None:
    """Earlier versions derived the pipe's name from the settings as they were given."""
    given = settings_of(
        tmp_path, pipe=None, write_key="k", data_plane_url="HTTP://D:80/", ring_bytes=1 << 20, linger_s=1.0
    )
    former = msgspec.structs.replace(given, pipe=given.pipe_names[-1])
    assert former.pipe_name != given.pipe_name
    pipe, old = Pipe(given, clock, stays=True), Pipe(former, clock, stays=True)
    try:
        producer = old.producer()
        producer.append(b"1")
        assert pipe.rings.enter()
        producer.append(b"2")
        producer.leave()
        pipe.cycles(40)
        assert pipe.events == ["1", "2"]
        assert [ring.segment.name for ring in find_all(given)] == [location.own(given).segment]
    finally:
        for where in location.of_pipe(given):
            memory.remove(where.segment)


@pytest.mark.parametrize(
    ("stem", "readings"),
    [
        ("x", [("x", 3, 0)]),
        ("x-v4", [("x", 4, 0), ("x-v4", 3, 0)]),
        ("a.queue-v4-i1", [("a.queue", 4, 1), ("a.queue-v4-i1", 3, 0)]),
        ("x-v12-i70", [("x", 12, 70), ("x-v12-i70", 3, 0)]),
        ("x-v3", [("x-v3", 3, 0)]),
    ],
)
def test_a_rings_name_says_pipe_layout_and_interpreter(
    tmp_path: Path, stem: str, readings: list[tuple[str, int, int]]
) -> None:
    """Up to layout 3 a ring was named like its pipe, and a pipe may have any name."""
    found = list(location.readings(tmp_path, stem))

    assert [(where.pipe, where.layout, where.interpreter) for where in found] == readings
    assert {where.stem for where in found} == {stem}


def test_a_segments_name_has_at_most_30_characters_on_macos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A longer name is hashed, and each ring still has a name of its own."""
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("os.getuid", lambda: 501)
    short = location.RingLocation(tmp_path, "0123456789ab")
    long = [location.RingLocation(tmp_path, "p" * 64, interpreter=number) for number in range(3)]

    assert short.segment == f"rudderpipe-501-0123456789ab-v{at.VERSION}"
    names = {where.segment for where in (short, *long)}
    assert len(names) == 4
    assert max(map(len, names)) <= 30


def test_a_ring_that_cannot_be_made_leaves_nothing_behind(
    settings: Settings, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a segment nor a lock file stays."""
    monkeypatch.setattr(memory.Segment, "reserve", lambda *_: False)

    with pytest.raises(RingUnavailable, match="no room"):
        open_ring(settings, clock)

    assert location.own(settings).segment not in memory.names()
    assert list(Path(str(settings.runtime_dir)).iterdir()) == []


def test_a_lock_file_names_its_ring(settings: Settings, clock: FakeClock) -> None:
    """Some systems cannot list segments, and hash their names."""
    ring = open_ring(settings, clock)

    assert msgspec.json.decode(ring.locks.path.read_bytes()) == {
        "name": ring.segment.name,
        "layout": at.VERSION,
        "pipe": settings.pipe_name,
        "interpreter": 0,
        "epoch": f"{ring.segment.epoch:016x}",
    }


@pytest.mark.parametrize("is_removed", [False, True])
def test_a_held_claim_lock_does_not_stop_other_rings(
    settings: Settings, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, *, is_removed: bool
) -> None:
    """The lock's holder was stopped while it opened the ring. That ring can neither end nor be replaced."""
    pipe = Pipe(settings, clock, stays=is_removed)
    leaver = pipe.producer()
    assert leaver.append(b"0") is None
    other = producer_of_interpreter(1, pipe, monkeypatch)
    assert pipe.rings.enter()
    ring = leaver.ring
    assert ring is not None
    leaver.leave()
    pipe.cycles(1)
    waited_s: list[float] = []

    def held(_byte: int, timeout_s: float) -> bool:
        waited_s.append(timeout_s)
        return False

    if is_removed:
        memory.remove(ring.segment.name)
    monkeypatch.setattr(ring.locks, "lock", held)
    pipe.cycles(50)
    other.append(b"2")
    pipe.cycles(10)

    assert pipe.events == ["0", "1", "2"]
    assert waited_s
    assert max(waited_s) < 0.1


@pytest.mark.parametrize(
    ("where", "trouble", "helps"),
    [
        ("sink", MemoryError(), True),
        ("ring", MemoryError(), True),
        ("sink", QueueUnavailable("r", "refused"), False),
    ],
    ids=["host, in the sink", "host, before the sink", "redis"],
)
def test_a_restart_is_for_a_flusher_that_cannot_work_and_not_for_a_sink_that_is_away(
    settings: Settings,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    trouble: Exception,
    *,
    helps: bool,
) -> None:
    """A new process would not reach the sink either, and it would lose the attempts that are counted in memory."""
    pipe = Pipe(settings, clock, stays=True)
    assert pipe.rings.enter()
    assert pipe.producer().append(b"1") is None

    def fails(*_: object, **__: object) -> None:
        raise trouble

    if where == "sink":
        pipe.sink.trouble = trouble
    else:
        monkeypatch.setattr(Consumer, "refresh", fails)
    pipe.cycles(10)
    assert stalled(pipe.state.vitals(clock.now_s)) == ""

    clock.now_s += settings.stall_timeout_s - 1
    pipe.cycles(20)

    assert bool(stalled(pipe.state.vitals(clock.now_s))) is helps
    pipe.sink.trouble = None
    monkeypatch.undo()
    clock.now_s += 10
    pipe.cycles(2)
    assert stalled(pipe.state.vitals(clock.now_s)) == ""
    assert (pipe.state.rings, pipe.state.waiting, pipe.events) == (1, 0, ["1"])
    pipe.rings.close()


def test_a_ring_that_ends_is_shown_once_more_while_its_counters_are_there(settings: Settings, clock: FakeClock) -> None:
    """What was counted after the last scrape is otherwise lost."""
    pipe = Pipe(settings, clock, stays=False)
    producer = pipe.producer()
    assert producer.append(b"1") is None
    assert pipe.rings.enter()
    producer.leave()

    assert pipe.cycles(50)

    assert [counters.read(ring).accepted for ring in pipe.ended] == [1]


def test_a_new_ring_is_served_while_the_sink_must_still_forget_the_old_one(
    settings: Settings, clock: FakeClock
) -> None:
    """Redis may be away when a ring ends. No FIFO is left behind in the end."""
    pipe = Pipe(settings, clock, stays=False)
    producer = pipe.producer()
    assert producer.append(b"1") is None
    assert pipe.rings.enter()
    producer.leave()
    pipe.cycles(5)
    pipe.sink.trouble = QueueUnavailable("here", "away")
    assert not pipe.cycles(30)
    assert pipe.rings.wake_paths() == set()
    producer = pipe.producer()
    assert producer.append(b"2") is None
    assert not pipe.cycles(10)
    assert len(pipe.rings.wake_paths()) == 1
    assert pipe.ended == []

    pipe.sink.trouble = None
    producer.leave()
    assert pipe.cycles(50)

    assert pipe.events == ["1", "2"]
    assert (len(pipe.ended), pipe.sink.ends % 100) == (2, 2)  # each close counts 100
