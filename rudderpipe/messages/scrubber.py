"""The scrubber, which redacts sensitive values before an event leaves the process."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

KEYS = (
    *("password", "passwd", "pwd", "passphrase", "secret", "client_secret", "token", "access_token", "refresh_token"),
    *("id_token", "api_key", "apikey", "private_key", "authorization", "auth", "cookie", "set_cookie", "session_id"),
    *("csrf_token", "credit_card", "card_number", "cvv", "cvc", "iban", "ssn", "social_security_number"),
)
"""The default keys of a ``Scrubber``."""
EMAIL = r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
CARD_NUMBER = r"\b(?:\d[ -]?){12,18}\d\b"
_PARTS = ("properties", "traits", "context")


class Scrubber:
    """A scrubber that replaces values by key, and parts of text by pattern.

    It works in properties, traits and context, at any depth. ``keys`` are compared without regard to case, ``-`` and
    ``_``. ``patterns`` are regular expressions, such as ``EMAIL`` and ``CARD_NUMBER`` in this module.
    """

    def __init__(
        self,
        keys: Iterable[str] = KEYS,
        patterns: Iterable[str | re.Pattern[str]] = (),
        replacement: str = "[scrubbed]",
    ) -> None:
        self._keys = frozenset(map(_bare, keys))
        self._patterns = tuple(re.compile(pattern) for pattern in patterns)
        self._replacement = replacement

    def scrub(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a redacted copy of the message; the given message is not changed."""
        return {key: self._clean(value) if key in _PARTS else value for key, value in message.items()}

    def _clean(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: self._replacement if _bare(key) in self._keys else self._clean(child)
                for key, child in value.items()
            }
        if isinstance(value, list):
            return [self._clean(child) for child in value]
        if isinstance(value, str):
            for pattern in self._patterns:
                value = pattern.sub(self._replacement, value)
        return value


def _bare(key: str) -> str:
    return key.lower().replace("-", "").replace("_", "")
