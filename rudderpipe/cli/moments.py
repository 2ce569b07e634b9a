"""Points in time, as people write them in an option."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from datetime import datetime, timezone

from rudderpipe.process.clock import Clock

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment_ms(text: str) -> int:
    """``90s``, ``15m``, ``2h``, ``7d`` ago, or an ISO date, in ms since 1970. Raises ``ArgumentTypeError``."""
    if ago := re.fullmatch(r"(\d{1,9})([smhd])", text):
        return Clock().time_ms() - int(ago[1]) * UNITS_S[ago[2]] * 1000
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ArgumentTypeError("must be 90s, 15m, 2h or 7d (ago), or a date such as 2026-11-24T08:00Z") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1000)
