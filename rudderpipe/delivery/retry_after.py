"""The Retry-After header: seconds, or a date (RFC 9110, 10.2.3)."""

from __future__ import annotations

import re
from datetime import timezone
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"\s*-?[0-9]{1,15}(\.[0-9]*)?\s*")


def seconds(text: str, now_ms: int) -> float | None:
    """Return how long the server asks to be left alone, 0 when that moment has passed; None when it does not say.

    A date without a zone, or of the zone -0000, is in UTC.
    """
    if _SECONDS.fullmatch(text):
        return max(0.0, float(text))
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return max(0.0, moment.timestamp() - now_ms / 1000)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
