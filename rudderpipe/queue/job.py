"""Job data exactly as rudder-sdk-node 3 reads and writes it (``addPersistentQueueProcessor`` of 3.0.12).

The data is ``{"version":3,"eventData":"<JSON>"}``. The inner JSON holds jobId, description, request and attempts, in
this order. Unlike there, the description has no hash, because no program reads it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from mmap import mmap
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from rudderpipe._version import LIBRARY, USER_AGENT
from rudderpipe.encoder import encode, encode_text
from rudderpipe.errors import JobUnreadable
from rudderpipe.events.marked import marked

VERSION = 3
MAX_ATTEMPTS = 1_000_000
LARGE = 64 << 10
MAX_TIMEOUT_S = 600.0
NO_OBJECT = "the job's data is not JSON, or not a JSON object"
# Node writes such an escape for half a character, for example in a text cut inside an emoji. It is replaced by U+FFFD,
# as the server does.
_SURROGATE = re.compile(
    r"\\(?:[^u]|u(?!d[89a-f])|ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})|(\\ud[89a-f][0-9a-f]{2})", re.IGNORECASE
)
_HEAD = re.compile(
    r'\{"jobId":"([0-9a-f-]{36})","description":"[!#-\[\]-~]*","request":\{"auth":\{"username":"([ !#-\[\]-~]*)"\},'
    rf'"headers":\{{"user-agent":"{LIBRARY}/[!#-\[\]-~]*"\}},"data":\{{"batch":\['
)
_TAIL = re.compile(r'\],"timestamp":"([!#-\[\]-~]*)","sentAt":"[!#-\[\]-~]*"\}\},"attempts":([0-9]{1,7})\}')
"""What stands before and behind the events of a job that we made and that no other program has written anew."""
_T = TypeVar("_T")
_AGENT = encode({"user-agent": USER_AGENT})


class _Auth(Struct, frozen=True):
    username: Any = ""


class _Headers(Struct, frozen=True):
    agent: Any = msgspec.field(default="", name="user-agent")


class _Data(Struct):
    batch: list[Raw]
    timestamp: Any = ""


class _Request(Struct):
    data: _Data
    auth: _Auth | None = _Auth()
    headers: _Headers = _Headers()
    timeout: Any = None


class _EventData(Struct):
    request: _Request
    jobId: Any = ""
    attempts: Any = 0


class _Envelope(Struct):
    version: Any = None
    eventData: Any = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_event_data = msgspec.json.Decoder(_EventData).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_events = msgspec.json.Decoder(list[Raw]).decode


class Job(Struct, frozen=True):
    """The parts of a job's data that a sender needs."""

    events: Sequence[Raw]
    write_key: str
    attempts: int
    """Attempts that are counted inside the data (the Node SDK's way); Bull's ``attemptsMade`` is added to them."""
    epoch: int
    """The epoch of the ring that the events came from; 0 when another SDK made the job."""
    timeout_s: float | None
    made_at: str = ""
    """When the job was made, as it says itself; empty if it does not."""


def build(batch: bytes, write_key: str, sent_at: str, epoch: int) -> str:
    """Return the ``data`` of a job; ``batch`` is the JSON of its events, joined by commas.

    The job's id is a random UUID whose first half is the ring's epoch, so that the sender that finishes the job can
    update the ring's account.
    """
    request = b'{"auth":{"username":%b},"headers":%b,"data":{"batch":[%b],"timestamp":"%b","sentAt":"%b"}}' % (
        encode(write_key),
        _AGENT,
        batch,
        sent_at.encode(),
        sent_at.encode(),
    )
    digits = f"{epoch:016x}8{os.urandom(8).hex()[1:]}"
    job_id = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    name = job_id.encode()
    event_data = b'{"jobId":"%b","description":"node-%b","request":%b,"attempts":0}' % (name, name, request)
    return (b'{"version":%d,"eventData":%b}' % (VERSION, encode_text(event_data.decode()))).decode()


def read(data: bytes) -> Job:
    """Return the job that the data holds. Raise ``JobUnreadable`` with a readable reason.

    Only the parts that delivery needs must be as the SDKs write them. Invalid attempts and timeouts are ignored.
    """
    with _readable():
        text = _text_of(data)
        return _read_ours(text) or _read_any(text)


def _read_ours(text: str) -> Job | None:
    """Return the job in the inner JSON if it is exactly as ``build`` writes it, with marked events; else None."""
    head = _HEAD.match(text)
    tail = _TAIL.fullmatch(text, max(0, text.rfind("]")))
    if head is None or tail is None:
        return None
    events = marked(text[head.end() : tail.start()].encode())
    if events is None:
        return None
    job_id, write_key = head.groups()
    return Job(events, write_key, min(int(tail[2]), MAX_ATTEMPTS), _epoch(job_id), timeout_s=None, made_at=tail[1])


