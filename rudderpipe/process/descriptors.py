"""The object that owns a descriptor's number.

An application may close every descriptor. The next file that rudderpipe opens may then get the number of an earlier
one.
"""

from __future__ import annotations

import fcntl
import os

STANDARD_ERROR = 2
_owners: dict[int, int] = {}


def above_standard(fd: int) -> int:
    """Return the descriptor, moved above the standard ones if it has the number of one of them.

    Such a number is free when the application closed its standard descriptors. What the application prints would be
    written into our file.
    """
    if fd > STANDARD_ERROR:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, STANDARD_ERROR + 1)
    finally:
        os.close(fd)


def own(owner: object, fd: int) -> None:
    """Record the object as the owner of this number, until another object becomes its owner."""
    _owners[fd] = id(owner)


def disown(owner: object, fd: int) -> bool:
    """Return whether the object owns the number, and end that ownership."""
    if _owners.get(fd) != id(owner):
        return False
    del _owners[fd]
    return True
