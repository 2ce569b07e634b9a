"""Twenty thousand broken jobs and queue keys that a sender meets in a real Redis.

The sender goes on, healthy jobs arrive once and in order, broken data is kept as it was, the account balances, and no
alarm is false.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from native_tests.redis_queue_server import P, RedisQueueServer
from rudderpipe._version import USER_AGENT
from rudderpipe.delivery import outcome
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.delivery.dispatcher import Dispatcher
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.queue import job
from rudderpipe.queue.lease import Lease
from rudderpipe.sender.heartbeat import LockRenewer
from rudderpipe.sender.sender import Sender
from rudderpipe.sender.state import SenderState
from rudderpipe.settings import Settings
from rudderpipe.testing.redis_server import RedisServer
from tests.broken_jobs import is_json, mutated

SEEDS = range(20)
MUTATIONS = 1000
HEALTHY, BROKEN = 0x1111_1111_1111_4111, 0x2222_2222_2222_4222
"""The rings of the healthy jobs, and of the jobs that are broken afterwards."""
OURS = "{rudder}:rudderpipe:rudderEventsQueue:"


class Plane:
    """A data plane that accepts JSON, refuses guilty events and other keys, and fails at times."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.delivered: Counter[str] = Counter()
        self.order: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None
        """A function that is called once, in the middle of a request."""

    def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:  # noqa: ARG002  # the signature of DataPlane
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        assert is_json(body)
        chance = self.dice.random()
        if chance < 0.01:
            raise self.dice.choice((MemoryError(), FileNotFoundError(2, "No such file"), RuntimeError()))
        if chance < 0.03:
            return outcome.of_answer(self.dice.choice((500, 503, 429)), b"down")
        if write_key != "KEY":
            return outcome.of_answer(401, b"key")
        if b"guilty" in body:
            return outcome.of_answer(self.dice.choice((400, 413)), b"bad")
        names = [part.partition(b'"')[0].decode() for part in body.split(b'"userId":"healthy-')[1:]]
        self.delivered.update(names)
        self.order += names
        return outcome.of_answer(200, b"ok")

    def close(self) -> None:
        """Do nothing, because there is nothing to close."""


class Campaign:
    """A sender over Redis, and the jobs that were put before it."""

    def __init__(self, queue_server: RedisQueueServer, seed: int) -> None:
        self.queue_server, self.clock = queue_server, queue_server.clock
        self.dice = random.Random(seed)  # not for secrets
        self.plane = Plane(self.dice)
        self.raw: Any = queue_server.server.client()
        self.queue = queue_server.queue()
        settings = Settings(max_jobs_per_request=self.dice.choice((1, 10, 50)), max_attempts=50)
        lease = Lease(self.queue, settings.lease_ms, "me 1 0", lambda _: False)
        dispatcher = Dispatcher(cast(DataPlane, self.plane), settings, self.clock)
        state = SenderState(self.clock.monotonic_s(), settings.stall_timeout_s)
        renewer_queue = queue_server.queue()
        renewer_queue.token = self.queue.token
        self.renewer = LockRenewer(renewer_queue, state, settings, self.clock)
        self.sender = Sender(self.queue, [dispatcher], lease, settings, self.clock, state=state)
        self.put: dict[str, bytes] = {}
        """The data of each broken job, except of jobs whose data was deleted."""
        self.healthy: list[str] = []
        self.broken_events = 0

    def add(self, count: int) -> None:
        """Add broken jobs of all kinds, with healthy ones between them."""
        for _ in range(count):
            self._add_healthy()
            self._add_broken()
        self._add_healthy()

    def _add_healthy(self) -> None:
        name = f"{len(self.healthy)}"
        self.healthy.append(name)
        data = job.build(b'{"userId":"healthy-%b","sentAt":1},{"userId":"x"}' % name.encode(), "KEY", "t", HEALTHY)
        self.queue.add(HEALTHY, [(data, 2)], {}, [])

    def _add_broken(self) -> None:
        dice, events = self.dice, dice_events(self.dice)
        ours = dice.random() < 0.5
        if ours:
            self.broken_events += len(events)
            data = job.build(b",".join(events), "KEY", "t", BROKEN)
            self.queue.add(BROKEN, [(data, len(events))], {}, [])
            name = str(self.raw.get(f"{P}id").decode())
        else:
            data = job.build(b",".join(events), "KEY", "t", 5).replace(USER_AGENT, "analytics-node/3.0.13")
            name = str(self.raw.incr(f"{P}id"))
            self.raw.hset(P + name, mapping={"data": data, "opts": "{}"})
            self.raw.lpush(f"{P}wait", name)
        kind = dice.randrange(20)
        if kind == 0:
            self.raw.delete(P + name)
        elif kind == 1:
            self.raw.hdel(P + name, "data", "opts")
        elif kind == 2:
            self.raw.delete(P + name)
            dice.choice((lambda: self.raw.set(P + name, "x"), lambda: self.raw.lpush(P + name, "x")))()
        else:
            if kind == 3:
                odd = dice.choice(("x", "-1", "1e9", "9" * 30, "", "1.5"))
                self.raw.hset(P + name, dice.choice(("attemptsMade", "opts", "timestamp", "stalledCounter")), odd)
            self.put[name] = mutated(data.encode(), dice)
            self.raw.hset(P + name, "data", self.put[name])

    def step(self, count: int = 1) -> None:
        """Run so many cycles of the sender, and let time pass."""
        for _ in range(count):
            self.sender.work()
            self.renewer.work()
            self.clock.now_s += self.dice.choice((0.0, 0.0, 0.1, 1.0))

    def is_settled(self) -> bool:
        """Return True if no job waits or is active."""
        return not any(self.raw.exists(f"{P}{name}") for name in ("wait", "active", "paused", "delayed"))

    def finish(self) -> None:
        """Let the sender work until no job is left, within a bound, because a stuck job would never end."""
        for _ in range(20_000):
            if self.is_settled():
                return
            self.step()
            self.clock.now_s += 0.2
        left = {name: self.raw.lrange(f"{P}{name}", 0, -1) for name in ("wait", "active")}
        raise AssertionError(f"stuck: {left}")


