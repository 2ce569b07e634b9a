"""How long to wait before the next attempt."""

from __future__ import annotations

LONGEST_S = 30.0
LONGEST_ASKED_S = 300.0
"""A server that asks to be left alone for a day does not decide how old events become."""
BLOCKED_S = 2.0
"""How often an attempt that this host prevents is repeated: soon enough after it is mended, and cheap until then."""


def before_retry_s(retry: int, asked_s: float | None = None) -> float:
    """Return the seconds before retry number ``retry`` (1 is the first): 2^n, at most 30.

    What the server asked for counts when it is longer; a shorter one would use up all attempts in an instant.
    """
    own_s = min(LONGEST_S, 2.0**retry) if retry < 10 else LONGEST_S
    return own_s if asked_s is None else max(own_s, min(LONGEST_ASKED_S, asked_s))
