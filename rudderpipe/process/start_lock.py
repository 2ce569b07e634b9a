"""The lock of a starting flusher: one flusher starts at a time, however slow its start is.

The started process inherits the lock.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from rudderpipe.process import runtime_dir
from rudderpipe.settings import Settings

LONGEST_S = 60.0
"""A start that takes longer no longer keeps other processes from starting a flusher."""


def file_of(settings: Settings) -> Path:
    """Return the path of the file whose lock the starting flusher of a pipe holds."""
    return runtime_dir.ensure(settings.runtime_dir) / f"{settings.pipe_name}.start"


def take(path: Path) -> int | None:
    """Return the lock as a descriptor for the process that is to be started; None while another start is under way.

    The process inherits the descriptor, so that the kernel holds the lock exactly until the process ends or calls
    ``end``. The caller closes its own descriptor. Raises ``OSError``.
    """
    while True:
        fd = runtime_dir.open_log(path, os.O_RDWR | os.O_CREAT)
        try:
            if fd <= 2:  # the application closed a standard descriptor; the started process has its own
                low, fd = fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
                os.close(low)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.utime(fd, ns=(time.monotonic_ns(), time.monotonic_ns()))  # a step of the clock must not move it
        except BlockingIOError:
            counts = _is_recent(os.fstat(fd))
            os.close(fd)
            if counts:
                return None
            path.unlink(missing_ok=True)  # a worker that was forked during that start may hold the lock too
        except BaseException:
            os.close(fd)
            raise
        else:
            return fd


def is_taken(path: Path) -> bool:
    """Return whether a started process has neither begun to serve nor ended."""
    try:
        fd = runtime_dir.open_log(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _is_recent(os.fstat(fd))
    finally:
        os.close(fd)
    return False


def sweep(directory: Path) -> None:
    """Remove the files of starts whose process was killed."""
    for path in directory.glob("*.start"):
        with suppress(FileNotFoundError):
            if not _is_recent(path.stat()):
                path.unlink()


def _is_recent(found: os.stat_result) -> bool:
    """Return whether the lock was taken within ``LONGEST_S``."""
    # Until ``take`` sets it, the mtime of a new file is a time of day, later than any monotonic moment.
    return time.monotonic_ns() - found.st_mtime_ns < LONGEST_S * 1_000_000_000


def end(path: Path, fd: int) -> None:
    """Give the lock back, because this process serves now or no process was started."""
    path.unlink(missing_ok=True)
    os.close(fd)