def dice_events(dice: random.Random) -> list[bytes]:
    """Return one to five events."""
    return [
        b'{"userId":"u%d","type":"track","event":"e","properties":{"a":[1,2.5,true,null],"b":"\xc3\xa9 text"}}' % number
        for number in range(dice.randrange(1, 6))
    ]


def displaced(campaign: Campaign, key: str) -> None:
    """Put something else in the place of one of the queue's keys for some cycles, as a tool might."""
    raw = campaign.raw
    there = bool(raw.exists(key))
    if there:
        raw.rename(key, f"{key}-aside")
    if key.endswith(("wait", "active")) or (not key.endswith("paused") and campaign.dice.random() < 0.5):
        raw.set(key, "odd")
    else:
        raw.lpush(key, "odd")
    campaign.step(12)
    raw.delete(key)
    if there:
        raw.rename(f"{key}-aside", key)


def odd_number(campaign: Campaign, key: str) -> None:
    """Write an odd value into our account, as a tool might."""
    campaign.raw.hset(f"{OURS}{key}", campaign.dice.choice(("odd", "queued ")), campaign.dice.choice(("x", "", "1.5")))


def odd_ids(campaign: Campaign) -> None:
    """Put ids without a job into every list and set."""
    for name in ("active", "wait"):
        campaign.raw.lpush(f"{P}{name}", campaign.dice.choice((b"", b"b\xfc", b"no such job", b"active", b"wait")))
    campaign.raw.sadd(f"{P}stalled", "no such job")
    campaign.raw.zadd(f"{P}priority", {"no such job": 1})


def ids_twice(campaign: Campaign) -> None:
    """Put jobs in line twice, side by side and far from one another."""
    waiting = campaign.raw.lrange(f"{P}wait", -20, -1)
    if waiting:
        again = waiting[-1], campaign.dice.choice(waiting)
        campaign.raw.rpush(f"{P}wait", again[0])
        campaign.raw.lpush(f"{P}wait", again[1])
        for name in again:  # it may be delivered at its first turn, and have no data at its second
            campaign.put.pop(name.decode(errors="replace"), None)


