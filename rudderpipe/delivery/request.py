"""The body of one request to the data plane, as rudder-sdk-node writes it: batch, timestamp, sentAt."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from operator import itemgetter

import msgspec
from msgspec import Raw

from rudderpipe.encoder import encode

_isal_compress: Callable[..., bytes] | None
try:
    from isal import isal_zlib

    _isal_compress = isal_zlib.compress
except ImportError:
    _isal_compress = None

_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
GZIP_WINDOW = 31  # zlib's way of saying gzip
_SENT_AT = b'"sentAt"'
_FIELD = b'{"'
_first, _second = itemgetter(0), itemgetter(1)


def body(events: Iterable[bytes | Raw], sent_at: str) -> bytes:
    """The JSON of a request; every event that is an object gets this ``sentAt``, whatever it had.

    The events must be JSON. The server dates an event by receivedAt - (sentAt - originalTimestamp), so it must be the
    time of this attempt.
    """
    moment = sent_at.encode()
    tail = b',"sentAt":"%b"}' % moment
    wholes = [bytes(event) for event in events]
    # Looked at together: one search in all is many times cheaper than one in each.
    if _SENT_AT not in b",".join(wholes) and _all_have_fields(wholes):
        batch = (tail + b",").join([whole[:-1] for whole in wholes]) + (tail if wholes else b"")
    else:
        batch = b",".join([_with_moment(whole, moment, tail) for whole in wholes])
    return b'{"batch":[%b],"timestamp":"%b","sentAt":"%b"}' % (batch, moment, moment)


def _all_have_fields(events: list[bytes]) -> bool:
    """Whether each begins as a JSON object with a field does, without white space."""
    return {_FIELD[0]}.issuperset(map(_first, events)) and {_FIELD[1]}.issuperset(map(_second, events))


def _with_moment(event: bytes, moment: bytes, tail: bytes) -> bytes:
    """Return the event with the moment; as it is when it is no object, or nested more deeply than can be read."""
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
"""Pack for ``Content-Encoding: gzip`` with the fastest library at hand."""
