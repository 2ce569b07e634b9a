"""Who starts a flusher: a lock that the started process inherits, so that one starts at a time, however slowly."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from rudderpipe.process import locks
from rudderpipe.settings import Settings

LONGEST_S = 60.0
"""A start that takes longer no longer keeps others from starting a process."""


def file_of(settings: Settings) -> Path:
    """Return the file whose lock the starting flusher of a pipe holds."""
    return locks.runtime_dir(settings.runtime_dir) / f"{settings.pipe_name}.start"


def take(path: Path) -> int | None:
    """Return the lock as a descriptor for the process that is to be started; None while one is starting already.

    The process inherits the descriptor, so that the kernel holds the lock exactly until the process ends or calls
    ``end``. The caller closes its own. Raises ``OSError``.
    """
    while True:
        fd = locks.open_log(path, os.O_RDWR | os.O_CREAT)
        try:
            if fd <= 2:  # an application without standard descriptors; the process that is started has its own
                low, fd = fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
                os.close(low)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.utime(fd, ns=(time.monotonic_ns(), time.monotonic_ns()))  # which no step of the clock moves
        except BlockingIOError:
            counts = _is_recent(os.fstat(fd))
            os.close(fd)
            if counts:
                return None
            path.unlink(missing_ok=True)  # a worker that was forked just then may have inherited the lock too
        except BaseException:
            os.close(fd)
            raise
        else:
            return fd


def is_taken(path: Path) -> bool:
    """Return whether the process that was started neither serves yet nor has ended."""
    try:
        fd = locks.open_log(path, os.O_RDWR)
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
    """Remove what starts left behind whose process was killed."""
    for path in directory.glob("*.start"):
        with suppress(FileNotFoundError):
            if not _is_recent(path.stat()):
                path.unlink()


def _is_recent(found: os.stat_result) -> bool:
    """Return whether the lock was taken within ``LONGEST_S``."""
    # A file that was just made still has the time of day, which is later than any moment of the monotonic clock.
    return time.monotonic_ns() - found.st_mtime_ns < LONGEST_S * 1_000_000_000


def end(path: Path, fd: int) -> None:
    """Give the lock back: this process serves now, or nothing was started."""
    path.unlink(missing_ok=True)
    os.close(fd)
