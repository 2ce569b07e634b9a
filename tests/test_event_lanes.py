"""The lane of each event, and the jobs that a flusher makes of the events of each lane."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from rudderpipe.flusher import lanes
from rudderpipe.flusher.dead_letters import DeadLetters
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.queue_sink import QueueSink
from rudderpipe.queue.queue import Queue
from rudderpipe.ring import counters
from rudderpipe.ring.ring import Ring
from rudderpipe.service import bootstrap
from rudderpipe.settings import Settings
from rudderpipe.transports.sync import SyncTransport
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock, producer_of

K = 8


def lanes_of(*events: dict[str, Any] | int) -> list[int]:
    """Return the lane of each event."""
    texts = [Raw(json.dumps(event).encode()) for event in events]
    found = {part.lane: part for part in lanes.parts_of(texts, 1 << 15, 1000, 1 << 20)}
    order = [(bytes(event), lane) for lane, part in found.items() for event in part.events]
    return [next(lane for text, lane in order if json.loads(text) == event) for event in events]


@pytest.mark.parametrize(
    "same",
    [
        [{"userId": "u"}, {"userId": "u", "anonymousId": "a"}, {"userId": " u "}, {"userId": "u\u200b"}],
        [{"userId": "10"}, {"userId": 10}, {"userId": 10.0, "anonymousId": "a"}],
        [{"userId": "1e+21"}, {"userId": 1e21}],
        [{"userId": "1.5e-7"}, {"userId": 1.5e-7}],
        [{"userId": "0.000001"}, {"userId": 1e-6}],
        [{"userId": "9007199254740992"}, {"userId": 2**53 + 1}],
        [{"userId": "true"}, {"userId": True}],
        [{"anonymousId": "a"}, {"userId": "", "anonymousId": "a"}, {"userId": "\u00a0", "anonymousId": " a"}],
        [{"anonymousId": "a"}, {"userId": None, "anonymousId": "a"}, {"userId": "\u2800", "anonymousId": "a"}],
    ],
    ids=str,
)
def test_events_that_the_server_keeps_in_order_are_in_one_lane(same: list[dict[str, Any]]) -> None:
    """The server compares ids as text, as Go writes them, without what cannot be seen."""
    assert len({*lanes_of(*same)}) == 1
    assert lanes_of({"userId": "other"}) != lanes_of(same[0])


def test_an_event_without_an_id_is_in_the_first_lane() -> None:
    """So is an event that is no object, beside any other event."""
    assert lanes_of({"x": 1}, {"userId": ""}, 7, {"userId": "u"})[:3] == [0, 0, 0]


def test_the_lane_of_a_user_never_changes() -> None:
    """The lane is the upper half of the CRC-32, so that its lower half can choose a queue."""
    assert [lanes.lane_of(lanes.user_of(key), K) for key in ("", "u", "123456", "\ud83d")] == [0, 5, 2, 4]
    assert {lanes.lane_of(lanes.user_of(str(number)), K) for number in range(100)} == set(range(K))


EVENTS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 60)), max_size=60)


@given(EVENTS, st.integers(1, 7), st.integers(30, 200))
def test_parts_hold_every_event_once_and_each_lane_in_order(
    events: list[tuple[str, int]], max_events: int, max_bytes: int
) -> None:
    """The parts are in the order of their first events, and within the bounds unless a part is one event."""
    texts = [b'{"userId":"%b","n":%d,"p":"%b"}' % (u.encode(), n, b"x" * p) for n, (u, p) in enumerate(events)]

    parts = lanes.parts_of(list(map(Raw, texts)), K, max_events, max_bytes)

    found = [[bytes(event) for event in part.events] for part in parts]
    assert sorted(event for part in found for event in part) == sorted(texts)
    assert [part[0] for part in found] == [text for text in texts if text in {part[0] for part in found}]
    by_lane: dict[int, list[bytes]] = defaultdict(list)
    for part, each in zip(parts, found, strict=True):
        by_lane[part.lane] += each
        assert len(each) <= max_events
        assert len(each) == 1 or len(b",".join(each)) <= max_bytes
        assert {lanes.lane_of(lanes.user_of(json.loads(event)["userId"]), K) for event in each} == {part.lane}
    for each in by_lane.values():
        assert each == [text for text in texts if text in each]


class Flushed:
    """A ring with a flusher that has lanes, before a queue in memory."""

    def __init__(self, ring: Ring, clock: FakeClock, directory: Path, count: int = K) -> None:
        self.ring, self.clock, self.queue = ring, clock, FakeQueue(FakeStore(clock))
        settings = Settings(write_key="KEY", redis="redis://x", flush_at=20, lanes=count)  # type: ignore[arg-type]  # a number of the list
        sink = QueueSink(settings, ring, DeadLetters(directory / "x.failed", 1 << 20), clock)
        sink._queue = cast(Queue, self.queue)  # a queue in memory
        self.flusher = Flusher(ring, sink, settings, clock)
        self._producer = producer_of(ring, clock)

    def append(self, *events: bytes) -> None:
        """Append events to the ring."""
        for event in events:
            assert self._producer.append(event) is None

    def run(self) -> None:
        """Run the flusher until everything has left the ring."""
        for _ in range(50):
            self.flusher.work()
            self.clock.now_s += 1

    def numbers(self) -> dict[str, list[int]]:
        """Return the numbers of the events of each lane's jobs, in order."""
        found: dict[str, list[int]] = defaultdict(list)
        for taken in self.queue.take(1000, 10_000_000):
            assert taken.job is not None
            found[taken.lane] += [json.loads(bytes(event))["n"] for event in taken.job.events]
        return found


