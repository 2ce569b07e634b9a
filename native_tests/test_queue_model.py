"""The queue in memory is a model of the one in Redis: the same calls leave, and answer, the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from native_tests.redis_queue_server import RedisQueueServer
from rudderpipe.errors import QueueBehind
from rudderpipe.queue.active_job import ActiveJob
from rudderpipe.queue.queue import Queue
from rudderpipe.testing.redis_server import RedisServer
from tests.queue_contract import EPOCH, QueueServer, data_of
from tests.test_fake_queue import FakeQueueServer

SENDERS = st.integers(0, 1)
SOME = st.integers(1, 3)


class QueueModel(RuleBasedStateMachine):
    """Two senders on each of the two queues do the same at the same time."""

    server: ClassVar[RedisServer]

    def __init__(self) -> None:
        super().__init__()
        self.real, fake = RedisQueueServer(self.server), FakeQueueServer()
        self.stands: tuple[QueueServer, QueueServer] = (self.real, fake)
        self.queues = [[queue_server.queue(keep_completed=keep) for keep in (0, 2)] for queue_server in self.stands]
        for real, model in zip(*self.queues, strict=True):
            model.token = real.token
        self.held: list[list[ActiveJob]] = [[], []]
        self.foreign = 0

    def both(self, who: int, what: Callable[[Queue], Any]) -> Any:
        """The answer of the one, once it is the other's too."""
        answers = []
        for queues in self.queues:
            try:
                answers.append(what(queues[who]))
            except QueueBehind as behind:
                answers.append(("behind", behind.read))
        assert answers[0] == answers[1]
        return answers[0]

    @rule(start=st.integers(0, 9), count=SOME, block=st.integers(1, 2), freed=st.booleans(), term=st.integers(0, 1))
    def add(self, start: int, count: int, block: int, freed: bool, term: int) -> None:
        """Too early or too late, too."""
        batches = [(data_of(number), 2) for number in range(count)]
        offsets = {block: (start, start + count)}
        self.both(0, lambda queue: queue.add(EPOCH, batches, offsets, [3 - block] if freed else [], term))

    @rule(who=SENDERS, count=SOME, size=st.sampled_from([1, 1000, 1_000_000]))
    def take(self, who: int, count: int, size: int) -> None:
        """Within bounds."""
        self.held[who] += self.both(who, lambda queue: queue.take(count, size))

    @rule(who=SENDERS, count=SOME)
    def complete(self, who: int, count: int) -> None:
        """Ours or not; a sender completes what it could read."""
        self.held[who] = [taken for taken in self.held[who] if taken.job]
        done, self.held[who] = self.held[who][:count], self.held[who][count:]
        self.both(who, lambda queue: queue.complete(done))

    @rule(who=SENDERS)
    def fail(self, who: int) -> None:
        """Ours or not."""
        if self.held[who]:
            taken = self.held[who].pop()
            self.both(who, lambda queue: queue.fail(taken, "no"))

    @rule(who=SENDERS, what=st.sampled_from(["retry_later", "renew"]))
    def hold(self, who: int, what: str) -> None:
        """For longer."""
        self.both(who, lambda queue: getattr(queue, what)(self.held[who]))

    @rule(who=SENDERS)
    def put_back(self, who: int) -> None:
        """All."""
        self.both(who, lambda queue: queue.put_back(self.held[who]))
        self.held[who] = []

    @rule(who=SENDERS, what=st.sampled_from(["recover", "sweep", "promote", "counts"]))
    def upkeep(self, who: int, what: str) -> None:
        """Whoever does it."""
        self.both(who, lambda queue: getattr(queue, what)())

    @rule()
    def count_the_ring(self) -> None:
        """With its positions."""
        self.both(0, lambda queue: msgspec.structs.replace(queue.counts(EPOCH), offsets={}))

    @rule(number=st.integers(0, 99))
    def lapse(self, number: int) -> None:
        """One lock."""
        if names := sorted(self.real.locks()):
            for queue_server in self.stands:
                queue_server.lapse(names[number % len(names)])

    @rule(what=st.sampled_from(["interval_passes", "pause", "resume"]))
    def meanwhile(self, what: str) -> None:
        """Time, and people."""
        if what != "pause" or not self.queues[0][0].counts().paused:
            for queue_server in self.stands:
                getattr(queue_server, what)()

    @rule(how=st.sampled_from(["job", "no job", "no hash", "delayed"]))
    def foreign_add(self, how: str) -> None:
        """By somebody else."""
        self.foreign += 1
        name, fields = f"n{self.foreign}", {"data": data_of(0, 0), "opts": "{}"}
        for queue_server in self.stands:
            if how == "no hash":
                queue_server.put_no_hash(name)
            elif how == "delayed":
                queue_server.delay(name, queue_server.clock.time_ms() + 1000, fields)
            else:
                queue_server.put(name, fields if how == "job" else None)

    @rule()
    def half_a_second_passes(self) -> None:
        """Less than a lock's time in all, as Redis has a clock of its own."""
        for queue_server in self.stands:
            queue_server.clock.now_s += 0.5

    @rule(number=st.integers(0, 99))
    def bull_retries(self, number: int) -> None:
        """One that failed."""
        if names := self.real.view().failed:
            for queue_server in self.stands:
                queue_server.retry(names[number % len(names)])

    @invariant()
    def they_are_the_same(self) -> None:
        """Every job's state, order, lock and attempts."""
        real, model = (queue_server.view() for queue_server in self.stands)
        assert real == model
        for name in [*real.line, *real.active, *real.failed]:
            fields = [queue_server.fields(name) if _is_job(queue_server, name) else {} for queue_server in self.stands]
            for field in ("attemptsMade", "stalledCounter", "failedReason", "data"):
                assert fields[0].get(field) == fields[1].get(field)

    def teardown(self) -> None:
        """The connections."""
        self.real.close()


def _is_job(queue_server: QueueServer, name: str) -> bool:
    return (
        not isinstance(queue_server, RedisQueueServer)
        or queue_server.client.type(f"{{rudder}}:rudderEventsQueue:{name}") == "hash"
    )


@pytest.fixture(name="server")
def _server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="rp-") as directory, RedisServer(Path(directory)) as server:
        yield server


@pytest.mark.timeout(400)
def test_the_queue_in_memory_does_what_redis_does(server: RedisServer) -> None:
    """After any sequence of calls by two senders, a flusher, people and time."""

    class Here(QueueModel):
        """On this server."""

    Here.server = server
    run_state_machine_as_test(
        Here, settings=settings(derandomize=True, max_examples=50, stateful_step_count=30, deadline=None)
    )
