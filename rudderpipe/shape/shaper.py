"""All that happens to a message between the call and the ring, where anything does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from rudderpipe import checks, parts
from rudderpipe.errors import EventError
from rudderpipe.shape.sampling import Sampling
from rudderpipe.shape.scrubber import Scrubber

BeforeSend = Callable[[dict[str, Any]], dict[str, Any] | None]
"""Is given a message in wire names, which it may change, and answers it, another one, or None to drop it."""
_decode = msgspec.json.Decoder(dict[str, Any]).decode


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
        for step in self._before_send:
            changed = _ask(step, message)
            if changed is None:
                return None
            message = _checked(changed)
        if self._scrubber is not None:
            message = self._scrubber.scrub(message)
        return parts.encoded(message)


def _ask(step: BeforeSend, message: dict[str, Any]) -> Any:
    try:
        return step(message)
    except Exception as error:  # an application's mistake, which must not reach its request
        # Not sent as it was: what was to be taken out is still in it.
        raise EventError("before_send", f"raised {type(error).__name__}") from error


def _checked(message: Any) -> dict[str, Any]:
    """What the server needs must still be there."""
    if not isinstance(message, dict):
        raise EventError("before_send", f"must answer the message or None, not {type(message).__name__}")
    for name in ("type", "messageId"):
        checks.text(name, message.get(name), required=True)
    checks.ids(message.get("userId"), message.get("anonymousId"), ("userId", "anonymousId"))
    return message
