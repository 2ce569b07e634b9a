"""Locks that the kernel releases when their holder dies: byte ranges of one file in a directory of this user.

A mutex here is one of ``_thread``, which stays the interpreter's own where gevent or eventlet have replaced the locks
of ``threading``. The replaced ones cannot be taken in a signal handler, and do not order memory.

POSIX record locks belong to a process. A forked child holds none of its parent's locks. Inside one process they exclude
no other thread, so a mutex is taken before them. Closing *any* descriptor of the file drops all locks of the process on
it. So a process opens each file once (``shared``), and closes it only when nothing in the process uses the file any
more. ``docs/ring.md``, "A claim" and "Dead producers", say what the ring's locks are used for.
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
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from rudderpipe.errors import RingUnavailable
from rudderpipe.process import descriptors, fork, runtime_dir

_SPIN_S = 0.0002


class LockFile:
    """One file of which each byte is a lock; use ``shared`` to get one, because only ``_Files`` may make it.

    Raises ``RingUnavailable`` for whatever the system refuses.
    """

    def __init__(self, path: Path, descriptor: _Descriptor) -> None:
        self.path = path
        self._descriptor = descriptor
        self._fd = descriptor.fd
        self.inode = descriptor.inode
        self.forget()
        fork.forget_in_children(self)

    def forget(self) -> None:
        """Take a new mutex in a forked child, because a thread that is not in the child may hold the old one."""
        self._mutex = RLock()
        self._owner: int | None = None
        self._within = 0
        """Calls from within the owner's call that were refused and have not called ``release`` yet."""
        self._alone: dict[int, object] = {}
        """Locks that one call holds against the other calls of this process too."""

    def __del__(self) -> None:
        """Give the file back, because nothing in this process uses it or holds one of its locks."""
        try:
            _files.let_go(self._descriptor)
        except (AttributeError, TypeError):
            pass  # the interpreter is shutting down

    def is_current(self) -> bool:
        """Return False if the file was removed or replaced, or if our descriptor is no longer this file's.

        An application that turns into a daemon may have closed every descriptor and opened others.
        """
        return _is_at(self.path, self._descriptor)

    def is_fresh(self) -> bool:
        """Return True until ``mark``: no ring has used the file yet."""
        try:
            return os.fstat(self._fd).st_size == 0
        except OSError as error:
            raise _refused(self.path, "be used", error) from error

    def mark(self, text: str) -> None:
        """Record in the lock file which ring it belongs to. Only under its claim lock."""
        data = text.encode()
        try:
            if os.pread(self._fd, len(data) + 1, 0) == data:
                return
            if runtime_dir.file_limit() < len(data):
                raise RingUnavailable(str(self.path), "the lock file cannot be written: RLIMIT_FSIZE is too low")
            os.pwrite(self._fd, data, 0)
        except OSError as error:
            raise _refused(self.path, "be written", error) from error

    @property
    def is_ours(self) -> bool:
        """True while this thread is between ``lock`` and ``release``; a call from within gets no lock then."""
        return self._owner == threading.get_ident()

    def try_lock(self, byte: int) -> bool:
        """Take one lock without waiting. Return True also if this process already holds it."""
        return self._try(byte, 1)

    def _try(self, byte: int, count: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, count, byte)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EBADF):  # EBADF: the application closed it
                return False
            raise _refused(self.path, "be locked", error) from error
        return True

    def try_lock_all(self) -> bool:
        """Take all locks without waiting, for the life of this object; return False if another process has any.

        Never call it for a file of which this process holds a lock.
        """
        return self._try(0, 0)  # a length of 0 reaches to the end, wherever that is

    def unlock(self, byte: int) -> None:
        """Give one lock back."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, byte)
        except OSError as error:
            if error.errno != errno.EBADF:  # the application closed the file, which gave the lock back
                raise _refused(self.path, "be unlocked", error) from error

    @contextmanager
    def alone(self, byte: int, *, had: bool = False) -> Iterator[bool]:
        """Hold a lock within a ``with``, against other threads and calls from within too; yield whether it was taken.

        It does not wait. ``had`` means that this process already holds the lock by ``try_lock``. The lock is given back
        at the end.
        """
        token = object()
        try:
            yield self._alone.setdefault(byte, token) is token and (had or self.try_lock(byte))
        finally:
            if self._alone.get(byte) is token:
                try:
                    self.unlock(byte)
                finally:
                    del self._alone[byte]

    def is_alone(self, byte: int) -> bool:
        """Return whether a call in this process holds the lock by ``alone``."""
        return byte in self._alone

    def is_held(self, byte: int) -> bool:
        """Return whether another process, or a call by ``alone``, has the lock.

        Never call it for a lock that this process holds by ``try_lock``, because that lock would be given back.
        """
        with self.alone(byte) as taken:
            return not taken

    def lock(self, byte: int, timeout_s: float) -> bool:
        """Take one lock against other processes and threads. Return False after a timeout, or for a call from within.

        Call it inside the ``try`` whose ``finally`` calls ``release``, because a signal handler may raise right after
        it.
        """
        me = threading.get_ident()
        if self._owner == me:
            self._within += 1
            return False
        mutex = self._mutex
        try:
            if not mutex.acquire(blocking=False):
                deadline_s = time.monotonic() + timeout_s
                if not mutex.acquire(timeout=timeout_s):
                    return False
                timeout_s = max(0.0, deadline_s - time.monotonic())
            if self._owner is None:  # otherwise another greenlet of this thread, which the mutex does not exclude
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
        """Give back what ``lock`` took. Do nothing if the call of ``lock`` before it did not take the lock."""
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
        """Unlink the file. Only under its claim lock: a process that waits for that lock then opens the next file."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise _refused(self.path, "be removed", error) from error


