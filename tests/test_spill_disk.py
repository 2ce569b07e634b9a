"""A disk of a spill that fails, is full or not there, or returns other bytes than were written to it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rudderpipe.flusher import spill
from rudderpipe.flusher.queue_sink import QueueSink
from rudderpipe.flusher.queues_sink import QueuesSink
from rudderpipe.flusher.sinks import make_sink
from rudderpipe.flusher.spill import Spill
from rudderpipe.ring import counters
from rudderpipe.ring import layout as at
from tests.fakes import producer_of
from tests.spread import CAP, QUEUES, Spread, fill, restart, segments, set_away, spilled, with_spill

_spread = pytest.fixture(name="spread")(with_spill)


@pytest.mark.parametrize("fails", ["write", "fsync"])
def test_a_disk_that_fails_leaves_events_in_the_ring(
    spread: Spread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    """They are not in the ring and on the disk as well, and the next try begins another file."""
    set_away(spread, "rudder", *QUEUES)
    spread.send(750)
    spread.work(3)
    broken = [True]
    original: Any = {"write": spill._write, "fsync": os.fsync}[fails]

    def failing(fd: int, *data: bytes) -> None:
        if broken and os.path.isfile(f"/proc/self/fd/{fd}"):  # noqa: PTH113
            if data:
                os.write(fd, data[0][:100])
            broken.pop()
            raise OSError(errno.EIO, "Input/output error")
        original(fd, *data)

    monkeypatch.setattr(spill if fails == "write" else os, "_write" if fails == "write" else "fsync", failing)
    spread.send(150)
    spread.work(1)
    assert (spilled(spread), [path.stat().st_size for path in segments(spread)]) == (0, [])
    assert "the spill takes nothing, events stay in the ring, trying again error=Input/output error" in caplog.text
    spread.work(20)
    assert spilled(spread)
    restart(spread)
    set_away(spread)
    spread.work(60)

    assert spread.everything() == list(range(900))
    assert segments(spread) == []


def test_nothing_follows_a_record_that_cannot_be_cut_off(spread: Spread, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next flusher finds it, and its events are in the queue by then."""
    set_away(spread, "rudder", *QUEUES)
    spread.send(750)
    spread.work(3)

    def failing(fd: int, *_: int) -> None:
        if os.path.isfile(f"/proc/self/fd/{fd}"):  # noqa: PTH113
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing)
        broken.setattr(os, "ftruncate", failing)
        spread.send(150)
        spread.work(10)
        assert spilled(spread) == 0
        set_away(spread)
        spread.work(20)
        assert spread.everything() == list(range(900))
        spread.producer.leave()
        spread.producer = producer_of(spread.ring, spread.clock)
        for _ in range(3):  # offsets of freed blocks go with the next call
            spread.send(50)
            spread.work(20)
    restart(spread)
    spread.work(60)

    assert spread.everything() == list(range(1050))
    assert segments(spread) == []


def test_a_disk_that_is_not_mounted_holds_everything_up(spread: Spread, caplog: pytest.LogCaptureFixture) -> None:
    """Later events must not overtake those on it."""
    set_away(spread, "rudder", *QUEUES)
    fill(spread, 2 * CAP)
    folder = Path(spread.settings.spill_dir or "")
    folder.rename(folder.with_name("unmounted"))
    restart(spread)
    set_away(spread)
    spread.work(10)
    assert all(not spread.numbers(prefix) for prefix in spread.stores)
    assert "the spill lacks events, is its disk mounted?" in caplog.text
    folder.with_name("unmounted").rename(folder)
    spread.work(60)

    assert spread.everything() == list(range(2 * CAP))


def refused(*_: Any, **__: Any) -> None:
    """Fail as a disk that was mounted read-only after an error."""
    raise OSError(errno.EROFS, "Read-only file system")


