"""Job data exactly as rudder-sdk-node 3 reads and writes it (``addPersistentQueueProcessor`` of 3.0.12).

``{"version":3,"eventData":"<JSON>"}``; the inner JSON holds jobId, description, request and attempts, in this order.
The description's hash is the md5 of the request's JSON.
"""

from __future__ import annotations

import hashlib
import os

import msgspec
from msgspec import Raw, Struct

from rudderpipe.errors import JobUnreadable
from rudderpipe.version import LIBRARY, USER_AGENT

VERSION = 3
_encode = msgspec.json.encode
_AGENT = _encode({"user-agent": USER_AGENT})


class _Auth(Struct, frozen=True):
    username: str = ""


class _Data(Struct):
    batch: list[Raw]


class _Request(Struct):
    data: _Data
    auth: _Auth = _Auth()
    headers: dict[str, str] = {}
    timeout: float | None = None


class _EventData(Struct):
    request: _Request
    jobId: str = ""
    attempts: int = 0


class _Envelope(Struct):
    version: int
    eventData: str


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_event_data = msgspec.json.Decoder(_EventData).decode


class Job(Struct, frozen=True):
    """What a sender needs of a job."""

    events: list[Raw]
    write_key: str
    attempts: int
    """Attempts that are counted inside the data (the Node SDK's way); those of Bull's ``attemptsMade`` come on top."""
    epoch: int
    """The ring the events came from; 0 when somebody else made the job."""
    timeout_s: float | None


def build(batch: bytes, write_key: str, sent_at: str, epoch: int) -> str:
    """The ``data`` of a job for events joined by commas.

    The job's id is a random UUID whose first half is the ring's epoch, so that whoever finishes the job can keep the
    ring's account.
    """
    request = b'{"auth":{"username":%b},"headers":%b,"data":{"batch":[%b],"timestamp":"%b","sentAt":"%b"}}' % (
        _encode(write_key),
        _AGENT,
        batch,
        sent_at.encode(),
        sent_at.encode(),
    )
    digits = f"{epoch:016x}8{os.urandom(8).hex()[1:]}"
    job_id = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    digest = hashlib.md5(request, usedforsecurity=False).hexdigest()
    event_data = b'{"jobId":"%b","description":"node-%b-%b","request":%b,"attempts":0}' % (
        job_id.encode(),
        digest.encode(),
        job_id.encode(),
        request,
    )
    return (b'{"version":%d,"eventData":%b}' % (VERSION, _encode(event_data.decode()))).decode()


def read(data: bytes) -> Job:
    """Raises ``JobUnreadable`` with a reason for people."""
    try:
        envelope = _decode_envelope(data)
    except msgspec.MsgspecError:
        raise JobUnreadable("the job's data is not JSON of the form that RudderStack SDKs write") from None
    if envelope.version != VERSION:
        raise JobUnreadable(f"the job's data has version {envelope.version}, only {VERSION} is known")
    try:
        inner = _decode_event_data(envelope.eventData)
    except msgspec.MsgspecError:
        raise JobUnreadable("the job's eventData holds no request with a batch of events") from None
    request = inner.request
    ours = request.headers.get("user-agent", "").startswith(f"{LIBRARY}/")
    return Job(
        events=request.data.batch,
        write_key=request.auth.username,
        attempts=inner.attempts,
        epoch=_epoch(inner.jobId) if ours else 0,
        timeout_s=request.timeout / 1000 if request.timeout else None,
    )


def _epoch(job_id: str) -> int:
    try:
        return int(job_id.replace("-", "")[:16], 16)
    except ValueError:
        return 0


def without_attempts(data: bytes) -> bytes:
    """The same data with attempts at 0: in the failed set, so that a retry by any tool really tries again."""
    try:
        envelope = msgspec.json.decode(data, type=dict[str, Raw])
        inner = msgspec.json.decode(msgspec.json.decode(envelope["eventData"], type=str), type=dict[str, Raw])
    except (msgspec.MsgspecError, KeyError):
        return data
    inner["attempts"] = Raw(b"0")
    envelope["eventData"] = Raw(_encode(_encode(inner).decode()))
    return _encode(envelope)
