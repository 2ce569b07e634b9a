"""The rate and the CPU by process for the whole way of an event, with one queue and with several.

Producers track 450-byte events of 1,000 users (``flush_at`` 20): as fast as there is room for them, or at a fixed rate,
so that each queue gets few events at a time. Each queue has a sender. Several queues are on two Redis servers in turn,
and one queue is on one. Everything runs on this machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from bench import report
from bench.end_to_end import OURS, Row, by_process, cpu_by_process, measured
from bench.plane import Plane, wait_for
from bench.report import Result, Rig
from bench.servers import Servers, servers
from rudderpipe.queue.keys import Keys
from rudderpipe.testing.redis_server import RedisServer

SERVERS = 2
"""The most Redis servers that the queues are on."""
PRODUCERS = 2
"""Producers while the number of queues differs."""
QUEUES = 4
"""Queues while the number of producers differs."""
PACED_S = 4
"""Seconds of events at a fixed rate."""
WARM_UP = 5_000
"""Events before the measurement."""
PACED = """
import itertools, json, sys, time, rudderpipe
from bench.peers import PROPERTIES
client = rudderpipe.Client()
events, rate = map(int, sys.argv[1:])
users = itertools.cycle([f"user-{number}" for number in range(1000)])
begun_s = time.monotonic()
print(json.dumps({"at_s": begun_s, "cpu_s": time.process_time()}), flush=True)
for number in range(events):
    ahead_s = begun_s + number / rate - time.monotonic()
    if ahead_s > 0.005:
        time.sleep(ahead_s)
    client.track(next(users), "Item Viewed", PROPERTIES)
