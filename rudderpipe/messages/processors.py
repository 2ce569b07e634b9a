"""All that happens to a message between the call and the ring, where anything does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from rudderpipe.errors import EventError
from rudderpipe.messages import encode, parts, validate
from rudderpipe.messages.sampling import Sampling
from rudderpipe.messages.scrubber import Scrubber

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
        return parts.encoded(message, was_encoded=True)


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
