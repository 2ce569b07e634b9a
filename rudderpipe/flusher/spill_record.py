"""A record of a spill, as bytes with its size and a checksum in front."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO, NamedTuple

import msgspec

_FRAME = struct.Struct("<III")
"""In front of each record: its bytes, its events, and the CRC-32 of these two numbers and of the record."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """Events that left the ring together.

    ``places`` are the (tenure, first, end) of the events in the ring, in the order of the events. ``reached`` are the
    (tenure, end) of all events that left with them, of which the queues had the others. ``users`` are the hashes of the
    events' users.
    """

    places: list[tuple[int, int, int]]
    reached: list[tuple[int, int]]
    users: list[int]
    events: list[bytes]


class Framed(NamedTuple):
    """What is at a byte of a file: a record, or None if it is damaged; how many events it has; and where it ends."""

    record: Record | None
    events: int
    behind: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def framed(record: Record) -> tuple[bytes, bytes]:
    """Return what stands in front of a record, and the record as bytes."""
    data = _encode(record)
    return _FRAME.pack(len(data), len(record.events), _checksum(len(data), len(record.events), data)), data


def read(file: BinaryIO, byte: int, end: int) -> Framed:
    """Return what is at a byte of a file that is written up to ``end``. Raise ``OSError``.

    What cannot be read is a damaged record up to the next one, or to the end.
    """
    found = _at(file, byte, end)
    if found.record is None and _at(file, found.behind, end).record is None:
        return Framed(None, 0, end)
    return found


def _at(file: BinaryIO, byte: int, end: int) -> Framed:
    file.seek(byte)
    head = file.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return Framed(None, 0, end)
    size, events, checksum = _FRAME.unpack(head)
    behind = byte + _FRAME.size + size
    if behind > end:
        return Framed(None, 0, end)
    data = file.read(size)
    if _checksum(size, events, data) != checksum:
        return Framed(None, events, behind)
    try:
        return Framed(_decode(data), events, behind)
    except msgspec.MsgspecError:
        return Framed(None, events, behind)


def _checksum(size: int, events: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(b"%d %d" % (size, events)))
