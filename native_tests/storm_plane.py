"""A data plane in a process of its own that fails in every way and writes down which events it took."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LATE_S = 1.0
"""A response that took longer may have come after the sender's time limit."""
REFUSALS = {
    "401": b"HTTP/1.1 401 x\r\ncontent-length: 4\r\n\r\nkey?",
    "413": b"HTTP/1.1 413 x\r\ncontent-length: 5\r\n\r\nlarge",
    "429": b"HTTP/1.1 429 x\r\ncontent-length: 4\r\n\r\nslow",
    "429 with Retry-After": b"HTTP/1.1 429 x\r\nretry-after: 1\r\ncontent-length: 4\r\n\r\nslow",
    "500": b"HTTP/1.1 500 x\r\ncontent-length: 4\r\n\r\noops",
    "503": b"HTTP/1.1 503 x\r\ncontent-length: 4\r\n\r\naway",
    "307": b"HTTP/1.1 307 x\r\nlocation: /v1/batch?again\r\ncontent-length: 0\r\n\r\n",
}
TAKEN_UNSEEN = ("reset after reading", "half an answer", "half a body", "drip", "silence")
FAULTS = (*REFUSALS, "reset before reading", *TAKEN_UNSEEN)


class SeenRequest(msgspec.Struct):
    """One request: its write key, what the data plane did to it, and its events (producer, thread, number)."""

    at_s: float
    key: str
    kind: str
    taken: bool
    seen: bool
    """The whole response was written in time. Whether the sender read it cannot be known."""
    events: list[tuple[str, int, int]]


class _Properties(msgspec.Struct):
    producer: str
    thread: int
    n: int
    bad: bool = False


class _Event(msgspec.Struct):
    properties: _Properties
    sentAt: str  # noqa: N815  # the wire's name


class _Body(msgspec.Struct):
    batch: list[_Event]


_decode = msgspec.json.Decoder(_Body).decode


class Plane:
    """The data plane's side of all connections. Once the file ``calm`` exists, only bad events are refused.

    With ``faults`` of the caller's choice, no event is bad.
    """

    def __init__(self, home: Path, seed: str, every_s: float, faults: Sequence[str] = ()) -> None:
        self._calm = home / "calm"
        self._log = (home / "plane.log").open("ab", buffering=0)
        self._chance = random.Random(f"{seed}/plane")
        self._every_s = every_s
        self._faults = faults or FAULTS
        self._refuses_bad = not faults
        self._next_s: dict[str, float] = {}
        self._turns: dict[str, list[str]] = {}

    def fault(self, key: str) -> str | None:
        """Return the fault for this request of a write key, or None.

        Faults come at random moments, and each kind once in a random order before any kind comes again.
        """
        now_s = time.monotonic()
        due_s = self._next_s.setdefault(key, now_s + self._chance.expovariate(1 / self._every_s))
        if now_s < due_s or self._calm.exists():
            return None
        self._next_s[key] = now_s + self._chance.expovariate(1 / self._every_s)
        turn = self._turns.get(key) or self._chance.sample(self._faults, len(self._faults))
        self._turns[key] = turn[1:]
        return turn[0]

    def note(self, key: str, kind: str, batch: list[_Event], *, taken: bool, seen: bool) -> None:
        """Write a request down before its response."""
        events = [(one.properties.producer, one.properties.thread, one.properties.n) for one in batch]
        self._log.write(msgspec.json.encode(SeenRequest(time.time(), key, kind, taken, seen, events)) + b"\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while await self._request(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other side was killed, or closed the connection
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        began_s = time.monotonic()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        key = headers["authorization"]
        kind = self.fault(key)
        if kind == "reset before reading":
            self.note(key, kind, [], taken=False, seen=False)
            return _reset(writer)
        body = await reader.readexactly(int(headers["content-length"]))
        if headers.get("content-encoding") == "gzip":
            body = zlib.decompress(body, 31)
        batch = _decode(body).batch
        if kind in REFUSALS:
            self.note(key, kind, batch, taken=False, seen=True)
            writer.write(REFUSALS[kind])
            return True
        if self._refuses_bad and any(event.properties.bad for event in batch):
            if kind is not None:  # the next request gets this fault
                self._turns[key].insert(0, kind)
                self._next_s[key] = 0.0
            self.note(key, "400", batch, taken=False, seen=True)
            writer.write(b"HTTP/1.1 400 x\r\ncontent-length: 3\r\n\r\nbad")
            return True
        if kind is not None:
            self.note(key, kind, batch, taken=True, seen=False)
            return await self._unseen(kind, reader, writer)
        self.note(key, "200", batch, taken=True, seen=time.monotonic() - began_s < LATE_S)
        writer.write(GOOD)
        return True

    async def _unseen(self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if kind == "reset after reading":
            return _reset(writer)
        if kind == "half an answer":
            writer.write(GOOD[:12])
        elif kind == "half a body":
            writer.write(GOOD[:-1])
        elif kind == "drip":
            for byte in GOOD:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.2)
        else:
            await reader.read(1)  # until the other side closes the connection
        return False


def _reset(writer: asyncio.StreamWriter) -> bool:
    sock: Any = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


async def main() -> None:
    """Serve with ``HOME SEED EVERY_S [FAULT …]``, and write the port to ``HOME/plane.port``."""
    home, seed, every_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    plane = Plane(home, seed, every_s, sys.argv[4:])
    server = await asyncio.start_server(plane.serve, "127.0.0.1", 0, limit=1 << 23)
    (home / "plane.tmp").write_text(str(server.sockets[0].getsockname()[1]))
    (home / "plane.tmp").rename(home / "plane.port")
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
