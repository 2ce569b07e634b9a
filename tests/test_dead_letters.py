"""Dead letters: one file for each failed batch, whole or absent, within a bound, with those of earlier versions."""

from __future__ import annotations

import json
import os
from itertools import count
from pathlib import Path

import pytest
from msgspec import Raw

from rudderpipe.delivery import outcome
from rudderpipe.flusher import dead_letters
from rudderpipe.flusher.dead_letters import PAGE_BYTES, DeadLetters, Record
from rudderpipe.flusher.direct_sink import DirectSink
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.queue_sink import Damaged
from rudderpipe.observe.dead_letter_jobs import DeadLetterJobs
from rudderpipe.queue.failed_jobs import FailedJob, Selection
from rudderpipe.ring import counters, memory
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Batch, Consumer, OffsetRange
from rudderpipe.ring.location import of_pipe
from rudderpipe.ring.ring import find_all
from rudderpipe.settings import Settings
from tests.fakes import FakeClock, direct_sink, drain, producer_of, ring_of, settings_of

EPOCH = 0xABC


def batch_of(data: bytes, sequence: int = 1, start: int = 0, end: int = 1) -> Batch:
    """Return a batch as the flusher takes it from the ring."""
    return Batch(data, end - start, (OffsetRange(sequence, start, end),))


def record(sequence: int = 1, start: int = 0, end: int = 1, when_ms: int = 5, text: str = '{"a":1}') -> Record:
    """Return the record that is kept of a batch."""
    batch = batch_of(text.encode(), sequence, start, end)
    return dead_letters.record_of(batch, [Raw(text.encode())], EPOCH, when_ms, "status 400: bad", 1)


@pytest.fixture(name="letters")
def _letters(tmp_path: Path) -> DeadLetters:
    return DeadLetters(tmp_path / "x.failed", 1 << 20)


def test_records_are_read_oldest_first(letters: DeadLetters) -> None:
    """Records of the same moment come in the order of the ring, where 10 comes after 9."""
    kept = [record(10, 0), record(9, 2, 5), record(9, 10, 11), record(1, when_ms=6), record(2, when_ms=4)]
    for one in kept:
        letters.keep(one)

    assert list(letters.records()) == [kept[4], kept[1], kept[2], kept[0], kept[3]]
    assert letters.reached(EPOCH) == {1: 1, 2: 1, 9: 11, 10: 1}
    assert letters.reached(EPOCH + 1) == {}


