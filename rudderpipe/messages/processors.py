"""The optional steps between a call and the ring: sampling, ``before_send`` and the scrubber."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from rudderpipe.errors import EventError, SettingsError
from rudderpipe.messages import encode, validate, wire
from rudderpipe.messages.scrubber import Scrubber


class Sampling:
    """The sampling of events and users; parts are numbers from 0 to 1.

    ``events`` maps a track's event, a page's or screen's name, or a message type to the part of its events to keep.
    ``users`` is the part of all users to keep. A hash of ``userId``, or else of ``anonymousId``, decides about a user,
    so the decision is the same in every process and on every host. The constructor raises ``SettingsError``.
    """

    def __init__(self, events: Mapping[str, float] | None = None, users: float = 1.0) -> None:
        self._events = {name: _part(f"sample_events[{name!r}]", part) for name, part in (events or {}).items()}
        self._users = _part("sample_users", users)

    def keeps(self, message: Mapping[str, Any]) -> bool:
        """Return True if the message is to be sent."""
        kind = message["type"]
        part = self._events.get(message.get("event" if kind == "track" else "name") or kind)
        if part is None:
            part = self._events.get(kind, 1.0)
        # The message id decides, because it is random enough, and the same if the message is sent again.
        if part < 1.0 and zlib.crc32(message["messageId"].encode()) >= part * (1 << 32):
            return False
        return self._users >= 1.0 or _place(message.get("userId") or message.get("anonymousId") or "") < self._users


def _place(user: str) -> float:
    """Return a user's place among all users, a number from 0 to 1 that depends only on the id."""
    import hashlib  # here, because loading it takes milliseconds, and most applications do not need it

    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "big") / (1 << 64)


def _part(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise SettingsError(name, "must be a number from 0 to 1")
    return float(value)


BeforeSend = Callable[[dict[str, Any]], dict[str, Any] | None]
"""Takes a message in wire names, which it may change; returns this message, another one, or None to drop it."""
_TIMES = ("timestamp", "originalTimestamp")
_decode = msgspec.json.Decoder(dict[str, Any], float_hook=encode.number).decode


class Shaper:
    """The steps in their order: sampling, each ``before_send``, and the scrubber, which sees their changes."""

    def __init__(self, sampling: Sampling, before_send: Sequence[BeforeSend], scrubber: Scrubber | None) -> None:
        self._sampling = sampling
        self._before_send = before_send
        self._scrubber = scrubber

    def shape(self, data: bytes) -> bytes | None:
        """Return the message to send, or None to drop it; raise ``EventError`` if ``before_send`` fails."""
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


def steps_of(before_send: BeforeSend | Iterable[BeforeSend]) -> tuple[BeforeSend, ...]:
    """Return the functions of ``before_send``, which is one function or several; raise ``SettingsError``."""
    steps = tuple(before_send) if isinstance(before_send, Iterable) and not callable(before_send) else (before_send,)
    for step in steps:
        if not callable(step):
            raise SettingsError("before_send", f"must be callable, not {type(step).__name__}")
    return steps


def shaper_of(
    sample_events: Mapping[str, float] | None,
    sample_users: float,
    steps: Sequence[BeforeSend],
    scrubber: Scrubber | None,
) -> Shaper | None:
    """Return the steps that these arguments of ``Client`` ask for, or None if there are none.

    Raises ``SettingsError``.
    """
    if scrubber is not None and not isinstance(scrubber, Scrubber):
        raise SettingsError("scrubber", f"must be a rudderpipe.Scrubber, not {type(scrubber).__name__}")
    sampling = Sampling(sample_events, sample_users)
    if not (sample_events or sample_users != 1.0 or steps or scrubber is not None):
        return None
    return Shaper(sampling, steps, scrubber)


def _ask(step: BeforeSend, message: dict[str, Any]) -> Any:
    try:
        return step(message)
    except Exception as error:  # an error of the application's function, which must not reach its request
        # The unchanged message is not sent, because it still contains what before_send should remove.
        raise EventError("before_send", f"raised {type(error).__name__}") from error


def _checked(message: Any, times: dict[str, Any]) -> dict[str, Any]:
    """Return the message in a form that the server can read; raise ``EventError`` if a required part is missing."""
    if not isinstance(message, dict):
        raise EventError("before_send", f"must return the message or None, not {type(message).__name__}")
    message = encode.shallow(message, "before_send")
    for name in ("type", "messageId"):
        message[name] = validate.text(name, message.get(name), required=True)
    ids = validate.ids(message.get("userId"), message.get("anonymousId"), ("userId", "anonymousId"))
    message |= zip(("userId", "anonymousId"), ids, strict=True)
    for name in _TIMES:
        if (at := message.get(name)) is not None and at is not times[name]:
            message[name] = validate.moment(name, at)
    message.pop("sentAt", None)  # the sender adds it
    return {name: value for name, value in message.items() if value is not UNSET}
