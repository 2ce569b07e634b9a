"""The log of events on a disk: whole records or none, within a limit, for its owner alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rudderpipe.flusher import spill
from rudderpipe.flusher.spill import Position, Spill
from rudderpipe.flusher.spill_record import Record
from rudderpipe.settings import Settings

EPOCH = 0xABC
START = Position()


def record_of(first: int, count: int, size_bytes: int = 20) -> Record:
    """Return a record of these events of tenure 7."""
    events = [b'{"n":%d,"x":"%b"}' % (number, b"x" * size_bytes) for number in range(first, first + count)]
    return Record([(7, first, first + count)], [(7, first + count)], list(range(count)), events)


def spill_of(directory: Path, max_spill_bytes: int = 1 << 20) -> Spill:
    """Return the open spill of one ring."""
    made = Spill(
        Settings(redis="redis://a", pipe="p", spill_dir=str(directory / "disk"), max_spill_bytes=max_spill_bytes), EPOCH
    )
    assert made.open()
    return made


def events_in(log: Spill, position: Position = START) -> list[bytes]:
    """Return the events behind a position."""
    return [event for found in log.read(position) if found.record is not None for event in found.record.events]


@pytest.fixture(name="log")
def _log(tmp_path: Path) -> Iterator[Spill]:
    log = spill_of(tmp_path)
    yield log
    log.close()


def test_records_come_back_in_order_and_from_any_position(log: Spill) -> None:
    """Also in the next process."""
    records = [record_of(0, 3), record_of(3, 2), record_of(5, 4)]
    log.append(records[:2], 4)
    log.append(records[2:], 4)

    found = list(log.read(START))
    assert [each.record for each in found] == records
    assert [each.behind.offset for each in found] == [3, 5, 9]
    assert [event for each in found for event in events_in(log, each.at)][:9] == events_in(log)
    log.close()
    assert log.open()
    assert [each.record for each in log.read(found[0].behind)] == records[1:]
    assert (log.events, log.last_number, log.reached) == (9, 4, {7: 9})


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(cut=st.integers(0, 1 << 30), counts=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_what_a_killed_process_wrote_in_part_is_cut_off(tmp_path: Path, cut: int, counts: list[int]) -> None:
    """At any byte. The records before it stay, and later ones come behind them."""
    log = spill_of(tmp_path)
    wanted: list[bytes] = []
    records = [record_of(10 * number, count) for number, count in enumerate(counts)]
    log.append(records, 1)
    ends = [found.behind.byte for found in log.read(START)]
    (path,) = log.path.iterdir()
    size = cut % (ends[-1] + 1)
    os.truncate(path, size)
    log.close()

    assert log.open()
    for record, end in zip(records, ends, strict=True):
        wanted += record.events if end <= size else []
    whole = max([end for end in ends if end <= size], default=0)
    assert [each.stat().st_size for each in log.path.iterdir()] == ([whole] if whole else [])
    log.append([record_of(100, 1)], 2)
    assert events_in(log) == [*wanted, *record_of(100, 1).events]
    log.remove_before(Position(99))
    log.close()


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(byte=st.integers(0, 1 << 30), bit=st.integers(0, 7))
def test_a_damaged_record_costs_only_its_file(tmp_path: Path, byte: int, bit: int) -> None:
    """The events of other files arrive, and none arrives that was not written. The damaged file is kept."""
    log = spill_of(tmp_path)
    records = [record_of(10 * number, 3) for number in range(4)]
    log.append(records, 1)
    log._end_writing()  # the next records begin another file
    log.append([record_of(100, 3)], 2)
    path = log.path / f"{1:010d}{spill.SUFFIX}"
    ends = [found.behind.byte for found in log.read(START)][:4]
    data = bytearray(path.read_bytes())
    byte %= len(data)
    data[byte] ^= 1 << bit
    path.write_bytes(data)
    log.close()

    assert log.open()
    found = events_in(log)
    assert found[-3:] == record_of(100, 3).events
    assert found == [
        event for event in [*(e for r in records for e in r.events), *record_of(100, 3).events] if event in found
    ]
    damaged = next(number for number, end in enumerate(ends) if byte < end)
    assert found[: 3 * damaged] == [event for record in records[:damaged] for event in record.events]
    gone = log.remove_before(Position(99))
    assert set(gone) == {7, spill.tenure_of(1), spill.tenure_of(2)}
    assert [each.suffix for each in log.path.iterdir()] == [spill.DAMAGED_SUFFIX]
    path.with_suffix(spill.DAMAGED_SUFFIX).unlink()
    log.close()


def test_a_damaged_record_in_the_middle_costs_only_itself(log: Spill, caplog: pytest.LogCaptureFixture) -> None:
    """The offsets of the events behind it stay what they were."""
    log.append([record_of(10 * number, 3) for number in range(3)], 1)
    second = list(log.read(START))[1]
    with (log.path / f"{1:010d}{spill.SUFFIX}").open("r+b") as file:
        file.seek(second.behind.byte - 1)
        file.write(b"?")

    found = list(log.read(START))
    assert [each.record is None for each in found] == [False, True, False]
    assert [each.behind.offset for each in found] == [3, 6, 9]
    assert "a record of the spill is damaged, its events are lost, the file stays" in caplog.text
    assert "events=3" in caplog.text


def test_the_limit_is_that_of_all_rings(tmp_path: Path, log: Spill) -> None:
    """What does not fit is not stored in part."""
    other = Spill(log._settings, EPOCH + 1)
    assert other.open()
    large = record_of(0, 10, 60_000)
    log.append([large], 1)
    before = spill.size_bytes(spill.files(log.directory))
    with pytest.raises(OSError, match="no room, max_spill_bytes is 1,048,576"):
        other.append([large], 1)

    assert spill.size_bytes(spill.files(log.directory)) == before
    assert before + before <= 1 << 21
    log.remove_before(Position(99))
    other.append([large], 1)
    assert sorted(spill.unused(log._settings)) == []  # both are in use
    other.close()
    assert tmp_path.exists()


def test_segments_grow_to_a_size_and_are_removed_one_by_one(log: Spill, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenure of the ring is needed until the last file with its events is gone."""
    monkeypatch.setattr(spill, "SEGMENT_BYTES", 1000)
    for number in range(3):
        log.append([record_of(100 * number, 30)], 1)

    assert [path.stem for path in sorted(log.path.iterdir())] == ["0000000001", "0000000002", "0000000003"]
    assert log.remove_before(Position(2)) == [spill.tenure_of(1)]
    assert log.holds(7)
    assert log.holds(spill.tenure_of(2))
    assert not log.holds(spill.tenure_of(1))
    assert set(log.remove_before(Position(9))) == {7, spill.tenure_of(2), spill.tenure_of(3)}
    log.remove()
    assert not log.path.exists()


