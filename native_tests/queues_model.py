"""A model of several queues: flushers, senders and reshardings, with kills and with lost, late and repeated calls.

In some episodes the ring is small and its flusher has a spill, in which it may be killed at any step.

The flusher, its sink, the gate of the senders and the scripts in Redis are the real ones. Only the order of the calls
and their answers is the model's.
"""

from __future__ import annotations

import errno
import random
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import redis

from rudderpipe.errors import LeaseLost, QueueBehind, QueueSealed, QueueUnavailable
from rudderpipe.flusher import spill
from rudderpipe.flusher.dead_letters import DeadLetters
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.queues_sink import ALL_RULES, QueuesSink
from rudderpipe.flusher.route_file import RouteFile
from rudderpipe.flusher.spill import Position, Spill
from rudderpipe.flusher.spill_record import Record
from rudderpipe.queue import gate, route, scaling, seal
from rudderpipe.queue.queue_set import QueueSet
from rudderpipe.queue.route import QueuePlace, Route
from rudderpipe.ring import layout as at
from rudderpipe.ring import memory
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring, open_ring
from rudderpipe.service.calls import Calls, Ended
from rudderpipe.settings import Settings
from tests.fakes import FakeClock, producer_of, settings_of

Rules = frozenset[str]
ALL: Rules = ALL_RULES | gate.ALL_RULES
NO_ANSWER = QueueUnavailable("here", "no answer in time")
AWAY = QueueUnavailable("here", "refused", answered=True)
REFUSED = OSError(errno.EIO, "refused")


class ModelCalls(Calls):
    """The calls of one flusher, each of which runs when the model says so."""

    def __init__(self) -> None:
        self.begun: dict[Hashable, Callable[[], Any]] = {}
        self.results: deque[Ended] = deque()

    def begin(self, owner: Hashable, call: Callable[[], Any]) -> bool:
        self.begun[owner] = call
        return True

    def next(self, wait_s: float) -> Ended | None:  # noqa: ARG002  # as the original
        return self.results.popleft() if self.results else None

    def close(self) -> None:
        pass


class Killed(BaseException):
    """Raised where a flusher is killed."""


class MortalSpill(Spill):
    """A spill whose process may be killed before, within and behind each of its changes, and whose disk may refuse."""

    def __init__(self, settings: Settings, epoch: int, dies: Callable[[], bool]) -> None:
        super().__init__(settings, epoch)
        self._dies = dies
        self.appends = 0

    def append(self, records: Sequence[Record], number: int) -> None:
        if self._dies():
            raise Killed
        if self._dies():
            self._append_in_vain(records, number)
        super().append(records, number)
        self.appends += 1
        if self._dies():
            segment = self._segments[-1]
            with segment.path.open("rb+") as file:  # the last record is not whole
                file.truncate(segment.size_bytes - 1)
            raise Killed
        if self._dies():
            raise Killed

    def _append_in_vain(self, records: Sequence[Record], number: int) -> None:
        """Let the disk have the records and refuse to store them durably."""
        write = spill._write  # noqa: SLF001  # the one place at which a disk can refuse

        def refuse(fd: int, data: bytes) -> None:
            write(fd, data)
            raise REFUSED

        spill._write = refuse  # noqa: SLF001  # as above
        try:
            super().append(records, number)
        finally:
            spill._write = write  # noqa: SLF001  # as above

    def _cut_last(self) -> None:
        if self._dies():
            self._end_writing()
            self._is_cut = False
            raise REFUSED
        super()._cut_last()

    def remove_before(self, position: Position) -> list[int]:
        if self._dies():
            raise REFUSED
        if self._dies():
            raise Killed
        gone = super().remove_before(position)
        if self._dies():
            raise Killed
        return gone


