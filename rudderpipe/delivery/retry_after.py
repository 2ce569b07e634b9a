"""The Retry-After header: seconds, or a date (RFC 9110, 10.2.3)."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from math import isfinite


def seconds(text: str, now_ms: int) -> float | None:
    """How long the server asks to be left alone, 0 when that moment has passed; None when it does not say."""
    try:
        asked = float(text)
    except ValueError:
        try:
            asked = parsedate_to_datetime(text).timestamp() - now_ms / 1000
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    return max(0.0, asked) if isfinite(asked) else None
