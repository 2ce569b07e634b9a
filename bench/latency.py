"""The time of single calls: percentiles of ``track()`` with 1 and 4 producers while the flusher runs, and 4 threads."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time

import rudderpipe
from bench import report
from bench.call import start_plane
from bench.forked import at_once
from bench.peers import PROPERTIES
from rudderpipe.messages import build

CALLS = 20_000
BURST = 1_000
REQUEST, PAUSE_S = 10, 0.01
THREADS = 4


def timed(client: rudderpipe.Client, calls: int, in_a_row: int) -> tuple[list[int], list[int]]:
    """Return the nanoseconds of each call, and of making the same message alone.

    So many calls are in a row. Then follows a wait until the events of all producers have left, or a pause like that
    between requests. Making a message touches no other process, so it shows what the machine does to any few
    microseconds of Python.
    """
    track, clock, make, nothing = client.track, time.perf_counter_ns, build.track, [None] * 5
    track("123456", "Item Viewed", PROPERTIES)
    taken, alone = [], []
    for _ in range(calls // in_a_row):
        for _ in range(in_a_row):
            started = clock()
            track("123456", "Item Viewed", PROPERTIES)
            between = clock()
            make("123456", "Item Viewed", PROPERTIES, *nothing)
            alone.append(clock() - between)
            taken.append(between - started)
        if in_a_row == BURST:
            client.flush(60)
        else:
            time.sleep(PAUSE_S)
    return taken, alone


def percentiles(figures: list[int]) -> str:
    """Return the usual percentiles in microseconds."""
    ordered = sorted(figures)
    shown = [(f"p{share * 100:g}", ordered[int(share * (len(ordered) - 1))]) for share in (0.5, 0.9, 0.99, 0.999, 1.0)]
    return "  ".join(f"{name} {figure / 1000:8.1f}" for name, figure in shown)


def threads(client: rudderpipe.Client, count: int) -> float:
    """Return the microseconds of a call while so many threads call: the time of all, divided by the number of calls."""
    gate = threading.Barrier(count + 1)

    def call() -> None:
        gate.wait()
        for _ in range(BURST):
            client.track("123456", "Item Viewed", PROPERTIES)

    running = [threading.Thread(target=call) for _ in range(count)]
    for thread in running:
        thread.start()
    gate.wait()
    started = time.perf_counter()
    for thread in running:
        thread.join()
    taken = time.perf_counter() - started
    client.flush(60)
    return taken / (count * BURST) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    print(report.machine())
    plane, url = start_plane()
    try:
        with tempfile.TemporaryDirectory() as directory:
            client = rudderpipe.Client("KEY", url, runtime_dir=directory, pipe="bench-latency", linger_s=0.1)
            client.track("123456", "Item Viewed", PROPERTIES)
            for title, in_a_row, calls in (
                (f"{BURST} in a row: producers, flusher and data plane compete for the cores", BURST, CALLS),
                (f"{REQUEST} in a row, then {PAUSE_S * 1000:g} ms of nothing, as in requests", REQUEST, CALLS // 4),
            ):
                print(f"\nsingle calls, the clock included, us; {title}")
                for producers in (1, 4):
                    results = at_once(producers, lambda _: timed(client, calls, in_a_row))  # noqa: B023  # forked at once
                    for row, name in enumerate(("track()", "message alone")):
                        figures = [figure for result in results for figure in result[row]]
                        print(f"{producers} producers, {name:14} {percentiles(figures)}")
            print("\nwall time of a call, threads of one process, us (medians)")
            for count in (1, THREADS):
                walls = [threads(client, count) for _ in range(arguments.rounds)]
                print(f"{count} threads   {statistics.median(walls):6.2f}")
            client.shutdown()
    finally:
        plane.kill()
        plane.wait()


if __name__ == "__main__":
    main()
