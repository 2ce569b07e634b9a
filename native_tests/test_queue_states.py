"""Whatever happens to the queue, in whatever order: every job is in one state, and every event is accounted for."""

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


class Look(msgspec.Struct):
    """What is in Redis at one moment."""

    keys: set[str]
    states: dict[str, list[str]]
    accounts: list[dict[str, str]]
    """Of all rings, and of the one there is."""
    counted: dict[str, str]

    def every_job_is_in_one_state(self) -> None:
        """And a hash without a state there is none."""
        names = Counter(name for names in self.states.values() for name in names)
        assert set(names.values()) <= {1}, self.states
        assert {key for key in self.keys if key.removeprefix("n").isdigit()} <= set(names)

    def only_active_jobs_are_locked(self) -> None:
        """A lock elsewhere would keep people from a retry, and its holder in the belief that the job is its own."""
        locked = {key.removesuffix(":lock") for key in self.keys if key.endswith(":lock")}
        assert locked <= set(self.states["active"])

    def jobs_wait_in_one_list(self) -> None:
        """In ``paused`` while the queue is paused, else in ``wait``."""
        assert not self.states["wait" if "meta-paused" in self.keys else "paused"]

    def every_event_is_accounted_for(self, added: int, delivered: int) -> None:
        """Over all rings and in the ring; delivered are those that a sender completed, failed those of known jobs."""
        for account in self.accounts:
            assert sum(int(account.get(name, 0)) for name in EVENTS) == added
            assert int(account.get("delivered", 0)) == delivered
            assert int(account.get("failed", 0)) == sum(int(text.split(":")[1]) for text in self.counted.values())


