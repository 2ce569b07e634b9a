"""All that happens to a message between the call and the ring, where anything does."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from rudderpipe.errors import EventError, SettingsError
from rudderpipe.messages import encode, validate, wire
from rudderpipe.messages.scrubber import Scrubber


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


BeforeSend = Callable[[dict[str, Any]], dict[str, Any] | None]
"""Is given a message in wire names, which it may change, and answers it, another one, or None to drop it."""
_TIMES = ("timestamp", "originalTimestamp")
_decode = msgspec.json.Decoder(dict[str, Any], float_hook=encode.number).decode


class Shaper:
    """Sampling, then each ``before_send`` in turn, then the scrubber, which sees what those put in."""

    def __init__(self, sampling: Sampling, before_send: Sequence[BeforeSend], scrubber: Scrubber | None) -> None:
        self._sampling = sampling
        self._before_send = before_send
        self._scrubber = scrubber

    def shape(self, data: bytes) -> bytes | None:
        """The message as it is to be sent; None when it is not. Raises ``EventError``, by ``before_send``'s fault."""
        message: dict[str, Any] = _decode(data)
        if not self._sampling.keeps(message):
            return None
        if not self._before_send and self._scrubber is None:
            return data
        times = {name: message.get(name) for name in _TIMES}
        for step in self._before_send:
            changed = _ask(step, message)
            if changed is None:
                return None
            message = _checked(changed, times)
        if self._scrubber is not None:
            message = self._scrubber.scrub(message)
        return wire.encoded(message, was_encoded=True)


def _ask(step: BeforeSend, message: dict[str, Any]) -> Any:
    try:
        return step(message)
    except Exception as error:  # an application's mistake, which must not reach its request
        # Not sent as it was: what was to be taken out is still in it.
        raise EventError("before_send", f"raised {type(error).__name__}") from error


def _checked(message: Any, times: dict[str, Any]) -> dict[str, Any]:
    """Return what the server needs as it can read it; raises ``EventError`` where it is missing."""
    if not isinstance(message, dict):
        raise EventError("before_send", f"must answer the message or None, not {type(message).__name__}")
    message = encode.shallow(message, "before_send")
    for name in ("type", "messageId"):
        message[name] = validate.text(name, message.get(name), required=True)
    ids = validate.ids(message.get("userId"), message.get("anonymousId"), ("userId", "anonymousId"))
    message |= zip(("userId", "anonymousId"), ids, strict=True)
    for name in _TIMES:
        if (at := message.get(name)) is not None and at is not times[name]:
            message[name] = validate.moment(name, at)
    message.pop("sentAt", None)  # the sender's
    return {name: value for name, value in message.items() if value is not UNSET}
