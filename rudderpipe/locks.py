"""Locks that the kernel releases when their holder dies: byte ranges of one file in a directory of our own.

Mutexes are those of ``_thread``, the interpreter's own also where gevent or eventlet have replaced the ones of
``threading``: theirs can neither be taken in a signal handler nor do they order memory.

POSIX record locks belong to a process, which has two sides. A forked child holds none of its parent's; but inside one
process they exclude nobody, so a mutex stands before them, and closing *any* descriptor of the file drops them all, so
a process opens each file once (``shared``) and closes it only when it was removed and nobody uses it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import sys
import threading
import time
from _thread import RLock
from pathlib import Path

from rudderpipe import descriptors, forks
from rudderpipe.errors import RingUnavailable
from rudderpipe.settings import Settings

_SPIN_S = 0.0002


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


def log_file(settings: Settings) -> Path:
    """Where the autostarted processes of a pipe log."""
    return runtime_dir(settings.runtime_dir) / f"{settings.pipe_name}.log"


class LockFile:
    """One file; each of its bytes is a lock. Only through ``shared``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise RingUnavailable(str(path), f"the lock file cannot be opened: {error.strerror}") from error
        self.inode = os.fstat(self._fd).st_ino
        descriptors.own(self, self._fd)
        self.forget()
        forks.forget_in_children(self)

    def forget(self) -> None:
        """In a forked child: the mutex may be held by a thread that is not here."""
        self._mutex = RLock()
        self._owner: int | None = None
        self._within = 0
        """Calls from within the owner's, which were refused and have not called ``release`` yet."""

    def __del__(self) -> None:
        """Close a file that was removed; closing one that others may open again would drop their locks."""
        try:
            if descriptors.disown(self, self._fd) and os.fstat(self._fd).st_ino == self.inode:
                os.close(self._fd)
        except (OSError, AttributeError):
            pass  # somebody closed our descriptor, or it was never opened

    def is_current(self) -> bool:
        """False when the file was removed, another stands in its place, or our descriptor is no longer its.

        An application that turns into a daemon may have closed every descriptor and opened others.
        """
        try:
            return self.path.stat().st_ino == self.inode and os.fstat(self._fd).st_ino == self.inode
        except OSError:
            return False

    def is_fresh(self) -> bool:
        """True until ``mark``: nobody has used the file for a ring yet."""
        return os.fstat(self._fd).st_size == 0

    def mark(self, text: str) -> None:
        """Write down which ring the file belongs to. Only under its claim lock."""
        os.pwrite(self._fd, text.encode(), 0)

    def try_lock(self, byte: int) -> bool:
        """Take one lock without waiting. True also when this process holds it already."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EBADF):  # the last: the application closed it
                return False
            raise
        return True

    def unlock(self, byte: int) -> None:
        """Give one lock back."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, byte)
        except OSError as error:
            if error.errno != errno.EBADF:  # the application closed it, and gave the lock back with it
                raise

    def is_held(self, byte: int) -> bool:
        """Whether another process holds the lock; takes it for an instant to find out. Never of one we hold."""
        if not self.try_lock(byte):
            return True
        self.unlock(byte)
        return False

    def lock(self, byte: int, timeout_s: float) -> bool:
        """Take one lock against other processes and other threads; False when that took longer, or from within itself.

        Call it inside the ``try`` whose ``finally`` calls ``release``: a signal handler may raise right after it.
        """
        me = threading.get_ident()
        if self._owner == me:
            self._within += 1
            return False
        mutex = self._mutex
        try:
            if not (mutex.acquire(blocking=False) or mutex.acquire(timeout=timeout_s)):
                return False
            if self._owner is None:  # else another greenlet of this thread, for which the mutex is no obstacle
                self._owner = me
                if self.try_lock(byte) or self._wait(byte, timeout_s):
                    return True
                self._owner = None
        except BaseException:
            if self._owner == me:
                self.release(byte)
            else:
                _drop(mutex)
            raise
        _drop(mutex)
        return False

    def _wait(self, byte: int, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while timeout_s and time.monotonic() < deadline_s:
            _nap(_SPIN_S)
            if self.try_lock(byte):
                return True
        return False

    def release(self, byte: int) -> None:
        """Give back what ``lock`` took; does nothing when the call before did not take it."""
        if self._owner != threading.get_ident():
            return
        if self._within:
            self._within -= 1
            return
        try:
            self.unlock(byte)
        except BaseException:
            self.unlock(byte)
            raise
        finally:
            self._owner = None
            _drop(self._mutex)

    def remove(self) -> None:
        """Unlink the file. Only under its claim lock: who waits for that finds the file gone and opens the next."""
        self.path.unlink(missing_ok=True)


def _nap(seconds: float) -> None:
    # Where the system has it, not time.sleep, which gevent and eventlet replace: no other greenlet should run in the
    # middle of an append, where its event could only be set aside.
    if sys.platform == "linux":
        signal.sigtimedwait((), seconds)
    else:
        time.sleep(seconds)


def _drop(mutex: RLock) -> None:
    try:
        mutex.release()
    except RuntimeError:
        pass  # an exception came before it was taken


class _Files:
    """The lock files this process has open, one for each path."""

    def __init__(self) -> None:
        self._found: dict[Path, LockFile] = {}
        self.forget()
        forks.forget_in_children(self)

    def forget(self) -> None:
        """In a forked child: only the mutex is not ours."""
        self._mutex = RLock()

    def get(self, path: Path) -> LockFile:
        """The one of that path, opened anew when the file has been removed."""
        path = path.parent.resolve() / path.name
        with self._mutex:
            for known, lock_file in list(self._found.items()):
                if not lock_file.is_current():
                    del self._found[known]
            found = self._found.get(path)
            if found is None:
                found = self._found[path] = LockFile(path)
            return found


_files = _Files()
shared = _files.get