class Host:
    """A host with a ring and its flusher, which may be killed and started again."""

    def __init__(self, model: Model, number: int) -> None:
        self._model = model
        self.number = number
        self.spills: list[MortalSpill] = []
        small = {"max_internal_queue_size": 40, "spill_dir": str(model.directory / f"spill-{number}")}
        own = msgspec.structs.replace(
            settings_of(model.directory, ring_bytes=1 << 20, max_internal_queue_size=10_000, flush_at=2),
            redis=model.settings.redis,
            write_key="KEY",
            **(small if model.spills else {}),
        )
        self.settings: Settings = own
        self.ring: Ring = open_ring(own, model.clock)
        self.producer: Producer = producer_of(self.ring, model.clock)
        self.sent = Counter[str]()
        self.start()

    def start(self) -> None:
        """Start a flusher, as one that takes the ring's lock."""
        at.bump(self.ring.words, at.H_TERM)
        self.calls = ModelCalls()
        letters = DeadLetters(self._model.directory / f"letters-{self.number}", 0)
        sink = QueuesSink(
            self.settings,
            self.ring,
            letters,
            self._model.clock,
            calls=self.calls,
            rules=self._model.rules & ALL_RULES,
            route_file=RouteFile(self.ring, self.settings),
        )
        self._model.sinks.append(sink)
        if self._model.spills:
            for each in self.spills:
                each.close()
            self.spills.append(MortalSpill(self.settings, self.ring.segment.epoch, self._model.dies))
            spilling = sink._spilling  # noqa: SLF001  # its spill may be killed, and it is used more often
            spilling._spill, spilling.is_due = self.spills[-1], self._model.spills_now  # type: ignore[method-assign]  # noqa: SLF001
        self.flusher = Flusher(self.ring, sink, self.settings, self._model.clock)

    def send(self, count: int) -> None:
        """Append events of random users, which are numbered for each user."""
        for _ in range(count):
            user = f"h{self.number}u{self._model.random.randrange(3)}"
            text = f'{{"userId":"{user}","n":{self.sent[user]}}}'
            if self.producer.append(text.encode()) is not None:
                assert self._model.spills
                return
            self.sent[user] += 1

    def work(self) -> None:
        """Run one cycle of the flusher, which may be killed within."""
        try:
            self.flusher.work()
        except Killed:
            self._model.kill(self)

    def replace_producer(self) -> None:
        """Let the producer end and another one begin, so that a block becomes free."""
        self.producer.leave()
        self.producer = producer_of(self.ring, self._model.clock)