client.flush(120)
"""


class Candidate(NamedTuple):
    """How many queues there are, and how many producers."""

    queues: int
    producers: int


def row(plane: Plane, candidate: Candidate, events: int, *, rate: int = 0, in_turn: bool = False) -> Row:
    """Measure the whole way of events.

    ``rate`` is the number of events a second, or 0 for as many as possible. With ``in_turn`` all events are in Redis
    before the senders begin, one after the other, so that they do not compete for the cores.
    """
    queues, producers = candidate
    with servers(plane.url, redis=min(queues, SERVERS)) as found:
        found.environment["RUDDERPIPE_QUEUES"] = str(queues)
        found.program("flusher")
        senders = [_sender(found, place, queues) for place in range(queues)]
        found.await_start()
        _warm_up(plane, found)
        before = cpu_by_process({"data plane": plane.process.pid, **found.known()})
        for sender in senders if in_turn else ():
            sender.process.send_signal(signal.SIGSTOP)
        for number in range(producers):
            source, pace = (PACED, [str(rate // producers)]) if rate else (OURS, [])
            found.producer(f"producer {number + 1}", sys.executable, "-c", source, str(events // producers), *pace)
        if in_turn:
            for pid in (pid for name, pid in found.known().items() if name not in before):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # not collected, so that its CPU is still known
            for sender in senders:
                sender.process.send_signal(signal.SIGCONT)
                sender.await_empty()
        return measured(plane, found, events // producers * producers, before)


class Sender(NamedTuple):
    """The sender of one queue."""

    process: subprocess.Popen[bytes]
    server: RedisServer
    keys: Keys

    def await_empty(self) -> None:
        """Wait until no job is in the queue."""
        with self.server.client() as client:
            while client.llen(self.keys.wait) or client.llen(self.keys.active):
                time.sleep(0.02)


def _sender(found: Servers, place: int, queues: int) -> Sender:
    prefix = "rudder" if queues == 1 else f"rudder-{place}"
    server = found.redis[place % len(found.redis)]
    own = {"RUDDERPIPE_QUEUES": "1", "RUDDERPIPE_PREFIX": prefix, "RUDDERPIPE_REDIS": server.url}
    command = (sys.executable, "-m", "rudderpipe.sender")
    return Sender(found.start(f"sender {place + 1}", *command, **own), server, Keys(prefix, "rudderEventsQueue"))


def _warm_up(plane: Plane, found: Servers) -> None:
    """Send some events to every queue, because what a process does once is no cost of an event."""
    plane.stats(reset=True)
    subprocess.run((sys.executable, "-c", OURS, str(WARM_UP)), env=found.environment, check=True, capture_output=True)
    for _ in wait_for(plane, WARM_UP):
        pass
    found.await_start()
    plane.stats(reset=True)


def results(arguments: argparse.Namespace) -> Iterator[Result]:
    note = f"flush_at 20; a sender for each queue; several queues are on {SERVERS} servers"
    rig = Rig(events=arguments.events, redis=report.WITHOUT_AOF, note=f"{PRODUCERS} producers, {note}")
    rounds, rate = arguments.rounds, arguments.rate
    live = _measured(rounds, {_count(each, "queue"): Candidate(each, PRODUCERS) for each in arguments.queues}, rig)
    yield from live.rates("scale")
    yield from live.cpu("scale_cpu")
    turns = {_count(each, "queue"): Candidate(each, PRODUCERS) for each in arguments.turns}
    found = _measured(rounds, turns, rig, in_turn=True)
    yield from found.cpu("scale_turns")
    yield from found.parts("scale_turns_parts")
    rig = Rig(events=arguments.events, redis=report.WITHOUT_AOF, note=f"{QUEUES} queues, {note}")
    found = _measured(rounds, {_count(each, "producer"): Candidate(QUEUES, each) for each in arguments.producers}, rig)
    yield from found.rates("scale_producers")
    yield from found.cpu("scale_producers_cpu")
    note = f"{rate:,} events/s of {PRODUCERS} producers, {note}"
    rig = Rig(events=rate * PACED_S, redis=report.WITHOUT_AOF, note=note)
    paced = {_count(each, "queue"): Candidate(each, PRODUCERS) for each in arguments.paced}
    found = _measured(rounds, paced, rig, rate=rate)
    yield from found.parts("scale_paced")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


class Measured(NamedTuple):
    """The rate and the CPU by process of each candidate in each round."""

    rows: dict[str, list[Row]]
    rig: Rig

    def rates(self, key: str) -> Iterator[Result]:
        """Yield the rates, if anything was measured."""
        if self.rows:
            rates = {name: [rate for rate, _ in rows] for name, rows in self.rows.items()}
            yield Result(key, "delivered events a second", "events/s", rates, self.rig, higher_is_better=True)

    def cpu(self, key: str) -> Iterator[Result]:
        """Yield the CPU of all processes together, if anything was measured."""
        if self.rows:
            sums = {name: [sum(used.values()) for _, used in rows] for name, rows in self.rows.items()}
            yield Result(key, "CPU of all processes for an event", "us", sums, self.rig)

    def parts(self, key: str) -> Iterator[Result]:
        """Yield the CPU of each kind of process, if anything was measured."""
        if self.rows:
            kinds = {name: by_process([used for _, used in rows]) for name, rows in self.rows.items()}
            parts = {f"{name}, {kind}": each for name, found in kinds.items() for kind, each in found.items()}
            yield Result(key, "CPU for an event by process", "us", parts, self.rig, compared=False)


def _measured(rounds: int, named: dict[str, Candidate], rig: Rig, *, rate: int = 0, in_turn: bool = False) -> Measured:
    """Measure each candidate once in every round."""
    rows: dict[str, list[Row]] = {name: [] for name in named}
    with Plane() as plane:
        for _ in range(rounds):
            for name, candidate in named.items():
                rows[name].append(row(plane, candidate, rig.events, rate=rate, in_turn=in_turn))
    return Measured(rows, rig)


def main() -> None:
    parser = report.options(__doc__, rounds=5)
    parser.add_argument("--events", type=int, default=120_000)
    parser.add_argument("--queues", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--turns", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--producers", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--paced", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--rate", type=int, default=10_000)
    arguments = parser.parse_args()
    report.publish(results(arguments), arguments.results)


if __name__ == "__main__":
    main()
