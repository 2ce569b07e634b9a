"""How long to wait before the next attempt."""

from __future__ import annotations

LONGEST_S = 30.0
BLOCKED_S = 2.0
"""How often an attempt that this host prevents is repeated: soon enough after it is mended, and cheap until then."""
ASKED_MIN_S, ASKED_MAX_S = 1.0, 300.0
"""Bounds of what a server may ask for: 0 would use up all attempts in an instant, a day is no answer."""


def before_retry_s(retry: int, asked_s: float | None = None) -> float:
    """Seconds before retry number ``retry`` (1 is the first): 2^n, at most 30; or what the server asked for."""
    if asked_s is not None:
        return min(ASKED_MAX_S, max(ASKED_MIN_S, asked_s))
    return min(LONGEST_S, 2.0**retry) if retry < 10 else LONGEST_S
