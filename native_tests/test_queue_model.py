"""The queue in memory is a model of the one in Redis. The same calls return the same and leave the same state."""

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
    """A machine in which two senders on each of the two queues make the same calls at the same time."""

    server: ClassVar[RedisServer]

    def __init__(self) -> None:
        super().__init__()
        self.real, fake = RedisQueueServer(self.server), FakeQueueServer()
        self.servers: tuple[QueueServer, QueueServer] = (self.real, fake)
        self.queues = [[queue_server.queue(keep_completed=keep) for keep in (0, 2)] for queue_server in self.servers]
        for real, model in zip(*self.queues, strict=True):
            model.token = real.token
        self.held: list[list[ActiveJob]] = [[], []]
        self.foreign = 0

    def both(self, sender: int, what: Callable[[Queue], Any]) -> Any:
        """Make the call on both queues, and return the result after checking that both are equal."""
        results = []
        for queues in self.queues:
            try:
                results.append(what(queues[sender]))
            except QueueBehind as behind:
                results.append(("behind", behind.read))
        assert results[0] == results[1]
        return results[0]

    @rule(start=st.integers(0, 9), count=SOME, block=st.integers(1, 2), freed=st.booleans(), term=st.integers(0, 1))
    def add(self, start: int, count: int, block: int, freed: bool, term: int) -> None:
        """Add jobs at the right offset, or at one that is too early or too late."""
        batches = [(data_of(number), 2) for number in range(count)]
        offsets = {block: (start, start + count)}
        self.both(0, lambda queue: queue.add(EPOCH, batches, offsets, [3 - block] if freed else [], term))

    @rule(sender=SENDERS, count=SOME, size=st.sampled_from([1, 1000, 1_000_000]))
    def take(self, sender: int, count: int, size: int) -> None:
        """Take jobs within these bounds."""
        self.held[sender] += self.both(sender, lambda queue: queue.take(count, size))

    @rule(sender=SENDERS, count=SOME)
    def complete(self, sender: int, count: int) -> None:
        """Complete readable jobs, whether the sender still owns them or not."""
        self.held[sender] = [taken for taken in self.held[sender] if taken.job]
        done, self.held[sender] = self.held[sender][:count], self.held[sender][count:]
        self.both(sender, lambda queue: queue.complete(done))

    @rule(sender=SENDERS)
    def fail(self, sender: int) -> None:
        """Fail a job, whether the sender still owns it or not."""
        if self.held[sender]:
            taken = self.held[sender].pop()
            self.both(sender, lambda queue: queue.fail(taken, "no"))

    @rule(sender=SENDERS, what=st.sampled_from(["retry_later", "renew"]))
    def hold(self, sender: int, what: str) -> None:
        """Renew the locks, or count an attempt."""
        self.both(sender, lambda queue: getattr(queue, what)(self.held[sender]))

    @rule(sender=SENDERS)
    def put_back(self, sender: int) -> None:
        """Put all jobs of the sender back."""
        self.both(sender, lambda queue: queue.put_back(self.held[sender]))
        self.held[sender] = []

    @rule(sender=SENDERS, what=st.sampled_from(["recover", "sweep", "promote", "counts"]))
    def upkeep(self, sender: int, what: str) -> None:
        """Make one of the calls that need no job."""
        self.both(sender, lambda queue: getattr(queue, what)())

    @rule()
    def count_the_ring(self) -> None:
        """Compare the counts of the ring, without its offsets."""
        self.both(0, lambda queue: msgspec.structs.replace(queue.counts(EPOCH), offsets={}))

    @rule(number=st.integers(0, 99))
    def lapse(self, number: int) -> None:
        """Let one lock lapse."""
        if names := sorted(self.real.locks()):
            for queue_server in self.servers:
                queue_server.lapse(names[number % len(names)])

    @rule(what=st.sampled_from(["interval_passes", "pause", "resume"]))
    def meanwhile(self, what: str) -> None:
        """Let the sweep's interval pass, or pause or resume the queue."""
        if what != "pause" or not self.queues[0][0].counts().paused:
            for queue_server in self.servers:
                getattr(queue_server, what)()

    @rule(how=st.sampled_from(["job", "no job", "no hash", "delayed"]))
    def foreign_add(self, how: str) -> None:
        """Add a job of another program."""
        self.foreign += 1
        name, fields = f"n{self.foreign}", {"data": data_of(0, 0), "opts": "{}"}
        for queue_server in self.servers:
            if how == "no hash":
                queue_server.put_no_hash(name)
            elif how == "delayed":
                queue_server.delay(name, queue_server.clock.time_ms() + 1000, fields)
            else:
                queue_server.put(name, fields if how == "job" else None)

    @rule()
    def half_a_second_passes(self) -> None:
        """Move the clock. The sum stays below a lock's lifetime, because Redis has its own clock."""
        for queue_server in self.servers:
            queue_server.clock.now_s += 0.5

    @rule(number=st.integers(0, 99))
    def bull_retries(self, number: int) -> None:
        """Retry a failed job as Bull does."""
        if names := self.real.view().failed:
            for queue_server in self.servers:
                queue_server.retry(names[number % len(names)])

    @invariant()
    def they_are_the_same(self) -> None:
        """Compare every job's state, order, lock and attempts."""
        real, model = (queue_server.view() for queue_server in self.servers)
        assert real == model
        for name in [*real.line, *real.active, *real.failed]:
            fields = [queue_server.fields(name) if _is_job(queue_server, name) else {} for queue_server in self.servers]
            for field in ("attemptsMade", "stalledCounter", "failedReason", "data"):
                assert fields[0].get(field) == fields[1].get(field)

    def teardown(self) -> None:
        """Close the connections."""
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
    """Two senders, a flusher, other programs and time make random sequences of calls."""

    class OnThisServer(QueueModel):
        """The machine with this server."""

    OnThisServer.server = server
    run_state_machine_as_test(
        OnThisServer, settings=settings(derandomize=True, max_examples=50, stateful_step_count=30, deadline=None)
    )
