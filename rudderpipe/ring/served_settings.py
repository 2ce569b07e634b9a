"""The settings that a ring's flusher uses, as digests in the ring, for clients that were given other settings.

A digest is salted with the ring's epoch. Neither a digest nor a name reveals a value.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import msgspec

from rudderpipe.ring import layout as at
from rudderpipe.ring.fence import fence
from rudderpipe.ring.ring import Ring, RingView
from rudderpipe.settings import CLIENTS, CREDENTIALS_VARIABLE, Settings

_NOT_THE_FLUSHERS = {
    *CLIENTS,
    *("when_full", "block_timeout_ms", "log_level", "log_format", "autostart", "shutdown_timeout_s", "linger_s"),
    "redis_password_file",  # Only flusher and sender connect to Redis.
    # These name the pipe, or are the ring's own.
    *("pipe", "runtime_dir", "ring_bytes", "max_internal_queue_size", "path"),
}
"""Settings that each process has for itself, or that cannot differ within a pipe.

``path`` is compared as a part of the URL.
"""
NAMES = tuple(name for name in Settings.__struct_fields__ if name not in _NOT_THE_FLUSHERS)


def record(ring: Ring, settings: Settings) -> None:
    """Store the digests of the flusher's settings. Only by the process that holds the flusher's lock."""
    if not _has_room(ring):
        return
    words = ring.words
    words[at.H_SERVED] = 0
    fence()  # Order: no digests are valid while they are written
    for number, digest in enumerate([_digest(ring, NAMES), *_digests(ring, settings)]):
        words[at.H_SERVED + 1 + number] = digest
    fence()  # Order: the digests before the start of the flusher that they are valid for
    words[at.H_SERVED] = words[at.H_STARTS]


def differing(ring: RingView, settings: Settings) -> list[str] | None:
    """Return the names of the settings in which the flusher differs; None if that is not known."""
    if not _has_room(ring):
        return None
    words, first = ring.words, at.H_SERVED + 2
    start = words[at.H_SERVED]
    fence()
    names, digests = words[first - 1], words[first : first + len(NAMES)].tolist()
    fence()
    if not start == words[at.H_SERVED] == words[at.H_STARTS] or names != _digest(ring, NAMES):
        return None  # the digests are being written, or are of a version with other settings
    own = _digests(ring, settings)
    return [name for name, theirs, ours in zip(NAMES, digests, own, strict=True) if theirs != ours]


def _has_room(ring: RingView) -> bool:
    return ring.layout.format.header_words >= at.H_SERVED + 2 + len(NAMES)


def _digests(ring: RingView, settings: Settings) -> list[int]:
    return [_digest(ring, (name, _value(settings, name))) for name in NAMES]


def _value(settings: Settings, name: str) -> Any:
    """Return the value in a form in which two spellings of it are equal."""
    if name == "data_plane_url":
        return settings.endpoint
    if name == "redis" and settings.redis is not None:
        return settings.redis_address if len(settings.redis_servers) == 1 else settings.redis_servers
    if name == "write_key_file" and settings.write_key_file:
        return _without_unit(settings.write_key_file)
    return getattr(settings, name)


def _without_unit(path: str) -> str:
    """Return a credential of systemd without its directory, because each unit of a pipe has a directory of its own."""
    directory, _, name = path.rpartition("/")
    return name if directory == os.environ.get(CREDENTIALS_VARIABLE) else path


def _digest(ring: RingView, value: Any) -> int:
    data = ring.segment.epoch.to_bytes(8, "big") + msgspec.json.encode(value)
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
