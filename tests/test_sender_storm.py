"""Any sequence of lost answers, late calls, outages, pauses and rivals: what the senders promise holds at the end."""

from __future__ import annotations

import json
import random
from typing import cast

import pytest

from rudderpipe.delivery import outcome
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.queue import job
from rudderpipe.queue.queue import Queue
from rudderpipe.sender.heartbeat import LockRenewer
from rudderpipe.sender.sender import Sender
from rudderpipe.sender.state import SenderState
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock
from tests.test_sender import FakePlane, job_of, wired

CALLS = ["take", "complete_and_take", "complete", "fail", "split", "retry_later", "recover", "put_back"]
STEPS = 400


class Moody(FakePlane):
    """Down now and then, and refuses what is guilty."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self.dice = dice
        self.accepted: list[str] = []

    def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
        super().post(body, write_key, timeout_s)
        users = self.requests.pop()
        if self.dice.random() < 0.1:
            return outcome.of_answer(503, b"down")
        if any(user.startswith("guilty") for user in users):
            return outcome.of_answer(400, b"bad")
        self.accepted += users
        return outcome.of_answer(200, b"ok")


class Process:
    """A sender with its keeper."""

    def __init__(self, store: FakeStore, plane: FakePlane, clock: FakeClock, settings: Settings) -> None:
        self.queue, keeper_queue = FakeQueue(store), FakeQueue(store)
        keeper_queue.token = self.queue.token
        state = SenderState(clock.monotonic_s(), 120)
        self.keeper = LockRenewer(cast(Queue, keeper_queue), state, settings, clock)
        self.sender: Sender = wired(self.queue, plane, clock, settings, state=state)

    def work(self, dice: random.Random) -> None:
        """A cycle, after something may have happened to its calls."""
        queue, chance = self.queue, dice.random()
        if chance < 0.04:
            queue.loses = [dice.choice(CALLS)]
        elif chance < 0.08:
            queue.holds = [dice.choice(CALLS)]
        elif chance < 0.14:
            queue.let_go()
        self.sender.work()
        self.keeper.work()

    def calm_down(self) -> None:
        """Nothing happens any more; what was held up arrives."""
        self.queue.loses, self.queue.holds = [], []
        self.queue.let_go()


class Storm:
    """Jobs, senders, and what happens to them."""

    def __init__(self, clock: FakeClock, seed: int, *, several: bool, rivals: bool) -> None:
        self.clock, self.dice = clock, random.Random(seed)
        self.store = FakeStore(clock)
        self.plane = Moody(self.dice)
        self.settings = Settings(
            is_multi_processor=several, max_jobs_per_request=self.dice.choice((1, 3, 10)), max_attempts=1000
        )
        self.producer = FakeQueue(self.store)
        self.processes = [self._process() for _ in range(2 if rivals else 1)]
        self.names: list[str] = []
        self.guilty = 0

    def _process(self) -> Process:
        return Process(self.store, self.plane, self.clock, self.settings)

    def put(self) -> None:
        """A job of one to four events, one of which may be guilty."""
        users = []
        for _ in range(self.dice.randrange(1, 5)):
            if self.dice.random() < 0.05:
                self.guilty += 1
                users.append(f"guilty{self.guilty}")
            else:
                self.names.append(f"u{len(self.names)}")
                users.append(self.names[-1])
        name = str(self.store.last_id + 1)
        self.store.last_id += 1
        self.producer.put(name, job_of(*users))

    def step(self) -> None:
        """Something happens, or nothing; then each sender works."""
        dice, store = self.dice, self.store
        chance = dice.random()
        if chance < 0.4:
            self.put()
        elif chance < 0.42:
            store.away = not store.away
        elif chance < 0.44:
            store.paused = not store.paused
        elif chance < 0.46:
            self.clock.now_s += dice.choice((5.0, 12.0, 40.0))
        elif chance < 0.48 and len(self.processes) > 1:
            place = dice.randrange(len(self.processes))
            if dice.random() < 0.5:  # a clean stop; else it is killed
                self.processes[place].sender.drain(self.clock.monotonic_s())
            self.processes[place] = self._process()
        self.clock.now_s += dice.choice((0.0, 0.1, 0.5))
        for process in self.processes:
            process.work(dice)

    def commit(self) -> None:
        """Everything is well again, for as long as locks, leases, sweeps and retries may take."""
        self.store.away = self.store.paused = False
        for _ in range(4000):
            for process in self.processes:
                process.calm_down()
                process.work(random.Random(0))
            self.clock.now_s += 0.3
            if not (self.store.line or self.store.active):
                return

    def failed(self, *, stalled: bool) -> list[str]:
        """The users of the events of failed jobs, of those that had stalled or of the others."""
        reasons = self.producer.reasons()
        names = [name for name in self.store.failed if ("stalled" in reasons[name]) is stalled]
        found = [job.read(self.store.jobs[name]["data"].encode()).events for name in names]
        return sorted(json.loads(bytes(event))["userId"] for events in found for event in events)


@pytest.mark.parametrize("seed", range(40))
def test_one_sender_delivers_everything_once_and_in_order(
    clock: FakeClock, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever happens to its calls: each answer of the data plane was seen. No alarm is false."""
    storm = Storm(clock, seed, several=False, rivals=False)
    for _ in range(STEPS):
        storm.step()
    storm.commit()

    assert storm.plane.accepted == storm.names
    assert storm.failed(stalled=False) == sorted(f"guilty{number}" for number in range(1, storm.guilty + 1))
    assert (storm.store.line, storm.store.active) == ([], [])
    said = [record.getMessage() for record in caplog.records]
    alarms = ("lease lost", "no longer this sender's", "taken over")
    assert not [line for line in said if any(text in line for text in alarms)]


@pytest.mark.parametrize("several", [False, True], ids=["a standby", "several senders"])
@pytest.mark.parametrize("seed", range(40))
def test_senders_that_die_and_follow_one_another_lose_nothing(clock: FakeClock, seed: int, several: bool) -> None:
    """Events may come twice then; none is missing, none is stranded, and only guilty ones have failed.

    Except those of jobs that have stalled more than once: of several senders, as with Bull, they are in the failed set.
    """
    storm = Storm(clock, seed, several=several, rivals=True)
    for _ in range(STEPS):
        storm.step()
    storm.commit()

    stalled = storm.failed(stalled=True)
    assert several or not stalled
    guilty = {f"guilty{number}" for number in range(1, storm.guilty + 1)}
    assert {*storm.plane.accepted, *storm.failed(stalled=False), *stalled} == {*storm.names, *guilty}
    assert set(storm.failed(stalled=False)) <= guilty
    assert (storm.store.line, storm.store.active) == ([], [])
