"""The sizes of large installations, simulated from measured costs: the tables of ``docs/scaling.md``.

``python -m bench.sizing`` prints them, and with ``--write`` also puts them into the page. The costs are those of the
newest file in ``bench/results/``. Queues are alike, so one of them is simulated, with its Redis server and its sender.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import page
from bench.page import figure
from rudderpipe.settings import LANES_BYTES, Settings

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
SEED = 20
EVENT_BYTES = 450
RING_BYTES = EVENT_BYTES + 9
"""An event's bytes in the ring, with its comma and its end offset."""
FLUSH_AT = 20
"""Events of a job; each lane has a job of its own."""
FEW = 20
"""About how many events a call or a request had where there were few."""
DOZE_S = 0.02
"""How long a flusher that is not busy waits for more events."""
TRIPS = 5
"""Calls of Redis for one group of events, by flusher and sender, when the sender had nothing else to do."""
NETWORK_S = 0.0005
RESPONSE_S, SPREAD = 0.1, 0.25
"""The median time of a response of the data plane, and the standard deviation of its logarithm."""
WARM_UP_S, STEADY_S = 1.0, 5.0
OUTAGE_S = 60.0
COARSE_PER_S = 200
"""How many calls of flushers are simulated in each second of an outage."""
AWAY_S = 12.0
"""How long a Redis server is away."""
FLUSHER_PAUSE_S = 2.0
"""The longest pause before a flusher tries a queue again."""
SENDER_PAUSE_S = 30.0
"""The same of a sender and the data plane."""


class Cost(NamedTuple):
    """CPU, in seconds: of each call or request, and of each event in it."""

    call_s: float
    event_s: float

    @classmethod
    def of(cls, few_us: float, many_us: float) -> Cost:
        """Return the cost, by what an event costs in calls of few events and in calls of many.

        What it costs more with few events is counted for the call, because most of it is waking up.
        """
        return cls(max(0.0, few_us - many_us) * FEW / 1e6, many_us / 1e6)

    def of_call(self, events: float) -> float:
        """Return the CPU of one call with so many events."""
        return self.call_s + self.event_s * events


class Costs(NamedTuple):
    """What an event costs each process."""

    producer_us: float
    flusher: Cost
    redis: Cost
    """That of an event's whole life in Redis. ``call_s`` is that of one trip."""
    sender: Cost
    memory_bytes: float
    """The memory of an event in Redis."""


