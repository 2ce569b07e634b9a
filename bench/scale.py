"""The rate and the CPU by process for the whole way of an event, with one queue and with several.

Producers track 450-byte events of 1,000 users as fast as there is room for them (``flush_at`` 20). Each queue has a
sender. Several queues are on two Redis servers in turn, and one queue is on one. Everything runs on this machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from bench import report
from bench.end_to_end import OURS, Row, by_process, measured
from bench.plane import Plane
from bench.report import Result, Rig
from bench.servers import servers

SERVERS = 2
"""The most Redis servers that the queues are on."""
PRODUCERS = 2
"""Producers while the number of queues differs."""
QUEUES = 4
"""Queues while the number of producers differs."""


def row(plane: Plane, events: int, queues: int, producers: int) -> Row:
    """Measure the whole way of events through so many queues, from so many producers."""
    plane.stats(reset=True)
    with servers(plane.url, redis=min(queues, SERVERS)) as found:
        found.environment["RUDDERPIPE_QUEUES"] = str(queues)
        found.program("flusher")
        for number in range(queues):
            prefix = "rudder" if queues == 1 else f"rudder-{number}"
            address = found.redis[number % len(found.redis)].url
            found.start(
                f"sender {number + 1}",
                *(sys.executable, "-m", "rudderpipe.sender"),
                RUDDERPIPE_QUEUES="1",
                RUDDERPIPE_PREFIX=prefix,
                RUDDERPIPE_REDIS=address,
            )
        found.await_start()
        running = {"data plane": plane.process.pid, **found.known()}
        for number in range(producers):
            found.producer(f"producer {number + 1}", sys.executable, "-c", OURS, str(events // producers))
        return measured(plane, found, events // producers * producers, running)


def results(rounds: int, events: int, all_queues: list[int], all_producers: list[int]) -> Iterator[Result]:
    note = f"flush_at 20; a sender for each queue; several queues are on {SERVERS} servers"
    rig = Rig(events=events, redis=report.WITHOUT_AOF, note=f"{PRODUCERS} producers, {note}")
    named = {_count(queues, "queue"): (queues, PRODUCERS) for queues in all_queues}
    rates, cpu = _measure(rounds, events, named)
    yield Result("scale", "delivered events a second, by the queues", "events/s", rates, rig, higher_is_better=True)
    yield Result("scale_cpu", "CPU of all processes for an event, by the queues", "us", _sums(cpu), rig)
    parts = {f"{name}: {part}": each for name in cpu for part, each in by_process(cpu[name]).items()}
    yield Result("scale_parts", "CPU for an event by queues and process", "us", parts, rig, compared=False)
    rig = Rig(events=events, redis=report.WITHOUT_AOF, note=f"{QUEUES} queues, {note}")
    named = {_count(producers, "producer"): (QUEUES, producers) for producers in all_producers}
    rates, cpu = _measure(rounds, events, named)
    title = "delivered events a second, by the producers"
    yield Result("scale_producers", title, "events/s", rates, rig, higher_is_better=True)
    title = "CPU of all processes for an event, by the producers"
    yield Result("scale_producers_cpu", title, "us", _sums(cpu), rig)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def _measure(
    rounds: int, events: int, named: dict[str, tuple[int, int]]
) -> tuple[dict[str, list[float]], dict[str, list[dict[str, float]]]]:
    """Return the rates and the CPU by process in each round, with these numbers of queues and producers in turn."""
    rates: dict[str, list[float]] = {name: [] for name in named}
    cpu: dict[str, list[dict[str, float]]] = {name: [] for name in named}
    with Plane() as plane:
        for _ in range(rounds):
            for name, (queues, producers) in named.items():
                rate, used = row(plane, events, queues, producers)
                rates[name].append(rate)
                cpu[name].append(used)
    return rates, cpu


def _sums(cpu: dict[str, list[dict[str, float]]]) -> dict[str, list[float]]:
    return {name: [sum(used.values()) for used in each] for name, each in cpu.items()}


def main() -> None:
    parser = report.options(__doc__, rounds=5)
    parser.add_argument("--events", type=int, default=160_000)
    parser.add_argument("--queues", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--producers", type=int, nargs="*", default=[1, 4, 16])
    arguments = parser.parse_args()
    found = results(arguments.rounds, arguments.events, arguments.queues, arguments.producers)
    report.publish(found, arguments.results)


if __name__ == "__main__":
    main()
