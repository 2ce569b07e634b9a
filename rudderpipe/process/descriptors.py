"""Whose a descriptor's number is now: an application that closes all has our next file get the number of the last."""

from __future__ import annotations

import fcntl
import os

STANDARD_ERROR = 2
_owners: dict[int, int] = {}


def above_standard(fd: int) -> int:
    """Move a descriptor above the standard ones, which were closed: what is printed would be written into its file."""
    if fd > STANDARD_ERROR:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, STANDARD_ERROR + 1)
    finally:
        os.close(fd)


def own(owner: object, fd: int) -> None:
    """The number is this object's until another one says so."""
    _owners[fd] = id(owner)


def disown(owner: object, fd: int) -> bool:
    """Whether it still is; from now on it is nobody's."""
    if _owners.get(fd) != id(owner):
        return False
    del _owners[fd]
    return True
