"""POSIX shared memory by its name, mapped, with the one descriptor that it needs."""

from __future__ import annotations

import mmap
import os
import sys

from rudderpipe.process.descriptors import STANDARD_ERROR, above_standard

PREFIX = "rudderpipe"


class Shared:
    """A mapping, and the descriptor by which its memory is reserved and its name watched.

    Unlike ``multiprocessing.shared_memory``, which keeps two descriptors, starts a process that unlinks what others
    still use, and unlinks another's segment when mapping it fails.
    """

    def __init__(self, fd: int, size_bytes: int) -> None:
        """Takes over the descriptor. Raises ``OSError``, and has closed it then."""
        try:
            found = os.fstat(fd)
            self.identity = found.st_dev, found.st_ino
            self.size = size_bytes
            self._closes = True
            self.fd = fd
            if sys.version_info >= (3, 13):
                self.mapping = mmap.mmap(fd, size_bytes, trackfd=False)
                return
            # mmap keeps a duplicate: the lowest number that is free. Of the two the first is closed.
            below = []
            while (expected := os.dup(fd)) <= STANDARD_ERROR:
                below.append(expected)
            os.close(expected)
            try:
                self.mapping = mmap.mmap(fd, size_bytes)
            finally:
                for each in below:
                    os.close(each)
            self.fd, twin = expected, fd
            self._closes = False
            if not self.owns_fd():  # another thread opened something in between: both stay
                self.fd, twin = fd, -1
                self._closes = True
        except BaseException:
            os.close(fd)
            raise
        if twin >= 0:
            os.close(twin)

    @property
    def whole(self) -> memoryview:
        """All of it."""
        return memoryview(self.mapping)

    @property
    def keeps_duplicate(self) -> bool:
        """True when unmapping closes a descriptor by its number, whoever has that number by then."""
        return sys.version_info < (3, 13)

    def owns_fd(self) -> bool:
        """False when the application closed our descriptor, whose number may be another file's now."""
        try:
            found = os.fstat(self.fd)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self.identity

    def close_fd(self) -> None:
        """Give the descriptor back, unless unmapping does."""
        if self._closes:
            self._closes = False
            os.close(self.fd)

    def close(self) -> None:
        """Unmap, and give the descriptor back. No view of it may be in use."""
        self.mapping.close()
        self.close_fd()


def open_fd(name: str, *, makes: bool) -> int:
    """Open the segment, or make one that was not there. Raises ``OSError``."""
    flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if makes else 0)
    if sys.platform == "linux":  # as shm_open does
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(f"/dev/shm/{name}", flags, 0o600)  # noqa: S108  # its directory
    else:
        import _posixshmem

        fd = _posixshmem.shm_open(f"/{name}", flags, mode=0o600)
    return above_standard(fd)
