"""The optional steps between a call and the ring: sampling, ``before_send`` and the scrubber."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from rudderpipe.errors import EventError, SettingsError
from rudderpipe.messages import encode, wire
from rudderpipe.messages.scrubber import Scrubber
from rudderpipe.process.handlers import let_through


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
_decode = msgspec.json.Decoder(dict[str, Any], float_hook=encode.number).decode


class Shaper:
    """The steps in their order: sampling, each ``before_send``, and the scrubber, which sees their changes."""

    def __init__(self, sampling: Sampling, before_send: Sequence[BeforeSend], scrubber: Scrubber | None) -> None:
        self._sampling = sampling
        self._before_send = before_send
        self._scrubber = scrubber

    def shape(self, data: bytes | bytearray) -> bytes | bytearray | None:
        """Return the message to send, or None to drop it; raise ``EventError`` if ``before_send`` fails."""
        message: dict[str, Any] = _decode(data)
        if not self._sampling.keeps(message):
            return None
        if not self._before_send and self._scrubber is None:
            return data
        for step in self._before_send:
            answer = _ask(step, message)
            if answer is None:
                return None
            message = _checked(answer)
        if self._scrubber is not None:
            message = self._scrubber.scrub(message)
        return wire.encoded(message, required=("type", "messageId"))


def steps_of(before_send: BeforeSend | Iterable[BeforeSend]) -> tuple[BeforeSend, ...]:
    """Return the functions of ``before_send``, which is one function or several; raise ``SettingsError``."""
    steps = tuple(before_send) if isinstance(before_send, Iterable) and not callable(before_send) else (before_send,)
    for step in steps:
        if not callable(step):
            raise SettingsError("before_send", f"must be callable, not {type(step).__name__}")
    return steps


def check_callable(name: str, value: object) -> None:
    """Raise ``SettingsError`` for an argument of ``Client`` that is neither None nor a function."""
    if value is not None and not callable(value):
        raise SettingsError(name, f"must be callable, not {type(value).__name__}")


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
        let_through(error)
        # The unchanged message is not sent, because it still contains what before_send should remove.
        raise EventError("before_send", f"raised {type(error).__name__}") from error


def _checked(answer: Any) -> dict[str, Any]:
    """Return the message that a ``before_send`` returned; raise ``EventError`` if it is no dict."""
    if not isinstance(answer, dict):
        raise EventError("before_send", f"must return the message or None, not {type(answer).__name__}")
    message = encode.shallow(answer, "before_send")
    message.pop("sentAt", None)  # the sender adds it
    return message
