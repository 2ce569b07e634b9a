"""A long backlog in Redis: the rate at which one sender drains it, the sender's memory, and the effect of length."""

from __future__ import annotations

import argparse
import time

import msgspec

from bench import report
from bench.peers import PROPERTIES
from bench.plane import Plane, Stats, wait_for
from bench.servers import Servers, cpu_s, rss_mb, servers
from rudderpipe import settings as settings_module
from rudderpipe.process.clock import Clock
from rudderpipe.queue import job
from rudderpipe.queue.queue import Queue

PER_JOB = 20
JOBS_AT_ONCE = 200
SENT_AT = "2026-01-01T00:00:00.000Z"


def fill(found: Servers, events: int) -> None:
    """Add jobs of ``PER_JOB`` events of about 450 bytes."""
    queue = Queue(settings_module.load({"redis": found.server.url}, environment={}), Clock())
    properties = msgspec.json.encode(PROPERTIES)
    event = (
        b'{"type":"track","event":"Item Viewed","userId":"123456","channel":"server","properties":%b,"context":'
        b'{"library":{"name":"rudderpipe","version":"1.0.0"}},"messageId":"%032d","originalTimestamp":"%b"}'
    )
    for start in range(0, events, PER_JOB * JOBS_AT_ONCE):
        batches = [
            b",".join(event % (properties, number, SENT_AT.encode()) for number in range(first, first + PER_JOB))
            for first in range(start, min(events, start + PER_JOB * JOBS_AT_ONCE), PER_JOB)
        ]
        queue.add(7, [(job.build(batch, "KEY", SENT_AT, 7), PER_JOB) for batch in batches], {}, [])
    queue.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    events = parser.parse_args().events
    print(report.machine())
    with Plane() as plane, servers(plane.url) as found:
        fill(found, events)
        info = found.server.client().info("memory")
        print(f"{events:,} events in {events // PER_JOB:,} jobs: {info['used_memory'] / (1 << 20):,.0f} MB in Redis")
        sender = found.program("sender")
        memory: list[float] = []
        marks: list[tuple[float, int, float]] = []
        stats = Stats()
        for stats in wait_for(plane, events, 600):
            if stats.events:
                memory.append(rss_mb(sender.pid))
                marks.append((time.monotonic(), stats.events, cpu_s(sender.pid)))
        print(f"drained at {stats.events / (stats.last_s - stats.first_s):,.0f} events/s, {stats.requests:,} requests")
        middle = memory[len(memory) // 2]
        seen = f"{memory[0]:.0f} MB at first, {middle:.0f} in the middle, {memory[-1]:.0f} at last"
        print(f"sender's memory: {seen}, at most {max(memory):.0f}")
        tenth = events // 10
        first = [mark for mark in marks if mark[1] <= marks[0][1] + tenth]
        last = [mark for mark in marks if mark[1] >= events - tenth]
        for name, part in (("first", first), ("last", last)):
            (start_s, start, start_cpu_s), (end_s, end, end_cpu_s) = part[0], part[-1]
            jobs = max(1, (end - start) / PER_JOB)
            wall_us, cpu_us = (end_s - start_s) / jobs * 1e6, (end_cpu_s - start_cpu_s) / jobs * 1e6
            print(f"{name} tenth: {wall_us:.0f} us a job, {cpu_us:.0f} us of them the sender's CPU")


if __name__ == "__main__":
    main()
