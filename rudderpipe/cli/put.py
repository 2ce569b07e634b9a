"""Put an event into the ring, with back-pressure instead of loss."""

from __future__ import annotations

import time
from collections.abc import Callable

from rudderpipe.errors import EventTooLarge
from rudderpipe.ring import layout as at
from rudderpipe.transports.ring import Pipe

WAIT_S = 0.002


def put(pipe: Pipe, data: bytes, waits: Callable[[str], None] = lambda _reason: None) -> None:
    """Wait until it is accepted; ``waits`` is called with the reason again and again.

    Raises ``EventTooLarge``, and ``RingUnavailable`` when there can be no ring.
    """
    while (reason := pipe.producer.append(data)) is not None:
        if reason == "too_large":
            raise EventTooLarge(len(data), at.EVENT_MAX_BYTES)
        if reason == "ring" and pipe.producer.trouble is not None:
            raise pipe.producer.trouble
        waits(reason)
        time.sleep(WAIT_S)
