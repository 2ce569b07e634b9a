"""The cost of a flusher and a sender that have nothing to do, and the time of a lone event to the data plane.

A lone event comes after a pause in which flusher and sender fall asleep. It is sent at once because ``flush_at`` is 1,
or because ``flush()`` follows it.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator

from bench import report
from bench.plane import Plane, Stats, wait_for
from bench.report import Result, Rig
from bench.servers import run_s, servers

LONE = """
import sys, time, rudderpipe
client = rudderpipe.Client()
count, flushes = int(sys.argv[1]), sys.argv[2] == "flush"
client.track("123456", "Item Viewed", {})
client.flush(60)
for number in range(count):
    time.sleep(0.15 + number % 7 / 70)
    client.track("123456", "Item Viewed", {"at_s": time.monotonic()})
    if flushes:
        client.flush(60)
client.flush(60)
"""
IDLE = """
import time, rudderpipe
client = rudderpipe.Client()
client.track("123456", "Item Viewed", {})
client.flush(60)
time.sleep(600)
"""
PROGRAMS = {False: ("flusher",), True: ("flusher", "sender")}
"""What runs without Redis, and with it."""
INTERVAL = {"RUDDERPIPE_FLUSH_INTERVAL_MS": "20000"}


def name_of(*, redis: bool) -> str:
    return "through Redis" if redis else "direct"


def idle(seconds: float, *, redis: bool) -> dict[str, float]:
    """Return the percentage of a core that each program takes while an application with one client does nothing."""
    with Plane() as plane, servers(plane.url, redis=redis) as found:
        programs = {name: found.program(name, **INTERVAL) for name in PROGRAMS[redis]}
        application = found.start("application", sys.executable, "-c", IDLE, **INTERVAL)
        found.await_start()
        time.sleep(3)
        before = {name: run_s(each.pid) for name, each in programs.items()}
        time.sleep(seconds)
        shares = {name: (run_s(each.pid) - before[name]) / seconds * 100 for name, each in programs.items()}
        application.terminate()
        application.wait()  # before the flusher ends, which then removes the ring
    way = name_of(redis=redis)
    together = {f"{way}, both": sum(shares.values())} if redis else {}
    return {**{f"{way}, {name}": share for name, share in shares.items()}, **together}


def lone(events: int, *, redis: bool, flushes: bool) -> dict[str, float]:
    """Return percentiles of the milliseconds from the call to the data plane."""
    variables = {"RUDDERPIPE_FLUSH_AT": "20" if flushes else "1", **INTERVAL}
    with Plane("--stamped") as plane, servers(plane.url, redis=redis) as found:
        for name in PROGRAMS[redis]:
            found.program(name, **variables)
        found.await_start()
        command = (sys.executable, "-c", LONE, str(events), "flush" if flushes else "")
        application = found.start("application", *command, **variables)
        stats = Stats()
        for stats in wait_for(plane, events + 1):  # noqa: B007  # the last one counts
            pass
        application.wait()
    late = sorted(stats.late_ms)
    shares = {"p50": statistics.median(late), "p99": late[int(0.99 * (len(late) - 1))], "max": late[-1]}
    how = "flush()" if flushes else "flush_at 1"
    return {f"{name_of(redis=redis)}, {how}, {share}": value for share, value in shares.items()}


def merged(rounds: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return the samples of each row."""
    return {name: [each[name] for each in rounds] for name in rounds[0]}


def results(rounds: int, seconds: float, events: int) -> Iterator[Result]:
    shares = [{**idle(seconds, redis=False), **idle(seconds, redis=True)} for _ in range(rounds)]
    rig = Rig(seconds=seconds, redis=report.WITHOUT_AOF, note="an application with one client, which calls nothing")
    yield Result("idle", "CPU while nothing happens", "% of a core", merged(shares), rig, compared=False)
    each = []
    for _ in range(rounds):
        ways = [lone(events, redis=redis, flushes=flushes) for redis in (False, True) for flushes in (False, True)]
        each.append({name: value for way in ways for name, value in way.items()})
    rig = Rig(events=events, redis=report.WITHOUT_AOF, note="150 to 240 ms between two events")
    yield Result("lone", "from a lone track() to the data plane", "ms", merged(each), rig, compared=False)


def main() -> None:
    parser = report.options(__doc__, rounds=3)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--events", type=int, default=100)
    arguments = parser.parse_args()
    report.publish(results(arguments.rounds, arguments.seconds, arguments.events), arguments.results)


if __name__ == "__main__":
    main()
