"""What an answer of the data plane means for the events that were posted."""

from __future__ import annotations

import re
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Literal

import msgspec

from rudderpipe.log_text import one_line

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


REASON_CHARACTERS = 200
TEMPORARY = (408, 429)
NAMES_GZIP = ("gzip", "content-encoding", "content encoding")


class Outcome(msgspec.Struct, frozen=True):
    """``delivered``; ``retry``: the same request may succeed later; ``refused``: it never will.

    ``blocked``: this host, a setting or a proxy prevents the attempt, which says nothing about the events: it is
    repeated later and counts as no attempt.

    ``status`` is 0 when there was no answer. ``reason`` is for people, bounded, and holds nothing that was sent.
    """

    kind: Literal["delivered", "retry", "refused", "blocked"]
    status: int
    reason: str
    retry_after_s: float | None = None
    """How long the server asked to be left alone; None when it did not."""


def of_answer(status: int, body: bytes, retry_after_s: float | None = None) -> Outcome:
    """2xx is delivered; 5xx, 408 and 429 may succeed later; everything else never will."""
    text = " ".join(body[: REASON_CHARACTERS * 4].decode("utf-8", "replace").split())
    text = one_line(text[:REASON_CHARACTERS], REASON_CHARACTERS)
    reason = f"status {status}: {text}" if text else f"status {status}"
    if 200 <= status < 300:
        return Outcome("delivered", status, reason)
    if status in TEMPORARY or 500 <= status < 600:
        return Outcome("retry", status, reason, retry_after_s)
    return Outcome("refused", status, reason)


def of_refusal(status: int, why: str) -> Outcome:
    """An answer that is not what a data plane says.

    Unlike the Node SDK, which follows 301 to 303 with a GET and takes that for a delivery.
    """
    return Outcome("refused", status, one_line(f"status {status}: {why}"[:REASON_CHARACTERS]))


def refuses_gzip(outcome: Outcome) -> bool:
    """Return whether the encoding of the body was refused rather than what it holds."""
    text = outcome.reason.lower()
    return outcome.status == 415 or (outcome.status in (400, 501) and any(name in text for name in NAMES_GZIP))


def of_failure(reason: str) -> Outcome:
    """No answer, or half of one: it may have been handled, and the server tells repeated events by their ids."""
    return Outcome("retry", 0, one_line(reason[:REASON_CHARACTERS]))


def of_obstacle(reason: str) -> Outcome:
    """Something that must be mended on this host: no event may fail for it, however long it lasts."""
    return Outcome("blocked", 0, one_line(reason[:REASON_CHARACTERS]))
