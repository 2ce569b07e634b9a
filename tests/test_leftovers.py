"""Flushers remove files that ended pipes left in a runtime directory."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rudderpipe.flusher import leftovers
from rudderpipe.flusher.leftovers import LOG_AGE_S, LOGS, RECENT_S
from rudderpipe.ring import wake_pipe
from rudderpipe.ring.wake_pipe import WakePipe
from tests.fakes import FakeClock, ring_of


def log(directory: Path, name: str, age_s: float) -> Path:
    """Make a log that was last written to this long ago."""
    path = directory / name
    path.touch()
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_logs_of_ended_pipes_are_bounded_by_age_and_number(tmp_path: Path, clock: FakeClock) -> None:
    """Logs of pipes that have a ring stay, and so do logs that were written to a moment ago."""
    with ring_of(tmp_path, clock) as ring:
        pipe = ring.locks.path.stem.removesuffix("-v4")
        kept = [log(tmp_path, f"{pipe}.log{more}", 10 * LOG_AGE_S) for more in ("", ".1")]
        kept += [log(tmp_path, f"new-{number}.log", number) for number in range(LOGS + 5)]
        gone = [log(tmp_path, "old.log", LOG_AGE_S + 60), log(tmp_path, "old.log.1", LOG_AGE_S + 60)]
        gone += [log(tmp_path, f"many-{number}.log", RECENT_S + 60 + number) for number in range(3)]

        leftovers.sweep(tmp_path, ["own"])

        assert [path.name for path in kept if not path.exists()] == []
        assert [path.name for path in gone if path.exists()] == []


def test_a_few_logs_of_ended_pipes_stay_for_a_while(tmp_path: Path) -> None:
    """A log says why a pipe ended."""
    kept = [log(tmp_path, f"{number}.log", LOG_AGE_S - 60 - number) for number in range(LOGS)]

    leftovers.sweep(tmp_path, ["own"])

    assert all(path.exists() for path in kept)


def test_lock_files_of_rings_that_are_gone_are_removed(tmp_path: Path, clock: FakeClock) -> None:
    """A reboot empties shared memory but not a directory on a disk. A killed flusher leaves its lock file too."""
    with ring_of(tmp_path, clock) as ring:
        for name in ("ended-v4.lock", "ended-v4-i1.lock", "old.lock", "ended-v4.flusher", "own-v4.flusher"):
            (tmp_path / name).touch()
        fifo = wake_pipe.path_of(ring.locks.path)
        for path in (fifo, tmp_path / "ended-v4.fifo"):
            WakePipe(path).close()
        (tmp_path / "ended-v4.route").touch()

        leftovers.sweep(tmp_path, ["own"])

        assert {path.name for path in tmp_path.iterdir()} == {ring.locks.path.name, fifo.name, "own-v4.flusher"}
