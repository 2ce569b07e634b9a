"""Random lost answers, late calls, outages, pauses and rival senders. The senders' promises hold at the end.

A sender may have several lanes. Jobs of lanes, barriers and jobs of another number of lanes are mixed then.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, cast

import pytest

from rudderpipe.delivery import outcome
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.queue import job
from rudderpipe.queue.queue import Queue
from rudderpipe.sender.heartbeat import LockRenewer
from rudderpipe.sender.lane import Lane
from rudderpipe.sender.sender import Sender
from rudderpipe.sender.state import SenderState
from rudderpipe.service.calls import Calls, Ended
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock
from tests.test_sender import FakePlane, job_of, wired

CALLS = ["take", "complete_and_take", "complete", "fail", "split", "retry_later", "recover", "put_back"]
STEPS = 400


LANES = 4
LANE_NAMES = (
    "",
    "",
    *(f"{number}/{LANES}" for number in range(LANES)),
    "1/2",
    *(f"{number}/{LANES}" for number in range(LANES)),
)


class UnreliablePlane(FakePlane):
    """A data plane that is down at random, and refuses events of guilty users."""

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


class RandomCouriers(Calls):
    """Couriers without threads, whose attempts end in any order. They check what may be under way together."""

    def __init__(self, dice: random.Random, clock: FakeClock) -> None:
        self._dice = dice
        self._clock = clock
        self.under_way: list[Lane] = []

    def begin(self, owner: Any, call: Callable[[], Any]) -> bool:  # as the original
        assert owner not in self.under_way
        self.under_way.append(owner)
        names = {job_.lane if is_own(job_.lane) else "" for each in self.under_way for job_ in each.offered}
        assert len(names) == len(self.under_way)
        assert "" not in names or len(names) == 1
        return True

    def next(self, wait_s: float) -> Ended | None:
        if not self.under_way or self._dice.random() < 0.4:
            self._clock.now_s += wait_s
            return None
        lane = self.under_way.pop(self._dice.randrange(len(self.under_way)))
        return Ended(lane, lane.attempt())


def is_own(lane: str) -> bool:
    """Return True for a lane of the sender; other jobs are barriers."""
    return lane.endswith(f"/{LANES}")


class Process:
    """A sender with its lock renewer."""

    def __init__(
        self, store: FakeStore, plane: FakePlane, clock: FakeClock, settings: Settings, dice: random.Random
    ) -> None:
        self.queue, renewer_queue = FakeQueue(store), FakeQueue(store)
        renewer_queue.token = self.queue.token
        state = SenderState(clock.monotonic_s(), 120)
        self.renewer = LockRenewer(cast(Queue, renewer_queue), state, settings, clock)
        self.sender: Sender = wired(
            self.queue, plane, clock, settings, state=state, couriers=RandomCouriers(dice, clock)
        )

    def work(self, dice: random.Random) -> None:
        """Do one cycle, perhaps after an answer is lost or a call is held up."""
        queue, chance = self.queue, dice.random()
        if chance < 0.04:
            queue.loses = [dice.choice(CALLS)]
        elif chance < 0.08:
            queue.holds = [dice.choice(CALLS)]
        elif chance < 0.14:
            queue.let_go()
        self.sender.work()
        self.renewer.work()

    def calm_down(self) -> None:
        """End all trouble, and let the calls that were held up arrive."""
        self.queue.loses, self.queue.holds = [], []
        self.queue.let_go()


class Storm:
    """A queue, its senders, and the random trouble that they get."""

    def __init__(
        self, clock: FakeClock, dice: random.Random, *, several: bool = False, rivals: bool = False, lanes: int = 1
    ) -> None:
        self.clock, self.dice = clock, dice
        self.store = FakeStore(clock)
        self.plane = UnreliablePlane(self.dice)
        self.settings = Settings(
            is_multi_processor=several,
            max_jobs_per_request=self.dice.choice((1, 3, 10)),
            max_attempts=1000,
            redis="redis://x",
            lanes=lanes,  # type: ignore[arg-type]  # one of the numbers that are allowed
        )
        self.producer = FakeQueue(self.store)
        self.processes = [self._process() for _ in range(2 if rivals else 1)]
        self.names: list[str] = []
        self.lane_of: dict[str, str] = {}
        """The lane of each event; empty for one of a barrier."""
        self.guilty = 0

    def _process(self) -> Process:
        return Process(self.store, self.plane, self.clock, self.settings, self.dice)

    def put(self) -> None:
        """Add a job of one to four events, some of which may be guilty."""
        users = []
        lane = self.dice.choice(LANE_NAMES) if self.settings.lanes > 1 else ""
        for _ in range(self.dice.randrange(1, 5)):
            if self.dice.random() < 0.05:
                self.guilty += 1
                users.append(f"guilty{self.guilty}")
            else:
                self.names.append(f"u{len(self.names)}")
                users.append(self.names[-1])
                self.lane_of[users[-1]] = lane if is_own(lane) else ""
        name = str(self.store.last_id + 1)
        self.store.last_id += 1
        self.producer.put(name, job_of(*users))
        if lane:
            self.store.jobs[name]["opts"] = f'{{"attempts":1,"lane":"{lane}"}}'

    def step(self) -> None:
        """Let one random thing happen, or none, and then let each sender work."""
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
            if dice.random() < 0.5:  # a clean stop, otherwise the sender is killed
                self.processes[place].sender.drain(self.clock.monotonic_s())
            self.processes[place] = self._process()
        self.clock.now_s += dice.choice((0.0, 0.1, 0.5))
        for process in self.processes:
            process.work(dice)

    def finish(self) -> None:
        """Work without trouble until the queue is empty, or for as long as locks, leases and retries may take."""
        self.store.away = self.store.paused = False
        for _ in range(4000):
            for process in self.processes:
                process.calm_down()
                process.work(random.Random(0))
            self.clock.now_s += 0.3
            if not (self.store.line or self.store.active):
                return

    def failed(self, *, stalled: bool) -> list[str]:
        """Return the users of the events in the failed jobs that stalled, or in the other failed jobs."""
        reasons = self.producer.reasons()
        names = [name for name in self.store.failed if ("stalled" in reasons[name]) is stalled]
        found = [job.read(self.store.jobs[name]["data"].encode()).events for name in names]
        return sorted(json.loads(bytes(event))["userId"] for events in found for event in events)

    def overtakers(self) -> list[str]:
        """Return the accepted events that came before an earlier one of their lane, or on the wrong side of a barrier.

        An event is only looked at when it came first.
        """
        found, place = [], {name: number for number, name in enumerate(self.names)}
        newest = dict.fromkeys({*self.lane_of.values(), ""}, -1)
        for name in dict.fromkeys(event for event in self.plane.accepted if event in place):
            lane = self.lane_of[name]
            if place[name] < (max(newest.values()) if lane == "" else max(newest[lane], newest[""])):
                found.append(name)
            newest[lane] = max(newest[lane], place[name])
        return found


@pytest.mark.parametrize("lanes", [1, LANES])
@pytest.mark.parametrize("seed", range(40))
def test_one_sender_delivers_every_event_once_and_in_order(
    clock: FakeClock, seed: int, caplog: pytest.LogCaptureFixture, lanes: int
) -> None:
    """Each response of the data plane reaches the sender, so no event may come twice.

    No warning in the log is false.
    """
    storm = Storm(clock, random.Random(seed), lanes=lanes)
    for _ in range(STEPS):
        storm.step()
    storm.finish()

    assert sorted(storm.plane.accepted) == sorted(storm.names)
    assert storm.overtakers() == []
    assert storm.failed(stalled=False) == sorted(f"guilty{number}" for number in range(1, storm.guilty + 1))
    assert (storm.store.line, storm.store.active) == ([], [])
    lines = [record.getMessage() for record in caplog.records]
    alarms = ("lease lost", "no longer this sender's", "taken over")
    assert not [line for line in lines if any(text in line for text in alarms)]


@pytest.mark.parametrize(
    ("several", "lanes"), [(False, 1), (True, 1), (False, LANES)], ids=["a standby", "several senders", "lanes"]
)
@pytest.mark.parametrize("seed", range(40))
def test_senders_that_die_and_take_over_lose_no_event(clock: FakeClock, seed: int, several: bool, lanes: int) -> None:
    """Events may come twice then, but none is missing or stranded, and only guilty ones have failed.

    With several senders, as with Bull, a job that stalled more than once is in the failed set too.
    """
    storm = Storm(clock, random.Random(seed), several=several, rivals=True, lanes=lanes)
    for _ in range(STEPS):
        storm.step()
    storm.finish()

    stalled = storm.failed(stalled=True)
    assert several or storm.overtakers() == []
    assert several or not stalled
    guilty = {f"guilty{number}" for number in range(1, storm.guilty + 1)}
    assert {*storm.plane.accepted, *storm.failed(stalled=False), *stalled} == {*storm.names, *guilty}
    assert set(storm.failed(stalled=False)) <= guilty
    assert (storm.store.line, storm.store.active) == ([], [])
