"""What ended pipes leave in the runtime directory: logs, and lock files of processes that were killed or of reboots."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from rudderpipe import locks, start_claim
from rudderpipe.errors import RingUnavailable
from rudderpipe.flusher.rings import PATIENCE_S, SERVING, SERVING_SUFFIX
from rudderpipe.ring import place, segment
from rudderpipe.ring.ring import find_at

LOGS = 20
"""How many logs of ended pipes are kept, the newest of them."""
LOG_AGE_S = 30 * 86_400.0
"""How long the log of an ended pipe is kept after its last line."""
RECENT_S = 3600.0
"""A log that was written to more recently stays in any case: a sender may outlive its pipe's rings."""


def sweep(directory: Path, own: Path) -> None:
    """Remove what no process uses; ``own`` is the lock file by which this process serves its pipe.

    Raises ``OSError``.
    """
    _sweep_lock_files(directory, own)
    start_claim.sweep(directory)
    pipes = {where.pipe for stem in place.stems(directory) for where in place.readings(directory, stem)}
    now_s = time.time()
    logs: list[tuple[float, Path]] = []
    for path in (*directory.glob("*.log"), *directory.glob("*.log.1")):
        with suppress(FileNotFoundError):
            if path.name.removesuffix(".1").removesuffix(".log") not in pipes:
                logs.append((now_s - path.stat().st_mtime, path))
    for number, (age_s, path) in enumerate(sorted(logs)):
        if age_s > LOG_AGE_S or (number >= LOGS and age_s > RECENT_S):
            path.unlink(missing_ok=True)


def _sweep_lock_files(directory: Path, own: Path) -> None:
    there = segment.names()
    for stem in place.stems(directory):
        where = next(iter(place.readings(directory, stem)))
        if where.segment not in there:
            with suppress(RingUnavailable):  # its claim lock is held: a ring is being made
                find_at(where, PATIENCE_S)
    for path in directory.glob(f"*{SERVING_SUFFIX}"):
        if path == own:
            continue
        with suppress(RingUnavailable):
            guard = locks.shared(path)
            if guard.try_lock(SERVING) and guard.is_current():
                guard.remove()
