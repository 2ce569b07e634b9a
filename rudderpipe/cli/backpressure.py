"""Appending to the ring with back-pressure instead of refusals."""

from __future__ import annotations

import time
from collections.abc import Callable

from rudderpipe.errors import EventTooLarge
from rudderpipe.ring import layout as at
from rudderpipe.transports.ring import Pipe

WAIT_S = 0.002


def put(pipe: Pipe, data: bytes, waits: Callable[[str], None] = lambda _reason: None) -> None:
    """Append one encoded event to the ring, and wait until the ring accepts it.

    ``waits`` is called with the reason before each new try. Raise ``EventTooLarge``, and ``RingUnavailable`` when the
    ring cannot be opened.
    """
    while (reason := pipe.producer.append(data)) is not None:
        if reason == "too_large":
            raise EventTooLarge(len(data), at.EVENT_MAX_BYTES)
        if reason == "ring" and pipe.producer.trouble is not None:
            raise pipe.producer.trouble
        waits(reason)
        time.sleep(WAIT_S)