class Installation(NamedTuple):
    """Hosts that send events, and where the events go. Each queue has a Redis server and a sender of its own."""

    hosts: int
    queues: int
    lanes: int
    host_rate: int = 10_000
    """Events a second of each host."""

    @property
    def rate(self) -> int:
        """Events a second of all hosts."""
        return self.hosts * self.host_rate

    @property
    def flush_at(self) -> int:
        """The setting, with which each lane has full jobs."""
        return FLUSH_AT * self.lanes

    @property
    def interval_s(self) -> float:
        """The time between two calls of one host for one queue."""
        return max(DOZE_S, self.flush_at * self.queues / self.host_rate)

    @property
    def call_events(self) -> float:
        """How many events a call of a flusher adds to a queue."""
        return self.host_rate / self.queues * self.interval_s

    @property
    def request_events(self) -> int:
        """The most events of a request."""
        return min(Settings().max_request_bytes, LANES_BYTES // self.lanes) // EVENT_BYTES


class Outcome(NamedTuple):
    """What the simulation of one queue has found."""

    redis_used: float
    """The part of one core that Redis needs."""
    sender_used: float
    requests_per_s: float
    request_events: float
    late_s: list[float]
    """For some events, the time from the call to the response, in order."""
    drained_s: float
    """The time from the end of an outage until the backlog is gone; 0 without one."""

    def late_ms(self, part: float) -> float:
        """Return a percentile."""
        return self.late_s[int(part * (len(self.late_s) - 1))] * 1000


class Server:
    """A thread that does one thing after the other."""

    def __init__(self) -> None:
        self._free_s = 0.0
        self.busy_s = 0.0

    def done_s(self, now_s: float, takes_s: float) -> float:
        """Return when something that begins now or as soon as possible is done."""
        self._free_s = max(now_s, self._free_s) + takes_s
        self.busy_s += takes_s
        return self._free_s


class Lane:
    """The events of one lane in Redis: groups of them, each with a moment at which one of them was made."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, float]] = deque()
        self.is_under_way = False

    def take(self, at_most: int) -> list[tuple[int, float]]:
        """Take the first groups, as many as fit and at least one."""
        taken: list[tuple[int, float]] = []
        room = at_most
        while self.waiting and (not taken or self.waiting[0][0] <= room):
            taken.append(self.waiting.popleft())
            room -= taken[-1][0]
        return taken


class Simulation:
    """One queue, to which all hosts add events, with its Redis server, its sender and the data plane."""

    def __init__(self, costs: Costs, installation: Installation, *, outage_s: float = 0.0) -> None:
        """The data plane is away for the first ``outage_s`` seconds after the warm-up."""
        self._costs = costs
        self._installation = installation
        self._back_s = WARM_UP_S + outage_s if outage_s else 0.0
        per_s = installation.hosts / installation.interval_s
        self._together = max(1, round(per_s / COARSE_PER_S)) if outage_s else 1
        """How many calls of a host are simulated as one, because an outage is long and single calls do not matter."""
        self._random = random.Random(SEED)
        self._redis, self._sender = Server(), Server()
        self._lanes = [Lane() for _ in range(installation.lanes)]
        self._due: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = 0
        self._waiting = 0
        self._requests = self._sent = 0
        self._late_s: list[float] = []

    def run(self) -> Outcome:
        """Run to the end of the measured time, or until the backlog of an outage is gone."""
        for _ in range(self._installation.hosts):
            self._at(self._random.uniform(0, self._installation.interval_s), self._add)
        usual_events = 2 * RESPONSE_S * self._installation.rate / self._installation.queues
        begun_s, end_s = WARM_UP_S, max(WARM_UP_S, self._back_s) + STEADY_S
        usual = before = (0.0, 0.0, 0, 0)
        now_s = 0.0
        while now_s < end_s or self._back_s:
            now_s, _, happens = heapq.heappop(self._due)
            if before == usual and now_s >= begun_s:
                before = (self._redis.busy_s, self._sender.busy_s, self._requests, self._sent)
                self._late_s.clear()
            if self._back_s and now_s > self._back_s and self._waiting < usual_events:
                break
            happens(now_s)
        took_s = now_s - begun_s
        requests = self._requests - before[2]
        return Outcome(
            redis_used=(self._redis.busy_s - before[0]) / took_s,
            sender_used=(self._sender.busy_s - before[1]) / took_s,
            requests_per_s=requests / took_s,
            request_events=(self._sent - before[3]) / max(1, requests),
            late_s=sorted(self._late_s),
            drained_s=now_s - self._back_s if self._back_s else 0.0,
        )

    def _at(self, at_s: float, happens: Callable[[float], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._due, (at_s, self._numbers, happens))

    def _add(self, now_s: float) -> None:
        """Have a flusher add what its host has made for the queue since its last call."""
        own, redis = self._installation, self._costs.redis
        interval_s = own.interval_s * self._together * self._random.uniform(0.9, 1.1)
        self._at(now_s + interval_s, self._add)
        mean = own.host_rate * interval_s / own.queues / own.lanes
        counts = [max(0, round(self._random.gauss(mean, math.sqrt(mean)))) for _ in self._lanes]
        done_s = self._redis.done_s(now_s + NETWORK_S, redis.call_s * self._together + redis.event_s / 2 * sum(counts))
        made_s = [now_s - self._random.uniform(0, interval_s) for _ in counts]
        self._at(done_s, partial(self._added, list(zip(counts, made_s, strict=True))))

    def _added(self, groups: list[tuple[int, float]], now_s: float) -> None:
        for lane, group in zip(self._lanes, groups, strict=True):
            if group[0]:
                lane.waiting.append(group)
                self._waiting += group[0]
                self._begin(lane, now_s)

    def _begin(self, lane: Lane, now_s: float) -> None:
        """Begin the next request of a lane, unless one is under way or no event waits."""
        if lane.is_under_way or not lane.waiting:
            return
        lane.is_under_way = True
        groups = lane.take(self._installation.request_events)
        events = sum(count for count, _ in groups)
        self._waiting -= events
        redis, response_s = self._costs.redis, RESPONSE_S * math.exp(self._random.gauss(0, SPREAD))
        # Taking these jobs and removing the ones before is one trip.
        taken_s = self._redis.done_s(now_s + NETWORK_S, redis.call_s + redis.event_s / 2 * events) + NETWORK_S
        sent_s = self._sender.done_s(taken_s, self._costs.sender.of_call(events))
        if WARM_UP_S <= sent_s < self._back_s:
            sent_s = self._back_s + self._random.uniform(0, SENDER_PAUSE_S)
        self._at(sent_s + response_s, partial(self._end, lane, groups))

    def _end(self, lane: Lane, groups: Iterable[tuple[int, float]], now_s: float) -> None:
        for count, made_s in groups:
            self._sent += count
            self._late_s.append(now_s - made_s)
        self._requests += 1
        lane.is_under_way = False
        self._begin(lane, now_s)


def caught_up_s(costs: Costs, own: Installation, redis_used: float) -> float:
    """Return how long after its return a Redis server lacks events that were made while it was away.

    The flushers try again at different moments. Each then adds what is missing, in calls of 50 jobs of each lane, while
    new events come as before.
    """
    numbers, redis, end_s = random.Random(SEED), Server(), 0.0
    for pause_s in sorted(numbers.uniform(0, FLUSHER_PAUSE_S) for _ in range(own.hosts)):
        missing = own.host_rate / own.queues * (AWAY_S + pause_s)
        calls = math.ceil(missing / (50 * FLUSH_AT))
        end_s = redis.done_s(
            pause_s, (calls * costs.redis.call_s + costs.redis.event_s / 2 * missing) / (1 - redis_used)
        )
    return end_s


def costs_of(run: page.Run) -> Costs:
    """Return the costs that a run of the benchmarks has measured."""
    results = {result.name: result for result in run.results}
    many, few, memory = results["scale_turns_parts"], results["scale_paced"], results["backlog_memory"]

    def cost(kind: str) -> Cost:
        return Cost.of(few.median(f"16 queues, {kind}"), many.median(f"8 queues, {kind}"))

    redis = cost("redis servers")
    return Costs(
        producer_us=many.median("8 queues, producers"),
        flusher=cost("flusher"),
        redis=Cost(redis.call_s / TRIPS, redis.event_s),
        sender=cost("senders"),
        memory_bytes=memory.median("Redis, full") * (1 << 20) / memory.rig.events,
    )


INSTALLATIONS = {
    "10,000 events/s": Installation(hosts=1, queues=1, lanes=1),
    "100,000 events/s": Installation(hosts=10, queues=1, lanes=2),
    "1 million events/s": Installation(hosts=100, queues=16, lanes=2),
    "10 million events/s": Installation(hosts=1000, queues=160, lanes=2),
}
FAR_MS = (20, 50, 100, 200)
WAYS = {
    "requests of 460,800 bytes": (1, 460_800),
    "requests of 3.9 MB, which a backlog makes": (1, 3_900_000),
    "8 lanes, with requests of 1 MB": (8, LANES_BYTES // 8),
}
"""The lanes and the bytes of a request."""


def rows_of(costs: Costs, own: Installation) -> Iterator[tuple[str, str]]:
    """Yield the cells of one installation, each with the name of its row."""
    steady = Simulation(costs, own).run()
    outage = Simulation(costs, own, outage_s=OUTAGE_S).run()
    queue_rate, caught_up = own.rate / own.queues, caught_up_s(costs, own, steady.redis_used)
    ring = own.host_rate * (AWAY_S + caught_up)
    flusher = costs.flusher.of_call(own.call_events) / own.call_events
    yield "hosts, each with 10,000 events/s", f"{own.hosts:,}"
    yield "queues, each with a Redis server and a sender", str(own.queues)
    yield "`lanes` and `flush_at`", f"{own.lanes} and {own.flush_at}"
    yield "producers of all hosts, cores", figure(own.rate * costs.producer_us / 1e6)
    yield "flusher of each host, of a core", f"{own.host_rate * flusher:.0%}"
    yield "each Redis server, of a core", f"{steady.redis_used:.0%}"
    yield "each sender, of a core", f"{steady.sender_used:.0%}"
    yield "requests/s in all", figure(steady.requests_per_s * own.queues)
    yield "events in a request", figure(steady.request_events)
    yield "from `track()` to the response, p50, ms", figure(steady.late_ms(0.5))
    yield "the same, p99, ms", figure(steady.late_ms(0.99))
    yield "into each Redis server, MB/s", figure(queue_rate * costs.memory_bytes / 1e6)
    memory = figure(queue_rate * OUTAGE_S * costs.memory_bytes / 1e9)
    yield f"memory of each Redis server after {OUTAGE_S:.0f} s without data plane, GB", memory
    yield "time until that backlog is gone, s", figure(outage.drained_s)
    yield f"events in each ring while a Redis server is away for {AWAY_S:.0f} s", f"{figure(ring)}"
    yield "the same, MB", figure(ring * RING_BYTES / 1e6)
    yield "time until that server has what it lacked, s", figure(caught_up)
    default = Settings().max_internal_queue_size
    yield f"time until a ring of {default:,} events is full, s", figure(default / own.host_rate)


def best_rate(costs: Costs, lanes: int, request_bytes: int, response_s: float) -> float:
    """Return the most events a second of one queue, with full requests and one core for sender and Redis each."""
    events = request_bytes // EVENT_BYTES
    cpu_s = costs.sender.of_call(events)
    request_s = 2 * NETWORK_S + costs.redis.of_call(events) / 2 + cpu_s + response_s
    return min(events * lanes / request_s, events / cpu_s, 1 / costs.redis.event_s)


def choice(costs: Costs) -> str:
    """Return the table of the rates of one queue."""
    head = ["events/s of one queue at the most", *(f"{each} ms" for each in FAR_MS)]
    lines = [
        [name, *(figure(best_rate(costs, lanes, size_bytes, each / 1000)) for each in FAR_MS)]
        for name, (lanes, size_bytes) in WAYS.items()
    ]
    return _table(head, lines)


def sizes(costs: Costs) -> str:
    """Return the table of the installations."""
    columns = [dict(rows_of(costs, own)) for own in INSTALLATIONS.values()]
    lines = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return _table(["", *INSTALLATIONS], lines)


def assumptions(costs: Costs) -> str:
    """Return what the tables assume, as a list."""
    redis, flusher, sender = costs.redis, costs.flusher, costs.sender
    lines = [
        f"An event has {EVENT_BYTES} bytes, and {costs.memory_bytes:.0f} bytes in Redis. No user has a large share.",
        "CPU is that of the machine of the [benchmarks](benchmarks.md#several-queues), "
        f"for each event {costs.producer_us:.1f} µs of a producer, "
        f"{_us(flusher.event_s)} of a flusher, {_us(redis.event_s)} of Redis and {_us(sender.event_s)} of a sender. "
        f"Besides, a call of a flusher costs {_us(flusher.call_s)}, a call of Redis {_us(redis.call_s)} and a request "
        f"{_us(sender.call_s)}. An event costs what it costs in full calls, and a call what {FEW} events cost more in "
        "a call of their own, most of which is waking up. "
        "Half of what an event costs Redis falls to its adding.",
        f"Every queue has a Redis server of its own, with a core for it, and so has every sender. A call takes "
        f"{NETWORK_S * 1000:g} ms on its way.",
        f"A response of the data plane takes {RESPONSE_S * 1000:.0f} ms (median; lognormal, {SPREAD:g}), however many "
        "events and requests there are. The data plane itself is not simulated.",
        "Each host's events are spread evenly. Its flusher adds to a queue when the jobs of all lanes are full, at "
        "moments that do not depend on those of other hosts.",
        f"After an outage a sender tries again within {SENDER_PAUSE_S:.0f} s, and a flusher within "
        f"{FLUSHER_PAUSE_S:.0f} s.",
    ]
    return "\n".join(f"* {line}" for line in lines)


def _us(seconds: float) -> str:
    return f"{figure(seconds * 1e6)} µs"


def _table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *lines])


def current() -> str:
    """Return ``docs/scaling.md`` as the newest results make it."""
    costs = costs_of(page.newest())
    text = PAGE.read_text()
    for name, made in (("choice", choice(costs)), ("sizes", f"{assumptions(costs)}\n\n{sizes(costs)}")):
        block = re.compile(rf"(<!-- {name}: python -m bench.sizing -->\n\n).*?(\n*<!-- end of {name} -->\n)", re.DOTALL)
        text, found = block.subn(rf"\g<1>{made}\n\n<!-- end of {name} -->\n", text)
        if found != 1:
            raise ValueError(f"{PAGE.name} has no place for the {name}")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sizing", description=__doc__)
    parser.add_argument("--write", action="store_true", help="also put the tables into docs/scaling.md")
    arguments = parser.parse_args()
    costs = costs_of(page.newest())
    print(f"seed {SEED}\n\n{assumptions(costs)}\n\n{choice(costs)}\n\n{sizes(costs)}")
    if arguments.write:
        PAGE.write_text(current())


if __name__ == "__main__":
    main()
