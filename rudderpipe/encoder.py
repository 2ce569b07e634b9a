"""JSON from plain values.

``msgspec.json.encode`` crashes the process when its buffer cannot grow for want of memory. ``encode_into`` raises
``MemoryError`` instead. Therefore every value that may be large is encoded here.
"""

from __future__ import annotations

from typing import Any

import msgspec

encode_into = msgspec.json.Encoder(decimal_format="number").encode_into
ROOM_BYTES = 1024
MARK = b"\n"
"""The mark in an event at which the sender inserts ``sentAt``.

It is white space to every reader, and what is encoded here contains none (``events/marked.py``).
"""


def encode(value: Any, room_bytes: int = ROOM_BYTES) -> bytes:
    """Return the value's JSON; no memory is reallocated if ``room_bytes`` is a little more than the JSON needs."""
    room = bytearray(room_bytes)
    encode_into(value, room)
    return bytes(room)


def encode_text(text: str) -> bytes:
    """Return a text's JSON, faster than ``encode`` for a long text with few characters to escape, such as JSON."""
    return encode(text, ROOM_BYTES + len(text) * 5 // 4)
