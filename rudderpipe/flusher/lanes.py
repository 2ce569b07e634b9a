"""The lane of each event, and the parts of a commit by lane.

Events of one user are in one lane, in order. A user is what RudderStack's server takes for one: it keeps the events of
one user in order, by userId and anonymousId as text, without blanks at the ends and without invisible characters
(rudder-server ``gateway/handle.go``, ``sanitize`` and ``stringify`` of rudder-go-kit).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
from msgspec import Raw

from rudderpipe.encoder import encode

_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Characters that the server drops although Unicode calls them printable."""
_PLAIN_MIN, _PLAIN_END = 1e-6, 1e21
"""Go writes a number between these without an exponent."""


class _Ids(msgspec.Struct, rename="camel", gc=False):
    user_id: str | None = None
    anonymous_id: str | None = None


class _AnyIds(msgspec.Struct, rename="camel"):
    user_id: Any = None
    anonymous_id: Any = None


_decode_ids = msgspec.json.Decoder(list[_Ids]).decode
_decode_any_ids = msgspec.json.Decoder(_AnyIds).decode


class Part(NamedTuple):
    """Events of one lane that become a job."""

    first: int
    """The number of its first event among all events."""
    lane: int
    events: list[Raw]


def parts_of(
    events: Sequence[Raw], lanes: int, max_events: int, max_bytes: int, users: Sequence[int] | None = None
) -> list[Part]:
    """Return the events by lane, in parts of at most so many events and bytes; a larger event is a part of its own.

    The parts are in the order of their first events. ``users`` are the hashes of the events' users, if they are known.
    """
    numbers: dict[int, Sequence[int]] = {0: range(len(events))}
    if lanes > 1:
        by_lane: dict[int, list[int]] = {}
        for number, user in enumerate(users_of(events) if users is None else users):
            by_lane.setdefault(lane_of(user, lanes), []).append(number)
        numbers = {**by_lane}
    return sorted(part for lane in numbers for part in _cut(events, lane, numbers[lane], max_events, max_bytes))


def _cut(events: Sequence[Raw], lane: int, numbers: Sequence[int], max_events: int, max_bytes: int) -> Iterator[Part]:
    """Yield the parts of one lane, whose events have these numbers."""
    for start in range(0, len(numbers), max_events):
        own = numbers[start : start + max_events]
        part = Part(own[0], lane, [events[number] for number in own])
        if len(own) > 1 and len(b",".join(part.events)) > max_bytes:
            yield from _cut(events, lane, own, len(own) // 2, max_bytes)
        else:
            yield part


def lane_of(user: int, lanes: int) -> int:
    """Return the lane of a user."""
    return (user >> 16) % lanes  # the low bits are left to the choice of a queue, because one bit cannot choose both


def user_of(key: str) -> int:
    """Return the hash of a user's key; 0 for an empty key."""
    return crc32(key.encode(errors="surrogatepass"))


def users_of(events: Sequence[Raw]) -> list[int]:
    """Return the hash of each event's user; 0 if the event has none."""
    return list(map(user_of, keys_of(events)))


def keys_of(events: Sequence[Raw]) -> list[str]:
    """Return the key of each event: its userId, or its anonymousId; empty if it has neither."""
    found: Sequence[_Ids | _AnyIds]
    try:
        found = _decode_ids(b"[%b]" % b",".join(events))  # ids are text, except in a few whole messages
    except msgspec.ValidationError:
        found = [_any_ids(event) for event in events]
    return [_text(event.user_id) or _text(event.anonymous_id) for event in found]


def _any_ids(event: Raw) -> _AnyIds:
    try:
        return _decode_any_ids(event)
    except msgspec.ValidationError:  # the event is no object
        return _AnyIds()


def _text(value: Any) -> str:
    """Return an id as the server reads it; empty for a blank one."""
    if value is None:
        return ""
    if not isinstance(value, str):
        value = _number(value) if isinstance(value, (int, float)) else encode(value).decode()
    if not value.isprintable() or not value.isascii():
        value = "".join(each for each in value if each.isprintable() and each not in _INVISIBLE)
    return str(value.strip(" "))


def _number(value: float) -> str:
    """Return a number as Go's encoding/json writes a float64."""
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        number = float(value)
    except OverflowError:  # the server refuses such an event
        return str(value)
    text = repr(number)
    if number and not _PLAIN_MIN <= abs(number) < _PLAIN_END:
        return re.sub("e([+-])0", r"e\1", text).replace(".0e", "e")
    return f"{Decimal(text):f}".removesuffix(".0")
