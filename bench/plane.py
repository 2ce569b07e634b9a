"""A data plane at the least possible cost, in a process of its own: it unpacks, counts events and responds with 200."""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

try:
    from isal import isal_zlib

    unpack = isal_zlib.decompress
except ImportError:
    unpack = zlib.decompress


class Body(msgspec.Struct):
    """The part of a request that all SDKs send."""

    batch: list[Raw]


class Stamped(msgspec.Struct):
    """An event with the time of its call."""

    properties: dict[str, Any]


decode = msgspec.json.Decoder(Body).decode
decode_stamped = msgspec.json.Decoder(Stamped).decode


class Stats(msgspec.Struct):
    """Counts since the start or the last ``reset``; times are of the monotonic clock, which all processes share."""

    requests: int = 0
    events: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    late_ms: list[float] = []
    """The time that each event with a property ``at_s`` took."""

    def add(self, events: list[Raw], stamped: bool) -> None:
        """Count one request."""
        now_s = time.monotonic()
        self.requests += 1
        self.events += len(events)
        self.first_s = self.first_s or now_s
        self.last_s = now_s
        if stamped:
            made = (decode_stamped(event).properties.get("at_s") for event in events)
            self.late_ms += [(now_s - at_s) * 1000 for at_s in made if at_s]


class Server:
    """The server, with one thread for each connection."""

    def __init__(self, delay_ms: float, stamped: bool) -> None:
        self._delay_s = delay_ms / 1000
        self._stamped = stamped
        self._lock = threading.Lock()
        self._stats = Stats()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        print(f"http://127.0.0.1:{self._listener.getsockname()[1]}", flush=True)

    def run(self) -> None:
        """Serve forever."""
        while True:
            sock, _ = self._listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError), sock:
            while True:
                while b"\r\n\r\n" not in data:
                    more = sock.recv(1 << 20)
                    if not more:
                        return
                    data += more
                head, _, data = data.partition(b"\r\n\r\n")
                lower = head.lower()
                start = lower.find(b"content-length:")
                length = int(lower[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
                if b"100-continue" in lower:
                    sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                while len(data) < length:
                    data += sock.recv(1 << 20)
                answer = self._answer(head, data[:length])
                data = data[length:]
                sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))

    def _answer(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"GET"):
            with self._lock:
                answer = msgspec.json.encode(self._stats)
                if b" /reset " in head:
                    self._stats = Stats()
                return answer
        if self._delay_s:
            time.sleep(self._delay_s)
        events = decode(unpack(body, 31) if body[:2] == b"\x1f\x8b" else body).batch
        with self._lock:
            self._stats.add(events, self._stamped)
        return b'{"success":true}'


class Plane:
    """The process of the data plane, which ends with its owner."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "bench.plane", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().decode().strip()

    def stats(self, *, reset: bool = False) -> Stats:
        """Return the counts so far."""
        with urllib.request.urlopen(f"{self.url}/{'reset' if reset else 'stats'}") as answer:
            return msgspec.json.decode(answer.read(), type=Stats)

    def __enter__(self) -> Plane:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.communicate()


def wait_for(plane: Plane, events: int, timeout_s: float = 300.0) -> Iterator[Stats]:
    """Yield the counts twenty times a second until there are so many events."""
    deadline_s = time.monotonic() + timeout_s
    while (stats := plane.stats()).events < events:
        if time.monotonic() > deadline_s:
            raise SystemExit(f"only {stats.events} of {events} events arrived in {timeout_s:g} s")
        yield stats
        time.sleep(0.05)
    yield stats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="before each answer")
    parser.add_argument("--stamped", action="store_true", help="note how long each event took since its at_s")
    arguments = parser.parse_args()
    Server(arguments.delay_ms, arguments.stamped).run()


if __name__ == "__main__":
    main()
