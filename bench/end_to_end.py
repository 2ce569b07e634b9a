"""What the whole way of an event carries: events a second, and CPU by process, beside RudderStack's Python SDK.

Two producers track 450-byte events as fast as there is room for them (``flush_at`` 20); through ring, flusher,
Redis and sender they reach a local data plane. The peer has no Redis: its two producers post to the same data plane
themselves. Everything runs on this machine, Redis and data plane included.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil

from bench import report
from bench.call import start_plane
from rudderpipe.cli.redis_server import RedisServer

PRODUCERS = 2
OURS = """
import sys, time, rudderpipe
from bench.peers import PROPERTIES
client = rudderpipe.Client()
put, left, until = client.track, int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
while left and time.monotonic() < until:
    left -= put("123456", "Item Viewed", PROPERTIES)
client.flush(120)
"""
PEER = """
import os, sys
from rudderstack.analytics.client import Client
from bench.peers import PROPERTIES
client = Client("KEY", host=os.environ["PLANE"], max_queue_size=10_000_000)
for _ in range(int(sys.argv[1])):
    client.track("123456", "Item Viewed", PROPERTIES)
client.flush()
"""


def stats(url: str) -> dict[str, int]:
    """The data plane's counts."""
    with urllib.request.urlopen(f"{url}/stats") as answer:
        return msgspec.json.decode(answer.read(), type=dict[str, int])


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


class Watch:
    """CPU of the processes of a run, by what they are; of those that end, what was seen last."""

    def __init__(self, directory: str, known: dict[str, int]) -> None:
        self._directory = directory
        self._known = dict(known)
        self.seen: dict[str, float] = {}
        self._start = {name: cpu_s(pid) for name, pid in known.items()}

    def look(self) -> None:
        """Find flusher and sender, and read all clocks."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                for name in ("flusher", "sender"):
                    if f"rudderpipe.{name}" in line and self._directory in line and name not in self._known:
                        self._known[name] = process.pid
        for name, pid in self._known.items():
            now = cpu_s(pid)
            self.seen[name] = max(self.seen.get(name, 0.0), now - self._start.get(name, 0.0) if now else 0.0)


@contextlib.contextmanager
def running(code: str, events: int, environment: dict[str, str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Producers of that code."""
    command = [sys.executable, "-c", code, str(events // PRODUCERS), "300"]
    producers = [subprocess.Popen(command, env={**os.environ, **environment}) for _ in range(PRODUCERS)]
    try:
        yield producers
    finally:
        for producer in producers:
            producer.kill()
            producer.wait()


def measure(code: str, events: int, environment: dict[str, str], url: str, watch: Watch) -> float:
    """Delivered events a second, from the first request to the last."""
    before = stats(url)["events"]
    with running(code, events, environment) as producers:
        for number, producer in enumerate(producers):
            watch._known[f"producer {number + 1}"] = producer.pid  # noqa: SLF001  # ours
        started, first, last = time.perf_counter(), 0.0, 0.0
        while True:
            delivered = stats(url)["events"] - before
            now = time.perf_counter()
            first = first or (now if delivered else 0.0)
            watch.look()
            if delivered >= events:
                last = now
                break
            if now - started > 300:
                raise SystemExit(f"only {delivered} of {events} events arrived in 300 s")
            time.sleep(0.05)
    return events / (last - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--jobs-per-request", type=int, default=50, help="for the run with shared requests")
    parser.add_argument("--alone", action="store_true", help="only rudderpipe")
    arguments = parser.parse_args()
    print(report.machine())
    rates: dict[str, list[float]] = {}
    cpu: dict[str, dict[str, float]] = {}
    for _ in range(arguments.rounds):
        for name, jobs in (
            ("one job a request", 1),
            (f"up to {arguments.jobs_per_request}", arguments.jobs_per_request),
        ):
            with tempfile.TemporaryDirectory(prefix="rp-") as directory, RedisServer(Path(directory)) as server:
                plane, url = start_plane()
                environment = {
                    "RUDDERPIPE_WRITE_KEY": "KEY",
                    "RUDDERPIPE_DATA_PLANE_URL": url,
                    "RUDDERPIPE_REDIS": server.url,
                    "RUDDERPIPE_RUNTIME_DIR": f"{directory}/run",
                    "RUDDERPIPE_PIPE": f"bench-{os.getpid()}",
                    "RUDDERPIPE_LINGER_S": "0.1",
                    "RUDDERPIPE_FLUSH_INTERVAL_MS": "200",
                    "RUDDERPIPE_WHEN_FULL": "block",
                    "RUDDERPIPE_MAX_JOBS_PER_REQUEST": str(jobs),
                }
                assert server.process is not None
                watch = Watch(directory, {"redis": server.process.pid, "data plane": plane.pid})
                rates.setdefault(f"rudderpipe, {name}", []).append(
                    measure(OURS, arguments.events, environment, url, watch)
                )
                cpu[f"rudderpipe, {name}"] = watch.seen
                plane.kill()
                plane.wait()
        if not arguments.alone:
            plane, url = start_plane()
            watch = Watch("/nowhere", {"data plane": plane.pid})
            rates.setdefault("rudder-sdk-python, no Redis", []).append(
                measure(PEER, arguments.events, {"PLANE": url}, url, watch)
            )
            cpu["rudder-sdk-python, no Redis"] = watch.seen
            plane.kill()
            plane.wait()
    report.table(f"delivered events a second, {arguments.events:,} events", "events/s", rates, higher_is_better=True)
    print("\nCPU by process, microseconds an event (last round)")
    for name, seen in cpu.items():
        parts = ", ".join(f"{part} {seconds / arguments.events * 1e6:.1f}" for part, seconds in sorted(seen.items()))
        own = sum(seconds for part, seconds in seen.items() if part not in ("redis", "data plane"))
        print(f"{name:34} {parts}; without redis and data plane {own / arguments.events * 1e6:.1f}")


if __name__ == "__main__":
    main()