def _read_any(text: str) -> Job:
    inner = _decoded_event_data(text)
    request = inner.request
    ours = isinstance(request.headers.agent, str) and request.headers.agent.startswith(f"{LIBRARY}/")
    username = request.auth.username if request.auth else ""
    return Job(
        events=request.data.batch,
        write_key=str(username) if isinstance(username, (str, int)) else "",
        attempts=min(max(inner.attempts, 0), MAX_ATTEMPTS) if isinstance(inner.attempts, int) else 0,
        epoch=_epoch(inner.jobId) if ours else 0,
        timeout_s=_timeout_s(request.timeout),
        made_at=request.data.timestamp if isinstance(request.data.timestamp, str) else "",
    )


@contextmanager
def _readable() -> Iterator[None]:
    """Turn every error of a parser into ``JobUnreadable``, except ``MemoryError``, which the job did not cause."""
    try:
        yield
    except (JobUnreadable, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  # any error: only this job may fail for it
        raise JobUnreadable(f"the job's data cannot be read: {type(error).__name__}") from None


def _text_of(data: bytes) -> str:
    """Return the inner JSON, with half characters replaced by U+FFFD."""
    # Decode from text, not from bytes, because the parser does not check the encoding of the fields that it skips.
    envelope = _decoded(_decode_envelope, _text(data), NO_OBJECT)
    version, text = envelope.version, envelope.eventData
    if version != VERSION:
        known = f"version {version}"[:80] if isinstance(version, (int, float)) else "no version number"
        raise JobUnreadable(f"the job's data has {known}; only version {VERSION} is supported")
    if not isinstance(text, str):
        raise JobUnreadable("the job's data has no eventData of type string")
    if "\\" in text and ("\\ud" in text or "\\uD" in text):  # the one-byte search is fast and mostly finds nothing
        text = _SURROGATE.sub(lambda found: "\\ufffd" if found[1] else found[0], text)
    return text


def _decoded_event_data(text: str) -> _EventData:
    trouble = "the job's eventData is not JSON with a list of events in request.data.batch"
    return _decoded(_decode_event_data, text, trouble)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise JobUnreadable(NO_OBJECT) from None


def _decoded(decode: Callable[[str], _T], text: str, trouble: str) -> _T:
    if len(text) >= LARGE:
        _see_room(len(text))
    try:
        return decode(text)
    except (msgspec.MsgspecError, RecursionError):
        raise JobUnreadable(trouble) from None


def _see_room(size: int) -> None:
    """Raise ``MemoryError`` if memory is too short to unescape a text of this size.

    The parser would crash the process.
    """
    try:
        mmap(-1, 4 * size).close()  # the pages are never touched, so this costs only system calls
    except OSError:
        raise MemoryError from None


def _timeout_s(timeout_ms: Any) -> float | None:
    if type(timeout_ms) not in (int, float) or timeout_ms < 1:
        return None
    return float(min(timeout_ms, MAX_TIMEOUT_S * 1000) / 1000)


def _epoch(job_id: Any) -> int:
    try:
        return int(job_id.replace("-", "")[:16], 16)
    except (ValueError, AttributeError):
        return 0


def without_attempts(data: bytes) -> bytes:
    """Return the same data with its attempts at 0, or unchanged data if it cannot be read.

    A failed job must have 0 attempts, so that a retry by any tool really tries again.
    """
    try:
        return _changed(data, lambda inner: inner.update(attempts=Raw(b"0"))).encode()
    except JobUnreadable:
        return data


def retried(data: bytes, write_key: str | None) -> str:
    """Return the same data with its attempts at 0 and, unless it is None, another write key. Raise ``JobUnreadable``.

    Data that needs no change is returned as "".
    """

    def renew(inner: dict[str, Raw]) -> None:
        inner["attempts"] = Raw(b"0")
        if write_key is not None:
            request = _decode_fields(inner["request"])
            auth = _decode_fields(request["auth"]) if read_before.write_key else {}
            request["auth"] = Raw(encode({**auth, "username": write_key}))
            inner["request"] = Raw(encode(request))

    read_before = read(data)
    if not read_before.attempts and write_key in (None, read_before.write_key):
        return ""
    return _changed(data, renew)


def with_events(data: bytes, start: int, end: int) -> str:
    """Return the same data with only the events ``start`` to ``end``. Raise ``JobUnreadable``."""

    def keep(inner: dict[str, Raw]) -> None:
        request = _decode_fields(inner["request"])
        batch = _decode_fields(request["data"])
        batch["batch"] = Raw(encode(_decode_events(batch["batch"])[start:end]))
        request["data"] = Raw(encode(batch))
        inner["request"] = Raw(encode(request))

    return _changed(data, keep)


def _changed(data: bytes, change: Callable[[dict[str, Raw]], None]) -> str:
    with _readable():
        text = _text_of(data)
        _decoded_event_data(text)  # because only what can be delivered is rewritten
        inner = _decode_fields(text)
        change(inner)
        envelope = _decode_fields(_text(data))
        envelope["eventData"] = Raw(encode_text(encode(inner).decode()))
        return encode(envelope).decode()
