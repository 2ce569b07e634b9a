"""The rings that a queue has counted events of, each with the flusher that serves it."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from rudderpipe.queue.queue import PROTOCOL, RING_KEEP_MS, Queue

SILENT_S = 2 * 24 * 3600.0
"""A flusher writes something to each of its queues once a day. A ring of which nothing came for longer has none."""
SCANNED = 10_000
_EPOCH = re.compile(rb":[0-9a-f]{16}$")
_SPECIAL = re.compile(r"[\\?*\[\]]")
"""What a pattern of Redis does not take as it is."""


class KnownRing(msgspec.Struct, frozen=True):
    """A ring as a queue knows it."""

    epoch: str
    """Its name, 16 hexadecimal digits, with which the ids of its jobs begin."""
    host: str
    """Where its flusher runs; "" for one of an older version."""
    silent_s: float
    """How long ago its flusher last wrote something to the queue."""
    has_offsets: bool
    """True if its flusher still needs to know what the queue has."""
    is_older: bool
    """True if its flusher does not see a seal. An older flusher says nothing of itself."""


def fenced(queue: Queue) -> list[KnownRing]:
    """Return the rings whose flusher has fenced the queue. Those of an older version have not.

    Raise ``QueueUnavailable``.
    """
    (epochs,) = queue.ask(lambda pipe: pipe.zrange(queue.keys.rings, 0, -1))
    return _read(queue, [epoch.decode(errors="replace") for epoch in epochs])


def older(queue: Queue) -> list[KnownRing]:
    """Return the rings that an older flusher may serve. It reads the names of all keys in Redis.

    Raise ``QueueUnavailable``.
    """
    names, cursor = _scan(queue, 0)
    while cursor:
        more, cursor = _scan(queue, cursor)
        names += more
    return [each for each in _read(queue, [name[-16:].decode() for name in dict.fromkeys(names)]) if each.is_older]


def _scan(queue: Queue, cursor: int) -> tuple[list[bytes], int]:
    """Return the keys of rings in a part of Redis, and where the next part begins; 0 at the end."""
    pattern = _SPECIAL.sub(r"\\\g<0>", f"{queue.keys.account}:") + "*"
    ((following, names),) = queue.ask(lambda pipe: pipe.scan(cursor, match=pattern, count=SCANNED))
    return [name for name in names if _EPOCH.search(name)], int(following)


def _read(queue: Queue, epochs: list[str]) -> list[KnownRing]:
    if not epochs:
        return []

    def fill(pipe: Any) -> None:
        for epoch in epochs:
            key = f"{queue.keys.account}:{epoch}"
            pipe.hkeys(key)
            pipe.hmget(key, "flusher", "ended")
            pipe.pttl(key)

    found = iter(queue.ask(fill))
    rings = []
    for epoch, fields, (flusher, ended), left_ms in zip(epochs, found, found, found, strict=True):
        protocol, _, host = (flusher or b"").decode(errors="replace").partition(" ")
        knows = int(protocol) if protocol.isdigit() else 0
        silent_s = max(0, RING_KEEP_MS - left_ms) / 1000
        is_older = bool(fields) and ended is None and knows < PROTOCOL
        has_offsets = ended is None and any(map(bytes.isdigit, fields))
        rings.append(KnownRing(epoch, host, silent_s, has_offsets, is_older))
    return rings
