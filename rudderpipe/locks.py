"""Locks that the kernel releases when their holder dies: byte ranges of one file in a directory of our own.

POSIX record locks belong to a process, which has two sides. A forked child holds none of its parent's; but inside one
process they exclude nobody, so a mutex stands before them, and closing *any* descriptor of the file drops them all, so
a process opens each file once (``shared``).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
import threading
import time
from pathlib import Path

from rudderpipe import forks
from rudderpipe.errors import RingUnavailable

_SPIN_S = 0.0002
_open_files: dict[Path, LockFile] = {}


def runtime_dir(given: str | None) -> Path:
    """The directory of lock files and logs, made 0700; ours alone, else ``RingUnavailable``.

    By default it stands beside the segments, so that both are seen by the same processes (a service with a private
    ``/tmp`` would lock another file than its neighbour, and corrupt the ring they share) and no cleaner of ``/tmp``
    takes it away.
    """
    home = "/dev/shm" if sys.platform == "linux" else "/tmp"  # noqa: S108  # made 0700 and checked below
    path = Path(given) if given else Path(home) / f"rudderpipe-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, parents=given is not None, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise RingUnavailable(str(path), f"runtime_dir cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise RingUnavailable(str(path), "runtime_dir must be a directory that only its owner, this user, can write")
    return path


class LockFile:
    """One file; each of its bytes is a lock. Only through ``shared``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mutex = threading.Lock()
        self._fd = -1
        self._open()
        forks.forget_in_children(self)

    def _open(self) -> None:
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise RingUnavailable(str(self.path), f"the lock file cannot be opened: {error.strerror}") from error
        self.inode = os.fstat(self._fd).st_ino

    def forget(self) -> None:
        """In a forked child: the mutex may be held by a thread that is not here."""
        self._mutex = threading.Lock()

    def is_current(self) -> bool:
        """False when the file was removed, another stands in its place, or our descriptor is no longer its.

        An application that turns into a daemon may have closed every descriptor and opened others.
        """
        try:
            return self.path.stat().st_ino == self.inode and os.fstat(self._fd).st_ino == self.inode
        except OSError:
            return False

    def try_lock(self, byte: int) -> bool:
        """Take one lock without waiting. True also when this process holds it already."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def unlock(self, byte: int) -> None:
        """Give one lock back."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, byte)

    def is_held(self, byte: int) -> bool:
        """Whether another process holds the lock; takes it for an instant to find out."""
        if not self.try_lock(byte):
            return True
        self.unlock(byte)
        return False

    def lock(self, byte: int, timeout_s: float) -> bool:
        """Take one lock against other processes and other threads; False when that took longer."""
        mutex = self._mutex
        if not (mutex.acquire(blocking=False) or mutex.acquire(timeout=timeout_s)):
            return False
        try:
            taken = self.try_lock(byte) or self._wait(byte, timeout_s)
        except BaseException:
            mutex.release()
            raise
        if not taken:
            mutex.release()
        return taken

    def _wait(self, byte: int, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while timeout_s and time.monotonic() < deadline_s:
            time.sleep(_SPIN_S)
            if self.try_lock(byte):
                return True
        return False

    def release(self, byte: int) -> None:
        """Give back what ``lock`` took."""
        self.unlock(byte)
        self._mutex.release()

    def remove(self) -> None:
        """Unlink the file. Only under its claim lock: who waits for that finds the file gone and opens the next."""
        self.path.unlink(missing_ok=True)


def shared(path: Path) -> LockFile:
    """The process's one ``LockFile`` of that path, opened anew when the file has been removed."""
    found = _open_files.get(path)
    if found is None or not found.is_current():
        found = _open_files[path] = LockFile(path)
    return found
