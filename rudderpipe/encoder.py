"""JSON from plain values.

``msgspec.json.encode`` crashes the process when there is no memory for its buffer to grow; ``encode_into`` raises
``MemoryError``. So whatever may be large is encoded here.
"""

from __future__ import annotations

from typing import Any

import msgspec

encode_into = msgspec.json.Encoder(decimal_format="number").encode_into
ROOM_BYTES = 1024


def encode(value: Any, room_bytes: int = ROOM_BYTES) -> bytes:
    """Return the value's JSON; with a little more room than it needs, no memory is copied."""
    room = bytearray(room_bytes)
    encode_into(value, room)
    return bytes(room)


def encode_text(text: str) -> bytes:
    """Return a text's JSON, faster where the text is long: such as JSON, which gets a few escapes."""
    return encode(text, ROOM_BYTES + len(text) * 5 // 4)