def test_a_removal_that_failed_in_the_middle_goes_on(log: Spill, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind a damaged file, which is kept under another name."""
    for number in range(2):
        log.append([record_of(100 * number, 30)], 1)
        log._end_writing()
    first = log.path / f"{1:010d}{spill.SUFFIX}"
    first.write_bytes(bytes(first.stat().st_size))
    assert len(events_in(log)) == 30

    def refused(_path: Path) -> None:
        raise OSError

    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", refused)
        with pytest.raises(OSError):  # noqa: PT011  # any error of a disk
            log.remove_before(Position(9))
    assert log.holds(7)
    assert set(log.remove_before(Position(9))) == {7, spill.tenure_of(1), spill.tenure_of(2)}
    assert [path.suffix for path in log.path.iterdir()] == [spill.DAMAGED_SUFFIX]


def test_a_directory_of_another_user_is_not_read(log: Spill, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events would be sent with our write key."""
    log.append([record_of(0, 1)], 1)
    log.close()
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    with pytest.raises(PermissionError, match="another user"):
        log.open()


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    """Whatever the umask is."""
    before = os.umask(0o000)
    try:
        log = spill_of(tmp_path)
        log.append([record_of(0, 1)], 1)
    finally:
        os.umask(before)
    (path,) = log.path.iterdir()
    modes = [each.stat().st_mode & 0o777 for each in (path, log.path, log.directory, log.directory.parent)]
    assert modes == [0o600, 0o700, 0o700, 0o700]
    log.close()


def test_a_directory_of_another_kind_is_refused(tmp_path: Path) -> None:
    """As a runtime directory is."""
    (tmp_path / "disk").write_text("")
    log = spill_of(tmp_path)
    with pytest.raises(OSError, match="spill_dir"):
        log.append([record_of(0, 1)], 1)