class QueueStates(RuleBasedStateMachine):
    """A flusher, two senders, a Node SDK's worker, people with Bull's tools, and time."""

    server: ClassVar[RedisServer]

    def __init__(self) -> None:
        super().__init__()
        self.queue_server = RedisQueueServer(self.server)
        self.redis: Any = self.queue_server.client
        self.queues: list[Queue] = [self.queue_server.queue(keep_completed=keep) for keep in (0, 2)]
        self.held: list[list[ActiveJob]] = [[], []]
        """What each sender believes to hold."""
        self.added = self.delivered = self.foreign = 0
        """Events that we added, events that our senders were told to have completed, and jobs of others."""

    # Ours.

    @rule(count=SOME)
    def add(self, count: int) -> None:
        """A flusher adds jobs."""
        add(self.queues[0], count, self.added // 2)
        self.added += 2 * count

    @rule(count=SOME)
    def add_again(self, count: int) -> None:
        """A flusher whose answer was lost, or one that another has followed."""
        if self.added:
            with pytest.raises(QueueBehind):
                add(self.queues[1], count, self.added // 2 - 1)

    @rule(who=SENDERS, count=SOME)
    def take(self, who: int, count: int) -> None:
        """Jobs that wait."""
        self.held[who] += self.queues[who].take(count, 1_000_000)

    @rule(who=SENDERS, count=SOME)
    def complete(self, who: int, count: int) -> None:
        """What a sender holds, or believes to."""
        self._complete(who, count)

    @rule(who=SENDERS, count=SOME)
    def complete_and_take(self, who: int, count: int) -> None:
        """In one round trip."""
        done, self.held[who] = self.held[who][:count], self.held[who][count:]
        with self._delivering(done):
            _, taken = self.queues[who].complete_and_take(done, count, 1_000_000)
        self.held[who] += taken

    def _complete(self, who: int, count: int) -> None:
        done, self.held[who] = self.held[who][:count], self.held[who][count:]
        with self._delivering(done):
            self.queues[who].complete(done)

    def _delivering(self, done: list[ActiveJob]) -> Any:
        return _Delivering(self, done)

    @rule(who=SENDERS)
    def fail(self, who: int) -> None:
        """The next one is refused."""
        if self.held[who]:
            self.queues[who].fail(self.held[who].pop(0), "refused")

    @rule(who=SENDERS)
    def retry_later(self, who: int) -> None:
        """An attempt came to nothing; who has lost a job lets go of all."""
        if len(self.queues[who].retry_later(self.held[who])) < len(self.held[who]):
            self.held[who] = []

    @rule(who=SENDERS)
    def renew(self, who: int) -> None:
        """It takes long."""
        self.queues[who].renew(self.held[who])

    @rule(who=SENDERS)
    def put_back(self, who: int) -> None:
        """It stops."""
        self.queues[who].put_back(self.held[who])
        self.held[who] = []

    @rule(who=SENDERS)
    def dies(self, who: int) -> None:
        """Its jobs are active, with locks."""
        self.held[who] = []

    @rule(who=SENDERS)
    def recover(self, who: int) -> None:
        """It takes itself for the only one."""
        self.queues[who].recover()

    @rule(who=SENDERS)
    def sweep(self, who: int) -> None:
        """It may be too soon."""
        self.queues[who].sweep()

    @rule(who=SENDERS)
    def promote(self, who: int) -> None:
        """What is due."""
        self.queues[who].promote()

    @rule(epoch=st.sampled_from([None, EPOCH]))
    def count(self, epoch: int | None) -> None:
        """Somebody looks: what nobody has left is elsewhere."""
        self.queues[0].counts(epoch)

    # People, with our tools.

    @rule(first=st.booleans(), count=SOME)
    def retry_failed(self, first: bool, count: int) -> None:
        """Some of the failed jobs."""
        failed = FailedJobs(self.queues[0])
        failed.retry(list(failed)[:count], first=first)

    @rule(pick=PICK)
    def remove_failed(self, pick: int) -> None:
        """Any id, wherever that job is."""
        FailedJobs(self.queues[0]).remove([str(pick % 12)])

    @rule(keep=st.integers(0, 3))
    def trim(self, keep: int) -> None:
        """The bound of the failed set."""
        FailedJobs(self.queues[0]).trim(keep, None)

    # Time.

    @rule(pick=PICK)
    def lapse(self, pick: int) -> None:
        """A lock."""
        if names := sorted(self.queue_server.locks()):
            self.queue_server.lapse(names[pick % len(names)])

    @rule()
    def interval_passes(self) -> None:
        """The next sweep sweeps."""
        self.queue_server.interval_passes()
        self.queue_server.clock.now_s += 30

    # Bull's tools and other SDKs.

    @rule()
    def pause(self) -> None:
        """Twice is as once."""
        if not self.redis.exists(f"{P}meta-paused"):
            self.queue_server.pause()

    @rule()
    def resume(self) -> None:
        """Also when it is not paused."""
        self.queue_server.resume()

    @rule(how=st.sampled_from(["first", "last", "delayed", "no hash"]))
    def foreign_add(self, how: str) -> None:
        """By a Node SDK, to either end or for later, or by somebody who made no job."""
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
        """Two steps: it may die between them."""
        name = self.redis.rpoplpush(f"{P}wait", f"{P}active")
        if name and locked:
            self.redis.srem(f"{P}stalled", name)
            self.redis.set(f"{P}{name}:lock", NODE, px=30_000)
            self.redis.hset(P + name, "processedOn", self.queue_server.clock.time_ms())

    @rule(state=st.sampled_from(["completed", "failed"]))
    def node_finishes(self, state: str) -> None:
        """Only what it has the lock of."""
        for name in [name for name, token in self.queue_server.locks().items() if token == NODE][:1]:
            self.redis.delete(f"{P}{name}:lock")
            self.redis.srem(f"{P}stalled", name)
            assert self.redis.lrem(f"{P}active", -1, name) == 1
            self.redis.zadd(P + state, {name: self.queue_server.clock.time_ms()})
            self.redis.hset(P + name, "finishedOn", self.queue_server.clock.time_ms())

    @rule(pick=PICK)
    def bull_retries(self, pick: int) -> None:
        """Of the failed jobs those that nobody has locked."""
        names = [name for name in self.redis.zrange(f"{P}failed", 0, -1) if name not in self.queue_server.locks()]
        if names:
            self.queue_server.retry(names[pick % len(names)])

    @rule(pick=PICK)
    def bull_removes(self, pick: int) -> None:
        """Any job that nobody has locked."""
        names = sorted(
            name for names in self._look().states.values() for name in names if name not in self.queue_server.locks()
        )
        if names:
            self.queue_server.delete(names[pick % len(names)])

    # What always holds.

    def _look(self) -> Look:
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
        return Look(keys, dict(zip(LISTS + SETS, states, strict=True)), [account, ring], counted)

    @invariant()
    def all_holds(self) -> None:
        """The promises below, at one moment."""
        look = self._look()
        look.every_job_is_in_one_state()
        look.only_active_jobs_are_locked()
        look.jobs_wait_in_one_list()
        look.every_event_is_accounted_for(self.added, self.delivered)

    def teardown(self) -> None:
        """In the end one sender can deliver all that is not failed, and no event is queued any more."""
        try:
            self.queue_server.resume()
            self.queue_server.clock.now_s += 1000
            self.queues[0].promote()
            self.queues[0].recover()
            self.held[0] = self.queues[0].take(1000, 10_000_000)
            self._complete(0, 1000)
            view = self.queue_server.view()
            assert (view.line, view.active, view.delayed, view.locks) == ([], [], [], {})
            assert self.queues[0].counts().events_queued == 0
            self.all_holds()
        finally:
            self.queue_server.close()


class _Delivering:
    """Around a completion: which of the jobs it really completed, as Redis shows it."""

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


@pytest.mark.timeout(400)  # to find the shortest sequence that breaks a promise takes longer than to break it
def test_every_job_is_in_one_state_and_every_event_accounted_for(server: RedisServer) -> None:
    """After any transitions, ours and foreign, in any order."""

    class Here(QueueStates):
        """On this server."""

    Here.server = server
    run_state_machine_as_test(
        Here, settings=settings(derandomize=True, max_examples=80, stateful_step_count=40, deadline=None)
    )