def event_of(number: int) -> bytes:
    """Return an event of one of eleven users."""
    return b'{"userId":"%d","n":%d}' % (number % 11, number)


def test_a_commit_is_one_call_with_the_jobs_of_all_lanes(ring: Ring, clock: FakeClock, tmp_path: Path) -> None:
    """Every event is added once. The offsets are those of the whole commit."""
    flushed = Flushed(ring, clock, tmp_path)
    flushed.append(*map(event_of, range(300)))

    flushed.run()

    counts = flushed.queue.counts(ring.segment.epoch)
    assert (counts.events_queued, sum(counts.offsets.values())) == (300, 300)
    for lane, numbers in flushed.numbers().items():
        assert numbers == [n for n in range(300) if f"{lanes.lane_of(lanes.user_of(str(n % 11)), K)}/{K}" == lane]


def test_a_commit_whose_answer_is_lost_adds_no_event_twice(
    ring: Ring, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next commit may have other events. Redis has the offsets of the first one."""
    flushed = Flushed(ring, clock, tmp_path)
    flushed.append(*map(event_of, range(100)))
    add = flushed.queue.add

    def lost(*arguments: Any) -> None:
        monkeypatch.setattr(flushed.queue, "add", add)
        add(*arguments)
        flushed.queue.away = True
        flushed.queue.ping()

    monkeypatch.setattr(flushed.queue, "add", lost)
    flushed.flusher.work()
    flushed.queue.away = False
    flushed.append(*map(event_of, range(100, 150)))

    flushed.run()

    assert sorted(number for numbers in flushed.numbers().values() for number in numbers) == list(range(150))
    assert counters.read(ring).queued == 150


def test_a_damaged_event_costs_only_itself_with_lanes(ring: Ring, clock: FakeClock, tmp_path: Path) -> None:
    """The events before it and behind it are in their lanes, in order."""
    flushed = Flushed(ring, clock, tmp_path)
    flushed.append(*map(event_of, range(100)))
    memory = ring.segment.memory
    place = bytes(memory).index(event_of(37))
    memory[place : place + 3] = b"###"

    flushed.run()

    numbers = flushed.numbers()
    assert sorted(each for lane in numbers.values() for each in lane) == [n for n in range(100) if n != 37]
    assert all(each == sorted(each) for each in numbers.values())
    assert counters.read(ring).corrupt == 1


def test_one_lane_leaves_jobs_as_they_were(ring: Ring, clock: FakeClock, tmp_path: Path) -> None:
    """The opts of a job have no lane."""
    flushed = Flushed(ring, clock, tmp_path, 1)
    flushed.append(*map(event_of, range(20)))

    flushed.run()

    (fields,) = flushed.queue.store.jobs.values()
    assert fields["opts"] == f'{{"attempts":1,"delay":0,"timestamp":{fields["timestamp"]}}}'
    assert flushed.numbers() == {"": list(range(20))}


def test_a_client_and_its_programs_say_that_lanes_are_ignored(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each process says it once, with the reason."""
    SyncTransport(Settings(sync_mode=True, lanes=8), clock)
    for settings in (
        Settings(lanes=8),
        Settings(lanes=8, redis="redis://x", is_multi_processor=True),
        Settings(lanes=8, redis="redis://x"),
        Settings(),
    ):
        bootstrap.warn_of_ignored(settings)

    lines = [record.getMessage() for record in caplog.records]
    assert ["lanes is ignored" in line for line in lines] == [True] * 3
