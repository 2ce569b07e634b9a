"""The rows of ``rudderpipe rings``, for whole and for damaged rings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rudderpipe.cli import rings
from rudderpipe.observe import host_rings
from rudderpipe.observe.host_rings import HostRing
from rudderpipe.ring import layout as at
from rudderpipe.ring import location, memory
from rudderpipe.ring.location import RingLocation
from rudderpipe.ring.memory import open_fd
from rudderpipe.ring.ring import open_ring
from tests.fakes import FakeClock, producer_of, ring_of, settings_of


def rows(directory: Path, pipe: str) -> list[HostRing]:
    """Return the rows of one pipe."""
    return [row for row in host_rings.of_this_user(str(directory)) if row.pipe == pipe]


@pytest.fixture(name="where")
def _where(tmp_path: Path) -> Iterator[RingLocation]:
    where = location.own(settings_of(tmp_path))
    yield where
    memory.remove(where.segment)


def fill(where: RingLocation, words: dict[int, int], size_bytes: int = 1 << 20) -> None:
    """Make a segment there that holds these words."""
    data = memoryview(bytearray(size_bytes)).cast("Q")
    for index, value in words.items():
        data[index] = value
    fd = open_fd(where.segment, makes=True)
    os.write(fd, data)
    os.close(fd)


def test_a_ring_with_events_and_no_flusher_is_stuck(tmp_path: Path, clock: FakeClock) -> None:
    """The command changes nothing: it makes no file, and takes no slot in the ring."""
    with ring_of(tmp_path, clock) as ring:
        pipe = ring.locks.path.stem.removesuffix(f"-v{at.VERSION}")
        (row,) = rows(tmp_path, pipe)
        assert (row.events, row.producers, row.is_stuck) == (0, 0, False)
        producer_of(ring, clock).append(b"1")
        before = sorted(path.name for path in tmp_path.iterdir())

        (row,) = rows(tmp_path, pipe)

        assert (row.events, row.producers, row.flusher, row.is_stuck) == (1, 1, None, True)
        assert (row.layout, row.interpreter, row.runtime_dir) == (at.VERSION, 0, str(tmp_path))
        assert 0 < row.bytes <= ring.segment.size_in_use()
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        assert f"rudderpipe drain {pipe}" in "\n".join(rings.table([row]))


def test_a_ring_with_its_lock_file_elsewhere_asks_for_the_directory(tmp_path: Path, clock: FakeClock) -> None:
    """The line that says how to drain the ring must name the directory, which the command cannot know."""
    with ring_of(tmp_path, clock) as ring:
        producer_of(ring, clock).append(b"1")
        pipe = ring.locks.path.stem.removesuffix(f"-v{at.VERSION}")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()

        (row,) = rows(elsewhere, pipe)

        assert row.runtime_dir is None
        assert f"rudderpipe drain {pipe} --runtime-dir DIRECTORY" in "\n".join(rings.table([row]))
        assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "trouble"),
    [
        ({at.H_MAGIC: 7}, "is not a ring of rudderpipe"),
        ({at.H_MAGIC: at.MAGIC, at.H_VERSION: 99}, "has layout 99"),
        ({at.H_MAGIC: at.MAGIC, at.H_VERSION: at.VERSION, at.H_BLOCKS: 1 << 23}, "has a damaged header"),
    ],
)
def test_a_segment_that_cannot_be_read_is_a_row_with_the_reason(
    tmp_path: Path, where: RingLocation, words: dict[int, int], trouble: str
) -> None:
    """The segment may hold events, so it counts as stuck."""
    fill(where, words)

    (row,) = rows(tmp_path, where.pipe)

    assert trouble in str(row.trouble)
    assert row.is_stuck
    assert where.segment in memory.names()


def test_a_segment_that_is_being_made_is_no_row(tmp_path: Path, where: RingLocation) -> None:
    """The segment is not removed either, because its maker may still be at work."""
    fill(where, {})

    assert rows(tmp_path, where.pipe) == []
    assert where.segment in memory.names()


def test_rings_of_several_interpreters_are_rows_of_one_pipe(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row has the number of its interpreter."""
    settings = settings_of(tmp_path, ring_bytes=1 << 20)
    try:
        for number in (0, 2):
            monkeypatch.setattr("rudderpipe.ring.location.current", lambda number=number: number)
            open_ring(settings, clock)
        assert [row.interpreter for row in rows(tmp_path, settings.pipe_name)] == [0, 2]
    finally:
        for found in location.of_pipe(settings):
            memory.remove(found.segment)