def test_a_disk_that_can_only_be_read_holds_up_nothing(
    spread: Spread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The queues get what is on it once, and later events, also from another flusher. The files go later."""
    set_away(spread, "rudder", *QUEUES)
    fill(spread, 2 * CAP)
    set_away(spread)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", refused)
        for _ in range(3):
            spread.work(60)
            spread.send(50)
            spread.work(60)
            assert spilled(spread) == counters.read(spread.ring).in_ring == 0
            restart(spread)
    assert "the disk of the spill refuses a change, old files stay, trying again" in caplog.text
    assert "Read-only file system" in caplog.text
    assert segments(spread)
    spread.work(60)

    assert spread.everything() == list(range(2 * CAP + 150))
    assert segments(spread) == []


def test_a_file_that_cannot_be_read_holds_up_its_queue_alone(
    spread: Spread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others go on, and the log names the disk's error."""
    spread.send(20)
    spread.work()
    set_away(spread, "rudder-1")
    fill(spread, 2 * CAP)
    spread.work(20)
    others = {prefix: len(spread.numbers(prefix)) for prefix in ("rudder-0", "rudder-2")}

    def unreadable(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(Spill, "_records", unreadable)
        set_away(spread)
        spread.send(100)
        spread.work(20)
        assert all(len(spread.numbers(prefix)) > before for prefix, before in others.items())
    assert "the spill cannot be read now, its events and later ones of their ring and queue wait" in caplog.text
    assert "Input/output error" in caplog.text
    spread.work(60)

    assert spread.everything() == list(range(2 * CAP + 120))


def test_a_full_disk_leaves_no_empty_files(spread: Spread, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is tried. A file without events would also keep the flusher from ending."""
    set_away(spread, "rudder", *QUEUES)
    spread.send(750)
    spread.work(3)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(spill, "_write", full)
        spread.send(150)
        spread.work(20)
        assert segments(spread) == []
        set_away(spread)
        spread.work(60)
    assert not spread.sinks[-1].has_spilled
    assert spread.everything() == list(range(900))


def test_a_flusher_that_dies_before_its_first_write_leaves_nothing_to_wait_for(
    spread: Spread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one takes away the empty file, and sends what is in the ring."""
    set_away(spread, "rudder", *QUEUES)
    spread.send(750)
    spread.work(3)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    spread.send(150)
    with monkeypatch.context() as broken:
        broken.setattr(spill, "_write", die)
        broken.setattr(Spill, "_cut_last", lambda _self: None)
        with pytest.raises(KeyboardInterrupt):
            spread.work(10)
    assert [path.stat().st_size for path in segments(spread)] == [0]
    restart(spread)
    set_away(spread)
    spread.work(10)
    assert (segments(spread), spread.sinks[-1].has_spilled) == ([], False)
    assert spread.everything() == list(range(900))


def last_byte(data: bytearray) -> None:
    """Damage the last record."""
    data[-1] ^= 1


def middle_header(data: bytearray) -> None:
    """Damage the size of a record, so that those behind it are not found."""
    size = int.from_bytes(data[:4], "little")
    data[12 + size] ^= 0xFF


@pytest.mark.parametrize("damage", [last_byte, middle_header, bytearray.clear])
def test_damage_at_the_end_is_not_taken_for_a_write_that_was_cut_short(
    spread: Spread, caplog: pytest.LogCaptureFixture, damage: Callable[[bytearray], None]
) -> None:
    """Its events had left the ring: they count as lost, the file is kept, and the others arrive."""
    set_away(spread, "rudder", *QUEUES)
    fill(spread, 2 * CAP)
    path = segments(spread)[-1]
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    restart(spread)
    set_away(spread)
    spread.work(60)
    spread.send(50)
    spread.work(60)

    found = spread.everything()
    assert found[-50:] == list(range(2 * CAP, 2 * CAP + 50))
    assert len(found) == len(set(found)) < 2 * CAP + 50
    assert "is cut off" not in caplog.text
    assert "are lost" in caplog.text
    assert [(each.suffix, each.read_bytes()) for each in segments(spread)] in (
        [],
        [(spill.DAMAGED_SUFFIX, bytes(data))],
    )
    assert not spread.sinks[-1].has_spilled


def test_events_on_a_disk_that_is_gone_can_be_given_up(spread: Spread, caplog: pytest.LogCaptureFixture) -> None:
    """An empty directory says that the disk is there and its events are not."""
    set_away(spread, "rudder", *QUEUES)
    fill(spread, 2 * CAP)
    lost = spilled(spread)
    Path(spread.settings.spill_dir or "").rename(Path(spread.settings.spill_dir or "").with_name("gone"))
    restart(spread)
    set_away(spread)
    spread.work(10)
    assert all(not spread.numbers(prefix) for prefix in spread.stores)
    spread.sinks[-1]._spilling._spill.path.mkdir(parents=True)  # type: ignore[union-attr]
    spread.work(60)

    assert spread.everything() == list(range(lost, 2 * CAP))
    assert f"events of the spill are lost events={lost}" in caplog.text


def test_events_wait_if_the_setting_is_removed_too_early(spread: Spread, caplog: pytest.LogCaptureFixture) -> None:
    """Later events must not overtake those in the spill, which would then look as if the queues had them."""
    spread.send(30)
    spread.work()
    set_away(spread, "rudder", *QUEUES)
    fill(spread, 2 * CAP)
    with_it = spread.settings
    spread.settings = msgspec.structs.replace(with_it, spill_dir=None)
    set_away(spread)
    restart(spread)
    spread.work(20)
    assert len(spread.everything()) == 30
    assert "events are in a spill, but the setting spill_dir is missing" in caplog.text
    assert not spread.flusher.finished()
    spread.settings = with_it
    spread.start()
    spread.work(60)

    assert spread.everything() == list(range(2 * CAP + 30))


def test_the_sink_of_one_queue_does_not_pass_the_spill_over(spread: Spread) -> None:
    """Only events in a spill make it another sink."""
    one = msgspec.structs.replace(spread.settings, spill_dir=None, queues=1)
    assert isinstance(make_sink(one, spread.ring, None, spread.clock), QueueSink)
    set_away(spread, "rudder", *QUEUES)
    fill(spread, 2 * CAP)
    sink = make_sink(one, spread.ring, None, spread.clock)
    assert isinstance(sink, QueuesSink)
    assert sink.has_spilled
    sink.close()


@pytest.mark.parametrize("number", [spill.NUMBERS - 1, spill.NUMBERS, at.ALL_BITS])
def test_a_damaged_number_of_the_last_file_does_no_harm(spread: Spread, number: int) -> None:
    """Events are moved, in order."""
    set_away(spread, "rudder", *QUEUES)
    spread.ring.words[at.H_SPILL_SEGMENT] = number
    fill(spread, 2 * CAP)
    assert spilled(spread) > CAP
    restart(spread)
    set_away(spread)
    spread.work(60)

    assert spread.everything() == list(range(2 * CAP))
