"""Moments as a person writes and reads them: in the time zone of the reader, which is named."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from datetime import datetime, timezone

from rudderpipe.process.clock import Clock

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment_ms(text: str) -> int:
    """Return the moment ``90s``, ``15m``, ``2h`` or ``7d`` ago, or of an ISO date, in milliseconds since 1970.

    A date without a zone is in the zone of the reader. Raise ``ArgumentTypeError`` for other text.
    """
    if ago := re.fullmatch(r"([0-9]{1,9})([smhd])", text):
        return Clock().time_ms() - int(ago[1]) * UNITS_S[ago[2]] * 1000
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError, OSError):  # the last two: a year that the system's calendar does not have
        raise ArgumentTypeError("must be 90s, 15m, 2h or 7d (ago), or a date such as 2026-11-24T08:00Z") from None


def shown(ms: int) -> str:
    """Return a moment in milliseconds since 1970 as text, such as ``2026-11-24 09:00:00 CET``."""
    return datetime.fromtimestamp(ms / 1000, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
