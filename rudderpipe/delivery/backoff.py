"""How long to wait before the next attempt."""

from __future__ import annotations

LONGEST_S = 30.0


def before_retry_s(retry: int) -> float:
    """Seconds before retry number ``retry`` (1 is the first): 2^n, at most 30."""
    return min(LONGEST_S, 2.0**retry) if retry < 10 else LONGEST_S
