"""The rate and the CPU by process for the whole way of an event, compared with other SDKs.

Two producers track 450-byte events as fast as there is room for them (``flush_at`` 20). The events go through ring,
flusher, Redis and sender, or directly from the flusher, to a local data plane. RudderStack's, Segment's and PostHog's
Python SDKs post to the same data plane from two processes. RudderStack's Node SDK posts from one process, with its
Redis queue and without. Everything runs on this machine, Redis and data plane included.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from bench import report
from bench.peers import PROPERTIES
from bench.plane import Plane, Stats, wait_for
from bench.report import Result, Rig
from bench.servers import Servers, cpu_s, servers

PRODUCERS = 2
NODE_MODULES = Path(__file__).parent.parent / "native_tests" / "node" / "node_modules"
OURS = """
import itertools, json, sys, time, rudderpipe
from bench.peers import PROPERTIES
client = rudderpipe.Client()
track = client.track
users = itertools.cycle([f"user-{number}" for number in range(1000)])
print(json.dumps({"at_s": time.monotonic(), "cpu_s": time.process_time()}), flush=True)
for user in itertools.islice(users, int(sys.argv[1])):
    track(user, "Item Viewed", PROPERTIES)
client.flush(120)
"""
PEER = """
import json, sys, time
from bench import peers
peers.quiet()
call, flush = getattr(peers, sys.argv[2])(sys.argv[3])
print(json.dumps({"at_s": time.monotonic(), "cpu_s": time.process_time()}), flush=True)
for _ in range(int(sys.argv[1])):
    call()
flush()
"""
DEFAULT, DIRECT = "rudderpipe", "rudderpipe, direct"
Row = tuple[float, dict[str, float]]
"""Events a second, and for each process microseconds of CPU for one event."""


def ours(plane: Plane, events: int, jobs: int, *, redis: bool = True) -> Row:
    """Measure the way through ring and Redis, with so many jobs in a request, or directly from the ring."""
    plane.stats(reset=True)
    with servers(plane.url, redis=redis) as found:
        found.environment["RUDDERPIPE_MAX_JOBS_PER_REQUEST"] = str(jobs)
        for name in ("flusher", "sender") if redis else ("flusher",):
            found.program(name)
        found.await_start()
        before = cpu_by_process({"data plane": plane.process.pid, **found.known()})
        for number in range(PRODUCERS):
            found.producer(f"producer {number + 1}", sys.executable, "-c", OURS, str(events // PRODUCERS))
        return measured(plane, found, events, before)


def python_peer(plane: Plane, events: int, name: str) -> Row:
    """Measure a Python SDK, which posts straight to the data plane."""
    plane.stats(reset=True)
    with servers(plane.url, redis=False) as found:
        for number in range(PRODUCERS):
            command = (sys.executable, "-c", PEER, str(events // PRODUCERS), name, plane.url)
            found.producer(f"producer {number + 1}", *command)
        return measured(plane, found, events)


def node(plane: Plane, events: int, *, with_redis: bool) -> Row:
    """Measure the Node SDK in one process."""
    plane.stats(reset=True)
    with servers(plane.url, redis=with_redis) as found:
        script = str(Path(__file__).with_name("node_sdk.js"))
        socket = [str(found.server.socket)] if with_redis else []
        properties = msgspec.json.encode(PROPERTIES).decode()
        found.producer("node", "node", script, str(events), plane.url, properties, *socket, NODE_PATH=str(NODE_MODULES))
        return measured(plane, found, events)


def measured(plane: Plane, found: Servers, events: int, before: dict[str, float] | None = None) -> Row:
    """Measure from the first call to the last response; of all processes count only the CPU in between.

    ``before`` is the CPU of those that ran already, by default none but the data plane.
    """
    pids = {"data plane": plane.process.pid, **found.known()}
    before = before or cpu_by_process({"data plane": plane.process.pid})
    begun = found.begun()
    before = before | {name: each.cpu_s for name, each in begun.items()}
    used: dict[str, float] = {}
    stats = Stats()
    for stats in wait_for(plane, events):  # noqa: B007  # the last one counts
        for name, pid in pids.items():
            used[name] = max(used.get(name, 0.0), cpu_s(pid) - before.get(name, 0.0))
    rate = events / (stats.last_s - min(each.at_s for each in begun.values()))
    return rate, {name: seconds / events * 1e6 for name, seconds in used.items()}


def cpu_by_process(pids: dict[str, int]) -> dict[str, float]:
    """Return the CPU that each process has used so far."""
    return {name: cpu_s(pid) for name, pid in pids.items()}


def ways(plane: Plane, events: int, *, alone: bool) -> dict[str, Callable[[], Row]]:
    """Return how each candidate is measured."""
    found: dict[str, Callable[[], Row]] = {
        DEFAULT: lambda: ours(plane, events, 500),
        "rudderpipe, up to 50 jobs a request": lambda: ours(plane, events, 50),
        "rudderpipe, up to 20 jobs a request": lambda: ours(plane, events, 20),
        "rudderpipe, one job a request": lambda: ours(plane, events, 1),
        DIRECT: lambda: ours(plane, events, 500, redis=False),
    }
    if not alone:
        found |= {
            "rudder-sdk-python": lambda: python_peer(plane, events // 4, "rudder_sdk_python"),
            "segment-analytics-python": lambda: python_peer(plane, events // 4, "segment_analytics_python"),
            "posthog": lambda: python_peer(plane, events // 4, "posthog"),
        }
        if shutil.which("node") and NODE_MODULES.exists():
            found["rudder-sdk-node, in memory"] = lambda: node(plane, events // 10, with_redis=False)
            found["rudder-sdk-node, Redis queue"] = lambda: node(plane, 200, with_redis=True)
    return found


def results(rounds: int, events: int, *, alone: bool) -> Iterator[Result]:
    rates: dict[str, list[float]] = {}
    cpu: dict[str, list[dict[str, float]]] = {}
    with Plane() as plane:
        for _ in range(rounds):
            for name, run in ways(plane, events, alone=alone).items():
                rate, used = run()
                rates.setdefault(name, []).append(rate)
                cpu.setdefault(name, []).append(used)
    note = f"{PRODUCERS} producers, flush_at 20; the other SDKs send fewer events"
    rig = Rig(events=events, redis=report.WITHOUT_AOF, note=note)
    yield Result("end_to_end", "delivered events a second", "events/s", rates, rig, higher_is_better=True)
    sums = {name: [sum(used.values()) for used in each] for name, each in cpu.items()}
    yield Result("cpu", "CPU of all processes for an event", "us", sums, rig)
    for key, name in (("cpu_redis", DEFAULT), ("cpu_direct", DIRECT), ("cpu_peer", "rudder-sdk-python")):
        if name in cpu:
            parts = by_process(cpu[name])
            yield Result(key, f"CPU for an event by process, {name}", "us", parts, rig, compared=False)


def by_process(cpu: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return what each process takes in every round; the processes of one kind, which are numbered, together."""
    parts: dict[str, list[float]] = {}
    for number, used in enumerate(cpu):
        for name, each in sorted(used.items(), key=lambda part: not part[0].startswith("producer")):
            parts.setdefault(re.sub(r" \d+$", "s", name), [0.0] * len(cpu))[number] += each
    return {name: each for name, each in parts.items() if any(each)}


def main() -> None:
    parser = report.options(__doc__, rounds=5)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--alone", action="store_true", help="only rudderpipe")
    arguments = parser.parse_args()
    report.publish(results(arguments.rounds, arguments.events, alone=arguments.alone), arguments.results)


if __name__ == "__main__":
    main()
