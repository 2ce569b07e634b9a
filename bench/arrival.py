"""The time of an event from ``track()`` to the data plane when each event is its own batch, and the cost of idling.

The first second is not counted, because a sender that was idle for long looks only five times a second.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import psutil

from bench import report
from bench.plane import Plane, Stats, wait_for
from bench.servers import cpu_s, servers

PACED = """
import sys, time, rudderpipe
client = rudderpipe.Client()
rate, seconds = int(sys.argv[1]), float(sys.argv[2])
start = time.monotonic()
for number in range(int(rate * seconds)):
    due = start + number / rate
    while (now := time.monotonic()) < due:
        time.sleep(due - now)
    client.track("123456", "Item Viewed", {"at_s": time.monotonic()} if number > rate else {})
client.flush(60)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=1_000, help="events a second")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--idle-seconds", type=float, default=15)
    arguments = parser.parse_args()
    print(report.machine())
    with Plane("--stamped") as plane, servers(plane.url) as found:
        programs = {name: found.program(name, RUDDERPIPE_FLUSH_AT="1") for name in ("flusher", "sender")}
        found.await_start()
        found.start(
            "producer",
            sys.executable,
            "-c",
            PACED,
            str(arguments.rate),
            str(arguments.seconds),
            RUDDERPIPE_FLUSH_AT="1",
        )
        stats = Stats()
        for stats in wait_for(plane, int(arguments.rate * arguments.seconds)):  # noqa: B007  # the last one counts
            pass
        late = statistics.quantiles(stats.late_ms, n=1000, method="inclusive")
        percentiles = ", ".join(f"p{share / 10:g} {late[share - 1]:.1f}" for share in (500, 900, 990, 999))
        print(f"\nfrom track() to the data plane at {arguments.rate:,} events/s, flush_at 1: {percentiles} ms")

        time.sleep(3)
        before = {name: (cpu_s(each.pid), switches(each.pid)) for name, each in programs.items()}
        time.sleep(arguments.idle_seconds)
        print(f"\nidle for {arguments.idle_seconds:g} s")
        for name, each in programs.items():
            used, woken = cpu_s(each.pid) - before[name][0], switches(each.pid) - before[name][1]
            share, woke = used / arguments.idle_seconds, woken / arguments.idle_seconds
            print(f"{name}: {share:.2%} of a core, {woke:.0f} wake-ups/s")


def switches(pid: int) -> int:
    """Return how often the process went to sleep."""
    return int(psutil.Process(pid).num_ctx_switches().voluntary)


if __name__ == "__main__":
    main()
