"""The FIFO beside a ring's lock file, through which a producer wakes the ring's flusher.

``docs/ring.md``, "The flusher's sleep", says when the flusher sleeps, and what a lost wake-up costs.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

SUFFIX = ".fifo"
READ_BYTES = 65_536
"""All that a FIFO can hold on Linux."""


def path_of(lock_file: Path) -> Path:
    """Return the path of the FIFO of the ring with this lock file."""
    return lock_file.with_suffix(SUFFIX)


class WakePipe:
    """The flusher's end of one FIFO, which is made if it is missing. Raises ``OSError`` if that fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
            path.chmod(0o600)  # the umask may have cleared bits
        # Also for writing, or the FIFO would be readable all the time after a producer has closed it.
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        found = os.fstat(self.fd)
        self._inode = found.st_ino
        if not stat.S_ISFIFO(found.st_mode):
            self.close()
            raise FileExistsError(errno.EEXIST, "is no FIFO", str(path))

    def is_current(self) -> bool:
        """Return False if the FIFO was removed or replaced, so that producers do not reach this end."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def empty(self) -> None:
        """Take all bytes out."""
        with suppress(BlockingIOError):
            os.read(self.fd, READ_BYTES)

    def close(self) -> None:
        """Close this end. The FIFO stays for the ring's next flusher."""
        os.close(self.fd)