def test_a_kill_while_a_batch_is_kept_leaves_all_or_nothing(
    letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed before each system call in turn. A batch that is kept a second time is still there once."""

    class Killed(BaseException):
        """An exception that no code under test catches."""

    for number in count():
        steps = iter(range(number))
        with monkeypatch.context() as patch:
            for name in ("open", "write", "fsync", "mkdir", "replace"):
                owner = Path if name in ("mkdir", "replace") else os
                real = getattr(owner, name)

                def step(*given: object, real: object = real, steps: object = steps, **named: object) -> object:
                    if next(steps, None) is None:  # type: ignore[call-overload]  # an iterator
                        raise Killed
                    return real(*given, **named)  # type: ignore[operator]  # any function

                patch.setattr(owner, name, step)
            try:
                letters.keep(record())
                killed = False
            except Killed:
                killed = True
        assert list(letters.records()) in ([], [record()])
        letters.keep(record())
        assert list(letters.records()) == [record()]
        assert len(letters.names()) == 1
        if not killed:
            break
    assert number >= 4


def test_an_unfinished_file_is_removed_after_an_hour(letters: DeadLetters) -> None:
    """A killed process left the old file. A younger file stays, because another flusher may be writing it."""
    letters.keep(record())
    old, new = letters.path / "old.part", letters.path / "new.part"
    for part in (old, new):
        part.write_text("{")
    os.utime(old, (1, 1))

    letters.take_over()

    assert not old.exists()
    assert new.exists()
    assert list(letters.records()) == [record()]


def test_the_bound_counts_the_pages_of_the_files(tmp_path: Path) -> None:
    """A file takes at least one page. A removed file makes room."""
    letters = DeadLetters(tmp_path / "x.failed", 3 * PAGE_BYTES)
    for number in range(3):
        letters.keep(record(number + 1))
    with pytest.raises(OSError, match="max_spool_bytes"):
        letters.keep(record(4))
    assert letters.size_bytes() == 3 * PAGE_BYTES

    DeadLetters(tmp_path / "x.failed", 0).remove(letters.names()[0])
    letters.keep(record(4))

    assert [one.ranges[0][0] for one in letters.records()] == [2, 3, 4]


def test_the_single_file_of_earlier_versions_is_taken_over_once(tmp_path: Path) -> None:
    """Plain events are taken over too. Removed and truncated records are not."""
    former = tmp_path / "x.failed.ndjson"
    letters = DeadLetters(tmp_path / "x.failed", 0, [former, tmp_path / "y.failed.ndjson"])
    epoch = f"{EPOCH:016x}"
    lines = [
        {"id": f"{epoch}-3-0", "failedAt": 7, "reason": "r", "attempts": 2, "events": [{"n": 1}], "marks": [[3, 0, 1]]},
        {"id": f"{epoch}-3-1", "failedAt": 7, "reason": "r", "attempts": 2, "events": [{"n": 2}], "marks": [[3, 1, 2]]},
        {"id": "../../x", "failedAt": 8, "reason": "r", "attempts": 0, "events": [{"n": 3}]},
        {"messageId": "m", "type": "track"},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    former.write_text(f'#"id":"removed"}}\n{text}\n{{"id":"cut')

    letters.take_over()
    letters.take_over()

    kept = list(letters.records())
    assert [one.id for one in kept][1:3] == [f"{epoch}-3-0", f"{epoch}-3-1"]
    assert {bytes(one.events[0]) for one in kept} == {
        b'{"n": 1}',
        b'{"n": 2}',
        b'{"n": 3}',
        b'{"messageId": "m", "type": "track"}',
    }
    assert letters.reached(EPOCH) == {3: 2}
    assert [path.name for path in tmp_path.iterdir()] == ["x.failed"]


def test_a_damaged_event_keeps_its_bytes_and_counts_as_corrupt(letters: DeadLetters, clock: FakeClock) -> None:
    """The event is kept once, also when a flusher is killed before it counts the event. The next flusher does not take
    the event for a failed one."""
    damaged = Damaged(letters, EPOCH, clock)
    batch = batch_of(b'{"a":\xff\n}', 4, 7, 8)
    assert damaged.pass_over(batch) == at.H_CORRUPT
    clock.now_s += 9
    assert damaged.pass_over(batch) == at.H_CORRUPT

    (kept,) = letters.records()
    assert kept.damaged_bytes == b'{"a":\xff\n}'
    assert letters.reached(EPOCH) == {}


def test_a_damaged_event_that_cannot_be_kept_is_logged(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The flusher does not wait for room, because a damaged event must not hold up the others."""
    assert Damaged(DeadLetters(tmp_path / "x.failed", 0), EPOCH, clock).pass_over(batch_of(b"\xff")) == at.H_CORRUPT
    assert "max_spool_bytes is 0" in caplog.text


class Refusing:
    """A data plane that refuses every request."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def post(self, body: bytes, *_: object, **__: object) -> outcome.Outcome:
        """Keep the body, and refuse it."""
        self.bodies.append(body)
        return outcome.of_refusal(401, "status 401: key")

    def close(self) -> None:
        """Close nothing."""


def test_a_kill_between_keeping_and_counting_loses_and_repeats_nothing(settings: Settings, clock: FakeClock) -> None:
    """The next flusher counts the kept batch as failed, does not send it again, and does not keep it again."""
    with ring_of(Path(str(settings.runtime_dir)), clock) as ring:
        producer = producer_of(ring, clock)
        for number in range(60):
            assert producer.append(b'{"n":%d}' % number) is None
        letters = dead_letters.of(settings)

        def sink_of(plane: Refusing) -> DirectSink:
            return direct_sink(ring, settings, plane, letters, clock)

        before, after = Refusing(), Refusing()
        consumer = Consumer(ring)
        consumer.refresh()
        first = consumer.next_batch(20, 1_000_000)
        assert first is not None
        sink_of(before).commit([first], [])  # the flusher is killed here, before it commits in the ring
        assert len(list(letters.records())) == 1

        Flusher(ring, sink_of(after), settings, clock).drain(clock.monotonic_s() + 60)

        kept = [bytes(event) for one in letters.records() for event in one.events]
        assert kept == [b'{"n":%d}' % number for number in range(60)]
        assert after.bodies
        assert not any(b'"n":0' in body for body in after.bodies)
        assert (counters.read(ring).failed, counters.read(ring).in_ring) == (60, 0)


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    where = {"write_key": "k", "data_plane_url": "http://d", "gzip": False}
    return settings_of(tmp_path, **where, autostart=False, ring_bytes=1 << 20)


def test_two_commands_put_each_batch_back_once(settings: Settings, clock: FakeClock) -> None:
    """Both commands have chosen the same records, and one of them puts each batch back. A damaged event is never put
    back, but it can be deleted."""
    letters = dead_letters.of(settings)
    letters.keep(record(1, text='{"n":1}'))
    letters.keep(record(2, text='{"n":2}'))
    Damaged(letters, EPOCH, clock).pass_over(batch_of(b"\xff", 3))
    one, other = (DeadLetterJobs(settings, clock) for _ in range(2))
    chosen: list[list[FailedJob]] = [list(jobs.find(Selection())) for jobs in (one, other)]
    assert [failed.events for failed in chosen[0]] == [1, 1, 0]
    try:
        with letters.held(letters.names()[0]) as is_ours:
            assert is_ours
            assert one.retry(chosen[0]) == 1
        assert other.retry(chosen[1]) == 1
        assert other.remove([failed.id for failed in chosen[1]]) == (1, 0)

        assert list(letters.records()) == []
        (ring,) = find_all(settings)
        assert sorted(drain(Consumer(ring))) == ['{"n":1}', '{"n":2}']
    finally:
        one.close()
        other.close()
        for where in of_pipe(settings):
            memory.remove(where.segment)
