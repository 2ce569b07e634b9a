"""Which events are sent when only a part is to be."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from rudderpipe.errors import SettingsError


class Sampling:
    """``events``: the part to keep by a track's event, a page's or screen's name, or a type; ``users``: of all users.

    Parts are 0 to 1. A user is always in or always out, in every process and on every host, by a hash of ``userId`` or
    else ``anonymousId``. Raises ``SettingsError``.
    """

    def __init__(self, events: Mapping[str, float] | None = None, users: float = 1.0) -> None:
        self._events = {name: _part(f"sample_events[{name!r}]", part) for name, part in (events or {}).items()}
        self._users = _part("sample_users", users)

    def keeps(self, message: Mapping[str, Any]) -> bool:
        """Whether the message is to be sent."""
        kind = message["type"]
        part = self._events.get(message.get("event" if kind == "track" else "name") or kind)
        if part is None:
            part = self._events.get(kind, 1.0)
        # By the id: random enough, and the same for who sends the message once more.
        if part < 1.0 and zlib.crc32(message["messageId"].encode()) >= part * (1 << 32):
            return False
        return self._users >= 1.0 or _place(message.get("userId") or message.get("anonymousId") or "") < self._users


def _place(user: str) -> float:
    """Of a user among all of them, 0 to 1."""
    import hashlib  # here, as loading it takes milliseconds that most applications have no use for

    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "big") / (1 << 64)


def _part(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise SettingsError(name, "must be a number from 0 to 1")
    return float(value)
