"""The rings of the tests. Those of processes that were killed stay in shared memory until they are removed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rudderpipe.errors import RingUnavailable
from rudderpipe.ring import layout as at
from rudderpipe.ring import location, memory

_NAMED = re.compile(rf"{memory.PREFIX}-{os.getuid()}-(?:test|native)-(\d+)-.*")
"""The segments of pipes that are named after the process that runs the tests."""


def pytest_sessionstart() -> None:
    """Remove the rings that runs before have left, because they were killed."""
    remove()


@pytest.fixture(scope="session", autouse=True)
def no_rings_are_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove the rings that the tests have left."""
    yield
    remove(tmp_path_factory.getbasetemp())


def remove(*directories: Path) -> None:
    """Remove the rings of this run and of runs that have ended, and those whose lock file is below a directory."""
    below = [path for directory in directories for path in directory.rglob(f"*{location.SUFFIX}")]
    for name in [*_of_runs(), *_of_lock_files(below)]:
        memory.remove(name)


def _of_runs() -> Iterator[str]:
    for name in memory.names():
        match = _NAMED.fullmatch(name)
        if match is not None and (int(match[1]) == os.getpid() or not _runs(int(match[1]))):
            yield name


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _of_lock_files(paths: list[Path]) -> Iterator[str]:
    """Yield the segments that were made with these lock files, and not others of the same name."""
    for path in paths:
        name = memory.segment_name(path.stem)
        with suppress(RingUnavailable, OSError):
            segment = memory.attach(name, removes=False)
            if segment is not None and segment.words[at.H_LOCK_INODE] == path.stat().st_ino:
                yield name
