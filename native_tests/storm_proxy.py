"""A proxy before Redis, in its own process, that loses answers and holds calls for long after they were given up."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec

LOSES, HOLDS = 0.01, 0.001
"""The share of answers that the proxy loses, and of calls that it holds."""
CHUNK_BYTES = 1 << 20
LOOK_S = 0.1


class Proxy:
    """The proxy's side of all connections.

    Once the file ``calm`` exists, it loses nothing and lets held calls go on.
    """

    def __init__(self, home: Path, redis: str, seed: str, hold_s: float) -> None:
        self._home = home
        self._redis = redis
        self._chance = random.Random(f"{seed}/proxy")
        self._hold_s = hold_s
        self._counts: Counter[str] = Counter()

    @property
    def _is_calm(self) -> bool:
        return (self._home / "calm").exists()

    def _count(self, what: str) -> None:
        self._counts[what] += 1
        (self._home / "proxy.json").write_bytes(msgspec.json.encode(self._counts))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            from_redis, to_redis = await asyncio.open_unix_connection(self._redis, limit=CHUNK_BYTES)
        except OSError:
            writer.close()  # Redis is away
            return
        back = asyncio.create_task(self._answers(from_redis, writer))
        try:
            while data := await reader.read(CHUNK_BYTES):
                if self._chance.random() < HOLDS and not self._is_calm:
                    self._count("calls held")
                    await self._hold()
                to_redis.write(data)
                await to_redis.drain()
        except OSError:
            pass
        finally:
            to_redis.close()
            back.cancel()
            writer.close()

    async def _hold(self) -> None:
        end_s = time.monotonic() + self._hold_s
        while time.monotonic() < end_s and not self._is_calm:
            await asyncio.sleep(LOOK_S)

    async def _answers(self, from_redis: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_lost = False
        try:
            while data := await from_redis.read(CHUNK_BYTES):
                if self._chance.random() < LOSES and not self._is_calm:
                    self._count("answers lost")
                    if self._chance.random() < 0.5:
                        break
                    is_lost = True  # nothing comes through any more
                if not is_lost:
                    writer.write(data)
                    await writer.drain()
        except OSError:
            pass
        writer.close()


async def main() -> None:
    """Serve with ``HOME REDIS_SOCKET SEED HOLD_S``, and write the port to ``HOME/proxy.port``."""
    home, redis, seed, hold_s = Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
    proxy = Proxy(home, redis, seed, hold_s)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=CHUNK_BYTES)
    (home / "proxy.tmp").write_text(str(server.sockets[0].getsockname()[1]))
    (home / "proxy.tmp").rename(home / "proxy.port")
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
