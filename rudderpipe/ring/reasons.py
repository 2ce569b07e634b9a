"""Why events of a ring failed: the last few reasons, which the flusher stores for the application's log and results."""

from __future__ import annotations

import msgspec

from rudderpipe.log_text import one_line
from rudderpipe.ring import failures
from rudderpipe.ring import layout as at
from rudderpipe.ring.fence import fence
from rudderpipe.ring.ring import Ring

_NUMBER, _COUNT, _STATUS, _AT_MS, _FAILURE, _BYTES, _TEXT = range(7)
_TEXT_BYTES = (at.REASON_WORDS - _TEXT) * at.WORD
CHARACTERS = 200


class Reason(msgspec.Struct, frozen=True):
    """Why ``count`` events failed.

    ``status`` is that of the data plane's response, 0 without one. ``at_ms`` is the time of the last of them, in
    milliseconds since 1970. ``text`` has at most 200 characters and nothing of what was sent.
    """

    count: int
    status: int
    at_ms: int
    text: str


def record(ring: Ring, reason: Reason) -> None:
    """Store a reason. Only the flusher calls it, before it stores the failures that the reason explains.

    A reason that is the same as the latest one is added to it.
    """
    words = ring.words
    if not _has_room(ring):
        return
    number, latest = words[at.H_REASONS], _read(ring, words[at.H_REASONS])
    if latest is not None and (latest.status, latest.text) == (reason.status, reason.text[:CHARACTERS]):
        reason = msgspec.structs.replace(reason, count=(latest.count + reason.count) & at.ALL_BITS)
        first_failure = words[_place(number) + _FAILURE]
    else:
        number, first_failure = (number + 1) & at.ALL_BITS, failures.written(ring)
    place = _place(number)
    text = reason.text[:CHARACTERS].encode()[:_TEXT_BYTES]
    words[place + _NUMBER] = 0  # Order: nothing is valid while it is written
    fence()
    words[place + _COUNT], words[place + _STATUS], words[place + _AT_MS] = reason.count, reason.status, reason.at_ms
    words[place + _FAILURE], words[place + _BYTES] = first_failure, len(text)
    start = (place + _TEXT) * at.WORD
    ring.segment.memory[start : start + len(text)] = text
    fence()  # Order: the reason before the numbers that publish it
    words[place + _NUMBER] = number
    words[at.H_REASONS] = number


def latest(ring: Ring) -> Reason | None:
    """Return the latest reason; None if no event failed, or if the reason is being stored."""
    return _read(ring, ring.words[at.H_REASONS]) if _has_room(ring) else None


def of(ring: Ring, failure: int) -> Reason | None:
    """Return the reason of this failure, by its number; None if the reason is not stored any more."""
    if not _has_room(ring):
        return None
    newest = ring.words[at.H_REASONS]
    for number in range(newest, max(0, newest - at.REASONS), -1):
        if ring.words[_place(number) + _FAILURE] <= failure:
            return _read(ring, number)
    return None


def _read(ring: Ring, number: int) -> Reason | None:
    words, place = ring.words, _place(number)
    if not number or words[place + _NUMBER] != number:
        return None
    fence()
    start = (place + _TEXT) * at.WORD
    text = bytes(ring.segment.memory[start : start + min(words[place + _BYTES], _TEXT_BYTES)]).rstrip(b"\0")
    found = Reason(
        words[place + _COUNT], words[place + _STATUS], words[place + _AT_MS], one_line(text.decode(errors="replace"))
    )
    fence()  # Order: load the reason before the number that says whether it was overwritten
    return found if words[place + _NUMBER] == number else None


def _place(number: int) -> int:
    return at.REASONS_AT + number % at.REASONS * at.REASON_WORDS


def _has_room(ring: Ring) -> bool:
    return ring.layout.format.header_words >= at.REASONS_AT + at.REASONS * at.REASON_WORDS
