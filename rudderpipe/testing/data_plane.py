"""A local data plane, which accepts ``/v1/batch`` as the real one does, counts events, and can fail on request."""

from __future__ import annotations

import base64
import binascii
import sys
import threading
import time
import zlib
from collections import deque
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from rudderpipe.errors import RudderpipeError

MAX_BODY_BYTES = 4_096_000
LAST_EVENTS = 100


class _Event(msgspec.Struct):
    messageId: str = ""
    userId: Any = None
    anonymousId: Any = None


class _Body(msgspec.Struct):
    batch: list[_Event]


_decode = msgspec.json.Decoder(_Body).decode


class Misbehaviour:
    """The failures to simulate: ``status`` for the next ``times`` requests (None: all), and ``delay_ms`` for all."""

    def __init__(self, status: int = 0, times: int | None = None, delay_ms: int = 0) -> None:
        self.delay_ms = delay_ms
        self._status = status
        self._times = times
        self._lock = threading.Lock()

    def next_status(self) -> int:
        """Return the status to fail this request with, or 0."""
        with self._lock:
            if self._times is None:
                return self._status
            self._times -= 1
            return self._status if self._times >= 0 else 0


class DataPlaneServer(ThreadingHTTPServer):
    """An HTTP server on loopback; ``port`` 0 lets the system choose one. Any thread may call ``stats``."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0, misbehaviour: Misbehaviour | None = None) -> None:
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise RudderpipeError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}") from error
        self.misbehaviour = misbehaviour or Misbehaviour()
        self._lock = threading.Lock()
        self._requests = self._refused = self._events = 0
        self._ids: set[str] = set()
        self._last: deque[bytes] = deque(maxlen=LAST_EVENTS)
        self._started_ms = 0
        self._last_ms = 0

    @property
    def url(self) -> str:
        """The value for a client's ``data_plane_url``."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the error, except that of a client that closed its connection."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def stats(self) -> dict[str, int]:
        """Return the counts since the start; a repeated message id counts as an event, but not as a unique id."""
        with self._lock:
            return {
                "requests": self._requests,
                "refused": self._refused,
                "events": self._events,
                "unique_message_ids": len(self._ids),
                "duplicates": self._events - len(self._ids),
                "first_ms": self._started_ms,
                "last_ms": self._last_ms,
            }

    def message_ids(self) -> list[str]:
        """Return the unique message ids, sorted."""
        with self._lock:
            return sorted(self._ids)

    def last_events(self) -> list[bytes]:
        """Return the bodies of the last ``LAST_EVENTS`` accepted requests, newest last."""
        with self._lock:
            return list(self._last)

    def count(self, body: bytes | None, events: list[_Event]) -> None:
        """Count one request; a ``body`` of None means that it was refused."""
        with self._lock:
            self._requests += 1
            if body is None:
                self._refused += 1
                return
            self._last_ms = time.time_ns() // 1_000_000
            self._started_ms = self._started_ms or self._last_ms
            self._events += len(events)
            self._ids.update(event.messageId for event in events)
            self._last.append(body)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: DataPlaneServer

    def do_POST(self) -> None:
        """Respond to ``/v1/batch`` with the statuses and texts of rudder-server's gateway."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        misbehaviour = self.server.misbehaviour
        if misbehaviour.delay_ms:
            time.sleep(misbehaviour.delay_ms / 1000)
        status = misbehaviour.next_status()
        if status:
            self.server.count(None, [])
            self._answer(status, b"simulated failure\n")
            return
        status, text, events = self._take(body)
        if status == HTTPStatus.OK:
            self.server.count(self._plain, events)
        else:
            self.server.count(None, [])
        self._answer(status, text)

    def do_GET(self) -> None:
        """Respond to ``/stats``, ``/message_ids``, ``/events`` (the bodies of the last requests) and ``/health``."""
        if self.path == "/stats":
            self._answer(200, msgspec.json.encode(self.server.stats()) + b"\n", "application/json")
        elif self.path == "/message_ids":
            self._answer(200, msgspec.json.encode(self.server.message_ids()), "application/json")
        elif self.path == "/events":
            bodies = b",".join(self.server.last_events())
            self._answer(200, b"[%b]" % bodies, "application/json")
        elif self.path in ("/", "/health"):
            self._answer(200, b'{"server":"UP"}', "application/json")
        else:
            self._answer(404, b"404 page not found\n")

    def _take(self, body: bytes) -> tuple[int, bytes, list[_Event]]:
        if self.path != "/v1/batch":
            return 404, b"404 page not found\n", []
        if not self._write_key():
            return 401, b"failed to read writekey from header\n", []
        if self.headers.get("content-encoding") == "gzip":
            try:
                body = zlib.decompress(body, 31)
            except zlib.error:
                return 500, b"failed to read body from request\n", []
        self._plain = body
        try:
            events = _decode(body).batch
        except msgspec.ValidationError:
            return 400, b"event is not a valid rudder event\n", []
        except (msgspec.DecodeError, RecursionError):
            return 400, b"invalid json\n", []
        if not all(str(event.userId or "").strip() or str(event.anonymousId or "").strip() for event in events):
            return 400, b"request neither has anonymousId nor userId\n", []
        if len(body) > MAX_BODY_BYTES:
            return 413, b"request size exceeds max limit\n", []
        if not events:
            return 400, b"empty batch payload\n", []
        return 200, b"ok", events

    def _write_key(self) -> str:
        scheme, _, encoded = (self.headers.get("authorization") or "").partition(" ")
        try:
            return base64.b64decode(encoded).decode().partition(":")[0] if scheme == "Basic" else ""
        except (binascii.Error, UnicodeDecodeError):
            return ""

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        head = f"HTTP/1.1 {status} -\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)

    def log_message(self, *_arguments: Any) -> None:
        """Log nothing, because the counts show every request."""
