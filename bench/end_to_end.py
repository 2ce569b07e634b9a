"""The rate and the CPU by process for the whole way of an event, compared with other SDKs.

Two producers track 450-byte events as fast as there is room for them (``flush_at`` 20). The events go through ring,
flusher, Redis and sender to a local data plane. RudderStack's, Segment's and PostHog's Python SDKs post to the same
data plane from two processes. RudderStack's Node SDK posts from one process, with its Redis queue and without.
Everything runs on this machine, Redis and data plane included.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench import report
from bench.peers import PROPERTIES
from bench.plane import Plane, Stats, wait_for
from bench.servers import Servers, cpu_s, servers

PRODUCERS = 2
NODE_MODULES = Path(__file__).parent.parent / "native_tests" / "node" / "node_modules"
OURS = """
import sys, rudderpipe
from bench.peers import PROPERTIES
client = rudderpipe.Client()
track = client.track
for _ in range(int(sys.argv[1])):
    track("123456", "Item Viewed", PROPERTIES)
client.flush(120)
"""
PEER = """
import sys
from bench import peers
peers.quiet()
call, flush = getattr(peers, sys.argv[2])(sys.argv[3])
for _ in range(int(sys.argv[1])):
    call()
flush()
"""
Row = tuple[float, dict[str, float]]
"""Events a second, and for each process microseconds of CPU for one event."""


def ours(plane: Plane, events: int, jobs: int) -> Row:
    """Measure the way through ring and Redis, with so many jobs in a request."""
    with servers(plane.url) as found:
        for name in ("flusher", "sender"):
            found.program(name, RUDDERPIPE_MAX_JOBS_PER_REQUEST=str(jobs))
        found.await_start()
        running = {"data plane": plane.process.pid, **found.known()}
        for number in range(PRODUCERS):
            found.start(f"producer {number + 1}", sys.executable, "-c", OURS, str(events // PRODUCERS))
        return measured(plane, found, events, running)


def python_peer(plane: Plane, events: int, name: str) -> Row:
    """Measure a Python SDK, which posts straight to the data plane."""
    with servers(plane.url) as found:
        for number in range(PRODUCERS):
            command = (sys.executable, "-c", PEER, str(events // PRODUCERS), name, plane.url)
            found.start(f"producer {number + 1}", *command)
        return measured(plane, found, events)


def node(plane: Plane, events: int, *, with_redis: bool) -> Row:
    """Measure the Node SDK in one process."""
    with servers(plane.url) as found:
        script = str(Path(__file__).with_name("node_sdk.js"))
        socket = [str(found.server.socket)] if with_redis else []
        properties = msgspec.json.encode(PROPERTIES).decode()
        found.start("node", "node", script, str(events), plane.url, properties, *socket, NODE_PATH=str(NODE_MODULES))
        return measured(plane, found, events)


def measured(plane: Plane, found: Servers, events: int, running: dict[str, int] | None = None) -> Row:
    """Measure from the first request to the last; of ``running`` processes count only the CPU from now on."""
    running = running or {"data plane": plane.process.pid}
    pids = {**running, **found.known()}
    before = {name: cpu_s(pid) if name in running else 0.0 for name, pid in pids.items()}
    used: dict[str, float] = {}
    plane.stats(reset=True)
    stats = Stats()
    for stats in wait_for(plane, events):  # noqa: B007  # the last one counts
        for name, pid in pids.items():
            used[name] = max(used.get(name, 0.0), cpu_s(pid) - before[name])
    rate = stats.events / (stats.last_s - stats.first_s)
    return rate, {name: seconds / events * 1e6 for name, seconds in used.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--alone", action="store_true", help="only rudderpipe")
    arguments = parser.parse_args()
    events = arguments.events
    print(report.machine())
    rates: dict[str, list[float]] = {}
    cpu: dict[str, list[dict[str, float]]] = {}
    with Plane() as plane:
        rows: dict[str, Callable[[], Row]] = {
            "rudderpipe, up to 50 jobs": lambda: ours(plane, events, 50),
            "rudderpipe, up to 20 jobs": lambda: ours(plane, events, 20),
            "rudderpipe, one job a request": lambda: ours(plane, events, 1),
        }
        if not arguments.alone:
            rows |= {
                "rudder-sdk-python": lambda: python_peer(plane, events // 2, "rudder_sdk_python"),
                "segment-analytics-python": lambda: python_peer(plane, events // 2, "segment_analytics_python"),
                "posthog": lambda: python_peer(plane, events // 2, "posthog"),
            }
            if shutil.which("node") and NODE_MODULES.exists():
                rows["rudder-sdk-node, in memory"] = lambda: node(plane, events // 5, with_redis=False)
                rows["rudder-sdk-node, Redis queue"] = lambda: node(plane, 200, with_redis=True)
        for _ in range(arguments.rounds):
            for name, run in rows.items():
                rate, used = run()
                rates.setdefault(name, []).append(rate)
                cpu.setdefault(name, []).append(used)
    report.table("delivered events a second", "events/s", rates, higher_is_better=True)
    print("\nCPU by process, microseconds an event (medians)")
    for name, rounds in cpu.items():
        medians = {part: statistics.median(used.get(part, 0.0) for used in rounds) for part in rounds[0]}
        own = sum(used for part, used in medians.items() if part not in ("redis", "data plane"))
        print(f"{name:34} {own:7.1f}: " + ", ".join(f"{part} {used:.1f}" for part, used in sorted(medians.items())))
    print("(first: without redis and data plane)")


if __name__ == "__main__":
    main()
