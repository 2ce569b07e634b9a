"""Files that ended pipes leave in the runtime directory: logs, and lock files after a kill or a reboot."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from rudderpipe.errors import RingUnavailable
from rudderpipe.flusher import route_file
from rudderpipe.flusher.ring_set import SERVING_SUFFIX
from rudderpipe.process import locks, start_lock
from rudderpipe.ring import location, memory, wake_pipe
from rudderpipe.ring.location import RingLocation

LOGS = 20
"""How many logs of ended pipes are kept. The newest ones stay."""
LOG_AGE_S = 30 * 86_400.0
"""How long the log of an ended pipe is kept after its last line."""
RECENT_S = 3600.0
"""A log that was written within this time stays even past ``LOGS``, because a sender may outlive its pipe's rings."""


def sweep(directory: Path, own: Collection[str]) -> None:
    """Remove the files that no process uses. ``own`` are the names of this process's pipe. Raises ``OSError``."""
    for path in (*directory.glob(f"*{location.SUFFIX}"), *directory.glob(f"*{SERVING_SUFFIX}")):
        where = next(iter(location.readings(directory, path.stem)))
        if where.pipe not in own:
            with suppress(RingUnavailable):
                _sweep_lock_file(where, path)
    for path in (*directory.glob(f"*{wake_pipe.SUFFIX}"), *directory.glob(f"*{route_file.SUFFIX}")):
        if not path.with_suffix(location.SUFFIX).exists():
            path.unlink(missing_ok=True)
    start_lock.sweep(directory)
    pipes = {where.pipe for stem in location.stems(directory) for where in location.readings(directory, stem)}
    now_s = time.time()
    logs: list[tuple[float, Path]] = []
    for path in (*directory.glob("*.log"), *directory.glob("*.log.1")):
        with suppress(FileNotFoundError):
            if path.name.removesuffix(".1").removesuffix(".log") not in pipes:
                logs.append((now_s - path.stat().st_mtime, path))
    for number, (age_s, path) in enumerate(sorted(logs)):
        if age_s > LOG_AGE_S or (number >= LOGS and age_s > RECENT_S):
            path.unlink(missing_ok=True)


def _sweep_lock_file(where: RingLocation, path: Path) -> None:
    """Remove a lock file if no byte of it is locked and its ring's segment is not here.

    The locks count, because the ring may be in a container that has shared memory of its own.
    """
    if path.suffix == location.SUFFIX and memory.attach(where.segment, removes=False) is not None:
        return
    lock_file = locks.shared(path)
    if lock_file.try_lock_all() and lock_file.is_current():
        lock_file.remove()
