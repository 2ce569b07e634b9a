"""The outcome of an attempt: what a response of the data plane means for the posted events."""

from __future__ import annotations

import re
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Literal

import msgspec

from rudderpipe.log_text import one_line

LONGEST_S = 30.0
LONGEST_ASKED_S = 300.0
"""The longest wait that a server may ask for, because it must not decide how old events become."""
BLOCKED_S = 2.0
"""The wait before an attempt that this host prevented is repeated: soon enough after a repair, cheap until then."""


def before_retry_s(retry: int, asked_s: float | None = None) -> float:
    """Return the seconds before retry number ``retry`` (1 is the first): 2^n, at most 30.

    The wait ``asked_s`` that the server asked for is used if it is longer, up to 300 s. A shorter wait would use up all
    attempts at once.
    """
    own_s = min(LONGEST_S, 2.0**retry) if retry < 10 else LONGEST_S
    return own_s if asked_s is None else max(own_s, min(LONGEST_ASKED_S, asked_s))


_SECONDS = re.compile(r"\s*-?[0-9]{1,15}(\.[0-9]*)?\s*")


def asked_seconds(text: str, now_ms: int) -> float | None:
    """Return the seconds in a Retry-After header, 0 for a date in the past, or None if the text is neither.

    A date without a time zone, or with the zone -0000, is in UTC.
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


Cause = Literal["timeout", "connect", "dns", "tls", "broken"]


class Outcome(msgspec.Struct, frozen=True):
    """The outcome of one attempt.

    ``delivered``: the server has the events. ``retry``: the same request may succeed later. ``refused``: the same
    request will never succeed. ``blocked``: this host, a setting or a proxy prevented the attempt. Because that says
    nothing about the events, the attempt is repeated later and is not counted. ``stopped``: this process must end and
    cut the request off, which is no attempt either.

    ``status`` is 0 when there was no response. ``reason`` is a readable text, bounded, without any data that was sent.
    """

    kind: Literal["delivered", "retry", "refused", "blocked", "stopped"]
    status: int
    reason: str
    retry_after_s: float | None = None
    """The wait in seconds that the server asked for; None when it did not ask."""
    cause: Cause | None = None
    """Why there was no response, if there was none."""


def of_answer(status: int, body: bytes, retry_after_s: float | None = None) -> Outcome:
    """Return the outcome of a response: 2xx is delivered, 5xx, 408 and 429 are retried, all others are refused."""
    text = " ".join(body[: REASON_CHARACTERS * 4].decode("utf-8", "replace").split())
    text = one_line(text[:REASON_CHARACTERS], REASON_CHARACTERS)
    reason = f"status {status}: {text}" if text else f"status {status}"
    if 200 <= status < 300:
        return Outcome("delivered", status, reason)
    if status in TEMPORARY or 500 <= status < 600:
        return Outcome("retry", status, reason, retry_after_s)
    return Outcome("refused", status, reason)


def of_refusal(status: int, why: str) -> Outcome:
    """Return the outcome of a response that no data plane sends, such as a redirect that must not be followed.

    Unlike the Node SDK, which follows 301 to 303 with a GET and counts that as a delivery.
    """
    return Outcome("refused", status, one_line(f"status {status}: {why}"[:REASON_CHARACTERS]))


def refuses_gzip(outcome: Outcome) -> bool:
    """Return True if the server refused the encoding of the body rather than its content."""
    text = outcome.reason.lower()
    return outcome.status == 415 or (outcome.status in (400, 501) and any(name in text for name in NAMES_GZIP))


def of_failure(reason: str, cause: Cause = "broken") -> Outcome:
    """Return the outcome of an attempt without a whole response: retry.

    The server may have handled the request. It recognizes repeated events by their ids.
    """
    return Outcome("retry", 0, one_line(reason[:REASON_CHARACTERS]), cause=cause)


def of_obstacle(reason: str) -> Outcome:
    """Return the outcome of an attempt that this host prevented: blocked.

    The cause must be repaired on this host. No event may fail for it, even if it lasts long.
    """
    return Outcome("blocked", 0, one_line(reason[:REASON_CHARACTERS]))


STOPPED = Outcome("stopped", 0, "stopped")
"""The outcome of a request that this process cut off because it must end."""
