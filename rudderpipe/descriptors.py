"""Whose a descriptor's number is now: an application that closes all has our next file get the number of the last."""

from __future__ import annotations

_owners: dict[int, int] = {}


def own(owner: object, fd: int) -> None:
    """The number is this object's until another one says so."""
    _owners[fd] = id(owner)


def disown(owner: object, fd: int) -> bool:
    """Whether it still is; from now on it is nobody's."""
    if _owners.get(fd) != id(owner):
        return False
    del _owners[fd]
    return True
