"""Message ids: random, cheap, and never the same in two processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import chain, repeat

from rudderpipe.process import fork

_HEX = tuple(f"{number:03x}" for number in range(4096))


class MessageIds:
    """Random UUIDs (version 4), 4,096 of which share all but their last three digits: 60 ns each."""

    next: Callable[[], str]
    """An id that no other call gets. Only where ``forks.PAGE`` has just been asked: else see ``new``."""

    def __init__(self) -> None:
        fork.forget_in_children(self)
        self.forget()

    def forget(self) -> None:
        """Start from new random bits; forked workers with the same ones would make the same ids."""
        # No generator: it could not be entered again from a signal handler.
        self.next = chain.from_iterable(map(_family, repeat(16))).__next__

    def new(self) -> str:
        """An id that no other call anywhere gets, in this process or in one that was forked from it."""
        if not fork.PAGE[0]:
            fork.renew()
        return self.next()


def _family(size_bytes: int) -> Iterator[str]:
    digits = os.urandom(size_bytes).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    prefix = f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:29]}"
    return map(prefix.__add__, _HEX)