class Model:
    """One episode."""

    def __init__(self, server: redis.Redis, url: str, directory: Path, seed: int, rules: Rules = ALL) -> None:
        self.random = random.Random(seed)
        self.directory = directory
        self.rules = rules
        self.spills = self.random.random() < 0.5
        self.is_ending = False
        self.away: set[QueuePlace] = set()
        """The queues that refuse every call."""
        self.clock = FakeClock()
        self.settings = Settings(redis=url, write_key="KEY", autostart=False, queues=self.random.choice((1, 2, 3)))
        server.flushall()
        self.queues = QueueSet(self.settings, self.clock)
        self.sinks: list[QueuesSink] = []
        self.late: list[Callable[[], Any]] = []
        self.delivered: dict[str, list[int]] = {}
        self.route: Route = route.establish(self.queues.home, self.settings, self.settings.queues)
        self.hosts = [Host(self, number) for number in range(2)]

    def dies(self) -> bool:
        """Return True if the flusher is killed now."""
        return not self.is_ending and self.random.random() < 0.05

    def spills_now(self) -> bool:
        """Return True if the ring of a host counts as nearly full."""
        return self.random.random() < 0.5

    def close(self) -> None:
        """Remove the rings and the connections."""
        for host in self.hosts:
            memory.remove(host.ring.segment.name)
        cursors = [cursor for sink in self.sinks for cursor in sink.used.all]
        self.queues.close()
        for cursor in cursors:
            cursor.queue.close()

    def _read_route(self) -> Route:
        self.route = route.read(self.queues.home, self.settings)
        return self.route

    def step(self) -> None:
        """Do one random thing."""
        chosen = self.random.choices(
            (
                self.send,
                self.work,
                self.answer,
                self.lose,
                self.cut_off,
                self.kill,
                self.run_late,
                self.deliver,
                self.reshard,
                self.seal,
                self.retire,
            ),
            (10, 25, 30, 5, 2 * self.spills, 2, 1, 6, 1, 2, 3),
        )[0]
        chosen()

    @property
    def host(self) -> Host:
        """A random host."""
        return self.random.choice(self.hosts)

    def send(self) -> None:
        """Append a few events; sometimes by another process."""
        host = self.host
        if self.random.random() < 0.3:
            host.replace_producer()
        host.send(self.random.randint(1, 6))

    def work(self) -> None:
        """Run one cycle of a flusher."""
        self.clock.now_s += self.random.choice((0.01, 0.6, 3.0))
        self.host.work()

    def _begun(self) -> tuple[Host, Any, Callable[[], Any]] | None:
        host = self.host
        if not host.calls.begun:
            return None
        owner = self.random.choice(list(host.calls.begun))
        return host, owner, host.calls.begun.pop(owner)

    def answer(self) -> None:
        """Execute a call of a flusher and return its answer."""
        if begun := self._begun():
            host, owner, call = begun
            host.calls.results.append(Ended(owner, AWAY if owner.place in self.away else _result_of(call)))
            host.work()

    def cut_off(self) -> None:
        """Let a queue refuse all calls from now on, or none."""
        generation = self._read_route().current
        self.away ^= {self.random.choice(generation.queues)}

    def lose(self) -> None:
        """Lose the answer of a call, which is executed now, later, or never."""
        if begun := self._begun():
            host, owner, call = begun
            what = self.random.randrange(3)
            if what == 0:
                _result_of(call)
            elif what == 1:
                self.late.append(call)
            host.calls.results.append(Ended(owner, NO_ANSWER))

    def kill(self, host: Host | None = None) -> None:
        """Kill a flusher. Its calls are executed now, later, or never, and another flusher starts."""
        host = host or self.host
        for call in host.calls.begun.values():
            what = self.random.randrange(3)
            if what == 0:
                _result_of(call)
            elif what == 1:
                self.late.append(call)
        host.start()

    def run_late(self) -> None:
        """Execute a call that was held up."""
        if self.late:
            _result_of(self.late.pop(self.random.randrange(len(self.late))))

    def deliver(self) -> None:
        """Let a sender of one queue take a few jobs, if the queue is open, and deliver them."""
        self._read_route()
        generation = self.random.choice((self.route.current, *self.route.living))
        place = self.random.choice(generation.queues)
        if gate.is_open(self.queues.queue, self.route, generation.number, place, self.rules):
            self._take(place, 1)

    def _take(self, place: QueuePlace, count: int) -> int:
        queue = self.queues.queue(place)
        taken = queue.take(count, 1 << 30)
        for job in taken:
            assert job.job is not None
            for event in job.job.events:
                found = msgspec.json.decode(event)
                self.delivered.setdefault(found["userId"], []).append(found["n"])
        queue.complete(taken)
        return len(taken)

    def reshard(self) -> None:
        """Add a generation to the route, as ``rudderpipe scale`` does. It may be killed before it seals the former."""
        for _ in range(self.random.choice((1, 2))):
            if len(self._read_route().generations) < 5:
                scaling.begin(self.queues, self.settings, self.random.randint(1, 4))

    def seal(self) -> None:
        """Seal the queues of the earlier generations, or some of them, as ``rudderpipe scale`` does."""
        if earlier := self._read_route().living[:-1]:
            if self.random.random() < 0.2:
                scaling.seal_past(self.queues, self.route)
            else:
                generation = self.random.choice(earlier)
                seal.seal(self.queues.queue(self.random.choice(generation.queues)), generation.number)

    def retire(self) -> None:
        """Retire what is drained, as ``rudderpipe scale`` does."""
        if self.rules >= gate.ALL_RULES:
            scaling.retire(self.queues, self.settings, self._read_route())

    def finish(self) -> None:
        """Let everything come to its end, then late calls be executed, and that come to its end again."""
        self.is_ending = True
        self.away.clear()
        self._drain()
        for host in self.hosts:
            host.replace_producer()
            host.send(4)
        self._drain()
        while self.late:
            self.run_late()
        self._drain()

    def _drain(self) -> None:
        for _ in range(400):
            for host in self.hosts:
                self.clock.now_s += 3.0
                host.work()
                for owner, call in list(host.calls.begun.items()):
                    del host.calls.begun[owner]
                    host.calls.results.append(Ended(owner, _result_of(call)))
            self._read_route()
            moved = 0
            for generation in reversed(self.route.living):  # the gate alone keeps the order
                for place in generation.queues:
                    if gate.is_open(self.queues.queue, self.route, generation.number, place, self.rules):
                        moved += self._take(place, 2)
            if not moved and not any(map(self._left, self.hosts)):
                return
        raise AssertionError(f"the episode does not end {[self._left(host) for host in self.hosts]} {self.route}")

    def _left(self, host: Host) -> int:
        return sum(host.sent.values()) - host.ring.drained() + host.ring.words[at.H_SPILLED]

    def check(self) -> None:
        """Check that each event was delivered once, and each user's events in order."""
        for host in self.hosts:
            for user, count in host.sent.items():
                assert self.delivered.get(user, []) == list(range(count)), (user, self.delivered.get(user))


def _result_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (QueueUnavailable, QueueBehind, QueueSealed, LeaseLost) as error:
        return error


def episode(server: redis.Redis, url: str, directory: Path, seed: int, rules: Rules = ALL, steps: int = 120) -> Model:
    """Run one episode. Raise ``AssertionError`` if an event is lost, doubled or out of order."""
    model = Model(server, url, directory, seed, rules)
    try:
        for _ in range(steps):
            model.step()
        model.finish()
        model.check()
    finally:
        model.close()
    return model
