"""Message ids, which are random, cheap, and never the same in two processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import chain, repeat

from rudderpipe.process import fork

_HEX = tuple(f"{number:03x}" for number in range(4096))


class MessageIds:
    """A source of random UUIDs (version 4) at 60 ns each; 4,096 of them share all digits except the last three."""

    next: Callable[[], str]
    """A function that returns an id that no other call gets.

    Call it only right after a check of ``fork.PAGE``; otherwise call ``new``. It raises ``StopIteration`` forever after
    a signal handler raised an exception in the middle of it; then call ``new`` too.
    """

    def __init__(self) -> None:
        fork.forget_in_children(self)
        self.forget()

    def forget(self) -> None:
        """Start from new random bits, because forked workers with the same bits would make the same ids."""
        # Not a generator, because a signal handler cannot enter a running generator again.
        self.next = chain.from_iterable(map(_family, repeat(16))).__next__

    def new(self) -> str:
        """Return an id that no other call gets, in this process or in a process forked from it."""
        if not fork.PAGE[0]:
            fork.renew()
        try:
            return self.next()
        except StopIteration:
            self.forget()
            return self.next()


def _family(size_bytes: int) -> Iterator[str]:
    digits = os.urandom(size_bytes).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    prefix = f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:29]}"
    return map(prefix.__add__, _HEX)
