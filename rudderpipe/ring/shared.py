"""``multiprocessing.shared_memory`` without its resource tracker, and without its ways of unlinking."""

from __future__ import annotations

import sys
from _thread import RLock
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory

from rudderpipe import forks

PREFIX = "rudderpipe"


class _Patching:
    """One thread at a time, also in a child that was forked meanwhile."""

    def __init__(self) -> None:
        forks.forget_in_children(self)
        self.forget()

    def forget(self) -> None:
        """The thread that had it may not be here."""
        self.lock = RLock()


_patching = _Patching()


class Shared(SharedMemory):
    """Shared memory that outlives the process: never unlinked behind our back, quiet at interpreter exit."""

    def __del__(self) -> None:
        """Leave the mapping to the kernel: views of it may still be in use."""

    @property
    def whole(self) -> memoryview:
        """All of it."""
        assert self.buf is not None
        return self.buf

    def unlink(self) -> None:
        """Never from within: the standard library unlinks another's segment when mapping it fails."""


@contextmanager
def _untracked() -> Iterator[None]:
    """Keep the resource tracker out: it unlinks what other processes still use, and it is a process of its own.

    From 3.13 there is ``track=False``. Before, registering starts the tracker, so it must not even be asked.
    """
    with _patching.lock:
        original = resource_tracker.register

        def register(name: Sized, rtype: str) -> None:
            if not str(name).lstrip("/").startswith(PREFIX):
                original(name, rtype)

        resource_tracker.register = register
        try:
            yield
        finally:
            resource_tracker.register = original


def open_shared(name: str, size_bytes: int = 0) -> Shared:
    """Make the segment when a size is given, else map the one that is there."""
    if sys.version_info >= (3, 13):
        return Shared(name, create=size_bytes > 0, size=size_bytes, track=False)
    with _untracked():
        return Shared(name, create=size_bytes > 0, size=size_bytes)
