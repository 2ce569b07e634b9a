"""The mark in an event's JSON where ``sentAt`` is inserted, and batches of events that all have it.

The mark is a line feed, which is white space to every reader of JSON. It stands after a field of the message itself.
Nothing else that rudderpipe encodes contains a line feed. So one replacement adds ``sentAt`` to all events of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import msgspec
from msgspec import Raw

from rudderpipe.encoder import MARK

_FIELD = b',"sentAt":-5702887934'
"""The field with a number that no program writes there, so that a caller's own field is not taken for it."""


class _Event(msgspec.Struct, gc=False):
    sent_at: Literal[-5702887934] = msgspec.field(name="sentAt")


_decode_filled = msgspec.json.Decoder(list[_Event]).decode
_decode_events = msgspec.json.Decoder(list[Raw]).decode


class MarkedEvents(Sequence[Raw]):
    """Events, each with one mark, in one JSON text with commas in between; decoded only when single ones are needed."""

    __slots__ = ("_count", "text")

    def __init__(self, text: bytes, count: int) -> None:
        self.text = text
        self._count = count

    def __len__(self) -> int:
        """Return the number of events, without decoding them."""
        return self._count

    @overload
    def __getitem__(self, index: int) -> Raw: ...
    @overload
    def __getitem__(self, index: slice) -> list[Raw]: ...
    def __getitem__(self, index: int | slice) -> Raw | list[Raw]:
        """Return single events."""
        return _decode_events(b"[%b]" % self.text)[index]

    def with_sent_at(self, moment: bytes) -> bytes:
        """Return the text with ``sentAt`` in each event; ``moment`` needs no escapes."""
        return self.text.replace(MARK, b',"sentAt":"%b"' % moment)


def marked(text: bytes) -> MarkedEvents | None:
    """Return the events of a text that is UTF-8; None if they are no JSON, or not each an object with one mark.

    None also if an event has a ``sentAt`` already. Any other text may hold a line feed at any place.
    """
    # Decode the text as it will be sent. A mark at a wrong place makes it invalid, or leaves an event without the
    # field. A field that an event has already has another value.
    filled = text.replace(MARK, _FIELD)
    count = (len(filled) - len(text)) // (len(_FIELD) - len(MARK))
    if not count:
        return None
    try:
        events = _decode_filled(b"[%b]" % filled)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return MarkedEvents(text, count) if len(events) == count else None