def _nap(seconds: float) -> None:
    # Not time.sleep where sigtimedwait exists, because gevent and eventlet replace time.sleep. No other greenlet should
    # run in the middle of an append: its event would go to the second producer, or be refused as busy.
    if sys.platform == "linux":
        signal.sigtimedwait((), seconds)
    else:
        time.sleep(seconds)


def _drop(mutex: RLock) -> None:
    try:
        mutex.release()
    except RuntimeError:
        pass  # an exception came before the mutex was taken


class _Descriptor:
    """An open file, and how many ``LockFile`` objects use it: one, and those that are being destroyed."""

    def __init__(self, path: Path) -> None:
        try:
            # Without O_NONBLOCK, opening a FIFO of that name would wait for its writer.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self.fd = descriptors.above_standard(os.open(path, flags, 0o600))
        except OSError as error:
            raise _refused(path, "be opened", error) from error
        try:
            found = os.fstat(self.fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
                raise RingUnavailable(str(path), "the lock file must be a regular file of this user: remove it")
            if stat.S_IMODE(found.st_mode) != 0o600:
                os.fchmod(self.fd, 0o600)  # the umask cleared bits
        except OSError as error:
            os.close(self.fd)
            raise _refused(path, "be used", error) from error
        except RingUnavailable:
            os.close(self.fd)
            raise
        self.inode = found.st_ino
        self.users = 0
        descriptors.own(self, self.fd)

    def is_open(self) -> bool:
        """Return False if the application closed the descriptor; its number may be another file's then."""
        try:
            return os.fstat(self.fd).st_ino == self.inode
        except OSError:
            return False

    def close(self) -> None:
        """Close the file, which gives back every lock of this process on it."""
        if descriptors.disown(self, self.fd) and self.is_open():
            os.close(self.fd)


class _Files:
    """The lock files that this process has open, one for each path."""

    def __init__(self) -> None:
        self._found: WeakValueDictionary[Path, LockFile] = WeakValueDictionary()
        self._open: dict[Path, _Descriptor] = {}
        self._let_go: deque[_Descriptor] = deque()
        self.forget()
        fork.forget_in_children(self)

    def forget(self) -> None:
        """Take a new mutex in a forked child. The child may use everything else."""
        self._mutex = RLock()
        self._busy = False

    def get(self, path: Path) -> LockFile:
        """Return the lock file of a path, opened again if the file was removed.

        The file is closed when nothing refers to it any more. Raises ``RingUnavailable``.
        """
        try:
            path = path.parent.resolve() / path.name
        except (OSError, RuntimeError, ValueError) as error:  # a loop of symbolic links, or a path that holds NUL
            raise RingUnavailable(str(path), f"the lock file cannot be found: {error}") from error
        with self._mutex:
            self._close_unused()
            before, self._busy = self._busy, True  # a destructor, or a signal handler, may run in between
            try:
                return self._get(path)
            finally:
                self._busy = before

    def _get(self, path: Path) -> LockFile:
        found = self._found.get(path)
        if found is not None and found.is_current():
            return found
        # Order: count the new user before the previous LockFile's destruction, which may be under way, is processed.
        # Closing its descriptor would drop the locks taken through a second descriptor of the same file, so the same
        # descriptor is used again.
        descriptor = self._open.get(path)
        if descriptor is None or not _is_at(path, descriptor):
            descriptor = self._open[path] = _Descriptor(path)
        descriptor.users += 1
        found = self._found[path] = LockFile(path, descriptor)
        return found

    def let_go(self, descriptor: _Descriptor) -> None:
        """Close the descriptor unless it has another user. Never wait, because destructors may run anywhere."""
        self._let_go.append(descriptor)
        mutex = self._mutex
        if mutex.acquire(blocking=False):  # otherwise the thread that has it, or the next ``get``, closes it
            try:
                self._close_unused()
            finally:
                mutex.release()

    def _close_unused(self) -> None:
        while self._let_go and not self._busy:
            descriptor = self._let_go.popleft()
            descriptor.users -= 1
            if not descriptor.users:
                for path in [path for path, known in self._open.items() if known is descriptor]:
                    del self._open[path]
                descriptor.close()


def _is_at(path: Path, descriptor: _Descriptor) -> bool:
    try:
        return path.stat().st_ino == descriptor.inode and descriptor.is_open()
    except OSError:
        return False


def _refused(path: Path, what: str, error: OSError) -> RingUnavailable:
    reason = error.strerror or type(error).__name__
    return RingUnavailable(str(path), f"the lock file cannot {what}: {reason}")


_files = _Files()
shared = _files.get
