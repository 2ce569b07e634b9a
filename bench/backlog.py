"""A long backlog in Redis: the rate at which one sender drains it, the sender's memory, and the effect of length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from bench import report
from bench.peers import PROPERTIES
from bench.plane import Plane, Stats, wait_for
from bench.report import Result, Rig
from bench.servers import Servers, cpu_s, rss_mb, servers
from rudderpipe import settings as settings_module
from rudderpipe.process.clock import Clock
from rudderpipe.queue import job
from rudderpipe.queue.queue import Queue

PER_JOB = 20
JOBS_AT_ONCE = 200
SENT_AT = "2026-01-01T00:00:00.000Z"


class Progress(NamedTuple):
    """The progress of the sender at one moment."""

    at_s: float
    """The moment of the last response."""
    events: int
    cpu_s: float
    rss_mb: float


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


def drained(plane: Plane, events: int) -> tuple[list[Progress], float, float]:
    """Drain a backlog with one sender; return its progress, events a second, and the MB used in Redis."""
    with servers(plane.url) as found:
        fill(found, events)
        used_mb = found.server.client().info("memory")["used_memory"] / (1 << 20)
        plane.stats(reset=True)
        sender = found.program("sender")
        seen: list[Progress] = []
        stats = Stats()
        for stats in wait_for(plane, events, 600):
            if stats.events:
                seen.append(Progress(stats.last_s, stats.events, cpu_s(sender.pid), rss_mb(sender.pid)))
    return seen, events / (stats.last_s - stats.first_s), used_mb


def a_job(part: list[Progress]) -> tuple[float, float]:
    """Return the microseconds of a job between the first moment and the last: of wall time, and of the sender's CPU."""
    first, last = part[0], part[-1]
    jobs = max(1, (last.events - first.events) / PER_JOB)
    return (last.at_s - first.at_s) / jobs * 1e6, (last.cpu_s - first.cpu_s) / jobs * 1e6


def results(rounds: int, events: int) -> Iterator[Result]:
    rate: list[float] = []
    jobs: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    with Plane() as plane:
        for _ in range(rounds):
            seen, per_s, used_mb = drained(plane, events)
            rate.append(per_s)
            tenth = events // 10
            for name, part in (
                ("first tenth", [moment for moment in seen if moment.events <= seen[0].events + tenth]),
                ("last tenth", [moment for moment in seen if moment.events >= events - tenth]),
            ):
                wall_us, cpu_us = a_job(part)
                jobs.setdefault(name, []).append(wall_us)
                jobs.setdefault(f"{name}, the sender's CPU", []).append(cpu_us)
            memory.setdefault("sender, at most", []).append(max(moment.rss_mb for moment in seen))
            memory.setdefault("sender, at the end", []).append(seen[-1].rss_mb)
            memory.setdefault("Redis, full", []).append(used_mb)
    rig = Rig(events=events, redis=report.WITHOUT_AOF, note=f"{PER_JOB} events in a job; one sender")
    yield Result("backlog", "a backlog that drains", "events/s", {"rudderpipe": rate}, rig, higher_is_better=True)
    yield Result("backlog_jobs", "a job of the backlog", "us", jobs, rig, compared=False)
    counted = "the sender's resident memory, and the memory that Redis says it uses"
    rig = msgspec.structs.replace(rig, memory=counted)
    yield Result("backlog_memory", "memory with a backlog", "MB", memory, rig, compared=False)


def main() -> None:
    parser = report.options(__doc__, rounds=3)
    parser.add_argument("--events", type=int, default=1_000_000)
    arguments = parser.parse_args()
    report.publish(results(arguments.rounds, arguments.events), arguments.results)


if __name__ == "__main__":
    main()
