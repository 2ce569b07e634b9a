"""The rate of one sender to a data plane that responds late, beside RudderStack's Python SDK.

The backlog lasts, so requests grow. Requests of one lane follow each other, and those of several lanes overlap.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

from bench import report
from bench.end_to_end import OURS, PEER, measured
from bench.plane import Plane
from bench.report import Result, Rig
from bench.servers import servers


def ours(plane: Plane, events: int, lanes: int) -> float:
    """Return the events a second of one producer through ring and Redis."""
    with servers(plane.url) as found:
        found.environment["RUDDERPIPE_LANES"] = str(lanes)
        for name in ("flusher", "sender"):
            found.program(name)
        found.await_start()
        plane.stats(reset=True)
        found.producer("producer", sys.executable, "-c", OURS, str(events))
        return measured(plane, found, events)[0]


def peer(plane: Plane, events: int) -> float:
    """Return the events a second of RudderStack's Python SDK in one process."""
    with servers(plane.url, redis=False) as found:
        plane.stats(reset=True)
        found.producer("producer", sys.executable, "-c", PEER, str(events), "rudder_sdk_python", plane.url)
        return measured(plane, found, events)[0]


def results(rounds: int, delays_ms: list[int], events: int, all_lanes: list[int], *, alone: bool) -> Iterator[Result]:
    for delay_ms in delays_ms:
        with Plane("--delay-ms", str(delay_ms)) as plane:
            candidates = {
                "rudderpipe" + (f", {lanes} lanes" if lanes > 1 else ""): partial(ours, plane, events, lanes)
                for lanes in all_lanes
            }
            if not alone:
                candidates["rudder-sdk-python"] = partial(peer, plane, 200_000 // delay_ms)
            rates = report.in_turn(rounds, candidates)
        rig = Rig(events=events, redis=report.WITHOUT_AOF, note="1 producer; the other SDK sends fewer events")
        title = f"delivered events a second, each response {delay_ms} ms late"
        yield Result(f"slow_{delay_ms}", title, "events/s", rates, rig, higher_is_better=True)


def main() -> None:
    parser = report.options(__doc__, rounds=5)
    parser.add_argument("--delay-ms", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--alone", action="store_true", help="only rudderpipe")
    arguments = parser.parse_args()
    found = results(arguments.rounds, arguments.delay_ms, arguments.events, arguments.lanes, alone=arguments.alone)
    report.publish(found, arguments.results)


if __name__ == "__main__":
    main()
