"""The queue in memory keeps the queue's contract, so that results of tests over it are true of Redis too."""

from __future__ import annotations

from typing import Any, cast

import pytest

from rudderpipe.errors import QueueUnavailable
from rudderpipe.queue.queue import LOCK_MS, Queue
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock
from tests.queue_contract import ALL, QueueContract, View, add


class FakeQueueServer:
    """The contract's ``QueueServer`` over a store in memory."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FakeStore(self.clock)

    def queue(self, **settings: Any) -> Queue:
        return cast(Queue, FakeQueue(self.store, **settings))

    def view(self) -> View:
        store = self.store
        times = (store.delayed, store.failed, store.completed)
        delayed, failed, completed = (sorted(of, key=lambda name: (of[name], name)) for of in times)
        locks = {name: token for name in store.active if (token := store.holder(name))}
        return View(list(store.line), list(store.active), delayed, failed, completed, locks)

    def fields(self, name: str) -> dict[str, str]:
        return dict(self.store.jobs.get(name, {}))

    def put(self, name: str, fields: dict[str, str] | None) -> None:
        self.store.put(name, fields)

    def put_no_hash(self, name: str) -> None:
        self.store.no_hashes.add(name)
        self.store.line.append(name)

    def spoil(self, name: str) -> None:
        del self.store.jobs[name]
        self.store.no_hashes.add(name)

    def delay(self, name: str, due_ms: int, fields: dict[str, str]) -> None:
        self.store.jobs[name] = dict(fields)
        self.store.delayed[name] = due_ms

    def pause(self) -> None:
        self.store.paused = True

    def resume(self) -> None:
        self.store.paused = False

    def delete(self, name: str) -> None:
        for names in (self.store.line, self.store.active):
            if name in names:
                names.remove(name)
        self.store.delete(name)
        self.store.unlock(name)

    def forget_ring(self, epoch: int) -> None:
        del self.store.rings[epoch]

    def retry(self, name: str) -> None:
        del self.store.failed[name]
        for field in ("finishedOn", "processedOn", "failedReason"):
            self.store.jobs[name].pop(field, None)
        self.store.line.append(name)

    def lapse(self, *names: str) -> None:
        for name in names:
            self.store.unlock(name)

    def lapse_lease(self) -> None:
        self.store.hold_lease("", 0)

    def set_clock_back(self, ms: int) -> None:
        self.store.hold_lease(self.store.leaseholder(), ms)

    def set_member(self, name: str, until_ms: int) -> None:
        self.store.members[name] = (until_ms, *self.store.members[name][1:])

    def member_until_ms(self, name: str) -> int:
        return self.store.members[name][0]

    def interval_passes(self) -> None:
        self.store.interval_passes()


@pytest.fixture(name="queue_server")
def _queue_server() -> FakeQueueServer:
    return FakeQueueServer()


class TestFakeQueue(QueueContract):
    """The contract over the queue in memory."""


def test_a_lock_lapses_with_the_clock(queue_server: FakeQueueServer) -> None:
    """A test moves the clock, and the lock must last exactly ``LOCK_MS``."""
    queue, other = queue_server.queue(), queue_server.queue()
    add(queue, 1)
    taken = queue.take(*ALL)

    queue_server.clock.now_s += LOCK_MS / 1000 - 0.001
    assert other.renew(taken) == []
    queue_server.clock.now_s += 0.001
    assert other.renew(taken) == taken
    assert queue.complete(taken) == 0


def test_an_unreachable_queue_raises_and_changes_nothing(queue_server: FakeQueueServer) -> None:
    """``away`` of a queue concerns one connection, and ``away`` of the store concerns all of them."""
    queue, other = FakeQueue(queue_server.store), FakeQueue(queue_server.store)
    queue.put("a")
    queue.away = True
    with pytest.raises(QueueUnavailable):
        queue.take(*ALL)
    queue_server.store.away = True
    with pytest.raises(QueueUnavailable):
        other.take(*ALL)

    queue_server.store.away = False
    assert [taken.id for taken in other.take(*ALL)] == ["a"]
