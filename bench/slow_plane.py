"""The rate over one ordered connection to a data plane that responds after 20 ms, beside RudderStack's Python SDK."""

from __future__ import annotations

import argparse
import sys

from bench import report
from bench.end_to_end import OURS, PEER
from bench.plane import Plane, Stats, wait_for
from bench.servers import Servers, servers


def rate(plane: Plane, found: Servers, events: int, *command: str) -> float:
    """Return the events a second of one producer, from the first response to the last."""
    plane.stats(reset=True)
    found.start("producer", *command)
    stats = Stats()
    for stats in wait_for(plane, events):  # noqa: B007  # the last one counts
        pass
    return events / (stats.last_s - stats.first_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay-ms", type=float, default=20)
    parser.add_argument("--events", type=int, default=100_000)
    arguments = parser.parse_args()
    print(report.machine())
    rates: dict[str, list[float]] = {"rudderpipe": [], "rudder-sdk-python": []}
    few = arguments.events // 5
    with Plane("--delay-ms", str(arguments.delay_ms)) as plane:
        for _ in range(arguments.rounds):
            with servers(plane.url) as found:
                for name in ("flusher", "sender"):
                    found.program(name)
                found.await_start()
                command = (sys.executable, "-c", OURS, str(arguments.events))
                rates["rudderpipe"].append(rate(plane, found, arguments.events, *command))
            with servers(plane.url) as found:
                peer = (sys.executable, "-c", PEER, str(few), "rudder_sdk_python", plane.url)
                rates["rudder-sdk-python"].append(rate(plane, found, few, *peer))
    title = f"delivered events a second, each answer {arguments.delay_ms:g} ms late"
    report.table(title, "events/s", rates, higher_is_better=True)


if __name__ == "__main__":
    main()
