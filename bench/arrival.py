"""The time of an event from ``track()`` to the data plane when each event is its own batch.

The first second is not counted, because the connections are opened in it.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator

from bench import report
from bench.plane import Plane, Stats, wait_for
from bench.report import Result, Rig
from bench.servers import servers

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


def arrival(rate: int, seconds: float) -> dict[str, float]:
    """Return percentiles of the milliseconds from the call to the data plane."""
    with Plane("--stamped") as plane, servers(plane.url) as found:
        for name in ("flusher", "sender"):
            found.program(name, RUDDERPIPE_FLUSH_AT="1")
        found.await_start()
        command = (sys.executable, "-c", PACED, str(rate), str(seconds))
        found.start("producer", *command, RUDDERPIPE_FLUSH_AT="1")
        stats = Stats()
        for stats in wait_for(plane, int(rate * seconds)):  # noqa: B007  # the last one counts
            pass
    late = statistics.quantiles(stats.late_ms, n=1000, method="inclusive")
    return {f"p{share / 10:g}": late[share - 1] for share in (500, 900, 990, 999)}


def results(rounds: int, rate: int, seconds: float) -> Iterator[Result]:
    each = [arrival(rate, seconds) for _ in range(rounds)]
    samples = {name: [percentiles[name] for percentiles in each] for name in each[0]}
    note = f"{rate:,} events/s, flush_at 1, so each event is a batch of its own"
    rig = Rig(seconds=seconds, redis=report.WITHOUT_AOF, note=note)
    yield Result("arrival", "from track() to the data plane", "ms", samples, rig, compared=False)


def main() -> None:
    parser = report.options(__doc__, rounds=5)
    parser.add_argument("--rate", type=int, default=1_000, help="events a second")
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    report.publish(results(arguments.rounds, arguments.rate, arguments.seconds), arguments.results)


if __name__ == "__main__":
    main()
