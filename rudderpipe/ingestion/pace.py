"""The pace of an ingestion, for servers with a limit: ``--rate 500``, ``30k/s``, ``1000/min``."""

from __future__ import annotations

import re

from rudderpipe.errors import SettingsError

_SECONDS = {"": 1, "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}
_rate = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKM]?)(?: ?/ ?(s|sec|min|m|h))?")
MOST_PER_S = 1e9
STEP_S = 0.05
"""Events of so many seconds are sent together at most."""


def parse(text: str | float) -> float:
    """Return the events a second of a rate; raise ``SettingsError``."""
    match = _rate.fullmatch(text.strip()) if isinstance(text, str) else None
    if isinstance(text, (int, float)):
        per_s = float(text)
    elif match is not None:
        per_s = float(match[1]) * _FACTORS[match[2].lower()] / _SECONDS[match[3] or ""]
    else:
        raise SettingsError("--rate", "must be a number of events, such as 500, 30k/s or 1000/min")
    if not 0 < per_s <= MOST_PER_S:
        raise SettingsError("--rate", "must be above 0 and at most 1,000,000,000 a second")
    return per_s


class Pace:
    """A bound on the events a second. Time in which nothing could be sent is not made up for."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self.most = max(1, int(per_s * STEP_S))
        """How many events may be sent together."""
        self._next_s = float("-inf")

    def wait_s(self, now_s: float) -> float:
        """Return how long to wait before the next event; 0 if it may be sent now."""
        return max(0.0, self._next_s - now_s)

    def sent(self, number: int, now_s: float) -> None:
        """Count events that were sent."""
        self._next_s = max(self._next_s, now_s - STEP_S) + number / self._per_s
