"""The body of one request to the data plane, as rudder-sdk-node writes it: batch, timestamp, sentAt."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable

import msgspec
from msgspec import Raw

_isal_compress: Callable[..., bytes] | None
try:
    from isal import isal_zlib

    _isal_compress = isal_zlib.compress
except ImportError:
    _isal_compress = None

GZIP_WINDOW = 31  # zlib's way of saying gzip
_SENT_AT = b'"sentAt"'


def body(events: Iterable[bytes | Raw], sent_at: str) -> bytes:
    """The JSON of a request; every event gets this ``sentAt``, whatever it had.

    The server dates an event by receivedAt - (sentAt - originalTimestamp), so it must be the time of this attempt.
    """
    moment = sent_at.encode()
    tail = b',"sentAt":"%b"}' % moment
    wholes = [bytes(event) for event in events]
    if _SENT_AT in b",".join(wholes):  # one search in all is many times cheaper than one in each
        wholes = [_again(whole, moment) if _SENT_AT in whole else whole[:-1] + tail for whole in wholes]
        batch = b",".join(wholes)
    else:
        batch = (tail + b",").join([whole[:-1] for whole in wholes]) + (tail if wholes else b"")
    return b'{"batch":[%b],"timestamp":"%b","sentAt":"%b"}' % (batch, moment, moment)


def _again(event: bytes, moment: bytes) -> bytes:
    """An event that says somewhere when it was sent: another SDK's, or one with such a property."""
    try:
        fields = msgspec.json.decode(event, type=dict[str, Raw])
    except msgspec.MsgspecError:
        return event
    fields["sentAt"] = Raw(b'"%b"' % moment)
    return msgspec.json.encode(fields)


def _zlib_gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, GZIP_WINDOW)
    return packer.compress(data) + packer.flush()


def _isal_gzip(data: bytes) -> bytes:
    assert _isal_compress is not None
    return _isal_compress(data, level=1, wbits=GZIP_WINDOW)


gzip: Callable[[bytes], bytes] = _zlib_gzip if _isal_compress is None else _isal_gzip
"""Pack for ``Content-Encoding: gzip`` with the fastest library at hand."""
