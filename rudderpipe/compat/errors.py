"""The errors of rudder-sdk-python, each with the type that it has there and within rudderpipe's own tree."""

from __future__ import annotations

import re

import msgspec

from rudderpipe.errors import DeliveryError, EventError, EventTooLarge
from rudderpipe.log_text import one_line

_REASON = re.compile(r"status \d+(?:: (?P<text>.*?))?(?: \(after \d+ attempts?\))?", re.DOTALL)


class _Refusal(msgspec.Struct):
    """The JSON with which a server refuses a request."""

    code: str
    message: str


class WrongCall(EventError, AssertionError):
    """A call for which rudder-sdk-python raises ``AssertionError``; unlike there, the text holds no value."""


class MessageTooLarge(EventTooLarge, RuntimeError):
    """An event for which rudder-sdk-python raises ``RuntimeError``; unlike there, the text does not hold the event."""


class APIError(DeliveryError):
    """A failed delivery, with ``status``, ``code`` and ``message`` as in rudder-sdk-python.

    ``status`` is 0 without a response. ``code`` is "unknown" unless the response is JSON with a code and a message.
    """

    sdk = "rudderstack"

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message, status)
        self.args = (status, code, message)
        self.code = one_line(code)
        self.message = self.reason

    def __str__(self) -> str:
        return f"[{self.sdk}] {self.code}: {self.message} ({self.status})"


def api_error(error: Exception, kind: type[APIError]) -> Exception:
    """Return a ``DeliveryError`` in the form of the other SDK; return another error as it is."""
    if not isinstance(error, DeliveryError) or isinstance(error, APIError):
        return error
    found = _REASON.fullmatch(error.reason)
    text = error.reason if found is None else found["text"] or ""
    try:
        refusal = msgspec.json.decode(text, type=_Refusal)
    except msgspec.DecodeError:
        refusal = _Refusal("unknown", text)
    return kind(error.status, refusal.code, refusal.message)
