"""The time of single calls: percentiles of ``track()`` with 1 and 4 producers while the flusher runs, and 4 threads."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator

import rudderpipe
from bench import report
from bench.call import start_plane
from bench.forked import at_once
from bench.peers import PROPERTIES
from bench.report import Result, Rig
from rudderpipe.messages import build

CALLS = 10_000
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


def percentiles(figures: list[int]) -> dict[str, float]:
    """Return the usual percentiles in microseconds."""
    ordered = sorted(figures)
    return {f"p{share:g}": ordered[int(share / 100 * (len(ordered) - 1))] / 1000 for share in (50, 90, 99, 99.9)}


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


def single_calls(client: rudderpipe.Client, rounds: int, calls: int, in_a_row: int) -> dict[str, list[float]]:
    """Return the percentiles of each round, with one producer and with four."""
    samples: dict[str, list[float]] = {}
    for _ in range(rounds):
        for producers, said in ((1, "1 producer"), (4, "4 producers")):
            done = at_once(producers, lambda _: timed(client, calls, in_a_row))
            for row, name in enumerate(("track()", "the message alone")):
                figures = percentiles([figure for each in done for figure in each[row]])
                for share, figure in figures.items():
                    samples.setdefault(f"{said}, {name}: {share}", []).append(figure)
    return samples


def results(rounds: int) -> Iterator[Result]:
    plane, url = start_plane()
    try:
        with tempfile.TemporaryDirectory() as directory:
            client = rudderpipe.Client("KEY", url, runtime_dir=directory, pipe="bench-latency", linger_s=0.1)
            client.track("123456", "Item Viewed", PROPERTIES)
            for name, title, in_a_row, calls in (
                ("latency", f"single calls, {BURST:,} in a row", BURST, CALLS),
                (
                    "latency_paused",
                    f"single calls, {REQUEST} in a row, then {PAUSE_S * 1000:g} ms of nothing",
                    REQUEST,
                    2_000,
                ),
            ):
                samples = single_calls(client, rounds, calls, in_a_row)
                rig = Rig(events=calls, note="for each producer, the clock included; without Redis")
                yield Result(name, title, "us", samples, rig, compared=False)
            walls = {
                said: [threads(client, count) for _ in range(3 * rounds)]
                for count, said in ((1, "1 thread"), (THREADS, f"{THREADS} threads"))
            }
            rig = Rig(events=BURST, note="for each thread; wall time divided by the number of calls; without Redis")
            yield Result("threads", "a call while threads of one process call", "us", walls, rig)
            client.shutdown()
    finally:
        plane.kill()
        plane.wait()


def main() -> None:
    arguments = report.options(__doc__, rounds=5).parse_args()
    report.publish(results(arguments.rounds), arguments.results)


if __name__ == "__main__":
    main()
