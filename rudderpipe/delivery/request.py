"""The body of a request to the data plane, as rudder-sdk-node writes it: batch, timestamp, sentAt."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter

import msgspec
from msgspec import Raw

from rudderpipe.encoder import encode
from rudderpipe.events.marked import MarkedEvents

_isal_compress: Callable[..., bytes] | None
try:
    from isal import isal_zlib

    _isal_compress = isal_zlib.compress
except ImportError:
    _isal_compress = None

_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
GZIP_WINDOW = 31  # the value of wbits that makes zlib write the gzip format
_SENT_AT = b'"sentAt"'
SENT_AT_BYTES = len(',"sentAt":"2026-01-01T00:00:00.000Z"')
"""How much an event grows by ``body``."""
_FIELD = b'{"'
_first, _second = itemgetter(0), itemgetter(1)


def body(batches: Iterable[Sequence[bytes | Raw]], sent_at: str) -> bytes:
    """Return the JSON of a request. In every event that is an object, ``sentAt`` is added or replaced.

    The events must be JSON. ``sent_at`` must be the time of this attempt, because the server dates an event by
    receivedAt - (sentAt - originalTimestamp).
    """
    moment = sent_at.encode()
    parts = [b'{"batch":[']
    for events in batches:
        if events:
            text = events.with_sent_at(moment) if isinstance(events, MarkedEvents) else _with_sent_at(events, moment)
            parts += (text, b",")
    if len(parts) > 1:
        parts.pop()
    parts.append(b'],"timestamp":"%b","sentAt":"%b"}' % (moment, moment))
    return b"".join(parts)  # one copy, because a copy of this size can cost more than all else


def _with_sent_at(events: Sequence[bytes | Raw], moment: bytes) -> bytes:
    """Return events of any program, at least one, with ``sentAt`` in each."""
    tail = b',"sentAt":"%b"}' % moment
    wholes = [bytes(event) for event in events]
    # All events are searched at once, because one search in all is many times cheaper than one in each.
    if _SENT_AT not in b",".join(wholes) and _all_have_fields(wholes):
        return (tail + b",").join([whole[:-1] for whole in wholes]) + tail
    return b",".join([_with_moment(whole, moment, tail) for whole in wholes])


def _all_have_fields(events: list[bytes]) -> bool:
    """Return True if each event begins like a JSON object with at least one field and no white space."""
    return {_FIELD[0]}.issuperset(map(_first, events)) and {_FIELD[1]}.issuperset(map(_second, events))


def _with_moment(event: bytes, moment: bytes, tail: bytes) -> bytes:
    """Return the event with this ``sentAt``; unchanged if it is not an object or is nested too deeply to be decoded."""
    if _SENT_AT not in event and event.startswith(_FIELD):
        return event[:-1] + tail
    try:
        fields = _decode_fields(event)
        fields["sentAt"] = Raw(b'"%b"' % moment)
        return encode(fields)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return event


def _zlib_gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, GZIP_WINDOW)
    return packer.compress(data) + packer.flush()


def _isal_gzip(data: bytes) -> bytes:
    assert _isal_compress is not None
    return _isal_compress(data, level=1, wbits=GZIP_WINDOW)


gzip: Callable[[bytes], bytes] = _zlib_gzip if _isal_compress is None else _isal_gzip
"""Compress data for ``Content-Encoding: gzip``, with isal if it is installed, otherwise with zlib."""