def foreign_locks(campaign: Campaign) -> None:
    """Put keys of another type where the locks of waiting jobs will be."""
    for name in campaign.raw.lrange(f"{P}wait", -4, -1):
        campaign.raw.rpush(P.encode() + name + b":lock", "odd")


def paused(campaign: Campaign) -> None:
    """Pause the queue for some cycles, as a tool might."""
    campaign.queue_server.pause()
    campaign.step(5)
    campaign.queue_server.resume()


def meddled_in_flight(campaign: Campaign) -> None:
    """Change the keys of active broken jobs while a request is under way."""

    def meddle() -> None:
        for name in campaign.raw.lrange(f"{P}active", 0, -1):
            text = name.decode(errors="replace")
            if text in campaign.put:
                del campaign.put[text]
                kind = campaign.dice.randrange(4)
                if kind == 0:
                    campaign.raw.delete(P + text)
                elif kind == 1:
                    campaign.raw.delete(P + text)
                    campaign.raw.set(P + text, "x")
                elif kind == 2:
                    campaign.raw.hset(P + text, mapping={"attemptsMade": "x", "data": "x"})
                else:
                    campaign.raw.delete(f"{P}{text}:lock")

    campaign.plane.meanwhile = meddle
    campaign.step(3)


KEYS = [
    f"{P}{name}" for name in ("wait", "active", "stalled", "priority", "delayed", "failed", "completed", "meta-paused")
]
KEYS += [f"{P}id", *(f"{OURS}{name}" for name in ("account", "account:failed", "lease", "lease:last"))]
MEDDLINGS: list[Callable[[Campaign], object]] = [
    *(lambda campaign, key=key: displaced(campaign, key) for key in KEYS),
    *(lambda campaign, key=key: odd_number(campaign, key) for key in ("account", f"account:{HEALTHY:016x}")),
    odd_ids,
    ids_twice,
    foreign_locks,
    paused,
    meddled_in_flight,
]


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="rp-") as directory, RedisServer(Path(directory)) as server:
        yield server


@pytest.mark.parametrize("seed", SEEDS)
def test_broken_jobs_hurt_no_healthy_job(server: RedisServer, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """A thousand mutations of jobs and of the queue's keys happen in rounds."""
    queue_server = RedisQueueServer(server)
    campaign = Campaign(queue_server, seed)
    rounds = 25
    for number in range(rounds):
        campaign.add(MUTATIONS // rounds)
        campaign.step(2)
        MEDDLINGS[(seed + number) % len(MEDDLINGS)](campaign)
        campaign.step(5)
    campaign.finish()

    # Healthy jobs arrive once and in order, and none of them fails.
    assert campaign.plane.order == campaign.healthy
    counts = campaign.queue.counts(HEALTHY)
    assert (counts.events_queued, counts.events_failed) == (0, 0)
    assert counts.events_delivered == 2 * len(campaign.healthy)
    # A broken job is as it was, unless it was delivered or split.
    logged = [record.getMessage() for record in caplog.records]
    halved = {line.split("job=")[1].split()[0] for line in logged if "sending its halves" in line}
    failed = {name.decode(errors="replace") for name in campaign.raw.zrange(f"{P}failed", 0, -1)}
    kept = sorted(failed & campaign.put.keys() - halved)
    assert len(kept) > MUTATIONS // 4
    for name in kept:
        data = campaign.raw.hget(P + name, "data")
        assert data == campaign.put[name] or same_but_for_attempts(data, campaign.put[name]), name
    # No lock is left, no event is missing, and the log reports nothing that did not happen.
    assert campaign.raw.keys(f"{P}*:lock") == []
    all_counts = campaign.queue.counts()
    assert all_counts.events_gone == 2 * len(campaign.healthy) + campaign.broken_events
    assert not [line for line in logged if "no longer this sender's" in line or "lease lost" in line]
    campaign.sender.close()
    campaign.raw.close()
    queue_server.close()


def same_but_for_attempts(data: bytes, put: bytes) -> bool:
    """Return True if both are equal except for attempts.

    A retry sets the attempts that a Node SDK counts in the data to 0, so that all attempts are made again.
    """
    try:
        found, before = (json.loads(json.loads(text)["eventData"]) for text in (data, put))
    except ValueError:
        return False
    return bool(found == before | {"attempts": 0})
