"""Random calls on the queue in any order. Every job is in one state, and every event is accounted for."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from native_tests.redis_queue_server import P, RedisQueueServer
from rudderpipe.errors import QueueBehind
from rudderpipe.queue.active_job import ActiveJob
from rudderpipe.queue.failed_jobs import FailedJobs
from rudderpipe.queue.keys import Keys
from rudderpipe.queue.queue import Queue
from rudderpipe.testing.redis_server import RedisServer
from tests.queue_contract import EPOCH, add, data_of

KEYS = Keys("rudder", "rudderEventsQueue")

SENDERS = st.integers(0, 1)
SOME = st.integers(1, 3)
PICK = st.integers(0, 1_000)
NODE = "a-node-worker"
LISTS = ("wait", "paused", "active")
SETS = ("delayed", "failed", "completed")
EVENTS = ("queued", "delivered", "failed", "removed", "elsewhere")


class Snapshot(msgspec.Struct):
    """What Redis holds at one moment."""

    keys: set[str]
    states: dict[str, list[str]]
    accounts: list[dict[str, str]]
    """The account of all rings, and that of the one ring."""
    counted: dict[str, str]

    def every_job_is_in_one_state(self) -> None:
        """Check that no job is in two states, and that no hash is without a state."""
        names = Counter(name for names in self.states.values() for name in names)
        assert set(names.values()) <= {1}, self.states
        assert {key for key in self.keys if key.removeprefix("n").isdigit()} <= set(names)

    def only_active_jobs_are_locked(self) -> None:
        """Check the locks. Another lock would keep an operator from a retry, and deceive its holder."""
        locked = {key.removesuffix(":lock") for key in self.keys if key.endswith(":lock")}
        assert locked <= set(self.states["active"])

    def jobs_wait_in_one_list(self) -> None:
        """Check that jobs wait in ``paused`` while the queue is paused, and else in ``wait``."""
        assert not self.states["wait" if "meta-paused" in self.keys else "paused"]

    def every_event_is_accounted_for(self, added: int, delivered: int) -> None:
        """Check the sums. Delivered are the events that a sender completed, failed those of known jobs."""
        for account in self.accounts:
            assert sum(int(account.get(name, 0)) for name in EVENTS) == added
            assert int(account.get("delivered", 0)) == delivered
            assert int(account.get("failed", 0)) == sum(int(text.split(":")[1]) for text in self.counted.values())


class QueueStates(RuleBasedStateMachine):
    """A machine of a flusher, two senders, a worker of the Node SDK, operators with Bull's tools, and time."""

    server: ClassVar[RedisServer]

    def __init__(self) -> None:
        super().__init__()
        self.queue_server = RedisQueueServer(self.server)
        self.redis: Any = self.queue_server.client
        self.queues: list[Queue] = [self.queue_server.queue(keep_completed=keep) for keep in (0, 2)]
        self.held: list[list[ActiveJob]] = [[], []]
        """The jobs that each sender believes to hold."""
        self.added = self.delivered = self.foreign = 0
        """The numbers of events that we added, of events that our senders completed, and of foreign jobs."""

    # What our processes do.

    @rule(count=SOME)
    def add(self, count: int) -> None:
        """Add jobs as a flusher."""
        add(self.queues[0], count, self.added // 2)
        self.added += 2 * count

    @rule(count=SOME)
    def add_again(self, count: int) -> None:
        """Add known jobs, as a flusher does whose answer was lost or that has a successor."""
        if self.added:
            with pytest.raises(QueueBehind):
                add(self.queues[1], count, self.added // 2 - 1)

    @rule(sender=SENDERS, count=SOME)
    def take(self, sender: int, count: int) -> None:
        """Take waiting jobs."""
        self.held[sender] += self.queues[sender].take(count, 1_000_000)

    @rule(sender=SENDERS, count=SOME)
    def complete(self, sender: int, count: int) -> None:
        """Complete jobs that the sender holds, or believes to hold."""
        self._complete(sender, count)

    @rule(sender=SENDERS, count=SOME)
    def complete_and_take(self, sender: int, count: int) -> None:
        """Complete and take in one round trip."""
        done, self.held[sender] = self.held[sender][:count], self.held[sender][count:]
        with self._delivering(done):
            _, taken = self.queues[sender].complete_and_take(done, count, 1_000_000)
        self.held[sender] += taken

    def _complete(self, sender: int, count: int) -> None:
        done, self.held[sender] = self.held[sender][:count], self.held[sender][count:]
        with self._delivering(done):
            self.queues[sender].complete(done)

    def _delivering(self, done: list[ActiveJob]) -> Any:
        return _Delivering(self, done)

    @rule(sender=SENDERS)
    def fail(self, sender: int) -> None:
        """Fail the next job, which was refused."""
        if self.held[sender]:
            self.queues[sender].fail(self.held[sender].pop(0), "refused")

    @rule(sender=SENDERS)
    def retry_later(self, sender: int) -> None:
        """Count a failed attempt. A sender that has lost a job gives up all of them."""
        if len(self.queues[sender].retry_later(self.held[sender])) < len(self.held[sender]):
            self.held[sender] = []

    @rule(sender=SENDERS)
    def renew(self, sender: int) -> None:
        """Renew the locks during a long delivery."""
        self.queues[sender].renew(self.held[sender])

    @rule(sender=SENDERS)
    def put_back(self, sender: int) -> None:
        """Put all jobs back, as a sender does that stops."""
        self.queues[sender].put_back(self.held[sender])
        self.held[sender] = []

    @rule(sender=SENDERS)
    def dies(self, sender: int) -> None:
        """Forget the sender's jobs, which stay active and locked."""
        self.held[sender] = []

    @rule(sender=SENDERS)
    def recover(self, sender: int) -> None:
        """Recover, as a sender does that believes to be the only one."""
        self.queues[sender].recover()

    @rule(sender=SENDERS)
    def sweep(self, sender: int) -> None:
        """Sweep, perhaps too soon."""
        self.queues[sender].sweep()

    @rule(sender=SENDERS)
    def promote(self, sender: int) -> None:
        """Promote the delayed jobs that are due."""
        self.queues[sender].promote()

    @rule(epoch=st.sampled_from([None, EPOCH]))
    def count(self, epoch: int | None) -> None:
        """Count, by which queued events that are gone become elsewhere."""
        self.queues[0].counts(epoch)

    # What operators do with our tools.

    @rule(first=st.booleans(), count=SOME)
    def retry_failed(self, first: bool, count: int) -> None:
        """Retry some of the failed jobs."""
        failed = FailedJobs(self.queues[0])
        failed.retry(list(failed)[:count], first=first)

    @rule(pick=PICK)
    def remove_failed(self, pick: int) -> None:
        """Remove an id, in whichever state its job is."""
        FailedJobs(self.queues[0]).remove([str(pick % 12)])

    @rule(keep=st.integers(0, 3))
    def trim(self, keep: int) -> None:
        """Apply the bound of the failed set."""
        FailedJobs(self.queues[0]).trim(keep, None)

    # Time.

    @rule(pick=PICK)
    def lapse(self, pick: int) -> None:
        """Let a lock lapse."""
        if names := sorted(self.queue_server.locks()):
            self.queue_server.lapse(names[pick % len(names)])

    @rule()
    def interval_passes(self) -> None:
        """Let the sweep's interval pass, so that the next sweep works."""
        self.queue_server.interval_passes()
        self.queue_server.clock.now_s += 30

    # Bull's tools and other SDKs.

    @rule()
    def pause(self) -> None:
        """Pause the queue, unless it is paused."""
        if not self.redis.exists(f"{P}meta-paused"):
            self.queue_server.pause()

    @rule()
    def resume(self) -> None:
        """Resume the queue, also if it is not paused."""
        self.queue_server.resume()

    @rule(how=st.sampled_from(["first", "last", "delayed", "no hash"]))
    def foreign_add(self, how: str) -> None:
        """Add a job of the Node SDK to either end or delayed, or an id without a job."""
        self.foreign += 1
        name = f"n{self.foreign}"
        fields = {"name": "__default__", "data": data_of(0, 0), "opts": "{}", "timestamp": "1", "delay": "0"}
        if how == "delayed":
            self.queue_server.delay(name, self.queue_server.clock.time_ms() + 20_000, fields)
        elif how == "first":
            self.redis.hset(P + name, mapping=fields)
            self.redis.rpush(self.queue_server.line, name)
        else:
            self.queue_server.put(name, fields if how == "last" else None)

    @rule(locked=st.booleans())
    def node_takes(self, locked: bool) -> None:
        """Take a job in the Node SDK's two steps. Its worker may die between them."""
        name = self.redis.rpoplpush(f"{P}wait", f"{P}active")
        if name and locked:
            self.redis.srem(f"{P}stalled", name)
            self.redis.set(f"{P}{name}:lock", NODE, px=30_000)
            self.redis.hset(P + name, "processedOn", self.queue_server.clock.time_ms())

    @rule(state=st.sampled_from(["completed", "failed"]))
    def node_finishes(self, state: str) -> None:
        """Finish a job under the worker's own lock."""
        for name in [name for name, token in self.queue_server.locks().items() if token == NODE][:1]:
            self.redis.delete(f"{P}{name}:lock")
            self.redis.srem(f"{P}stalled", name)
            assert self.redis.lrem(f"{P}active", -1, name) == 1
            self.redis.zadd(P + state, {name: self.queue_server.clock.time_ms()})
            self.redis.hset(P + name, "finishedOn", self.queue_server.clock.time_ms())

    @rule(pick=PICK)
    def bull_retries(self, pick: int) -> None:
        """Retry a failed job that has no lock."""
        names = [name for name in self.redis.zrange(f"{P}failed", 0, -1) if name not in self.queue_server.locks()]
        if names:
            self.queue_server.retry(names[pick % len(names)])

    @rule(pick=PICK)
    def bull_removes(self, pick: int) -> None:
        """Remove a job that has no lock."""
        names = sorted(
            name
            for names in self._snapshot().states.values()
            for name in names
            if name not in self.queue_server.locks()
        )
        if names:
            self.queue_server.delete(names[pick % len(names)])

    # What always holds.

    def _snapshot(self) -> Snapshot:
        with self.redis.pipeline() as pipe:
            pipe.keys("*")
            for key in LISTS:
                pipe.lrange(P + key, 0, -1)
            for key in SETS:
                pipe.zrange(P + key, 0, -1)
            for key in (KEYS.account, KEYS.ring(EPOCH), KEYS.failed_events):
                pipe.hgetall(key)
            keys, *states, account, ring, counted = pipe.execute()
        keys = {key.removeprefix(P) for key in keys}
        return Snapshot(keys, dict(zip(LISTS + SETS, states, strict=True)), [account, ring], counted)

    @invariant()
    def all_holds(self) -> None:
        """Check all promises at one moment."""
        snapshot = self._snapshot()
        snapshot.every_job_is_in_one_state()
        snapshot.only_active_jobs_are_locked()
        snapshot.jobs_wait_in_one_list()
        snapshot.every_event_is_accounted_for(self.added, self.delivered)

    def teardown(self) -> None:
        """Let one sender deliver every job that has not failed, and check that no event is queued."""
        try:
            self.queue_server.resume()
            self.queue_server.clock.now_s += 1000
            self.queues[0].promote()
            self.queues[0].recover()
            self.held[0] = self.queues[0].take(1000, 10_000_000)
            self._complete(0, 1000)
            view = self.queue_server.view()
            assert (view.line, view.active, view.delayed, view.locks) == ([], [], [], {})
            for epoch in (None, EPOCH):  # either corrects its account for the jobs that tools have deleted
                assert self.queues[0].counts(epoch).events_queued == 0
            self.all_holds()
        finally:
            self.queue_server.close()


class _Delivering:
    """The frame of a completion, which finds out by Redis which jobs were really completed."""

    def __init__(self, machine: QueueStates, done: list[ActiveJob]) -> None:
        self._machine = machine
        self._done = done
        self._before: set[str] = set()

    def _mine(self) -> set[str]:
        active = set(self._machine.redis.lrange(f"{P}active", 0, -1))
        return {taken.id for taken in self._done} & active

    def __enter__(self) -> None:
        self._before = self._mine()

    def __exit__(self, *_error: object) -> None:
        gone = self._before - self._mine()
        self._machine.delivered += sum(taken.events for taken in self._done if taken.id in gone and taken.epoch)


@pytest.fixture(name="server")
def _server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="rp-") as directory, RedisServer(Path(directory)) as server:
        yield server


@pytest.mark.timeout(400)  # after a failure, the search for the shortest sequence takes long
def test_every_job_is_in_one_state_and_every_event_is_accounted_for(server: RedisServer) -> None:
    """Our transitions and foreign ones run in any order."""

    class OnThisServer(QueueStates):
        """The machine with this server."""

    OnThisServer.server = server
    run_state_machine_as_test(
        OnThisServer, settings=settings(derandomize=True, max_examples=80, stateful_step_count=40, deadline=None)
    )
